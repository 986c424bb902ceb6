"""OPT (Zhang et al. 2022): a causal language model, as facebook/opt-* publish it.

    x = token + position (+2)                 350m: token through project_in first
    pre-LN:  x = x + attention(norm(x));      x = x + ffn(norm(x));      a final norm
    post-LN: x = norm(x + attention(x));      x = norm(x + ffn(x));      no final norm (350m)
    ffn      = fc2(relu(fc1(x)))
    logits   = x token^T                      350m: project_out first

Functions on a view `theta` of the weights; every name below is the checkpoint's own.
"""

from collections.abc import Iterator

import numpy as np

from tinyzo.batch import Batch
from tinyzo.models.families import family, family_shapes

TOKENS = "model.decoder.embed_tokens.weight"
POSITIONS = "model.decoder.embed_positions.weight"
OFFSET = 2  # the table's first two rows are never used


class Derived:
    """What follows from the fields of config.json, which families.toml lists."""

    @property
    def embed_size(self) -> int:
        return self.word_embed_proj_dim or self.hidden_size

    @property
    def has_final_norm(self) -> bool:
        return self.do_layer_norm_before and not self._remove_final_layer_norm

    @property
    def position_rows(self) -> int:
        return self.max_position_embeddings + OFFSET

    def lacks(self, name: str) -> bool:
        """Whether a parameter of the table is not there."""
        if name.startswith("model.decoder.project_"):
            return self.embed_size == self.hidden_size
        if name.startswith("model.decoder.final_layer_norm.") and not self.has_final_norm:
            return True
        if "layer_norm." in name:
            return not self.layer_norm_elementwise_affine
        return name.endswith(".bias") and not self.enable_bias

    @property
    def max_length(self) -> int:
        return self.max_position_embeddings


Config, ALLOWED, LAYOUT = family("opt", Derived)


def shapes(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every parameter's name and shape."""
    return (row for row in family_shapes("opt", config) if not config.lacks(row[0]))


def embed(theta, config: Config, batch: Batch) -> np.ndarray:
    """Tokens and positions: f32[P, N, D]."""
    x = theta.embed(TOKENS, batch.ids)
    if config.embed_size != config.hidden_size:
        x = theta.linear("model.decoder.project_in", x)
    return x + theta.embed(POSITIONS, batch.positions + OFFSET)


def layer(theta, config: Config, i: int, x: np.ndarray, batch: Batch, rows=None) -> np.ndarray:
    """One decoder layer. x: f32[P, N, D]; returns it, or only its `rows`: f32[P, M, D]."""
    name = f"model.decoder.layers.{i}"

    def norm(part: str, x: np.ndarray, here: bool) -> np.ndarray:
        return theta.norm(f"{name}.{part}", x, 1e-5) if here else x

    before = config.do_layer_norm_before
    x = attention(theta, config, name, x, norm("self_attn_layer_norm", x, before), batch, rows)
    x = norm("self_attn_layer_norm", x, not before)
    y = theta.linear(f"{name}.fc1", norm("final_layer_norm", x, before))
    x = theta.linear(f"{name}.fc2", getattr(theta, config.activation_function)(y), residual=x)
    return norm("final_layer_norm", x, not before)


def attention(theta, config: Config, name: str, x: np.ndarray, y: np.ndarray, batch: Batch,
              rows=None) -> np.ndarray:  # fmt: skip
    """x + attention(y), of all tokens or of `rows`. x, y: f32[P, N, D]; f32[P, N or M, D]."""

    def heads(part: str, y: np.ndarray) -> np.ndarray:  # [P, N, D] -> [P, N, H, K]
        y = theta.linear(f"{name}.self_attn.{part}", y)
        return y.reshape(*y.shape[:2], config.num_attention_heads, -1)

    k, v = heads("k_proj", y), heads("v_proj", y)
    if rows is not None:
        x, y = x[:, rows], y[:, rows]
    q = heads("q_proj", y)
    a = theta.attention(f"{name}.self_attn", q, k, v, batch, causal=True, rows=rows)
    return theta.linear(f"{name}.self_attn.out_proj", a.reshape(*a.shape[:2], -1), residual=x)


def hidden(theta, config: Config, batch: Batch) -> np.ndarray:
    """The last hidden state of the tokens that the batch reads: f32[P, M, D or E]."""
    x = embed(theta, config, batch)
    last = config.num_hidden_layers - 1
    for i in range(last + 1):
        x = layer(theta, config, i, x, batch, batch.read if i == last else None)
    if config.has_final_norm:
        x = theta.norm("model.decoder.final_layer_norm", x, 1e-5)
    if config.embed_size != config.hidden_size:
        x = theta.linear("model.decoder.project_out", x)
    return x


def logits(theta, config: Config, h: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Scores of the vocabulary, or of some rows of it. h: f32[P, M, E]; f32[P, M, V or R]."""
    return theta.scores(TOKENS, h, rows)


def nll(theta, config: Config, h: np.ndarray, at: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log p of target k at hidden state at[k]: f32[P, K]."""
    return theta.nll(TOKENS, h, at, targets)
