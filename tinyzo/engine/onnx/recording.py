"""A pass as it is recorded: a graph that is kept, and what its inputs are this time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyzo.checkpoints.groups import scales_of
from tinyzo.engine import noise
from tinyzo.engine.onnx.graph import Graph, Shape, Value
from tinyzo.engine.onnx.places import RawGroups, in_place
from tinyzo.engine.onnx.protobuf import BFLOAT16, TYPES, Described, Dimension
from tinyzo.engine.onnx.tensors import Floats, Groups, Tensor
from tinyzo.engine.weights import Parameters


class Program(NamedTuple):
    """A graph that can be run.

    inputs: the types (TensorProto.DataType) of what it takes
    """

    model: bytes
    inputs: dict[str, int]
    output: str


Run = Callable[[Program, dict[str, np.ndarray]], np.ndarray]  # of given inputs, the output


class Recording(Graph):
    """The graph of passes that differ in numbers alone, as far as they have come.

    verbs:    the value that a verb gave, of what it was given
    tensors:  the weights that are inputs
    keyed:    those of which the keys of the noise are; drawn: the noise itself
    programs: of values that were run
    """

    def __init__(self) -> None:
        super().__init__()
        self.verbs: dict[object, tuple[str, Shape]] = {}
        self.tensors: dict[str, None] = {}
        self.keyed: dict[str, None] = {}
        self.drawn: dict[str, None] = {}
        self.programs: dict[str, Program] = {}


class Trace(Graph):
    """One pass: a graph that is kept, and what its inputs are this time, so it can be run.

    It holds no Value, which would hold it: what a pass read is given back at its end.
    """

    def __init__(
        self, kept: Recording, run: Run, weights: Parameters, seeds: Sequence[int]
    ) -> None:
        super().__init__(kept)
        self.kept = kept
        self.feeds: dict[str, np.ndarray] = {}
        self._run = run
        self._weights = weights
        self._seeds = seeds
        self._data: dict[int, str] = {}
        self._raw: dict[str, np.ndarray | RawGroups] = {}

    def data(self, values: Any) -> Value:
        if isinstance(values, Value):
            return values
        at = id(values)  # of an array that lives as long as this, in `feeds`
        name = self._data.setdefault(at, f"d{len(self._data)}.{values.dtype}.{values.ndim}")
        shape = [f"{name}_{axis}" for axis in range(values.ndim)]
        return self.feed(name, values, shape)

    def taken(self, given: Any) -> Any:
        """What a verb is given, as the graph has it.

        Ids and the like are data. Activations are Values in a model, and where others ask a verb
        an array, which becomes an input of the very shape that it has.
        """
        if not isinstance(given, np.ndarray):
            return given
        if given.dtype.kind != "f":
            return self.data(given)
        values = np.ascontiguousarray(given)
        return self.feed(f"x{len(self.feeds)}.{values.shape}", values)

    def feed(
        self, name: str, values: np.ndarray, shape: Sequence[Dimension] | None = None
    ) -> Value:
        """An input and what it is now. shape: None if it is always the same."""
        self.feeds[name] = values
        return self.given(name, values.dtype, values.shape if shape is None else shape)

    def tensor(self, name: str) -> Tensor:
        """A whole tensor of the weights, as it is stored."""
        self.kept.tensors[name] = None
        if name not in self._raw:
            self._raw[name] = in_place(self._weights, name)
        return self.weight(name, self._raw[name])

    def weight(self, name: str, raw: np.ndarray | RawGroups) -> Tensor:
        """A tensor as it is stored, as one input or two."""
        if isinstance(raw, RawGroups):
            codes = self.raw(name, raw.codes)
            scales = self.raw(scales_of(name), raw.scales)
            return Groups(codes, scales, columns=self._weights.shape(name)[-1])
        return Floats(self.raw(name, raw), is_wide=raw.dtype == np.float32)

    def raw(self, name: str, values: np.ndarray) -> Value:
        """An input in its storage type, which NumPy has no name for if it is bfloat16."""
        self.feeds[name] = np.require(values, requirements="A")
        kind = BFLOAT16 if values.dtype == np.uint16 else TYPES[values.dtype]
        return self.given(name, kind, values.shape)

    def keys(self, name: str) -> Value:
        """The keys of a tensor's noise: u32[U, 2]."""
        self.kept.keyed[name] = None
        kind = self._weights.direction.kind
        keys = [noise.key(seed, name, kind) for seed in self._seeds]
        return self.feed(f"{name}.keys", np.array(keys, np.uint32))

    def noise(self, name: str) -> Value:
        """z of all of a vector: f32[U, D].

        NumPy makes it: the nodes for a model's many vectors would be most of the graph.
        """
        self.kept.drawn[name] = None
        own = f"{name}.z"
        if own not in self.feeds:
            shape, kind = self._weights.shape(name), self._weights.direction.kind
            z = [noise.noise(seed, name, shape, kind) for seed in self._seeds]
            self.feeds[own] = np.stack(z)
        return self.feed(own, self.feeds[own])

    def compute(self, value: Value) -> np.ndarray:
        for name in self.kept.tensors:
            self.tensor(name)
        for name in self.kept.keyed:
            self.keys(name)
        for name in self.kept.drawn:
            self.noise(name)
        if value.name not in self.kept.programs:
            self.kept.programs[value.name] = self.program(value)
        return self._run(self.kept.programs[value.name], self.feeds)

    def program(self, value: Value) -> Program:
        """What of the graph a float32 value needs."""
        part = self.part([value.name])
        shape = tuple(f"{value.name}_{axis}" for axis in range(len(value.shape)))
        model = part.model([Described(value.name, TYPES[np.dtype("f4")], shape)])
        types = {each.name: each.type for each in part.inputs.values()}
        return Program(model, types, value.name)
