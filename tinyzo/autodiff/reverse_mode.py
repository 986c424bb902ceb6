"""Reverse-mode differentiation (Linnainmaa 1970): the gradient of the loss, in one pass backward.

A view with the verbs of engine.protocols.View, on Variables in place of arrays, so that models and
objectives run on it as they are. Above each verb stands its equation.

    loss = objective(GradientView(weights), examples)
    gradients = loss.backward()                        # {name: f32 of the tensor's shape}

What is kept until then: the inputs of linears, LayerNorm's x^, attention's q, k, v and p, GELU's
slope, the softmax over the vocabulary. Values and gradients of activations are float32, [1, N, D];
of losses float64, [1]. Micro-batches save nothing here: their losses are summed before backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tinyzo.autodiff.forward_mode import gelu_slope
from tinyzo.autodiff.tape import Edge, Leaf, Pull, RowGradient, Variable, joint_node
from tinyzo.batch import Batch
from tinyzo.dtypes import Array, Integers, Rows
from tinyzo.engine.adapters import adapter, scale_of
from tinyzo.engine.numpy_engine import QUERIES, NumpyView, present
from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights
from tinyzo.errors import ConfigError

NO_INDEX = np.empty(0, np.uint32)  # of elements to which nothing is added


class Attended(NamedTuple):
    """The part of a block that attention keeps. p: f32[1, H, T, S], the softmax."""

    queries: slice
    keys: slice | Integers
    p: Array


class GradientView:
    """The weights, unperturbed, by the verbs of View on Variables.

    weights: in memory; what is pending is folded first, since tensors are read as they are stored
    raises: ConfigError for streamed weights, or a probe that perturbs
    """

    def __init__(self, weights: Weights, probes: Sequence[Probe] = ()) -> None:
        if not weights.store.is_resident:
            raise ConfigError("gradients of streamed weights", "--residency resident")
        if any(probe.scale for probe in probes):
            raise ConfigError("gradients at a perturbed point", "view the weights as they are")
        weights.fold()
        self.weights = weights
        self.probes = probes
        self.values = NumpyView(weights, [])  # the same verbs on arrays
        self.leaves = {name: Leaf(name, weights.shape(name)) for name in weights.trained}

    def parts(self, most: int) -> list[GradientView]:
        return [self]

    def tensor(self, name: str, rows: Rows = None) -> Array:
        """All of it or some rows, as f32; no copy of all where that is how it is stored."""
        store = self.weights.store
        raw = store.read(name) if rows is None else store.gather(name, rows)
        return self.weights.now(name, raw, NO_INDEX)

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
        rows: Rows = None,
    ) -> Variable:
        """x: f32[1, N, D]; added: f32[1, N or 1, R]; rows: of W, None for all; f32[1, N, R].

        W is read and widened once more when the gradient comes, and not kept until then.
        """
        h = x.value
        self.values.check_width(name, h)

        def to_x(dy: Array) -> Array:
            return dy @ self.tensor(name, rows)

        def to_w(dy: Array) -> Array | RowGradient:
            dw = dy[0].T @ h[0]
            return dw if rows is None else RowGradient(rows, dw)

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
        added = []
        if f"{name}.bias" in self.weights:
            added.append(self.vector(f"{name}.bias"))
        if residual is not None:
            added.append(residual)
        y = self.product(f"{name}.weight", x, *added)
        return self.adapt(name, x, y)

    def adapt(
        self,
        name: str,
        x: Variable,
        y: Variable,
        rows: Rows = None,
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
        rows: Rows = None,
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

    # nll = log sum e^y - y[target], p = softmax(y): dy = p d nll, less d nll at the target
    def nll(
        self,
        name: str,
        h: Variable,
        at: Integers,
        targets: Integers,
        bias: str | None = None,
    ) -> Variable:
        y = self.scores(name, h, bias=bias)
        p = y.value  # f32[1, M, V], where y lies
        p -= p.max(axis=-1, keepdims=True)
        picked = p[:, at, targets]
        total = np.exp(p, out=p).sum(axis=-1, keepdims=True)
        p /= total

        def pull(d: Array) -> Array:
            each = np.bincount(at, d[0], p.shape[1])  # d nll of each row of h
            dy = p
            dy *= each.astype(np.float32)[:, None]
            np.subtract.at(dy[0], (at, targets), d[0])
            return dy

        nll = np.log(total[:, at, 0]) - picked
        return Variable(nll, (y.node, pull))

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
        slope = gelu_slope(x.value)  # x's value becomes y's
        return Variable(x.value, (x.node, lambda dy: slope * dy))

    # y = max(x, 0): dx = dy where y > 0
    def relu(self, x: Variable) -> Variable:
        y = self.values.relu(x.value)
        return Variable(y, (x.node, lambda dy: dy * (y > 0)))


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
