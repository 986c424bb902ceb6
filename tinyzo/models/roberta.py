"""RoBERTa (Liu et al. 2019): BERT's encoder and its masked-language-model head.

    x = norm(token + position + type)
    x = norm(x + attention(x));  x = norm(x + ffn(x))       for each layer, post-LN
    ffn    = dense(gelu(dense(x)))
    logits = norm(gelu(dense(x))) token^T + bias            the head, tied to the embedding

Functions on a view `theta` of the weights; every name below is the checkpoint's own.
"""

from collections.abc import Iterator

import numpy as np

from tinyzo.batch import Batch
from tinyzo.models.families import family, family_shapes

TOKENS = "roberta.embeddings.word_embeddings.weight"
POSITIONS = "roberta.embeddings.position_embeddings.weight"
TYPES = "roberta.embeddings.token_type_embeddings.weight"


class Derived:
    """What follows from the fields of config.json, which families.toml lists."""

    @property
    def max_length(self) -> int:
        return self.max_position_embeddings - self.pad_token_id - 1


Config, ALLOWED, LAYOUT = family("roberta", Derived)


def shapes(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every parameter's name and shape."""
    return family_shapes("roberta", config)


def embed(theta, config: Config, batch: Batch) -> np.ndarray:
    """Tokens, positions (counted from pad_token_id + 1) and type 0: f32[P, N, D]."""
    x = theta.embed(TOKENS, batch.ids)
    x = x + theta.embed(POSITIONS, batch.positions + config.pad_token_id + 1)
    x = x + theta.embed(TYPES, np.zeros(1, np.int64))
    return theta.norm("roberta.embeddings.LayerNorm", x, config.layer_norm_eps)


def layer(theta, config: Config, i: int, x: np.ndarray, batch: Batch, rows=None) -> np.ndarray:
    """One encoder layer. x: f32[P, N, D]; returns it, or only its `rows`: f32[P, M, D]."""
    name, ln_eps = f"roberta.encoder.layer.{i}", config.layer_norm_eps
    x = attention(theta, config, f"{name}.attention", x, batch, rows)
    x = theta.norm(f"{name}.attention.output.LayerNorm", x, ln_eps)
    y = theta.gelu(theta.linear(f"{name}.intermediate.dense", x))
    x = theta.linear(f"{name}.output.dense", y, residual=x)
    return theta.norm(f"{name}.output.LayerNorm", x, ln_eps)


def attention(theta, config: Config, name: str, x: np.ndarray, batch: Batch, rows) -> np.ndarray:
    """x + attention(x), of all tokens or of `rows`. x: f32[P, N, D]; f32[P, N or M, D]."""

    def heads(part: str, x: np.ndarray) -> np.ndarray:  # [P, N, D] -> [P, N, H, K]
        y = theta.linear(f"{name}.self.{part}", x)
        return y.reshape(*y.shape[:2], config.num_attention_heads, -1)

    k, v = heads("key", x), heads("value", x)
    if rows is not None:
        x = x[:, rows]
    q = heads("query", x)
    a = theta.attention(f"{name}.self", q, k, v, batch, causal=False, rows=rows)
    return theta.linear(f"{name}.output.dense", a.reshape(*a.shape[:2], -1), residual=x)


def hidden(theta, config: Config, batch: Batch) -> np.ndarray:
    """The last hidden state of the tokens that the batch reads: f32[P, M, D]."""
    x = embed(theta, config, batch)
    last = config.num_hidden_layers - 1
    for i in range(last + 1):
        x = layer(theta, config, i, x, batch, batch.read if i == last else None)
    return x


def head(theta, config: Config, h: np.ndarray) -> np.ndarray:
    """The masked-language-model head up to its projection. h: f32[P, M, D]; the same."""
    h = theta.gelu(theta.linear("lm_head.dense", h))
    return theta.norm("lm_head.layer_norm", h, config.layer_norm_eps)


def logits(theta, config: Config, h: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Scores of the vocabulary, or of some rows of it. h: f32[P, M, D]; f32[P, M, V or R]."""
    return theta.scores(TOKENS, head(theta, config, h), rows, bias="lm_head.bias")


def nll(theta, config: Config, h: np.ndarray, at: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log p of target k at hidden state at[k]: f32[P, K]."""
    return theta.nll(TOKENS, head(theta, config, h), at, targets, bias="lm_head.bias")
