"""Graphs of ONNX operators, written as one writes NumPy: a Value stands for an array to come.

    y = graph.op("Tanh", x @ w + b)        three nodes; `graph.model` is them all as bytes

A node that is there already is not added again, so what is asked for twice is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyzo.engine.onnx import protobuf
from tinyzo.engine.onnx.protobuf import TYPES, Attribute, Described, External
from tinyzo.errors import UsageError

OPSET = 21
CONTRIBUTED = "com.microsoft"  # the domain of operators that ONNX Runtime adds
ANY = 0  # of a shape: known only when the graph runs. To Reshape, 0 is "as it was"

Shape = tuple[int, ...]
Given = Any  # a Value, or an array or a number that becomes one


class Node(NamedTuple):
    """An operator and what it is given, by name."""

    op: str
    inputs: tuple[str, ...]
    attributes: tuple[tuple[str, Attribute], ...]
    domain: str
    outputs: int


class Constant(NamedTuple):
    """Numbers that the model holds itself."""

    dtype: str
    shape: Shape
    raw: bytes

    def array(self) -> np.ndarray:
        return np.frombuffer(self.raw, self.dtype).reshape(self.shape)


class Value:
    """An array that a graph makes when it runs; NumPy's operators and few methods add nodes.

    shape: its axes, ANY where a size is known only then
    """

    __array_ufunc__ = None  # array + value is value.__radd__(array)

    def __init__(self, graph: Graph, name: str, shape: Shape) -> None:
        self.graph = graph
        self.name = name
        self.shape = shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.graph.compute(self), dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __add__(self, other: Given) -> Value:
        return self.graph.binary("Add", self, other)

    __radd__ = __add__

    def __sub__(self, other: Given) -> Value:
        return self.graph.binary("Sub", self, other)

    def __mul__(self, other: Given) -> Value:
        return self.graph.binary("Mul", self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Given) -> Value:
        return self.graph.binary("Div", self, other)

    def __xor__(self, other: Given) -> Value:
        return self.graph.binary("BitwiseXor", self, other)

    def __and__(self, other: Given) -> Value:
        return self.graph.binary("BitwiseAnd", self, other)

    def __rshift__(self, other: Given) -> Value:
        return self.graph.op("BitShift", self, other, shape=self.shape, direction="RIGHT")

    def __lt__(self, other: Given) -> Value:
        return self.graph.binary("Less", self, other)

    def __gt__(self, other: Given) -> Value:
        return self.graph.binary("Greater", self, other)

    def __ge__(self, other: Given) -> Value:
        return self.graph.binary("GreaterOrEqual", self, other)

    def equals(self, other: Given) -> Value:
        """Element by element, as NumPy's ==; a Value's own is identity."""
        return self.graph.binary("Equal", self, other)

    def where(self, a: Given, b: Given) -> Value:
        """a where this is true, else b."""
        yes = self.graph.array(a)
        no = self.graph.array(b)
        shape = broadcast(self.shape, broadcast(yes.shape, no.shape))
        return self.graph.op("Where", self, yes, no, shape=shape)

    def sum(self, axis: int) -> Value:
        """Along one axis, which goes away."""
        shape = list(self.shape)
        del shape[axis]
        axes = np.array([axis])
        return self.graph.op("ReduceSum", self, axes, shape=tuple(shape), keepdims=0)

    def sizes(self) -> Value:
        """The shape, as it is when the graph runs: i64[axes]."""
        return self.graph.op("Shape", self, shape=(len(self.shape),))

    def __matmul__(self, other: Value) -> Value:
        stack = broadcast(self.shape[:-2], other.shape[:-2])
        shape = (*stack, self.shape[-2], other.shape[-1])
        return self.graph.op("MatMul", self, other, shape=shape)

    def reshape(self, *shape: int) -> Value:
        """NumPy's, of which one size may be ANY or -1; more may, where they are now."""
        kept = [old == ANY for old in self.shape] + [False] * len(shape)
        sizes = [-1 if size == ANY and not kept[at] else size for at, size in enumerate(shape)]
        found = reshaped(self.shape, sizes)
        return self.graph.op("Reshape", self, np.array(sizes, np.int64), shape=found)

    def transpose(self, *axes: int) -> Value:
        shape = tuple(self.shape[axis] for axis in axes)
        return self.graph.op("Transpose", self, shape=shape, perm=axes)

    def gather(self, index: Given, axis: int = 0) -> Value:
        """What `take` is of an array."""
        at = self.graph.array(index)
        shape = (*self.shape[:axis], *at.shape, *self.shape[axis + 1 :])
        return self.graph.op("Gather", self, at, shape=shape, axis=axis)

    def part(self, places: range, axis: int = 0) -> Value:
        """A slice along one axis."""
        if len(places) == self.shape[axis]:
            return self
        bounds = (np.array([bound]) for bound in (places.start, places.stop, axis))
        shape = (*self.shape[:axis], len(places), *self.shape[axis + 1 :])
        return self.graph.op("Slice", self, *bounds, shape=shape)

    def __getitem__(self, index: tuple[slice, Given]) -> Value:
        """x[:, rows], the one kind that the models use."""
        _, rows = index
        return self.gather(self.graph.data(rows), axis=1)

    def cast(self, dtype: Any) -> Value:
        return self.graph.op("Cast", self, shape=self.shape, to=TYPES[np.dtype(dtype)])


def concat(first: Value, *rest: Given, axis: int = 0) -> Value:
    """Arrays one after another along an axis."""
    parts = [first, *map(first.graph.array, rest)]
    lengths = [part.shape[axis] for part in parts]
    shape = list(first.shape)
    shape[axis] = ANY if ANY in lengths else sum(lengths)
    return first.graph.op("Concat", *parts, shape=tuple(shape), axis=axis)


def broadcast(a: Shape, b: Shape) -> Shape:
    """The shape of a sum, as NumPy has it; ANY with anything but 1 is ANY or that."""
    long, short = (a, b) if len(a) >= len(b) else (b, a)
    short = (1,) * (len(long) - len(short)) + short
    return tuple(map(_larger, long, short))


def _larger(x: int, y: int) -> int:
    """Of two sizes that are the same, or one of them 1 or ANY."""
    if 1 in (x, y):
        return x + y - 1
    return max(x, y)


def reshaped(old: Shape, new: Sequence[int]) -> Shape:
    """The shape that Reshape makes of `old`: ANY is what it was, -1 the rest."""
    found = [old[at] if size == ANY else size for at, size in enumerate(new)]
    if -1 in found:
        known = [size for size in found if size > 0]
        is_known = old.count(ANY) == found.count(ANY)
        rest = math.prod(size for size in old if size) // math.prod(known) if is_known else ANY
        found[found.index(-1)] = rest
    return tuple(found)


class Graph:
    """Nodes, the constants that they read, and the graph's inputs.

    shared: a graph of which this is another handle: what is added to one is in both
    """

    def __init__(self, shared: Graph | None = None) -> None:
        self.nodes: dict[Node, tuple[str, ...]] = shared.nodes if shared else {}
        self.inputs: dict[str, Described] = shared.inputs if shared else {}
        self.externals: dict[str, External] = shared.externals if shared else {}
        self.constants: dict[Constant, str] = shared.constants if shared else {}

    # -- what there is to compute with

    def given(self, name: str, dtype: Any, shape: Sequence[protobuf.Dimension]) -> Value:
        """An input of the graph. dtype: NumPy's, or a number of TensorProto.DataType."""
        kind = dtype if isinstance(dtype, int) else TYPES[np.dtype(dtype)]
        self.inputs[name] = Described(name, kind, tuple(shape))
        return Value(self, name, tuple(ANY if isinstance(d, str) else d for d in shape))

    def stored(self, tensor: External) -> Value:
        """A tensor in a file beside the model."""
        self.externals[tensor.name] = tensor
        return Value(self, tensor.name, tensor.shape)

    def constant(self, values: Any) -> Value:
        """Numbers that the model holds itself; those of Python are int64."""
        array = np.asarray(values, np.int64 if isinstance(values, int) else None)
        key = Constant(array.dtype.str, array.shape, array.tobytes())
        name = self.constants.setdefault(key, f"c{len(self.constants)}")
        return Value(self, name, array.shape)

    def array(self, values: Given) -> Value:
        """Whatever is given as a Value: numbers become a constant."""
        return values if isinstance(values, Value) else self.constant(values)

    def data(self, values: Given) -> Value:
        """The same of what differs from one run of the graph to the next."""
        return self.array(values)

    # -- nodes

    def op(
        self, op: str, *inputs: Given, shape: Shape = (), domain: str = "", **attributes: Attribute
    ) -> Value:
        """A node of one output. shape: of that, if anyone asks; None: an input that is left out."""
        return self.ops(op, *inputs, shapes=(shape,), domain=domain, **attributes)[0]

    def ops(
        self,
        op: str,
        *inputs: Given,
        shapes: Sequence[Shape],
        domain: str = "",
        **attributes: Attribute,
    ) -> list[Value]:
        """A node of several outputs."""
        names = tuple("" if each is None else self.array(each).name for each in inputs)
        node = Node(op, names, tuple(sorted(attributes.items())), domain, len(shapes))
        if node not in self.nodes:
            self.nodes[node] = tuple(f"v{len(self.nodes)}_{k}" for k in range(len(shapes)))
        return [Value(self, name, s) for name, s in zip(self.nodes[node], shapes, strict=True)]

    def name(self, value: Value, name: str) -> str:
        """Have a value under this name too."""
        self.nodes[Node("Identity", (value.name,), (), "", 1)] = (name,)
        return name

    def binary(self, op: str, a: Value, b: Given) -> Value:
        """An operator of two arrays, element by element."""
        right = self.array(b)
        return self.op(op, a, right, shape=broadcast(a.shape, right.shape))

    def in_order(self) -> list[tuple[Node, tuple[str, ...]]]:
        """The nodes, those that take the fewest steps from the inputs first.

        ONNX Runtime computes of a node's inputs the one that comes last first. So a weight becomes
        float32, and z is made, when the activations that they multiply are there, and not before:
        else all weights would be in memory at once.
        """
        depths: dict[str, int] = {}
        for node, names in self.nodes.items():
            depth = 1 + max((depths.get(each, 0) for each in node.inputs), default=0)
            depths |= dict.fromkeys(names, depth)
        return sorted(self.nodes.items(), key=lambda item: depths[item[1][0]])

    def compute(self, value: Value) -> np.ndarray:
        """What a Value comes to, in a graph that knows what its inputs are.

        raises: UsageError in any other
        """
        found = f"{value.name} has no numbers before its graph runs"
        raise UsageError(found, "write the graph to a file, and let a runtime compute it")

    def part(self, names: Sequence[str]) -> Graph:
        """The nodes, constants and inputs that these values need."""
        needed = set(names)
        nodes = []
        for node, outputs in reversed(self.nodes.items()):  # each follows what it reads
            if not needed.isdisjoint(outputs):
                nodes.append((node, outputs))
                needed.update(node.inputs)
        part = Graph()
        part.nodes = dict(reversed(nodes))
        part.inputs = {name: each for name, each in self.inputs.items() if name in needed}
        part.externals = {name: each for name, each in self.externals.items() if name in needed}
        part.constants = {each: name for each, name in self.constants.items() if name in needed}
        return part

    # -- bytes

    def model(self, outputs: Sequence[Described], metadata: Mapping[str, str] = {}) -> bytes:
        """The graph as an ONNX file."""
        nodes = (
            protobuf.node(n.op, n.inputs, names, dict(n.attributes), n.domain)
            for n, names in self.in_order()
        )
        constants = [protobuf.tensor(name, c.array()) for c, name in self.constants.items()]
        externals = map(protobuf.external, self.externals.values())
        opsets = {"": OPSET} | {n.domain: 1 for n in self.nodes if n.domain}
        inputs = self.inputs.values()
        return protobuf.model(nodes, [*constants, *externals], inputs, outputs, opsets, metadata)
