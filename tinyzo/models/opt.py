"""OPT (Zhang et al. 2022): a causal language model, as facebook/opt-* publish it.

    x = token + position (+2)                 350m: token through project_in first
    pre-LN:  x = x + attention(norm(x));      x = x + ffn(norm(x));      a final norm
    post-LN: x = norm(x + attention(x));      x = norm(x + ffn(x));      no final norm (350m)
    ffn      = fc2(relu(fc1(x)))
    logits   = x token^T                      350m: project_out first

Functions on a view `theta` of the weights; every name below is the checkpoint's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinyzo.checkpoints.layout import Layout, Parameter, module

if TYPE_CHECKING:
    from tinyzo.batch import Batch
    from tinyzo.dtypes import Array, Integers, Rows
    from tinyzo.engine.protocols import View

TOKENS = "model.decoder.embed_tokens.weight"
POSITIONS = "model.decoder.embed_positions.weight"
TABLES: tuple[str, ...] = (TOKENS, POSITIONS)
OFFSET = 2  # the position table's first rows, which are never used
LN_EPS = 1e-5  # no field of config.json


@dataclass(frozen=True)
class Config:
    """The fields of config.json that change the result, with transformers' defaults."""

    vocab_size: int = 50272
    hidden_size: int = 768
    num_hidden_layers: int = 12
    ffn_dim: int = 3072
    max_position_embeddings: int = 2048
    do_layer_norm_before: bool = True
    _remove_final_layer_norm: bool = False
    word_embed_proj_dim: int | None = None  # the width of the token table; None: hidden_size
    num_attention_heads: int = 12
    activation_function: str = "relu"
    enable_bias: bool = True  # of the linears
    layer_norm_elementwise_affine: bool = True  # whether LayerNorms have a weight and a bias
    tie_word_embeddings: bool = True

    @property
    def embed_size(self) -> int:
        return self.word_embed_proj_dim or self.hidden_size

    @property
    def has_projections(self) -> bool:
        """True when the token table has another width than the layers, as in OPT-350m."""
        return self.embed_size != self.hidden_size

    @property
    def has_final_norm(self) -> bool:
        return self.do_layer_norm_before and not self._remove_final_layer_norm

    @property
    def feed_forward_size(self) -> int:
        return self.ffn_dim

    @property
    def max_length(self) -> int:
        return self.max_position_embeddings


ALLOWED: dict[str, tuple[object, ...]] = {
    "activation_function": ("relu", "gelu"),
    "tie_word_embeddings": (True,),
}
LAYOUT = Layout(
    prefixes=("model.decoder.", "decoder.", ""),
    base="model.decoder.",
    ties={"lm_head.weight": TOKENS},
    ignored=(),
)


def shapes(config: Config) -> Iterator[Parameter]:
    """Every parameter."""

    def linear(name: str, out: int, into: int) -> tuple[Parameter, ...]:
        both = module(name, out, into)
        return both if config.enable_bias else both[:1]

    def norm(name: str) -> tuple[Parameter, ...]:
        return module(name, width) if config.layer_norm_elementwise_affine else ()

    width = config.hidden_size
    wide = config.ffn_dim
    narrow = config.embed_size
    yield TOKENS, (config.vocab_size, narrow)
    yield POSITIONS, (config.max_position_embeddings + OFFSET, width)
    if config.has_projections:
        yield "model.decoder.project_in.weight", (width, narrow)
        yield "model.decoder.project_out.weight", (narrow, width)
    for i in range(config.num_hidden_layers):
        name = f"model.decoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{name}.self_attn.{part}", width, width)
        yield from norm(f"{name}.self_attn_layer_norm")
        yield from linear(f"{name}.fc1", wide, width)
        yield from linear(f"{name}.fc2", width, wide)
        yield from norm(f"{name}.final_layer_norm")
    if config.has_final_norm:
        yield from norm("model.decoder.final_layer_norm")


def embed(theta: View, config: Config, batch: Batch) -> Array:
    """Tokens and positions: f32[P, N, D]."""
    x = theta.embed(TOKENS, batch.ids)
    if config.has_projections:
        x = theta.linear("model.decoder.project_in", x)
    return x + theta.embed(POSITIONS, batch.positions + OFFSET)


def layer(
    theta: View,
    config: Config,
    i: int,
    x: Array,
    batch: Batch,
    rows: Rows = None,
) -> Array:
    """One decoder layer. x: f32[P, N, D]; returns it, or only its `rows`: f32[P, M, D]."""
    name = f"model.decoder.layers.{i}"
    first = f"{name}.self_attn_layer_norm"
    second = f"{name}.final_layer_norm"
    if config.do_layer_norm_before:
        y = theta.norm(first, x, LN_EPS)
        x = attention(theta, config, name, x, y, batch, rows)
        y = theta.norm(second, x, LN_EPS)
        return feed_forward(theta, config, name, x, y)
    x = attention(theta, config, name, x, x, batch, rows)
    x = theta.norm(first, x, LN_EPS)
    x = feed_forward(theta, config, name, x, x)
    return theta.norm(second, x, LN_EPS)


def attention(
    theta: View,
    config: Config,
    name: str,
    x: Array,
    y: Array,
    batch: Batch,
    rows: Rows,
) -> Array:
    """x + attention(y), of all tokens or of `rows`. x, y: f32[P, N, D]; f32[P, N or M, D]."""

    def heads(part: str, y: Array) -> Array:  # [P, N, D] -> [P, N, H, K]
        y = theta.linear(f"{name}.self_attn.{part}", y)
        return y.reshape(*y.shape[:2], config.num_attention_heads, -1)

    k, v = heads("k_proj", y), heads("v_proj", y)
    if rows is not None:
        x, y = x[:, rows], y[:, rows]
    q = heads("q_proj", y)
    a = theta.attention(f"{name}.self_attn", q, k, v, batch, causal=True, rows=rows)
    return theta.linear(f"{name}.self_attn.out_proj", a.reshape(*a.shape[:2], -1), residual=x)


def feed_forward(theta: View, config: Config, name: str, x: Array, y: Array) -> Array:
    """x + ffn(y): f32[P, N, D], as both are."""
    y = theta.linear(f"{name}.fc1", y)  # [P, N, F]
    y = theta.relu(y) if config.activation_function == "relu" else theta.gelu(y)
    return theta.linear(f"{name}.fc2", y, residual=x)


def hidden(theta: View, config: Config, batch: Batch, layer: Callable[..., Array] = layer) -> Array:
    """The last hidden state of the tokens that the batch reads: f32[P, M, D or E]."""
    x = embed(theta, config, batch)
    last = config.num_hidden_layers - 1
    for i in range(last):
        x = layer(theta, config, i, x, batch)
    x = layer(theta, config, last, x, batch, batch.read)
    if config.has_final_norm:
        x = theta.norm("model.decoder.final_layer_norm", x, LN_EPS)
    if config.has_projections:
        x = theta.linear("model.decoder.project_out", x)
    return x


def logits(theta: View, config: Config, h: Array, rows: Rows = None) -> Array:
    """Scores of the vocabulary, or of some rows of it. h: f32[P, M, E]; f32[P, M, V or R]."""
    return theta.scores(TOKENS, h, rows)


def nll(theta: View, config: Config, h: Array, at: Integers, targets: Integers) -> Array:
    """-log p of target k at hidden state at[k]: f32[P, K]."""
    return theta.nll(TOKENS, h, at, targets)
