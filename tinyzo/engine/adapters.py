"""Small tensors beside a model's own, which the verbs of a view heed wherever they exist.

    W + s B A       <name>.lora_A.weight: A, f32[r, in]; <name>.lora_B.weight: B, f32[out, r]
    [k; K], [v; V]  <name>.prefix.key, .value: keys and values that every query of a layer sees

LoRA (Hu et al. 2021) and prefixes (Li & Liang 2021); models/trainable.py makes them.
"""

import numpy as np

from tinyzo.engine import noise
from tinyzo.engine.weights import Weights, narrow, split, widen


def plus(y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """y + z, in place unless z has more copies."""
    return np.add(y, z, out=y if len(y) >= len(z) else None)


def adapter(name: str) -> tuple[str, str]:
    """What A and B of a matrix are called."""
    a, b = (f"{name.removesuffix('.weight')}.lora_{part}.weight" for part in "AB")
    return a, b


class Adapters:
    """What a NumpyView inherits."""

    def adapt(self, name: str, x: np.ndarray, y: np.ndarray, rows=None) -> np.ndarray:
        """y + s (x A^T) B^T, or some rows of B. x: f32[P, N, in]; y: f32[P, N, out or R]."""
        a, b = adapter(name)
        if b not in self.weights:
            return y
        low = self.full(a, x) * np.float32(self.weights.scale)
        return plus(y, self.scores(b, low, rows))

    def adapt_rows(self, name: str, ids: np.ndarray, x: np.ndarray) -> np.ndarray:
        """x + s B A, of the rows of a table that x is. ids: int[N]; x: f32[P, N, D]."""
        a, b = adapter(name)
        if b not in self.weights:
            return x
        low = self.embed(b, ids) * np.float32(self.weights.scale)
        return plus(x, self.bilinear(np.matmul, low, self.whole(a))) if low.any() else x

    def prefixed(self, name: str, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
        """k and v with the prefix's rows after the tokens', and how many those are."""
        if f"{name}.prefix.key" not in self.weights:
            return k, v, 0
        both = []
        for part, x in (("key", k), ("value", v)):
            p = self.whole(f"{name}.prefix.{part}")
            p, n = p.reshape(*p.shape[:2], *x.shape[2:]), max(len(x), len(p))
            parts = [np.broadcast_to(a, (n, *a.shape[1:])) for a in (x, p)]
            both.append(np.concatenate(parts, axis=1))
        return *both, p.shape[1]

    @staticmethod
    def merge(weights: Weights, name: str, raw: np.ndarray, start: int) -> None:
        """s B A into the bytes of some of a matrix's rows, from row `start` on.

        Nothing where there is no adapter; rounded as an update is.
        """
        a, b = adapter(name)
        if b not in weights:
            return
        low, high = weights.read(a), weights.read(b) * np.float32(weights.scale)
        key = noise.key(int(low.view(np.uint32)[0, 0]), name, "rounding")
        for first, tile in split(start, raw):
            stop, w = first + len(tile), widen(tile)
            for k in range(len(low)):
                w = w + high[first:stop, k, None] * low[k]
            tile[...] = narrow(w, tile.dtype, noise.words(key, weights.index(name, first, stop)))
