"""Reverse-mode differentiation (Linnainmaa 1970): the gradient of the loss, in one pass backward.

A view with the verbs of tinyzo.engine.numpy_engine, so that models and objectives run on it as they
are. What a verb makes is a Variable: its value, and a Node with one function for each thing that
it was made of, which turns dy = dL/dy into that thing's dL/dx. Above each verb stands its equation.

    loss = objective(GradientView(weights), examples)
    gradients = loss.backward()                        # {name: f32 of the tensor's shape}

What is kept until then: the inputs of linears, LayerNorm's x^, attention's q, k, v and p, GELU's
slope, the softmax over the vocabulary. Values and gradients of activations are float32, [1, N, D];
of losses float64, [1]. Micro-batches save nothing here: their losses are summed before backward.
"""

import heapq
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from operator import itemgetter
from typing import Any, NamedTuple, Union

import numpy as np

from tinyzo.autodiff.forward_mode import gelu_slope
from tinyzo.batch import Batch
from tinyzo.dtypes import widen
from tinyzo.engine.adapters import adapter
from tinyzo.engine.numpy_engine import QUERIES, NumpyView, present
from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights
from tinyzo.errors import ConfigError

NUMBERS = count()
Edge = tuple[Union["Node", None], Callable[[Any], Any]]  # to whom, and dy -> their gradient


class Rows(NamedTuple):
    """The gradient of a table of which some rows were read: all others' is 0."""

    rows: np.ndarray
    gradient: np.ndarray


class Node:
    """Where the gradient of one value is summed, and from where it goes on.

    edges: None stands for what has no gradient; then its function, and what that keeps, is dropped
    """

    def __init__(self, *edges: Edge) -> None:
        self.edges = [(node, pull) for node, pull in edges if node is not None]
        self.gradient, self.number = None, next(NUMBERS)

    def __lt__(self, other: "Node") -> bool:
        """Backward, a younger node comes first: all that was made of its value is younger still."""
        return self.number > other.number

    def receive(self, gradient: Any) -> None:
        self.gradient = gradient if self.gradient is None else self.gradient + gradient


class Leaf(Node):
    """A tensor's node. Its gradient belongs to it alone, so that it is summed in place."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.name, self.shape = name, shape

    def receive(self, gradient: np.ndarray | Rows) -> None:
        if not isinstance(gradient, Rows):
            self.gradient = gradient if self.gradient is None else np.add(
                self.gradient, gradient, out=self.gradient)  # fmt: skip
            return
        if self.gradient is None:
            self.gradient = np.zeros(self.shape, np.float32)
        order = np.argsort(gradient.rows, kind="stable")
        rows, starts = np.unique(gradient.rows[order], return_index=True)
        self.gradient[rows] += np.add.reduceat(gradient.gradient[order], starts, axis=0)


class Variable:
    """An array that remembers what it was made of, with the operations between the verbs."""

    def __init__(self, value: np.ndarray, *edges: Edge) -> None:
        node = Node(*edges)
        self.value, self.node = value, node if node.edges else None
        self.shape = value.shape

    def backward(self) -> dict[str, np.ndarray]:
        """dL/dw of each trained tensor that the loss has read: f32 of its shape. Once for a loss.

        A node is taken apart when its turn has come, which frees what it kept.
        """
        gradients, waiting = {}, []
        if self.node:
            self.node.receive(np.ones_like(self.value))
            waiting.append(self.node)
        while waiting:
            node = heapq.heappop(waiting)
            gradient, edges, node.gradient, node.edges = node.gradient, node.edges, None, []
            if isinstance(node, Leaf):
                gradients[node.name] = gradient
            for target, pull in edges:
                if target.gradient is None:
                    heapq.heappush(waiting, target)
                target.receive(pull(gradient))
        return gradients

    # y = a + b: da = dy, db = dy, each summed where it was broadcast
    def __add__(self, other: Any) -> "Variable":
        other = other if isinstance(other, Variable) else Variable(np.asarray(other))
        return Variable(self.value + other.value, self.broadcast(), other.broadcast())

    __radd__ = __add__

    def broadcast(self) -> Edge:
        """The edge to a summand."""
        axes = tuple(axis for axis, n in enumerate(self.shape) if axis and n == 1)
        return self.node, (lambda dy: dy.sum(axis=axes, keepdims=True)) if axes else lambda dy: dy

    # y = c x: dx = c dy
    def __mul__(self, c: Any) -> "Variable":
        return Variable(self.value * c, (self.node, lambda dy: dy * c))

    def __truediv__(self, c: Any) -> "Variable":
        return self * (1 / c)

    def __neg__(self) -> "Variable":
        return self * -1

    # y = x[key]: dx = 0, and dy added at the key, as often as it names an element
    def __getitem__(self, key: Any) -> "Variable":
        shape, dtype = self.shape, self.value.dtype

        def pull(dy: np.ndarray) -> np.ndarray:
            dx = np.zeros(shape, dtype)
            np.add.at(dx, key, dy)
            return dx

        return Variable(self.value[key], (self.node, pull))

    # y = the same elements: dx = dy, in x's shape and type
    def reshape(self, *shape: int) -> "Variable":
        back = self.shape
        return Variable(self.value.reshape(*shape), (self.node, lambda dy: dy.reshape(back)))

    def astype(self, dtype: Any) -> "Variable":
        back = self.value.dtype
        return Variable(self.value.astype(dtype), (self.node, lambda dy: dy.astype(back)))

    # y = sums over the last axis, all or from start to start: dx = dy at each of its elements
    def sum(self, axis: int) -> "Variable":
        return np.add.reduceat(self, np.zeros(1, np.int64), axis=axis).reshape(*self.shape[:-1])

    def __array_ufunc__(self, ufunc, method: str, x: "Variable", starts: np.ndarray, axis: int):
        if (ufunc, method, axis) != (np.add, "reduceat", -1):
            return NotImplemented
        sizes = np.diff(starts, append=x.shape[-1])
        y = np.add.reduceat(x.value, starts, axis=-1)
        return Variable(y, (x.node, lambda dy: np.repeat(dy, sizes, axis=-1)))


def heads(x: np.ndarray, tokens: slice | np.ndarray) -> np.ndarray:
    """Some tokens of f32[1, N, H, K] as f32[1, H, T, K]."""
    return x[:, tokens].swapaxes(1, 2)


class GradientView(NumpyView):
    """The weights, unperturbed, by the verbs of NumpyView on Variables.

    weights: in memory; what is pending is folded first, since tensors are read as they are stored
    raises: ConfigError for streamed weights, or a probe that perturbs
    """

    def __init__(self, weights: Weights, probes: Sequence[Probe] = ()) -> None:
        super().__init__(weights, list(probes))
        if not weights.store.is_resident:
            raise ConfigError("gradients of streamed weights", "--residency resident")
        if self.perturbed:
            raise ConfigError("gradients at a perturbed point", "view the weights as they are")
        weights.fold()
        self.leaves = {name: Leaf(name, weights.shape(name)) for name in weights.trained}

    def tensor(self, name: str) -> np.ndarray:
        """All of it: f32, no copy where that is how it is stored."""
        return widen(self.weights.stored(name))

    # y = w: dw = dy
    def vector(self, name: str) -> Variable:
        w = self.tensor(name)[None, None]
        return Variable(w, (self.leaves.get(name), lambda dy: dy.reshape(-1)))

    # y = W[ids]: dW = dy at the ids, summed where one occurs twice
    def embed(self, name: str, ids: np.ndarray) -> Variable:
        y = widen(self.weights.store.gather(name, ids))[None]
        y = Variable(y, (self.leaves.get(name), lambda dy: Rows(ids, dy[0])))
        a, b = adapter(name)
        return y + self.sum_of_rows(a, self.embed(b, ids)) if b in self.weights else y

    # y = c A, its rows in sums: dc = dy A^T, dA = c^T dy
    def sum_of_rows(self, name: str, low: Variable) -> Variable:
        low = low * np.float32(self.weights.adapter_scale)
        c, a = low.value, self.tensor(name)
        return Variable(c @ a, (low.node, lambda dy: dy @ a.T),
                        (self.leaves.get(name), lambda dy: c[0].T @ dy[0]))  # fmt: skip

    # y = x W^T + b + ...: dx = dy W, dW = dy^T x, db = dy
    def product(self, name: str, x: Variable, *added: Variable, rows=None) -> Variable:
        """x: f32[1, N, D]; added: f32[1, N or 1, R]; rows: of W, None for all; f32[1, N, R]."""
        self.check_width(name, x)
        h = x.value

        def w() -> np.ndarray:  # read and widened again when needed, not kept
            store = self.weights.store
            return widen(store.read(name) if rows is None else store.gather(name, rows))

        def pull(dy: np.ndarray) -> np.ndarray | Rows:
            dw = dy[0].T @ h[0]
            return dw if rows is None else Rows(rows, dw)

        y = h @ w().T
        for each in added:
            y += each.value
        return Variable(y, (x.node, lambda dy: dy @ w()), (self.leaves.get(name), pull),
                        *(each.broadcast() for each in added))  # fmt: skip

    def linear(self, name: str, x: Variable, residual: Variable | None = None) -> Variable:
        added = [self.vector(f"{name}.bias")] if f"{name}.bias" in self.weights else []
        added += [] if residual is None else [residual]
        return self.adapt(name, x, self.product(f"{name}.weight", x, *added))

    def adapt(self, name: str, x: Variable, y: Variable, rows=None) -> Variable:
        a, b = adapter(name)
        if b not in self.weights:
            return y
        low = self.product(a, x) * np.float32(self.weights.adapter_scale)
        return self.product(b, low, y, rows=rows)

    def scores(self, name: str, h: Variable, rows=None, bias: str | None = None) -> Variable:
        b = [] if bias is None else [self.vector(bias)]
        b = b if rows is None else [each[..., rows] for each in b]
        y = self.product(name, h, *b, rows=rows)
        return self.adapt(name, h, y, rows)

    # y = x^ w + b, x^ = (x - mean x) / s: dw = dy x^, db = dy, and with d = dy w
    # dx = (d - mean d - x^ mean(d x^)) / s
    def norm(self, name: str, x: Variable, ln_eps: float) -> Variable:
        unit = x.value - x.value.mean(axis=-1, keepdims=True)
        s = np.sqrt(np.square(unit).mean(axis=-1, keepdims=True) + np.float32(ln_eps))
        unit /= s
        names = f"{name}.weight", f"{name}.bias"
        w, b = map(self.tensor, names) if names[0] in self.weights else np.float32([1, 0])

        def pull(dy: np.ndarray) -> np.ndarray:
            d = dy * w
            inner = (d * unit).mean(axis=-1, keepdims=True)
            d -= d.mean(axis=-1, keepdims=True)
            d -= unit * inner
            d /= s
            return d

        y = unit * w
        y += b
        return Variable(y, (x.node, pull),
                        (self.leaves.get(names[0]), lambda dy: (dy * unit).sum(axis=(0, 1))),
                        (self.leaves.get(names[1]), lambda dy: dy.sum(axis=(0, 1))))  # fmt: skip

    # nll = log sum e^y - y[target], p = softmax(y): dy = p d nll, less d nll at the target
    def nll(self, name: str, h: Variable, at, targets, bias: str | None = None) -> Variable:
        y = self.scores(name, h, bias=bias)
        p = y.value
        p -= p.max(axis=-1, keepdims=True)
        picked = p[:, at, targets]
        total = np.exp(p, out=p).sum(axis=-1, keepdims=True)
        p /= total

        def pull(d: np.ndarray) -> np.ndarray:
            dy, each = p, np.bincount(at, d[0], p.shape[1])
            dy *= each.astype(np.float32)[:, None]
            np.subtract.at(dy[0], (at, targets), d[0])
            return dy

        return Variable(np.log(total[:, at, 0]) - picked, (y.node, pull))

    # y = p v, p = softmax(c q k^T): dv = p^T dy, dp = dy v^T, ds = c p (dp - sum p dp)
    # dq = ds k, dk = ds^T q
    def attention(self, name, q: Variable, k, v, batch: Batch, causal: bool, rows=None) -> Variable:
        k, v, prefix = self.prefixed(name, k, v)
        values = q.value, k.value, v.value
        y, kept, c = np.empty_like(q.value), [], np.float32(q.shape[-1] ** -0.5)
        for queries, keys, places in batch.attention_blocks(rows, QUERIES, prefix):
            score = heads(q.value, queries) @ heads(k.value, keys).swapaxes(2, 3)
            score *= c
            hidden = places[:, None] < np.arange(score.shape[-1]) if causal else None
            p = self.softmax(score, hidden)
            y[:, queries] = (p @ heads(v.value, keys)).swapaxes(1, 2)
            kept.append((queries, keys, p))

        def pull(dy: np.ndarray) -> tuple[np.ndarray, ...]:
            d = tuple(np.zeros(x.shape, np.float32) for x in values)
            for block in kept:
                attention_backward(block, c, dy, values, d)
            return d

        three = Node(*((x.node, itemgetter(i)) for i, x in enumerate((q, k, v))))
        return Variable(y, (three if three.edges else None, pull))

    # y = a after b: da, db = their parts of dy
    def prefixed(self, name: str, k: Variable, v: Variable) -> tuple[Variable, Variable, int]:
        if f"{name}.prefix.key" not in self.weights:
            return k, v, 0
        n, rows = k.shape[1], np.arange(self.weights.shape(f"{name}.prefix.key")[0])
        both = []
        for part, x in (("key", k), ("value", v)):
            p = self.embed(f"{name}.prefix.{part}", rows).reshape(1, len(rows), *x.shape[2:])
            both.append(Variable(np.concatenate([x.value, p.value], axis=1),
                                 (x.node, lambda dy: dy[:, :n]), (p.node, lambda dy: dy[:, n:])))
        return *both, len(rows)

    # L = log sum e^s - s[label]: ds = softmax(s), less 1 at the label
    def cross_entropy(self, scores: Variable, labels: np.ndarray, counts: np.ndarray) -> Variable:
        loss = super().cross_entropy(scores.value, labels, counts)
        ds = self.softmax(present(scores.value, counts)[None], None)[0]
        ds[:, np.arange(len(labels)), labels] -= 1
        return Variable(loss, (scores.node, lambda dy: dy * ds))

    # y = x Phi(x): dx = (Phi(x) + x phi(x)) dy
    def gelu(self, x: Variable) -> Variable:
        slope = gelu_slope(x.value)
        return Variable(x.value, (x.node, partial(np.multiply, slope)))

    # y = max(x, 0): dx = dy where y > 0
    def relu(self, x: Variable) -> Variable:
        y = super().relu(x.value)
        return Variable(y, (x.node, lambda dy: dy * (y > 0)))


def attention_backward(block: tuple, c: np.float32, dy: np.ndarray, values, d) -> None:
    """Add one block's part to d = dq, dk, dv. block: (queries, keys, p); values: q, k, v."""
    (queries, keys, p), (q, k, v), (dq, dk, dv) = block, values, d
    dy = heads(dy, queries)
    dv[:, keys] += (p.swapaxes(2, 3) @ dy).swapaxes(1, 2)
    ds = dy @ heads(v, keys).swapaxes(2, 3)
    ds -= (ds * p).sum(axis=-1, keepdims=True)
    ds *= p
    ds *= c
    dq[:, queries] = (ds @ heads(k, keys)).swapaxes(1, 2)
    dk[:, keys] += (ds.swapaxes(2, 3) @ heads(q, queries)).swapaxes(1, 2)
