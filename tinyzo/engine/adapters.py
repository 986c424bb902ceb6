"""Small tensors beside a model's own, which the verbs of a view heed where they exist.

    W + s B A       <name>.lora_A.weight: A, f32[r, in]; <name>.lora_B.weight: B, f32[out, r]
    [k; K], [v; V]  <name>.prefix.key, .value: keys and values that every query of a layer sees

LoRA (Hu et al. 2021) and prefixes (Li & Liang 2021); models/trainable.py makes them, and sets
`adapter_scale`, s. An engine takes its view as an AdaptedView when that is set.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tinyzo.batch import Batch
from tinyzo.dtypes import Array, Integers, narrow, widen
from tinyzo.engine import noise
from tinyzo.engine.numpy_engine import NumpyView, plus
from tinyzo.engine.tiles import split
from tinyzo.engine.weights import Parameters


class Halves(NamedTuple):
    """What A and B of a matrix are called."""

    a: str
    b: str


def adapter(name: str) -> Halves:
    """The names of a matrix's LoRA halves, whether there are any or not."""
    module = name.removesuffix(".weight")
    return Halves(f"{module}.lora_A.weight", f"{module}.lora_B.weight")


class AdaptedView(NumpyView):
    """The verbs of the view that follows in the order of classes, with what adapters add."""

    def scale(self) -> float:
        """s = alpha / r; 1 where only prefixes are."""
        scale = self.weights.adapter_scale
        return 1.0 if scale is None else scale

    def adapt(self, name: str, x: Array, y: Array, rows: Integers | None = None) -> Array:
        """y + s (x A^T) B^T, or some rows of B. x: f32[P, N, in]; y: f32[P, N, out or R]."""
        a, b = adapter(name)
        if b not in self.weights:
            return y
        low = self.product(a, x) * np.float32(self.scale())
        return plus(y, super().scores(b, low, rows))

    def embed(self, name: str, ids: Integers) -> Array:
        x = super().embed(name, ids)
        a, b = adapter(name)
        if b not in self.weights:
            return x
        low = super().embed(b, ids) * np.float32(self.scale())
        return plus(x, self.bilinear(np.matmul, low, self.whole(a))) if low.any() else x

    def linear(self, name: str, x: Array, residual: Array | None = None) -> Array:
        return self.adapt(name, x, super().linear(name, x, residual))

    def scores(
        self, name: str, h: Array, rows: Integers | None = None, bias: str | None = None
    ) -> Array:
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
        rows: Integers | None = None,
        prefix: int = 0,
    ) -> Array:
        if f"{name}.prefix.key" in self.weights:
            k = self.prefixed(f"{name}.prefix.key", k)
            v = self.prefixed(f"{name}.prefix.value", v)
            prefix = self.weights.shape(f"{name}.prefix.key")[0]
        return super().attention(name, q, k, v, batch, causal, rows, prefix)

    def prefixed(self, name: str, x: Array) -> Array:
        """x: f32[P, N, H, K], and the prefix's rows after the tokens'."""
        extra = self.whole(name)
        extra = extra.reshape(*extra.shape[:2], *x.shape[2:])
        copies = max(len(x), len(extra))
        parts = [np.broadcast_to(each, (copies, *each.shape[1:])) for each in (x, extra)]
        return np.concatenate(parts, axis=1)


def merge(weights: Parameters, name: str, raw: np.ndarray, start: int) -> None:
    """s B A into the bytes of some of a matrix's rows, from row `start` on, rounded as an update.

    Nothing where there is no adapter.
    """
    a, b = adapter(name)
    if b not in weights:
        return
    low, high = weights.read(a), weights.read(b) * np.float32(weights.adapter_scale or 1)
    key = noise.key(int(low.view(np.uint32)[0, 0]), name, "rounding")
    for first, tile in split(start, raw):
        stop, w = first + len(tile), widen(tile)
        for k in range(len(low)):
            w = w + high[first:stop, k, None] * low[k]
        tile[...] = narrow(w, tile.dtype, noise.words(key, weights.index(name, first, stop)))
