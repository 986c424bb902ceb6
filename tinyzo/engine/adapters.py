"""Small tensors beside a model's own, which the verbs of a view use where they exist.

    W + s B A       <name>.lora_A.weight: A, f32[r, in]; <name>.lora_B.weight: B, f32[out, r]
    [k; K], [v; V]  <name>.prefix.key, .value: keys and values that every query of a layer sees

LoRA (Hu et al. 2021) and prefixes (Li & Liang 2021); models/trainable.py makes them, and sets
`adapter_scale`, s. An engine takes its view as an AdaptedView when that is set.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tinyzo.batch import Batch
from tinyzo.dtypes import Array, Integers, Rows, narrow, widen
from tinyzo.engine import noise
from tinyzo.engine.numpy_engine import NumpyView, plus
from tinyzo.engine.tiles import split
from tinyzo.engine.weights import Parameters


class Halves(NamedTuple):
    """The names of a matrix's A and B."""

    a: str
    b: str


def adapter(name: str) -> Halves:
    """The names that a matrix's LoRA halves have, if there are any."""
    module = name.removesuffix(".weight")
    return Halves(f"{module}.lora_A.weight", f"{module}.lora_B.weight")


class AdaptedView(NumpyView):
    """The verbs of the view that follows in the order of classes, with what adapters add."""

    def adapt(self, name: str, x: Array, y: Array, rows: Rows = None) -> Array:
        """y + s (x A^T) B^T, or some rows of B. x: f32[P, N, in]; y: f32[P, N, out or R]."""
        a, b = adapter(name)
        if b not in self.weights:
            return y
        low = self.product(a, x) * scale_of(self.weights)
        return plus(y, super().scores(b, low, rows))

    def embed(self, name: str, ids: Integers) -> Array:
        x = super().embed(name, ids)
        a, b = adapter(name)
        if b not in self.weights:
            return x
        low = super().embed(b, ids) * scale_of(self.weights)
        if not low.any():  # label words: most tokens are none
            return x
        return plus(x, self.bilinear(np.matmul, low, self.whole(a)))

    def linear(self, name: str, x: Array, residual: Array | None = None) -> Array:
        return self.adapt(name, x, super().linear(name, x, residual))

    def scores(self, name: str, h: Array, rows: Rows = None, bias: str | None = None) -> Array:
        return self.adapt(name, h, super().scores(name, h, rows, bias), rows)

    def score_parts(self, name: str, bias: str | None) -> list[str]:
        return [*super().score_parts(name, bias), *adapter(name)]

    def score_tiles(self, name: str, h: Array) -> Iterator[tuple[int, int, Array]]:
        for start, stop, y in super().score_tiles(name, h):
            yield start, stop, self.adapt(name, h, y, np.arange(start, stop))

    def attention(
        self,
        name: str,
        q: Array,
        k: Array,
        v: Array,
        batch: Batch,
        causal: bool,
        rows: Rows = None,
        prefix: int = 0,
    ) -> Array:
        if f"{name}.prefix.key" in self.weights:
            k = self.prefixed(f"{name}.prefix.key", k)
            v = self.prefixed(f"{name}.prefix.value", v)
            prefix = self.weights.shape(f"{name}.prefix.key")[0]
        return super().attention(name, q, k, v, batch, causal, rows, prefix)

    def prefixed(self, name: str, x: Array) -> Array:
        """Keys or values with the prefix's rows after those of the tokens: f32[P, N + R, H, K]."""
        rows = self.whole(name)  # [P, R, D]
        rows = rows.reshape(*rows.shape[:2], *x.shape[2:])
        copies = max(len(x), len(rows))
        parts = [np.broadcast_to(each, (copies, *each.shape[1:])) for each in (x, rows)]
        return np.concatenate(parts, axis=1)


def scale_of(weights: Parameters) -> float:
    """s = alpha / r; 1 where it is not set."""
    return 1.0 if weights.adapter_scale is None else weights.adapter_scale


def merge(weights: Parameters, name: str, raw: np.ndarray, start: int) -> None:
    """Add s B A to some rows of a matrix in place, if it has an adapter.

    raw: the rows from row `start` on, as they are stored; 16-bit ones are rounded at random
    """
    a_name, b_name = adapter(name)
    if b_name not in weights:
        return
    a = weights.read(a_name)
    b = weights.read(b_name) * scale_of(weights)
    seed = int(a.view(np.uint32)[0, 0])  # any number that is the same on every machine
    key = noise.key(seed, name, "rounding")
    for first, tile in split(start, raw):
        stop = first + len(tile)
        w = widen(tile)
        for k in range(len(a)):
            w = w + b[first:stop, k, None] * a[k]
        bits = noise.words(key, weights.index(name, first, stop))
        tile[...] = narrow(w, tile.dtype, bits)
