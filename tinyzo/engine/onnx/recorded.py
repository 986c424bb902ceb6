"""A View that records a pass, and runs it when its scores are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Protocol, cast
from weakref import ref

import numpy as np

from tinyzo.batch import Batch
from tinyzo.dtypes import Array, Integers, Rows
from tinyzo.engine.numpy_engine import NumpyView
from tinyzo.engine.onnx.graph import Value
from tinyzo.engine.onnx.layout import Layout, segments
from tinyzo.engine.onnx.recording import Program, Recording, Trace
from tinyzo.engine.onnx.tensors import Tensor
from tinyzo.engine.onnx.view import Directions, GraphView, as_array
from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Parameters


class Runner(Protocol):
    """What of an engine its views ask for."""

    def recording(self, key: object) -> Recording:
        """The graph of all passes that have this in common."""

    def run(self, program: Program, feeds: dict[str, np.ndarray]) -> np.ndarray:
        """The program's output."""


class OnnxView(GraphView):
    """A View that is run when its scores are asked for."""

    graph: Trace

    def __init__(self, weights: Parameters, probes: Sequence[Probe], engine: Runner) -> None:
        self.probes = probes
        self._engine = engine
        self._layouts: dict[tuple[int, int, int, bool], Layout] = {}
        self._seen: list[tuple[Batch, Rows]] = []  # kept, so that no other gets the id of one
        seeds = runs([seed for seed, _ in probes])
        scales = np.array([scale for _, scale in probes], np.float32)
        count = 0
        if scales.any():
            count = len(seeds)
        kept = engine.recording(kind_of(weights, count, len(probes)))
        graph = Trace(kept, engine.run, weights, seeds)
        directions = None
        if count:
            directions = Directions(count, graph.feed("scales", scales))
        super().__init__(graph, weights, directions)

    def parts(self, most: int) -> Sequence[OnnxView]:
        """New ones in each case: so each micro-batch is a pass like the one before it."""
        starts = range(0, len(self.probes), most)
        groups = (self.probes[start : start + most] for start in starts)
        return [OnnxView(self.weights, group, self._engine) for group in groups]

    def stored(self, name: str) -> Tensor:
        return self.graph.tensor(name)

    def keys(self, name: str) -> Value:
        return self.graph.keys(name)

    def noise(self, name: str, index: Value) -> Value:
        is_vector = len(self.weights.shape(name)) == 1
        if is_vector:
            return self.graph.noise(name)
        return super().noise(name, index)

    def layout(self, batch: Batch, rows: Rows, prefix: int, causal: bool) -> Layout:
        key = (id(batch), id(rows), prefix, causal)
        if key not in self._layouts:
            arrays = segments(batch, rows, prefix, causal)
            self._layouts[key] = Layout(*map(self.graph.data, arrays))
            self._seen.append((batch, rows))
        return self._layouts[key]

    # -- verbs: each adds its nodes once

    def once(self, verb: str, add: Callable[..., Array], *given: Any) -> Value:
        """What a verb gives of what it is given, by `add` at the first time in this graph."""
        values = [self.graph.taken(each) for each in given]
        names = [each.name if isinstance(each, Value) else each for each in values]
        key = (verb, *names)
        verbs = self.graph.kept.verbs
        if key not in verbs:
            made = cast(Value, add(*values))
            verbs[key] = made.name, made.shape
        return Value(self.graph, *verbs[key])

    def embed(self, name: str, ids: Integers) -> Array:
        return as_array(self.once("embed", super().embed, name, ids))

    def linear(self, name: str, x: Array, residual: Array | None = None) -> Array:
        NumpyView.check_width(cast(NumpyView, self), f"{name}.weight", x)
        return as_array(self.once("linear", super().linear, name, x, residual))

    def norm(self, name: str, x: Array, ln_eps: float) -> Array:
        return as_array(self.once("norm", super().norm, name, x, ln_eps))

    def gelu(self, x: Array) -> Array:
        return as_array(self.once("gelu", super().gelu, x))

    def relu(self, x: Array) -> Array:
        return as_array(self.once("relu", super().relu, x))

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
        add = super().attention

        def attend(name: str, q: Array, k: Array, v: Array, *_: Value) -> Array:
            return add(name, q, k, v, batch, causal, rows)

        layout = self.layout(batch, rows, self.prefix(name), causal)
        return as_array(self.once("attention", attend, name, q, k, v, *layout))

    def scores(self, name: str, h: Array, rows: Rows = None, bias: str | None = None) -> Array:
        return np.asarray(self.once("scores", super().scores, name, h, rows, bias))

    def nll(
        self, name: str, h: Array, at: Integers, targets: Integers, bias: str | None = None
    ) -> Array:
        return np.asarray(self.once("nll", super().nll, name, h, at, targets, bias))

    def cross_entropy(self, scores: np.ndarray, labels: Integers, counts: Integers) -> np.ndarray:
        return NumpyView.cross_entropy(cast(NumpyView, self), scores, labels, counts)


def kind_of(weights: Parameters, directions: int, copies: int) -> object:
    """What passes have in common that are one graph: the weights, and the number of probes."""
    return (
        ref(weights),
        tuple(weights.store.dtypes.items()),
        tuple(weights.trained),
        bool(weights.pending),
        weights.adapter_scale,
        weights.direction.kind,
        tuple(weights.direction.limits.items()),
        directions,
        copies,
    )


def runs(seeds: Sequence[int]) -> list[int]:
    """One seed for each run of equal ones, if all runs are as long; else all of them."""
    groups = [(seed, len(list(run))) for seed, run in groupby(seeds)]
    lengths = {length for _, length in groups}
    return [seed for seed, _ in groups] if len(lengths) == 1 else list(seeds)
