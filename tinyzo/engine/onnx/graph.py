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

OPSET = 23
CONTRIBUTED = "com.microsoft"  # the domain of operators that ONNX Runtime adds
ANY = 0  # of a shape: known only when the graph runs. To Reshape, 0 is "as it was"

Shape = tuple[int, ...]
Size = Any  # an int, or a Value i64[1] of a size that the graph computes
Given = Any  # a Value, or an array or a number that becomes one


class Node(NamedTuple):
    """An operator and what it is given, by name."""

    op: str
    inputs: tuple[str, ...]
    attributes: tuple[tuple[str, Attribute], ...]
    domain: str


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

    def size(self, axis: int) -> Value:
        """One size, as it is when the graph runs: i64[1]."""
        return self.sizes().gather(np.array([axis]))

    def reshape(self, *sizes: Size) -> Value:
        """NumPy's, of which one size may be ANY or -1; more may, where they are now."""
        if any(isinstance(size, Value) for size in sizes):
            shape = tuple(map(known, sizes))
            return self.graph.op("Reshape", self, self.graph.joined(*sizes), shape=shape)
        wanted = []
        for axis, size in enumerate(sizes):
            is_as_it_was = axis < len(self.shape) and self.shape[axis] == ANY
            is_the_rest = size == ANY and not is_as_it_was
            wanted.append(-1 if is_the_rest else size)
        shape = reshaped(self.shape, wanted)
        return self.graph.op("Reshape", self, self.graph.joined(*wanted), shape=shape)

    def expand(self, *sizes: Size) -> Value:
        """NumPy's broadcast_to; a size of 1 leaves an axis as it is."""
        shape = broadcast(self.shape, tuple(map(known, sizes)))
        return self.graph.op("Expand", self, self.graph.joined(*sizes), shape=shape)

    def transpose(self, *axes: int) -> Value:
        """NumPy's."""
        shape = tuple(self.shape[axis] for axis in axes)
        return self.graph.op("Transpose", self, shape=shape, perm=axes)

    def gather(self, index: Given, axis: int = 0) -> Value:
        """What `take` is of an array."""
        at = self.graph.array(index)
        before = self.shape[:axis]
        after = self.shape[axis + 1 :]
        return self.graph.op("Gather", self, at, shape=(*before, *at.shape, *after), axis=axis)

    def part(self, places: range, axis: int = 0) -> Value:
        """A slice along one axis."""
        if len(places) == self.shape[axis]:
            return self
        start = np.array([places.start])
        stop = np.array([places.stop])
        shape = list(self.shape)
        shape[axis] = len(places)
        return self.graph.op("Slice", self, start, stop, np.array([axis]), shape=tuple(shape))

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


def known(size: Size) -> int:
    """A size as shapes have it: ANY for one that the graph computes, and for the rest."""
    if isinstance(size, Value) or size == -1:
        return ANY
    return int(size)


def broadcast(a: Shape, b: Shape) -> Shape:
    """The shape of a sum, as NumPy has it; ANY with anything but 1 is ANY or that."""
    axes = max(len(a), len(b))
    first = (1,) * (axes - len(a)) + a
    second = (1,) * (axes - len(b)) + b
    return tuple(map(_larger, first, second))


def _larger(x: int, y: int) -> int:
    """Of two sizes that are the same, or one of them 1 or ANY."""
    if x == 1:
        return y
    if y == 1:
        return x
    return max(x, y)


def reshaped(old: Shape, new: Sequence[int]) -> Shape:
    """The shape that Reshape makes of `old`: ANY is what it was, -1 the rest."""
    found = list(new)
    for axis, size in enumerate(new):
        if size == ANY:
            found[axis] = old[axis]
    if -1 not in found:
        return tuple(found)
    rest = ANY
    if old.count(ANY) == found.count(ANY):
        elements = math.prod(size for size in old if size != ANY)
        others = math.prod(size for size in found if size > 0)
        rest = elements // others
    found[found.index(-1)] = rest
    return tuple(found)


class Graph:
    """Nodes, the constants that they read, and the graph's inputs.

    shared: a graph of which this is another handle: what is added to one is in both
    """

    def __init__(self, shared: Graph | None = None) -> None:
        self.nodes: dict[Node, str] = {}  # and what each gives, by name
        self.inputs: dict[str, Described] = {}
        self.externals: dict[str, External] = {}
        self.constants: dict[Constant, str] = {}
        if shared:
            self.nodes = shared.nodes
            self.inputs = shared.inputs
            self.externals = shared.externals
            self.constants = shared.constants

    # -- what there is to compute with

    def given(self, name: str, dtype: Any, shape: Sequence[protobuf.Dimension]) -> Value:
        """An input of the graph. dtype: NumPy's, or a number of TensorProto.DataType."""
        kind = dtype
        if not isinstance(dtype, int):
            kind = TYPES[np.dtype(dtype)]
        self.inputs[name] = Described(name, kind, tuple(shape))
        sizes = [ANY if isinstance(size, str) else size for size in shape]
        return Value(self, name, tuple(sizes))

    def stored(self, tensor: External) -> Value:
        """A tensor in a file beside the model."""
        self.externals[tensor.name] = tensor
        return Value(self, tensor.name, tensor.shape)

    def constant(self, values: Any) -> Value:
        """Numbers that the model holds itself; those of Python are int64."""
        array = np.asarray(values)
        if isinstance(values, int):
            array = array.astype(np.int64)
        key = Constant(array.dtype.str, array.shape, array.tobytes())
        new = f"c{len(self.constants)}"
        name = self.constants.setdefault(key, new)
        return Value(self, name, array.shape)

    def array(self, values: Given) -> Value:
        """Whatever is given as a Value: numbers become a constant."""
        return values if isinstance(values, Value) else self.constant(values)

    def data(self, values: Given) -> Value:
        """The same of what differs from one run of the graph to the next."""
        return self.array(values)

    def joined(self, *sizes: Size) -> Value:
        """Sizes as one array: i64[sizes]."""
        if not any(isinstance(size, Value) for size in sizes):
            return self.constant(np.array(sizes, np.int64))
        parts = [size if isinstance(size, Value) else np.array([size]) for size in sizes]
        return self.op("Concat", *parts, shape=(len(sizes),), axis=0)

    # -- nodes

    def op(
        self, op: str, *inputs: Given, shape: Shape = (), domain: str = "", **attributes: Attribute
    ) -> Value:
        """A node. shape: of its output, if anyone asks; an input of None is left out."""
        names = ["" if each is None else self.array(each).name for each in inputs]
        node = Node(op, tuple(names), tuple(sorted(attributes.items())), domain)
        new = f"v{len(self.nodes)}"
        return Value(self, self.nodes.setdefault(node, new), shape)

    def name(self, value: Value, name: str) -> str:
        """Have a value under this name too."""
        self.nodes[Node("Identity", (value.name,), (), "")] = name
        return name

    def binary(self, op: str, a: Value, b: Given) -> Value:
        """An operator of two arrays, element by element."""
        right = self.array(b)
        return self.op(op, a, right, shape=broadcast(a.shape, right.shape))

    def in_order(self) -> list[tuple[Node, str]]:
        """The nodes, those that take the fewest steps from the inputs first.

        ONNX Runtime computes of a node's inputs the one that comes last first. So a weight becomes
        float32, and z is made, when the activations that they multiply are there, and not before:
        else all weights would be in memory at once.
        """
        depths: dict[str, int] = {}
        for node, name in self.nodes.items():
            before = [depths.get(each, 0) for each in node.inputs]
            depths[name] = 1 + max(before, default=0)

        def depth_of(item: tuple[Node, str]) -> int:
            _, name = item
            return depths[name]

        return sorted(self.nodes.items(), key=depth_of)

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
        for node, output in reversed(self.nodes.items()):  # each follows what it reads
            if output in needed:
                nodes.append((node, output))
                needed.update(node.inputs)
        part = Graph()
        part.nodes = dict(reversed(nodes))
        for name, described in self.inputs.items():
            if name in needed:
                part.inputs[name] = described
        for name, tensor in self.externals.items():
            if name in needed:
                part.externals[name] = tensor
        for constant, name in self.constants.items():
            if name in needed:
                part.constants[constant] = name
        return part

    # -- bytes

    def model(self, outputs: Sequence[Described], metadata: Mapping[str, str] = {}) -> bytes:
        """The graph as an ONNX file."""
        nodes = (
            protobuf.node(each.op, each.inputs, [name], dict(each.attributes), each.domain)
            for each, name in self.in_order()
        )
        constants = [protobuf.tensor(name, c.array()) for c, name in self.constants.items()]
        externals = map(protobuf.external, self.externals.values())
        opsets = {"": OPSET} | {n.domain: 1 for n in self.nodes if n.domain}
        inputs = self.inputs.values()
        return protobuf.model(nodes, [*constants, *externals], inputs, outputs, opsets, metadata)
