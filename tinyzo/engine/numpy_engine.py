"""The forward pass in NumPy: a view of theta with a few verbs. Clear, always there, the oracle.

A view stands for P perturbed copies of the model. Activations carry that axis in front,
[P, N, D], and it stays 1 until the first perturbed tensor is touched. A tile of W is read once,
its z made once per seed, and W + scale * z lives only while it is multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinyzo.dtypes import Array, Integers, Rows, narrow
from tinyzo.engine.gelu import normal_distribution
from tinyzo.engine.terms import Probe
from tinyzo.engine.tiles import split
from tinyzo.engine.weights import Parameters
from tinyzo.errors import ShapeError

if TYPE_CHECKING:
    from tinyzo.batch import Batch

QUERIES = 128  # attention scores are made for so many queries at once
IN_CACHE = 1 << 14  # elements of an activation that are worked on at once


class NumpyEngine:
    """An Engine that has nothing to hold: every array is made when it is needed."""

    name = "numpy"

    def view(self, weights: Parameters, probes: Sequence[Probe]) -> NumpyView:
        if weights.adapter_scale is None:
            return NumpyView(weights, probes)
        from tinyzo.engine.adapters import AdaptedView  # loaded only where there are any

        return AdaptedView(weights, probes)

    def fold(self, weights: Parameters, name: str, raw: np.ndarray, start: int) -> None:
        for first, tile in split(start, raw):
            w = weights.now(name, tile, weights.index(name, first, first + len(tile)))
            tile[...] = narrow(w, tile.dtype, None)  # exact: rounded by `now`


class NumpyView:
    """A View: P perturbed copies of the weights.

    P is 1 below the first perturbed tensor, and len(probes) from there on.
    """

    def __init__(self, weights: Parameters, probes: Sequence[Probe]) -> None:
        self.weights = weights
        self.probes = probes
        self.perturbed = weights.trained if any(probe.scale for probe in probes) else {}

    def parts(self, most: int) -> Sequence[NumpyView]:
        if len(self.probes) <= most:
            return [self]
        starts = range(0, len(self.probes), most)
        return [self.over(self.probes[start : start + most]) for start in starts]

    def over(self, probes: Sequence[Probe]) -> NumpyView:
        """The same weights at other points."""
        return type(self)(self.weights, probes)

    # -- theta + scale z -------------------------------------------------------------------

    def copies(self, name: str, w: Array, index: np.ndarray) -> Iterator[Array]:
        """w + scale * z for each probe, one after another; once, when nothing is perturbed.

        w: f32, some elements of tensor `name`; index: u32, their flat numbers.
        """
        if name not in self.perturbed:
            yield w
            return
        z: dict[int, Array] = {}
        for seed, scale in self.probes:
            if not scale:
                yield w
                continue
            if seed not in z:
                z[seed] = self.weights.z(seed, name, w, index)
            yield w + np.float32(scale) * z[seed]

    def copy_count(self, name: str, x: Array) -> int:
        """The P of a product of x with a tensor."""
        return len(self.probes) if name in self.perturbed else len(x)

    def whole(self, name: str) -> Array:
        """All of a small tensor: f32[P, ...]."""
        index = self.weights.index(name, 0, self.weights.shape(name)[0])
        return np.stack(list(self.copies(name, self.weights.read(name), index)))

    def vector(self, name: str) -> Array:
        """A bias or a LayerNorm vector: f32[P, 1, D]."""
        return self.whole(name)[:, None]

    # -- products with tiles of W ----------------------------------------------------------

    def multiply(self, x: Array, name: str, w: Array, index: np.ndarray) -> Array:
        """x w^T for each probe's w. x: f32[P or 1, N, D], w: f32[R, D]; f32[P or 1, N, R]."""
        if name not in self.perturbed:
            return x @ w.T
        y = np.empty((len(self.probes), x.shape[1], len(w)), np.float32)
        each_x = np.broadcast_to(x, (len(self.probes), *x.shape[1:]))
        for p, copy in enumerate(self.copies(name, w, index)):
            np.matmul(each_x[p], copy.T, out=y[p])
        return y

    def project(self, name: str, x: Array) -> Iterator[tuple[int, int, Array]]:
        """x W^T in tiles of W's rows: (start, stop, f32[P, N, stop - start])."""
        self.check_width(name, x)
        for start, raw in self.weights.tiles(name):
            stop = start + len(raw)
            index = self.weights.index(name, start, stop)
            w = self.weights.now(name, raw, index)
            yield start, stop, self.multiply(x, name, w, index)

    def product(self, name: str, x: Array) -> Array:
        """x W^T whole: f32[P, N, rows of W]."""
        rows = self.weights.shape(name)[0]
        y = np.empty((self.copy_count(name, x), x.shape[1], rows), np.float32)
        for start, stop, tile in self.project(name, x):
            y[..., start:stop] = tile
        return y

    def check_width(self, name: str, x: Array) -> None:
        """raises: ShapeError when the matrix does not take rows as wide as x's"""
        rows, width = self.weights.shape(name)
        if x.shape[-1] != width:
            found = f"{name} [{rows}, {width}] does not take width {x.shape[-1]}"
            raise ShapeError(found, "check config.json against the weights")

    # -- verbs with parameters -------------------------------------------------------------

    def embed(self, name: str, ids: Integers) -> Array:
        rows, back = np.unique(ids, return_inverse=True)
        table = self.weights.gather(name, rows)
        index = self.weights.row_index(name, rows)
        return np.stack([copy[back] for copy in self.copies(name, table, index)])

    def linear(self, name: str, x: Array, residual: Array | None = None) -> Array:
        y = self.product(f"{name}.weight", x)
        if f"{name}.bias" in self.weights:
            y = plus(y, self.vector(f"{name}.bias"))
        return y if residual is None else plus(y, residual)

    def norm(self, name: str, x: Array, ln_eps: float) -> Array:
        x = self.standardise(x - x.mean(axis=-1, keepdims=True), np.float32(ln_eps))
        if f"{name}.weight" in self.weights:
            x = self.bilinear(np.multiply, x, self.vector(f"{name}.weight"))
            x = plus(x, self.vector(f"{name}.bias"))
        return x

    def scores(self, name: str, h: Array, rows: Rows = None, bias: str | None = None) -> Array:
        if rows is None:
            y = self.product(name, h)
        else:
            table = self.weights.gather(name, rows)
            index = self.weights.row_index(name, rows)
            y = self.multiply(h, name, table, index)
        if bias is None:
            return y
        b = self.vector(bias)
        return plus(y, b if rows is None else b[..., rows])

    def nll(
        self, name: str, h: Array, at: Integers, targets: Integers, bias: str | None = None
    ) -> Array:
        """As View's; log sum e^y = top + log total runs over tiles of the vocabulary."""
        b = None if bias is None else self.vector(bias)
        copies = max(self.copy_count(each, h) for each in self.score_parts(name, bias))
        top = np.full((copies, h.shape[1]), -np.inf, np.float32)
        total = np.zeros_like(top)
        picked = np.empty((copies, len(at)), np.float32)
        for start, stop, y in self.score_tiles(name, h):
            if b is not None:
                y = plus(y, b[..., start:stop])
            here = (start <= targets) & (targets < stop)
            picked[:, here] = y[:, at[here], targets[here] - start]
            self.log_sum_exp(y, top, total)
        return self.log_total(top, total)[:, at] - picked

    def score_parts(self, name: str, bias: str | None) -> list[str]:
        """The tensors that the scores of `nll` are made of."""
        return [name] if bias is None else [name, bias]

    def score_tiles(self, name: str, h: Array) -> Iterator[tuple[int, int, Array]]:
        """The scores without b, in tiles as those of `project`."""
        return self.project(name, h)

    # -- mathematics without parameters ----------------------------------------------------

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
        """As View's. prefix: the number of keys after the N tokens' own, which all queries see."""
        out = np.empty((max(len(q), len(k), len(v)), *q.shape[1:]), np.float32)
        scale = np.float32(q.shape[-1] ** -0.5)
        for queries, keys, places in batch.attention_blocks(rows, QUERIES, prefix):
            query = q[:, queries].swapaxes(1, 2)  # [P, H, T, K]
            score = self.bilinear(np.matmul, query, k[:, keys].transpose(0, 2, 3, 1))
            score *= scale  # [P, H, T, S]
            hidden = places[:, None] < np.arange(score.shape[-1]) if causal else None
            share = self.softmax(score, hidden)
            mixed = self.bilinear(np.matmul, share, v[:, keys].swapaxes(1, 2))  # [P, H, T, K]
            out[:, queries] = mixed.swapaxes(1, 2)
        return out

    def gelu(self, x: Array) -> Array:
        """x Phi(x), the exact GELU (Hendrycks & Gimpel 2016), within 3e-7 |x|."""
        for (block,) in in_cache(x):
            block *= normal_distribution(block)
        return x

    def relu(self, x: Array) -> Array:
        return np.maximum(x, 0, out=x)

    def cross_entropy(self, scores: np.ndarray, labels: Integers, counts: Integers) -> np.ndarray:
        scores = present(scores, counts)
        top = scores.max(axis=-1, keepdims=True)
        log_total = top[..., 0] + np.log(np.exp(scores - top).sum(axis=-1))
        chosen = scores[:, np.arange(len(labels)), labels]
        return (log_total - chosen).sum(axis=-1)

    # -- steps with a derivative of their own, which autodiff/forward_mode.py adds

    def bilinear(self, f: Callable[..., Array], a: Array, b: Array) -> Array:
        """f(a, b), f linear in both."""
        return f(a, b)

    def standardise(self, x: Array, ln_eps: np.float32) -> Array:
        """x / sqrt(mean x^2 + ln_eps) over the last axis; x is overwritten."""
        x /= np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + ln_eps)
        return x

    def softmax(self, score: Array, hidden: np.ndarray | None) -> Array:
        """Over the last axis, in place. hidden: bool[T, S], the keys that a query may not see."""
        if hidden is not None:
            score[:, :, hidden] = -np.inf
        score -= score.max(axis=-1, keepdims=True)
        np.exp(score, out=score)
        score /= score.sum(axis=-1, keepdims=True)
        return score

    def log_sum_exp(self, y: Array, top: Array, total: Array) -> None:
        """Add e^y, f32[P, N, R], to the running sums total * e^top, f32[P, N]; y is spent."""
        new = np.maximum(top, y.max(axis=-1))
        y -= new[..., None]
        total *= np.exp(top - new)
        total += np.exp(y, out=y).sum(axis=-1)
        top[...] = new

    def log_total(self, top: Array, total: Array) -> Array:
        """The logarithm of the sum total * e^top. top, total: f32[P, N]."""
        return np.log(total) + top


def plus(y: Array, z: Array) -> Array:
    """y + z, in place unless z has more copies."""
    return np.add(y, z, out=y if len(y) >= len(z) else None)


def present(scores: np.ndarray, counts: Integers) -> np.ndarray:
    """Scores of candidates, -inf for those that an example does not have. f64[P, B, C], i64[B]."""
    return np.where(np.arange(scores.shape[-1]) < counts[:, None], scores, -np.inf)


def in_cache(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Contiguous arrays of one size in flat blocks, small enough to stay in cache."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, IN_CACHE):
        yield tuple(each[start : start + IN_CACHE] for each in flat)
