"""RoBERTa (Liu et al. 2019): BERT's encoder and its masked-language-model head.

    x = norm(token + position + type)
    x = norm(x + attention(x));  x = norm(x + dense(gelu(dense(x))))    for each layer, post-LN
    logits = norm(gelu(dense(x))) token^T + bias        the head, tied to the embedding

Functions on a view `theta` of the weights; every name below is the checkpoint's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinyzo.checkpoints.layout import Layout, Parameter, module

if TYPE_CHECKING:
    from tinyzo.batch import Batch
    from tinyzo.dtypes import Array, Integers, Rows
    from tinyzo.engine.protocols import View

TOKENS = "roberta.embeddings.word_embeddings.weight"
POSITIONS = "roberta.embeddings.position_embeddings.weight"
TYPES = "roberta.embeddings.token_type_embeddings.weight"
TABLES: tuple[str, ...] = (TOKENS, POSITIONS, TYPES)


@dataclass(frozen=True)
class Config:
    """The fields of config.json that change the result, with transformers' defaults."""

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512  # rows of the table; the first pad_token_id + 1 are not used
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12  # published checkpoints have 1e-5
    position_embedding_type: str = "absolute"
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    pad_token_id: int = 1

    @property
    def feed_forward_size(self) -> int:
        return self.intermediate_size

    @property
    def max_length(self) -> int:
        return self.max_position_embeddings - self.pad_token_id - 1


ALLOWED: dict[str, tuple[object, ...]] = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
LAYOUT = Layout(
    prefixes=("roberta.", ""),
    base="roberta.",
    ties={"lm_head.decoder.weight": TOKENS, "lm_head.decoder.bias": "lm_head.bias"},
    ignored=(
        "roberta.pooler.dense.weight",  # the masked-language-model head does not read the pooler
        "roberta.pooler.dense.bias",
    ),
)


def shapes(config: Config) -> Iterator[Parameter]:
    """Every parameter."""
    width, wide = config.hidden_size, config.intermediate_size
    yield TOKENS, (config.vocab_size, width)
    yield POSITIONS, (config.max_position_embeddings, width)
    yield TYPES, (config.type_vocab_size, width)
    yield from module("roberta.embeddings.LayerNorm", width)
    for i in range(config.num_hidden_layers):
        name = f"roberta.encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            yield from module(f"{name}.attention.{part}", width, width)
        yield from module(f"{name}.attention.output.LayerNorm", width)
        yield from module(f"{name}.intermediate.dense", wide, width)
        yield from module(f"{name}.output.dense", width, wide)
        yield from module(f"{name}.output.LayerNorm", width)
    yield from module("lm_head.dense", width, width)
    yield from module("lm_head.layer_norm", width)
    yield "lm_head.bias", (config.vocab_size,)


def embed(theta: View, config: Config, batch: Batch) -> Array:
    """Tokens, positions and type 0: f32[P, N, D]."""
    x = theta.embed(TOKENS, batch.ids)
    x = x + theta.embed(POSITIONS, batch.positions + config.pad_token_id + 1)
    x = x + theta.embed(TYPES, np.zeros(1, np.int64))
    return theta.norm("roberta.embeddings.LayerNorm", x, config.layer_norm_eps)


def layer(theta: View, config: Config, i: int, x: Array, batch: Batch, rows: Rows = None) -> Array:
    """One encoder layer. x: f32[P, N, D]; returns it, or only its `rows`: f32[P, M, D]."""
    name = f"roberta.encoder.layer.{i}"
    x = attention(theta, config, f"{name}.attention", x, batch, rows)
    x = theta.norm(f"{name}.attention.output.LayerNorm", x, config.layer_norm_eps)
    y = theta.gelu(theta.linear(f"{name}.intermediate.dense", x))  # [P, N or M, F]
    x = theta.linear(f"{name}.output.dense", y, residual=x)
    return theta.norm(f"{name}.output.LayerNorm", x, config.layer_norm_eps)


def attention(theta: View, config: Config, name: str, x: Array, batch: Batch, rows: Rows) -> Array:
    """x + attention(x), of all tokens or of `rows`. x: f32[P, N, D]; f32[P, N or M, D]."""

    def heads(part: str, x: Array) -> Array:  # [P, N, D] -> [P, N, H, K]
        y = theta.linear(f"{name}.self.{part}", x)
        return y.reshape(*y.shape[:2], config.num_attention_heads, -1)

    k, v = heads("key", x), heads("value", x)
    x = x if rows is None else x[:, rows]
    q = heads("query", x)
    a = theta.attention(f"{name}.self", q, k, v, batch, causal=False, rows=rows)
    return theta.linear(f"{name}.output.dense", a.reshape(*a.shape[:2], -1), residual=x)


def hidden(theta: View, config: Config, batch: Batch, layer: Callable[..., Array] = layer) -> Array:
    """The last hidden state of the tokens that the batch reads: f32[P, M, D]."""
    x = embed(theta, config, batch)
    last = config.num_hidden_layers - 1
    for i in range(last):
        x = layer(theta, config, i, x, batch)
    return layer(theta, config, last, x, batch, batch.read)


def head(theta: View, config: Config, h: Array) -> Array:
    """The masked-language-model head up to its projection. h: f32[P, M, D]; the same."""
    h = theta.gelu(theta.linear("lm_head.dense", h))
    return theta.norm("lm_head.layer_norm", h, config.layer_norm_eps)


def logits(theta: View, config: Config, h: Array, rows: Rows = None) -> Array:
    """Scores of the vocabulary, or of some rows of it. h: f32[P, M, D]; f32[P, M, V or R]."""
    return theta.scores(TOKENS, head(theta, config, h), rows, bias="lm_head.bias")


def nll(theta: View, config: Config, h: Array, at: Integers, targets: Integers) -> Array:
    """-log p of target k at hidden state at[k]: f32[P, K]."""
    return theta.nll(TOKENS, head(theta, config, h), at, targets, bias="lm_head.bias")
