"""Arrays that remember what they were made of, and how the gradient goes back through them.

What an operation makes is a Variable: its value, and a Node with one function for each thing that
it was made of, which turns dy = dL/dy into that thing's dL/dx. Above each operation stands its
equation. The verbs with parameters are in reverse_mode.py.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from tinyzo.dtypes import Array

# Mostly an array. Of some rows of a table RowGradient, of attention three arrays at once: which it
# is, only the functions on both ends of an edge know.
Gradient = Any
Pull = Callable[[Gradient], Gradient]
Edge = tuple["Node | None", Pull]  # to whom, and dy -> their gradient
NUMBERS = count()


class RowGradient(NamedTuple):
    """The gradient of a table of which some rows were read; that of all others is 0.

    rows: i64[M], one as often as it was read; gradient: f32[M, D]
    """

    rows: np.ndarray
    gradient: np.ndarray


class Node:
    """The place where the gradient of one value is summed, and from where it goes on.

    edges: None stands for what has no gradient; then its function, and what that keeps, is dropped
    """

    def __init__(self, *edges: Edge) -> None:
        self.edges = [(node, pull) for node, pull in edges if node is not None]
        self.gradient: Gradient = None
        self.number = next(NUMBERS)

    def __lt__(self, other: Node) -> bool:
        """Backward, a younger node comes first: all that was made of its value is younger still."""
        return self.number > other.number

    def receive(self, gradient: Gradient) -> None:
        """Add one part of the gradient."""
        if self.gradient is None:
            self.gradient = gradient
        else:
            self.gradient = self.gradient + gradient

    def take(self) -> tuple[Gradient, list[tuple[Node, Pull]]]:
        """The gradient and the edges; the node has neither from then on, which frees memory."""
        gradient = self.gradient
        edges = self.edges
        self.gradient = None
        self.edges = []
        return gradient, edges


def joint_node(*nodes: Node | None) -> Node | None:
    """A node whose gradient is a tuple, with a part for each of these."""
    node = Node(*((each, itemgetter(i)) for i, each in enumerate(nodes)))
    return node if node.edges else None


class Deferred(Node):
    """A value that was computed without its graph, which is made when its gradient comes.

    make: computes the value again, as a Variable; it reads only what is older than this node
    """

    def __init__(self, make: Callable[[], Variable]) -> None:
        super().__init__()
        self._make = make

    def take(self) -> tuple[Gradient, list[tuple[Node, Pull]]]:
        """The new graph is younger than all that waits, so that it is gone before the next one."""
        gradient, _ = super().take()
        again = self._make()
        del self._make  # and what it keeps
        return gradient, Node(again.as_it_is()).edges


class Leaf(Node):
    """A tensor's node. Its gradient belongs to it alone, so that it is summed in place."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.name = name
        self.shape = shape

    def receive(self, gradient: np.ndarray | RowGradient) -> None:
        if isinstance(gradient, RowGradient):
            self._receive_rows(gradient)
        elif self.gradient is None:
            self.gradient = gradient
        else:
            self.gradient += gradient

    def _receive_rows(self, part: RowGradient) -> None:
        if self.gradient is None:
            self.gradient = np.zeros(self.shape, np.float32)
        order = np.argsort(part.rows, kind="stable")
        rows, starts = np.unique(part.rows[order], return_index=True)
        self.gradient[rows] += np.add.reduceat(part.gradient[order], starts, axis=0)


class Variable:
    """An array with the operations that models and objectives use between the verbs.

    node: None where nothing that it was made of has a gradient
    """

    def __init__(self, value: np.ndarray, *edges: Edge) -> None:
        node = Node(*edges)
        self.value = value
        self.node = node if node.edges else None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    def as_it_is(self) -> Edge:
        """The edge to it of what has its value: dx = dy."""
        return self.node, lambda dy: dy

    def backward(self) -> dict[str, Array]:
        """dL/dw of each trained tensor that this loss has read: f32 of its shape. Only once."""
        gradients: dict[str, Array] = {}
        waiting: list[Node] = []
        if self.node is not None:
            self.node.receive(np.ones_like(self.value))
            waiting.append(self.node)
        while waiting:
            node = heapq.heappop(waiting)
            gradient, edges = node.take()
            if isinstance(node, Leaf):
                gradients[node.name] = gradient
            for target, pull in edges:
                if target.gradient is None:
                    heapq.heappush(waiting, target)
                target.receive(pull(gradient))
        return gradients

    # y = a + b: da = dy, db = dy, each summed where it was broadcast
    def __add__(self, other: Variable) -> Variable:
        y = self.value + other.value
        return Variable(y, self.summand(), other.summand())

    def summand(self) -> Edge:
        """The edge to one side of a sum; axis 0 is never broadcast."""
        axes = tuple(axis for axis in range(1, len(self.shape)) if self.shape[axis] == 1)

        def pull(dy: np.ndarray) -> np.ndarray:
            return dy.sum(axis=axes, keepdims=True) if axes else dy

        return self.node, pull

    # y = c x: dx = c dy
    def __mul__(self, c: float | np.floating | np.ndarray) -> Variable:
        return Variable(self.value * c, (self.node, lambda dy: dy * c))

    def __truediv__(self, c: float | np.ndarray) -> Variable:
        return self * (1 / c)

    def __neg__(self) -> Variable:
        return self * -1

    # y = x[key]: dx = 0, and dy added at the key, as often as it names an element
    def __getitem__(self, key: Any) -> Variable:  # whatever NumPy takes as an index
        shape, dtype = self.shape, self.value.dtype

        def pull(dy: np.ndarray) -> np.ndarray:
            dx = np.zeros(shape, dtype)
            np.add.at(dx, key, dy)
            return dx

        return Variable(self.value[key], (self.node, pull))

    # y = the same elements: dx = dy, in x's shape and type
    def reshape(self, *shape: int) -> Variable:
        before = self.shape
        y = self.value.reshape(*shape)
        return Variable(y, (self.node, lambda dy: dy.reshape(before)))

    def astype(self, dtype: DTypeLike) -> Variable:
        before = self.value.dtype
        y = self.value.astype(dtype)
        return Variable(y, (self.node, lambda dy: dy.astype(before)))

    def sum(self, axis: Literal[-1]) -> Variable:
        """Over the last axis."""
        whole = np.zeros(1, np.int64)
        return segment_sums(self, whole).reshape(*self.shape[:-1])

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *given: Any, **options: Any) -> Any:
        """np.add.reduceat(x, starts, axis=-1). NumPy refuses all others, with a TypeError."""
        if ufunc is np.add and method == "reduceat" and options == {"axis": -1}:
            return segment_sums(*given)
        return NotImplemented


# y = sums over the last axis, from start to start: dx = dy at each of its elements
def segment_sums(x: Variable, starts: np.ndarray) -> Variable:
    sizes = np.diff(starts, append=x.shape[-1])
    y = np.add.reduceat(x.value, starts, axis=-1)
    return Variable(y, (x.node, lambda dy: np.repeat(dy, sizes, axis=-1)))
