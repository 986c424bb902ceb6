"""A View whose verbs add nodes to a graph: the same model files for a runtime without Python.

P perturbed copies share all that none of them changes: activations are [1, N, D] up to the first
perturbed tensor, and [P, N, D] from there on. A perturbed matrix is never copied: of U seeds with
S points each, P = U S,

    x_p (W + s_p z_u)^T = x_p W^T + (s_p x_p) z_u^T

so z is made once for each seed, and only for as long as it multiplies. That is P-RGE's outer and
inner loop (2409.15520) in one pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import numpy as np

from tinyzo.batch import Batch
from tinyzo.dtypes import Array, Integers, Rows
from tinyzo.engine.adapters import adapter, scale_of
from tinyzo.engine.onnx import noise
from tinyzo.engine.onnx.graph import ANY, Graph, Value, concat
from tinyzo.engine.onnx.layout import Layout
from tinyzo.engine.onnx.tensors import Tensor
from tinyzo.engine.weights import Parameters

PART = 1 << 22  # elements of a table by which h is multiplied at once: 16 MB of float32


class Directions(NamedTuple):
    """P = U S points: S in turn along each of U directions z.

    seeds:  U
    scales: f32[P], how far
    """

    seeds: int
    scales: Value


class GraphView(ABC):
    """The verbs, on Values. What feeds the graph is left to those that derive from it."""

    def __init__(
        self, graph: Graph, weights: Parameters, directions: Directions | None = None
    ) -> None:
        self.graph = graph
        self.weights = weights
        self.directions = directions
        self.perturbed = weights.trained if directions else {}

    # -- what derives from this says

    @abstractmethod
    def stored(self, name: str) -> Tensor:
        """A tensor without its perturbations, as it is stored."""

    @abstractmethod
    def keys(self, name: str) -> Value:
        """The keys of a tensor's noise: u32[U, 2]."""

    @abstractmethod
    def layout(self, batch: Batch, rows: Rows, prefix: int, causal: bool) -> Layout:
        """The segments of a batch."""

    # -- theta + scale z

    def tensor(self, name: str) -> Value:
        """A whole tensor without its perturbations: f32[...]."""
        return self.stored(name).whole()

    def z(self, name: str, index: Value, w: Value) -> Value:
        """z of elements that are now w, for each seed: f32[U, 1, ...]."""
        z = self.noise(name, index)
        limit = self.weights.direction.limits.get(name)
        if limit is not None:
            is_large = self.graph.op("Abs", w, shape=w.shape) > np.float32(limit)
            z = is_large.where(np.float32(0), z)
        return z.reshape(z.shape[0], 1, *index.shape)

    def noise(self, name: str, index: Value) -> Value:
        """z wherever the weights are: f32[U, ...]."""
        return noise.KINDS[self.weights.direction.kind](self.keys(name), index)

    def split(self, x: Value) -> Value:
        """[P or 1, ...] -> [U, S, ...], times the scales: of a product with z."""
        seeds, scales = cast(Directions, self.directions)
        (copies,) = scales.shape
        scaled = x * scales.reshape(copies, *(1 for _ in x.shape[1:]))
        return scaled.reshape(seeds, copies // seeds, *scaled.shape[1:])

    def merge(self, x: Value) -> Value:
        """[U, S, ...] -> [P, ...]."""
        return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

    def perturb(self, name: str, w: Value, index: Value) -> Value:
        """Copies of some elements: f32[P or 1, ...]. index: u32, of w's shape."""
        w = w.reshape(1, *w.shape)
        if name not in self.perturbed:
            return w
        ones = self.graph.constant(np.ones((1,) * len(w.shape), np.float32))
        return w + self.merge(self.split(ones) * self.z(name, index, w))

    def index(self, name: str) -> Value:
        """The flat numbers of a tensor's elements: u32[...]."""
        rows, *rest = self.weights.shape(name)
        numbers = noise.counters(self.graph, rows)
        return self.row_index(name, numbers) if rest else numbers

    def row_index(self, name: str, rows: Value) -> Value:
        """Those of the given rows. rows: u32[R]; u32[R, D]."""
        width = self.weights.shape(name)[1]
        return rows.reshape(-1, 1) * np.uint32(width) + noise.counters(self.graph, width)

    def whole(self, name: str) -> Value:
        """All of a small tensor: f32[P or 1, ...]."""
        return self.perturb(name, self.tensor(name), self.index(name))

    def vector(self, name: str) -> Value:
        """A bias or a LayerNorm vector: f32[P or 1, 1, D]."""
        w = self.whole(name)
        return w.reshape(w.shape[0], 1, w.shape[1])

    def rows(self, name: str, rows: Value) -> Value:
        """Rows of a table: f32[P or 1, R, D]."""
        index = self.row_index(name, rows.cast("u4")) if name in self.perturbed else rows
        return self.perturb(name, self.stored(name).rows(rows), index)

    # -- products

    def product(
        self, name: str, x: Value, bias: Value | None = None, rows: range | None = None
    ) -> Value:
        """x W^T, and a bias that all copies share.

        x: f32[P or 1, N, in]; rows: of W, that follow one another; f32[P or 1, N, out]
        """
        out, width = self.weights.shape(name)
        rows = rows or range(out)
        matrix = self.stored(name).part(rows)
        y = matrix.product(x.reshape(-1, width), bias)
        y = y.reshape(x.shape[0], -1, len(rows))
        if name not in self.perturbed:
            return y
        index = self.row_index(name, noise.counters(self.graph, out).part(rows))
        z = self.z(name, index, matrix.whole())
        return y + self.merge(self.split(x) @ z.transpose(0, 1, 3, 2))  # z^T: [U, 1, in, out]

    def times(self, name: str, x: Value) -> Value:
        """x W. x: f32[P or 1, N, rows of W]; f32[P or 1, N, D]."""
        return x @ self.whole(name)

    def adapt(self, name: str, x: Value, y: Value, rows: range | None = None) -> Value:
        """y + s (x A^T) B^T, or some rows of B, where W has an adapter."""
        a, b = adapter(name)
        if b not in self.weights:
            return y
        return y + self.product(b, self.low(a, x), rows=rows)

    def low(self, a: str, x: Value) -> Value:
        """s x A^T: f32[P or 1, N, r]."""
        return self.product(a, x) * np.float32(scale_of(self.weights))

    # -- verbs

    def embed(self, name: str, ids: Integers) -> Array:
        tokens = self.graph.data(ids)
        x = self.rows(name, tokens)
        a, b = adapter(name)
        if b in self.weights:
            low = self.rows(b, tokens) * np.float32(scale_of(self.weights))
            x = x + self.times(a, low)
        return as_array(x)

    def linear(self, name: str, x: Array, residual: Array | None = None) -> Array:
        weight, bias = f"{name}.weight", f"{name}.bias"
        has_bias = bias in self.weights
        is_shared = has_bias and bias not in self.perturbed
        y = self.product(weight, as_value(x), self.tensor(bias) if is_shared else None)
        if has_bias and not is_shared:
            y = y + self.vector(bias)
        y = self.adapt(weight, as_value(x), y)
        return as_array(y if residual is None else y + as_value(residual))

    def norm(self, name: str, x: Array, ln_eps: float) -> Array:
        h = as_value(x)
        weight, bias = f"{name}.weight", f"{name}.bias"
        width = h.shape[-1]
        is_plain = weight in self.weights and not {weight, bias} & self.perturbed.keys()
        if is_plain:
            factors = [self.tensor(weight), self.tensor(bias)]
        else:
            factors = [self.graph.constant(np.ones(width, np.float32))]
        h = self.graph.op(
            "LayerNormalization", h, *factors, shape=h.shape, axis=-1, epsilon=float(ln_eps)
        )
        if not is_plain and weight in self.weights:
            h = h * self.vector(weight) + self.vector(bias)
        return as_array(h)

    def scores(self, name: str, h: Array, rows: Rows = None, bias: str | None = None) -> Array:
        x = as_value(h)
        if rows is None:
            return as_array(joined(self.logits(name, x, bias)))
        words = self.graph.data(rows)
        y = x @ self.rows(name, words).transpose(0, 2, 1)
        a, b = adapter(name)
        if b in self.weights:
            y = y + self.low(a, x) @ self.rows(b, words).transpose(0, 2, 1)
        return as_array(y if bias is None else y + self.vector(bias).gather(words, axis=2))

    def logits(self, name: str, x: Value, bias: str | None) -> Iterator[Value]:
        """The scores of all rows of a table, some at a time: f32[P or 1, N, some] each."""
        count, width = self.weights.shape(name)
        step = max(1, PART // width)
        for start in range(0, count, step):
            rows = range(start, min(count, start + step))
            y = self.adapt(name, x, self.product(name, x, rows=rows), rows)
            yield y if bias is None else y + self.vector(bias).part(rows, axis=2)

    def nll(
        self, name: str, h: Array, at: Integers, targets: Integers, bias: str | None = None
    ) -> Array:
        """As View's: log sum e^logit of parts of the vocabulary, then of these."""
        x = as_value(h).gather(self.graph.data(at), axis=1)
        totals = joined(self.log_sum(part) for part in self.logits(name, x, bias))
        nll = self.log_sum(totals) - self.own_logits(name, x, self.graph.data(targets), bias)
        return as_array(nll.reshape(nll.shape[0], -1))

    def log_sum(self, x: Value) -> Value:
        """log sum e^x along the last axis: f32[P, K, 1]."""
        shape = (*x.shape[:-1], 1)
        return self.graph.op("ReduceLogSumExp", x, np.array([-1]), shape=shape, keepdims=1)

    def own_logits(self, name: str, x: Value, targets: Value, bias: str | None) -> Value:
        """The score of target k alone at row k of x: f32[P or 1, K, 1]."""
        a, b = adapter(name)
        y = self.dots(x, self.rows(name, targets))
        if b in self.weights:
            y = y + self.dots(self.low(a, x), self.rows(b, targets))
        if bias is None:
            return y
        own = self.vector(bias).gather(targets, axis=2)
        return y + own.transpose(0, 2, 1)

    def dots(self, x: Value, y: Value) -> Value:
        """The product of each row of x with the same row of y: f32[P or 1, K, 1]."""
        both = x * y
        shape = (*both.shape[:-1], 1)
        return self.graph.op("ReduceSum", both, np.array([-1]), shape=shape, keepdims=1)

    def attention(
        self,
        name: str,
        q: Array,
        k: Array,
        v: Array,
        batch: Batch,
        causal: bool,
        rows: Rows = None,
    ) -> Array:
        query, key, value = as_value(q), as_value(k), as_value(v)
        prefix = self.prefix(name)
        if prefix:
            key = self.prefixed(f"{name}.prefix.key", key)
            value = self.prefixed(f"{name}.prefix.value", value)
        layout = self.layout(batch, rows, prefix, causal)
        copies = max(len(query), len(key), len(value))
        query = self.in_segments(query, layout.queries, copies)
        key = self.in_segments(key, layout.keys, copies)
        value = self.in_segments(value, layout.keys, copies)
        repeats = np.array([copies, 1, 1, 1])
        hidden = self.graph.op("Tile", layout.hidden, repeats, shape=layout.hidden.shape)
        out = self.graph.op("Attention", query, key, value, hidden, shape=query.shape)
        return as_array(self.out_of_segments(out, layout, copies))

    def in_segments(self, x: Value, places: Value, copies: int) -> Value:
        """Packed tokens by segment and head. x: [P or 1, N, H, W]; [P S, H, T, W]."""
        heads, width = x.shape[2:]
        head = np.arange(heads).reshape(1, heads, 1)
        index = places.reshape(places.shape[0], 1, -1) * heads + head  # [S, H, T]
        rows = self.copied(x, copies).reshape(copies, -1, width)  # [P, N H, W]
        found = rows.gather(index, axis=1)  # [P, S, H, T, W]
        first = self.graph.constant(np.array([-1, heads]))
        shape = concat(first, places.sizes().gather(np.array([1])), np.array([width]))
        return self.graph.op("Reshape", found, shape, shape=(ANY, heads, ANY, width))

    def out_of_segments(self, x: Value, layout: Layout, copies: int) -> Value:
        """The tokens that asked. x: [P S, H, T, W]; [P, M, H, W]."""
        _, heads, _, width = x.shape
        longest = layout.queries.sizes().gather(np.array([1]))  # T
        segment = self.graph.binary("Div", layout.places, longest)
        place = layout.places - segment * longest
        head = np.arange(heads).reshape(1, heads)
        row = segment.reshape(-1, 1) * heads + head  # of [S, H]
        index = row * longest + place.reshape(-1, 1)  # [M, H]
        return x.reshape(copies, -1, width).gather(index, axis=1)

    def prefix(self, name: str) -> int:
        """The number of keys that a layer's prefix has before all others; 0 without one."""
        rows = f"{name}.prefix.key"
        return self.weights.shape(rows)[0] if rows in self.weights else 0

    def prefixed(self, name: str, x: Value) -> Value:
        """Keys or values with the prefix's rows after those of the tokens: f32[P, N + R, H, W]."""
        heads, width = x.shape[2:]
        rows = self.whole(name)  # [P, R, D]
        rows = rows.reshape(rows.shape[0], -1, heads, width)
        copies = max(x.shape[0], rows.shape[0])
        return concat(self.copied(x, copies), self.copied(rows, copies), axis=1)

    def copied(self, x: Value, copies: int) -> Value:
        """The same for each probe. x: [P or 1, N, H, W]; [P, N, H, W]."""
        if len(x) == copies:
            return x
        sizes = np.array([copies, 1, 1, 1])
        return self.graph.op("Expand", x, sizes, shape=(copies, *x.shape[1:]))

    def gelu(self, x: Array) -> Array:
        return as_array(self.graph.op("Gelu", x, shape=as_value(x).shape))

    def relu(self, x: Array) -> Array:
        return as_array(self.graph.op("Relu", x, shape=as_value(x).shape))


def joined(parts: Iterable[Value]) -> Value:
    """Parts along the last axis as one."""
    first, *rest = parts
    if not rest:
        return first
    return concat(first, *rest, axis=-1)


def as_value(x: Array) -> Value:
    """What a verb is given: the models, which are written for arrays, only hand Values on."""
    return cast(Value, x)


def as_array(x: Value) -> Array:
    """What a verb returns, by the type that the models know."""
    return cast(Array, x)
