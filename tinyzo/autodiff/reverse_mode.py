"""Reverse-mode differentiation (Linnainmaa 1970): the gradient of the loss, in one pass backward.

A view with the verbs of engine.protocols.View, on Variables in place of arrays, so that models and
objectives run on it as they are. Above each verb stands its equation.

    loss = objective(GradientView(weights), examples)
    gradients = loss.backward()                        # {name: f32 of the tensor's shape}

What is kept until then is what goes into each layer (Chen et al. 2016, arXiv 1604.06174): forward,
the engine computes it as any other pass. Backward, layer by layer from the last, it is computed
again on Variables, which keep LayerNorm's x^, attention's q, k, v and p, GELU's slope, and inputs
of what is trained; these go before the next layer comes. The vocabulary is computed again so in
pieces. Weights may be in their file: a layer's are read once more, and then backward.

Values and gradients of activations are float32, [1, N, D]; of losses float64, [1].
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, reduce
from operator import iadd
from typing import Any, NamedTuple, cast

import numpy as np

from tinyzo.autodiff.forward_mode import DENSITY
from tinyzo.autodiff.tape import Deferred, Edge, Leaf, Pull, RowGradient, Variable, joint_node
from tinyzo.batch import Batch
from tinyzo.dtypes import Array, Integers, Rows
from tinyzo.engine.adapters import adapter, scale_of
from tinyzo.engine.numpy_engine import QUERIES, NumpyEngine, NumpyView, in_cache, present
from tinyzo.engine.protocols import View
from tinyzo.engine.terms import Probe
from tinyzo.engine.tiles import tile_rows
from tinyzo.engine.weights import ITSELF, Weights
from tinyzo.errors import ConfigError

NO_INDEX = np.empty(0, np.uint32)  # of elements to which nothing is added
PIECE = 32  # tiles of W that are widened at once: 8 MB
BACKWARD = "backward"  # the sweep over the weights


class Attended(NamedTuple):
    """The part of a block that attention keeps. p: f32[1, H, T, S], the softmax."""

    queries: slice
    keys: slice | Integers
    p: Array


class Watch:
    """A view that knows of which modules it was asked. Its verbs are those of the view behind."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.modules: set[str] = set()

    def __getattr__(self, verb: str) -> Any:
        method = getattr(self.view, verb)

        def call(*given: Any, **named: Any) -> Any:
            if isinstance(given[0], str):
                self.modules.add(f"{given[0]}.")
            return method(*given, **named)

        return call

    def has_any(self, names: Iterable[str]) -> bool:
        """Whether any of these tensors is of a module that it was asked for."""
        modules = tuple(self.modules)
        return any(name.startswith(modules) for name in names)


def view_of_arrays(weights: Weights) -> NumpyView:
    """The weights by the fast engine, if that is theirs, or else by NumPy."""
    engine = weights.engine if weights.engine.name == "numba" else NumpyEngine()
    return cast(NumpyView, engine.view(weights, ITSELF))


def rows_of(rows: slice | Integers) -> Integers:
    """The numbers of some rows."""
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows


class GradientView:
    """The weights, unperturbed, by the verbs of View on Variables.

    weights: what is pending is folded first, since tensors are read as they are stored
    raises: ConfigError for a probe that perturbs, or where what is pending cannot be folded
    """

    def __init__(self, weights: Weights, probes: Sequence[Probe] = ()) -> None:
        if any(probe.scale for probe in probes):
            raise ConfigError("gradients at a perturbed point", "view the weights as they are")
        weights.fold()
        if weights.pending:
            raise ConfigError("gradients of streamed weights that move", "--residency resident")
        self.weights = weights
        self.probes = probes
        self.leaves = {name: Leaf(name, weights.shape(name)) for name in weights.trained}
        # The same verbs on arrays, and those without adapters.
        self.values = view_of_arrays(weights)
        bare = copy.copy(weights)
        bare.adapter_scale = None
        self.bare = view_of_arrays(bare)

    def parts(self, most: int) -> list[GradientView]:
        return [self]

    def layered(self, layer: Callable[..., Any]) -> Callable[..., Variable]:
        """A layer of which only x is kept, where anything below it or in it is trained."""

        def compute(theta: GradientView, config: Any, i: int, x: Variable, *given: Any) -> Variable:
            seen = Watch(self.values)
            y = Variable(layer(seen, config, i, x.value, *given))
            if x.node is not None or seen.has_any(self.leaves):
                y.node = Deferred(lambda: layer(theta, config, i, x, *given))
            return y

        return compute

    # -- tensors as float32

    def tensor(self, name: str, rows: Rows | slice = None) -> Array:
        """All of it or some rows; no copy of all where that is how it is stored."""
        store = self.weights.store
        if isinstance(rows, slice):
            return self.piece(name, rows)
        raw = store.read(name) if rows is None else store.gather(name, rows)
        return self.widened(name, raw)

    def widened(self, name: str, raw: np.ndarray) -> Array:
        """Rows as they are stored, on all threads of an engine that has some."""
        rows = getattr(self.bare, "rows", None)
        if raw.dtype == np.float32 or rows is None or raw.ndim == 1:
            return self.weights.now(name, raw, NO_INDEX)
        found: Array = rows(name, raw, np.arange(len(raw)))[0]
        return found

    def pieces(self, name: str) -> Iterator[slice]:
        """The rows of a matrix in pieces, which do not hang on how it is stored or read."""
        shape = self.weights.shape(name)
        step = PIECE * tile_rows(shape)
        for start in range(0, shape[0], step):
            yield slice(start, min(start + step, shape[0]))

    def piece(self, name: str, rows: slice) -> Array:
        """Some rows of a matrix, good until others are asked for."""
        count = rows.stop - rows.start
        whole = np.empty((count, *self.weights.shape(name)[1:]), np.float32)
        for start, raw in self.weights.store.blocks(name, rows.start, rows.stop, BACKWARD):
            w = self.widened(name, raw)
            if len(w) == count:
                return w
            at = start - rows.start
            whole[at : at + len(w)] = w
        return whole

    # -- verbs with parameters

    def to(self, name: str, pull: Pull) -> Edge:
        """The edge to a tensor."""
        return self.leaves.get(name), pull

    # y = w: dw = dy
    def vector(self, name: str) -> Variable:
        """A bias: f32[1, 1, D]."""
        w = self.tensor(name)[None, None]
        return Variable(w, self.to(name, lambda dy: dy.reshape(-1)))

    # y = W[ids]: dW = dy at the ids, summed where one occurs twice
    def embed(self, name: str, ids: Integers) -> Variable:
        y = self.tensor(name, ids)[None]
        x = Variable(y, self.to(name, lambda dy: RowGradient(ids, dy[0])))
        a, b = adapter(name)
        if b not in self.weights:
            return x
        low = self.embed(b, ids) * scale_of(self.weights)
        return x + self.sum_of_rows(a, low)

    # y = c A: dc = dy A^T, dA = c^T dy
    def sum_of_rows(self, name: str, c: Variable) -> Variable:
        """Rows of A, summed with weights. c: f32[1, N, R]; f32[1, N, D]."""
        a = self.tensor(name)
        return Variable(
            c.value @ a,
            (c.node, lambda dy: dy @ a.T),
            self.to(name, lambda dy: c.value[0].T @ dy[0]),
        )

    # y = x W^T + b + ...: dx = dy W, dW = dy^T x, db = dy
    def product(
        self,
        name: str,
        x: Variable,
        *added: Variable,
        rows: Rows | slice = None,
    ) -> Variable:
        """x: f32[1, N, D]; added: f32[1, N or 1, R]; rows: of W, None for all; f32[1, N, R].

        W is small, or its rows few. They are read and widened once more when the gradient comes.
        """
        h = x.value
        self.values.check_width(name, h)

        def to_x(dy: Array) -> Array:
            return dy @ self.tensor(name, rows)

        def to_w(dy: Array) -> Array | RowGradient:
            dw = dy[0].T @ h[0]
            return dw if rows is None else RowGradient(rows_of(rows), dw)

        y = h @ self.tensor(name, rows).T
        for each in added:
            y += each.value
        return Variable(
            y,
            (x.node, to_x),
            self.to(name, to_w),
            *(each.summand() for each in added),
        )

    def linear(
        self,
        name: str,
        x: Variable,
        residual: Variable | None = None,
    ) -> Variable:
        weight, bias = f"{name}.weight", f"{name}.bias"
        h = x.value
        edges: list[Edge] = [
            (x.node, partial(self.product_backward, weight)),
            self.to(weight, lambda dy: dy[0].T @ h[0]),
            self.to(bias, sum_of_tokens),
        ]
        added = None
        if residual is not None:
            edges.append(residual.summand())
            added = residual.value
        y = Variable(self.bare.linear(name, h, added), *edges)
        return self.adapt(name, x, y)

    # y = x W^T: dx = dy W
    def product_backward(self, name: str, dy: Array) -> Array:
        """dy: f32[1, N, R]; f32[1, N, D]. The sum over pieces of W's rows is the same however
        they are read."""
        parts = (dy[..., rows] @ self.piece(name, rows) for rows in self.pieces(name))
        dx: Array = reduce(iadd, parts)
        return dx

    def adapt(
        self,
        name: str,
        x: Variable,
        y: Variable,
        rows: Rows | slice = None,
    ) -> Variable:
        """y + s (x A^T) B^T, or some rows of B, where the matrix has an adapter."""
        a, b = adapter(name)
        if b not in self.weights:
            return y
        low = self.product(a, x) * scale_of(self.weights)
        return self.product(b, low, y, rows=rows)

    def scores(
        self,
        name: str,
        h: Variable,
        rows: Rows | slice = None,
        bias: str | None = None,
    ) -> Variable:
        added = []
        if bias is not None:
            b = self.vector(bias)
            added.append(b if rows is None else b[..., rows])
        y = self.product(name, h, *added, rows=rows)
        return self.adapt(name, h, y, rows)

    # y = x^ w + b: dw = dy x^, db = dy, dx^ = dy w
    def norm(self, name: str, x: Variable, ln_eps: float) -> Variable:
        unit = standardise(x, ln_eps)
        weight, bias = f"{name}.weight", f"{name}.bias"
        if weight not in self.weights:
            return unit
        w = self.tensor(weight)
        y = unit.value * w
        y += self.tensor(bias)
        return Variable(
            y,
            (unit.node, lambda dy: dy * w),
            self.to(weight, lambda dy: sum_of_tokens(dy * unit.value)),
            self.to(bias, sum_of_tokens),
        )

    # nll = log sum e^y - y[target]: nll_backward
    def nll(
        self,
        name: str,
        h: Variable,
        at: Integers,
        targets: Integers,
        bias: str | None = None,
    ) -> Variable:
        """As View's. The scores of each piece of the vocabulary are made twice, and not kept."""
        top = np.full((1, h.shape[1]), -np.inf, np.float32)
        total = np.zeros_like(top)
        picked = np.empty((1, len(at)), np.float32)
        edges: list[Edge] = []

        def piece(rows: slice) -> Variable:
            y = self.scores(name, h, rows, bias)
            given = (y.value, log_total, at, targets - rows.start)
            return Variable(y.value, (y.node, partial(nll_backward, *given)))

        for rows in self.pieces(name):
            y = self.scores(name, h, rows, bias)
            here = (rows.start <= targets) & (targets < rows.stop)
            picked[:, here] = y.value[:, at[here], targets[here] - rows.start]
            self.values.log_sum_exp(y.value, top, total)
            if y.node is not None:
                edges.append((Deferred(partial(piece, rows)), lambda d: d))
        log_total = self.values.log_total(top, total)
        return Variable(log_total[:, at] - picked, *edges)

    # y = p v, p = softmax(c q k^T): attention_backward
    def attention(
        self,
        name: str,
        q: Variable,
        k: Variable,
        v: Variable,
        batch: Batch,
        causal: bool,
        rows: Rows = None,
    ) -> Variable:
        prefix = 0
        if f"{name}.prefix.key" in self.weights:
            k = self.prefixed(f"{name}.prefix.key", k)
            v = self.prefixed(f"{name}.prefix.value", v)
            prefix = self.weights.shape(f"{name}.prefix.key")[0]
        y = np.empty_like(q.value)
        c = np.float32(q.shape[-1] ** -0.5)
        kept: list[Attended] = []
        for queries, keys, places in batch.attention_blocks(rows, QUERIES, prefix):
            score = heads(q.value, queries) @ heads(k.value, keys).swapaxes(2, 3)
            score *= c  # [1, H, T, S]
            hidden = None
            if causal:
                hidden = places[:, None] < np.arange(score.shape[-1])
            p = self.values.softmax(score, hidden)
            y[:, queries] = (p @ heads(v.value, keys)).swapaxes(1, 2)
            kept.append(Attended(queries, keys, p))
        values = q.value, k.value, v.value
        three = joint_node(q.node, k.node, v.node)
        return Variable(y, (three, lambda dy: attention_backward(dy, *values, c, kept)))

    # y = x and the prefix after it: both have their parts of dy
    def prefixed(self, name: str, x: Variable) -> Variable:
        """Keys or values, f32[1, N, H, K], and those of the prefix after them."""
        w = self.tensor(name)  # [R, D]
        tokens = x.shape[1]
        rows = w.reshape(1, len(w), *x.shape[2:])
        return Variable(
            np.concatenate([x.value, rows], axis=1),
            (x.node, lambda dy: dy[:, :tokens]),
            self.to(name, lambda dy: dy[0, tokens:].reshape(w.shape).copy()),
        )

    # L = log sum e^s - s[label]: ds = softmax(s), less 1 at the label
    def cross_entropy(
        self,
        scores: Variable,
        labels: Integers,
        counts: Integers,
    ) -> Variable:
        loss = self.values.cross_entropy(scores.value, labels, counts)
        each = present(scores.value, counts)[None]
        ds = self.values.softmax(each, None)[0]
        ds[:, np.arange(len(labels)), labels] -= 1
        return Variable(loss, (scores.node, lambda dy: dy * ds))

    # y = x Phi(x): dx = (Phi(x) + x phi(x)) dy
    def gelu(self, x: Variable) -> Variable:
        y = self.values.gelu(x.value.copy())
        slope = gelu_slope(x.value, y)
        return Variable(y, (x.node, lambda dy: slope * dy))

    # y = max(x, 0): dx = dy where y > 0
    def relu(self, x: Variable) -> Variable:
        y = self.values.relu(x.value)
        return Variable(y, (x.node, lambda dy: dy * (y > 0)))


# Phi(x) + x phi(x), Phi(x) = y / x
def gelu_slope(x: Array, y: Array) -> Array:
    """The derivative of y = x Phi(x). x, y: f32, contiguous, of one shape."""
    slope = np.full_like(x, 0.5)  # where x^2 is 0
    for block, value, out in in_cache(x, y, slope):
        square = block * block
        np.divide(value, block, out=out, where=square > 0)
        bell = np.exp(np.float32(-0.5) * square)
        bell *= DENSITY
        out += block * bell
    return slope


# y = (x - mean x) / s, s = its standard deviation: dx = (dy - mean dy - y mean(dy y)) / s
def standardise(x: Variable, ln_eps: float) -> Variable:
    """LayerNorm before its two vectors."""
    y = x.value - mean(x.value)
    s = np.sqrt(mean(np.square(y)) + np.float32(ln_eps))
    y /= s

    def pull(dy: Array) -> Array:
        dx = dy - mean(dy)
        dx -= y * mean(dy * y)
        dx /= s
        return dx

    return Variable(y, (x.node, pull))


# dy = e^(y - log sum e^y) d nll, less d nll at the targets
def nll_backward(
    y: Array, log_total: Array, at: Integers, targets: Integers, d: np.ndarray
) -> Array:
    """The gradient of some words' scores, f32[1, M, R]. targets: -1 or R for other words."""
    each = np.bincount(at, d[0], y.shape[1])  # d nll of each row of h
    dy: Array = np.exp(y - log_total[..., None])
    dy *= each.astype(np.float32)[:, None]
    here = (targets >= 0) & (targets < y.shape[2])
    np.subtract.at(dy[0], (at[here], targets[here]), d[0][here])
    return dy


def mean(x: Array) -> Array:
    """Over the last axis, which stays."""
    means: Array = x.mean(axis=-1, keepdims=True)
    return means


def sum_of_tokens(x: Array) -> Array:
    """f32[1, N, D] -> f32[D]."""
    sums: Array = x.sum(axis=(0, 1))
    return sums


def heads(x: Array, tokens: slice | Integers) -> Array:
    """Some tokens of f32[1, N, H, K] as f32[1, H, T, K]."""
    some: Array = x[:, tokens].swapaxes(1, 2)
    return some


# dv = p^T dy, dp = dy v^T, ds = c p (dp - sum p dp), dq = ds k, dk = ds^T q
def attention_backward(
    dy: Array,
    q: Array,
    k: Array,
    v: Array,
    c: np.float32,
    kept: Sequence[Attended],
) -> tuple[Array, Array, Array]:
    """The gradients of q, k and v, from the blocks that were kept."""
    dq = np.zeros(q.shape, np.float32)
    dk = np.zeros(k.shape, np.float32)
    dv = np.zeros(v.shape, np.float32)
    for queries, keys, p in kept:
        d = heads(dy, queries)
        dv[:, keys] += (p.swapaxes(2, 3) @ d).swapaxes(1, 2)
        ds = d @ heads(v, keys).swapaxes(2, 3)  # [1, H, T, S]
        ds -= (ds * p).sum(axis=-1, keepdims=True)
        ds *= p
        ds *= c
        dq[:, queries] = (ds @ heads(k, keys)).swapaxes(1, 2)
        dk[:, keys] += (ds.swapaxes(2, 3) @ heads(q, queries)).swapaxes(1, 2)
    return dq, dk, dv
