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
        copies = len(scales)
        ones = [1] * (len(x.shape) - 1)
        scaled = x * scales.reshape(copies, *ones)
        return scaled.reshape(seeds, copies // seeds, *scaled.shape[1:])

    def merge(self, x: Value) -> Value:
        """[U, S, ...] -> [P, ...]."""
        seeds, points, *rest = x.shape
        return x.reshape(seeds * points, *rest)

    def perturb(self, name: str, w: Value, index: Value) -> Value:
        """Copies of some elements: f32[P or 1, ...]. index: u32, of w's shape."""
        w = w.reshape(1, *w.shape)
        if name not in self.perturbed:
            return w
        one = np.ones([1] * len(w.shape), np.float32)
        scales = self.split(self.graph.constant(one))
        z = self.z(name, index, w)
        return w + self.merge(scales * z)

    def index(self, name: str) -> Value:
        """The flat numbers of a tensor's elements: u32[...]."""
        rows, *rest = self.weights.shape(name)
        numbers = noise.counters(self.graph, rows)
        return self.row_index(name, numbers) if rest else numbers

    def row_index(self, name: str, rows: Value) -> Value:
        """Those of the given rows. rows: u32[R]; u32[R, D]."""
        _, width = self.weights.shape(name)
        first = rows.reshape(-1, 1) * np.uint32(width)
        return first + noise.counters(self.graph, width)

    def whole(self, name: str) -> Value:
        """All of a small tensor: f32[P or 1, ...]."""
        return self.perturb(name, self.tensor(name), self.index(name))

    def vector(self, name: str) -> Value:
        """A bias or a LayerNorm vector: f32[P or 1, 1, D]."""
        w = self.whole(name)
        return w.reshape(w.shape[0], 1, w.shape[1])

    def rows(self, name: str, rows: Value) -> Value:
        """Rows of a table: f32[P or 1, R, D]."""
        w = self.stored(name).rows(rows)
        index = rows
        if name in self.perturbed:
            index = self.row_index(name, rows.cast("u4"))
        return self.perturb(name, w, index)

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
        numbers = noise.counters(self.graph, out).part(rows)
        z = self.z(name, self.row_index(name, numbers), matrix.whole())
        z_transposed = z.transpose(0, 1, 3, 2)  # [U, 1, in, out]
        moved = self.split(x) @ z_transposed  # [U, S, N, out]
        return y + self.merge(moved)

    def times(self, name: str, x: Value) -> Value:
        """x W. x: f32[P or 1, N, rows of W]; f32[P or 1, N, D]."""
        return x @ self.whole(name)

    def adapt(self, name: str, x: Value, y: Value, rows: range | None = None) -> Value:
        """y + s (x A^T) B^T, or some rows of B, where W has an adapter."""
        a, b = adapter(name)
        if b not in self.weights:
            return y
        low = self.low(a, x)
        return y + self.product(b, low, rows=rows)

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
        weight = f"{name}.weight"
        bias = f"{name}.bias"
        given = as_value(x)
        if bias not in self.weights:
            y = self.product(weight, given)
        elif bias in self.perturbed:
            y = self.product(weight, given)
            y = y + self.vector(bias)
        else:  # the product adds it
            y = self.product(weight, given, self.tensor(bias))
        y = self.adapt(weight, given, y)
        if residual is not None:
            y = y + as_value(residual)
        return as_array(y)

    def norm(self, name: str, x: Array, ln_eps: float) -> Array:
        h = as_value(x)
        weight = f"{name}.weight"
        bias = f"{name}.bias"
        has_both = weight in self.weights
        if has_both and self.perturbed.keys().isdisjoint({weight, bias}):
            return as_array(self.normed(h, ln_eps, self.tensor(weight), self.tensor(bias)))
        ones = np.ones(h.shape[-1], np.float32)
        h = self.normed(h, ln_eps, self.graph.constant(ones))
        if has_both:
            h = h * self.vector(weight)
            h = h + self.vector(bias)
        return as_array(h)

    def normed(self, h: Value, ln_eps: float, *factors: Value) -> Value:
        """LayerNorm by the runtime. factors: the weight, and maybe the bias, of all copies."""
        epsilon = float(ln_eps)
        op = "LayerNormalization"
        return self.graph.op(op, h, *factors, shape=h.shape, axis=-1, epsilon=epsilon)

    def scores(self, name: str, h: Array, rows: Rows = None, bias: str | None = None) -> Array:
        x = as_value(h)
        if rows is None:
            return as_array(joined(self.logits(name, x, bias)))
        words = self.graph.data(rows)
        table = self.rows(name, words)
        y = x @ table.transpose(0, 2, 1)
        a, b = adapter(name)
        if b in self.weights:
            up = self.rows(b, words)
            y = y + self.low(a, x) @ up.transpose(0, 2, 1)
        if bias is not None:
            own = self.vector(bias)
            y = y + own.gather(words, axis=2)
        return as_array(y)

    def logits(self, name: str, x: Value, bias: str | None) -> Iterator[Value]:
        """The scores of all rows of a table, some at a time: f32[P or 1, N, some] each."""
        count, width = self.weights.shape(name)
        step = max(1, PART // width)
        for start in range(0, count, step):
            stop = min(count, start + step)
            rows = range(start, stop)
            y = self.product(name, x, rows=rows)
            y = self.adapt(name, x, y, rows)
            if bias is not None:
                own = self.vector(bias)
                y = y + own.part(rows, axis=2)
            yield y

    def nll(
        self, name: str, h: Array, at: Integers, targets: Integers, bias: str | None = None
    ) -> Array:
        """As View's: log sum e^logit of parts of the vocabulary, then of these."""
        places = self.graph.data(at)
        own = self.graph.data(targets)
        x = as_value(h).gather(places, axis=1)
        totals = joined(self.log_sum(part) for part in self.logits(name, x, bias))
        total = self.log_sum(totals)
        nll = total - self.own_logits(name, x, own, bias)
        return as_array(nll.reshape(len(nll), -1))

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
        hidden = self.repeated(layout.hidden, copies)
        out = self.graph.op("Attention", query, key, value, hidden, shape=query.shape)
        return as_array(self.out_of_segments(out, layout, copies))

    def repeated(self, x: Value, copies: int) -> Value:
        """The same for each copy, one after another. x: [S, 1, T, K]; [P S, 1, T, K]."""
        repeats = np.array([copies, 1, 1, 1])
        return self.graph.op("Tile", x, repeats, shape=x.shape)

    def in_segments(self, x: Value, places: Value, copies: int) -> Value:
        """Packed tokens by segment and head. x: [P or 1, N, H, W]; [P S, H, T, W].

        One gather does it: head h of token n is row n H + h of all that there are.
        """
        _, _, heads, width = x.shape
        rows = self.copied(x, copies).reshape(copies, -1, width)  # [P, N H, W]
        head = np.arange(heads).reshape(1, heads, 1)
        first = places.reshape(ANY, 1, -1) * heads  # [S, 1, T]
        found = rows.gather(first + head, axis=1)  # [P, S, H, T, W]
        return found.reshape(-1, heads, places.size(1), width)

    def out_of_segments(self, x: Value, layout: Layout, copies: int) -> Value:
        """The tokens that asked. x: [P S, H, T, W]; [P, M, H, W].

        Head h of place t in segment s is row (s H + h) T + t.
        """
        _, heads, _, width = x.shape
        longest = layout.queries.size(1)  # T
        segment = self.graph.binary("Div", layout.places, longest)
        place = layout.places - segment * longest
        head = np.arange(heads).reshape(1, heads)
        block = segment.reshape(-1, 1) * heads + head  # [M, H]
        index = block * longest + place.reshape(-1, 1)
        rows = x.reshape(copies, -1, width)
        return rows.gather(index, axis=1)

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
        return x.expand(copies, 1, 1, 1)

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
