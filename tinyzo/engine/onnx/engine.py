"""ONNX Runtime as the engine: each pass is one graph that a session runs, weights where they lie.

A view records a pass as a graph, and runs it when its scores are asked for. A graph holds neither
weights nor a batch: these are its inputs, so a pass of the same model with as many probes is the
same graph, and one session runs it, for batches of any size. Weights are read where they lie
(places.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, cast

import numpy as np

from tinyzo.batch import Batch
from tinyzo.checkpoints.groups import scales_of
from tinyzo.dtypes import Array, Integers, Rows
from tinyzo.engine import noise
from tinyzo.engine.numpy_engine import NumpyEngine, NumpyView
from tinyzo.engine.onnx.graph import Graph, Value
from tinyzo.engine.onnx.places import RawGroups, in_place
from tinyzo.engine.onnx.protobuf import BFLOAT16, TYPES, Described, Dimension
from tinyzo.engine.onnx.tensors import Floats, Groups, Tensor
from tinyzo.engine.onnx.view import HIDDEN, Directions, GraphView, Layout
from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Parameters
from tinyzo.errors import ConfigError
from tinyzo.machine.memory import give_back_large_arrays
from tinyzo.packages import in_a_line, is_missing


def check_runtime() -> None:
    """raises: ConfigError where there is no ONNX Runtime"""
    why = "engine 'onnx' cannot be had here"
    way_out = "pip install 'tinyzo[onnx]' (Termux: pkg install python-onnxruntime)"
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        if is_missing(error, "onnxruntime"):
            raise ConfigError(f"{why}: ONNX Runtime is not installed", way_out) from None
        raise ConfigError(f"{why} ({in_a_line(error)})", way_out) from None


class OnnxEngine(NumpyEngine):
    """An Engine that runs each pass as a graph; a fold is NumPy's.

    threads: of the runtime; None: as many as it wants
    """

    name = "onnx"

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._sessions: dict[object, Any] = {}
        give_back_large_arrays()  # the runtime makes some outside of what it manages itself

    def view(self, weights: Parameters, probes: Sequence[Probe]) -> OnnxView:  # type: ignore[override]
        return OnnxView(weights, probes, self)

    def run(self, trace: Trace, value: Value) -> np.ndarray:
        """What a float32 value of a trace comes to."""
        shape = tuple(f"{value.name}_{axis}" for axis in range(len(value.shape)))
        output = Described(value.name, TYPES[np.dtype("f4")], shape)
        key = (trace.key(), output)
        if key not in self._sessions:
            self._sessions[key] = self._new_session(trace.model([output]))
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        session = self._sessions[key]
        (found,) = session.run_with_ort_values([value.name], trace.ort_values(), options)
        return cast(np.ndarray, found.numpy())

    def _new_session(self, model: bytes) -> Any:
        """A session that copies no weights, and takes no more memory than it has to.

        Prepacking would copy all of them. The runtime's plan of its memory (`mem_pattern`) is of
        one size of batch, and takes more. What a pass has used is given back after it.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads or 0
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.log_severity_level = 3
        options.enable_mem_pattern = False
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Trace(Graph):
    """A graph whose data are inputs, with what they are now: it can be run at once."""

    def __init__(self, engine: OnnxEngine) -> None:
        super().__init__()
        self.feeds: dict[str, np.ndarray] = {}
        self._engine = engine
        self._data: dict[int, Value] = {}

    def data(self, values: Any) -> Value:
        if isinstance(values, Value):
            return values
        if id(values) not in self._data:
            name = f"d{len(self._data)}"
            shape = [f"{name}_{axis}" for axis in range(values.ndim)]
            self._data[id(values)] = self.feed(name, values, shape)
        return self._data[id(values)]

    def feed(
        self, name: str, values: np.ndarray, shape: Sequence[Dimension] | None = None
    ) -> Value:
        """An input and what it is now. shape: None if it is always the same."""
        self.feeds[name] = values
        return self.given(name, values.dtype, values.shape if shape is None else shape)

    def weight(self, name: str, raw: np.ndarray | RawGroups, columns: int) -> Tensor:
        """A tensor as it is stored, as one input or two. columns: of a matrix in groups."""
        if isinstance(raw, RawGroups):
            codes, scales = (
                self.raw(each, values)
                for each, values in zip((name, scales_of(name)), raw, strict=True)
            )
            return Groups(codes, scales, columns)
        return Floats(self.raw(name, raw), is_wide=raw.dtype == np.float32)

    def raw(self, name: str, values: np.ndarray) -> Value:
        """An input in its storage type, which NumPy has no name for if it is bfloat16."""
        self.feeds[name] = np.require(values, requirements="A")
        kind = BFLOAT16 if values.dtype == np.uint16 else TYPES[values.dtype]
        return self.given(name, kind, values.shape)

    def ort_values(self) -> dict[str, Any]:
        """The inputs as the runtime takes them, in the memory that they lie in."""
        import onnxruntime

        new = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
        return {name: new(values, self.inputs[name].type) for name, values in self.feeds.items()}

    def key(self) -> object:
        """Equal for graphs that are the same."""
        return tuple(self.nodes), tuple(self.inputs.values()), tuple(self._constants)

    def compute(self, value: Value) -> np.ndarray:
        return self._engine.run(self, value)


class OnnxView(GraphView):
    """A View that is run when its scores are asked for."""

    graph: Trace

    def __init__(self, weights: Parameters, probes: Sequence[Probe], engine: OnnxEngine) -> None:
        self.probes = probes
        self._engine = engine
        self._seeds = runs([seed for seed, _ in probes])
        self._tensors: dict[str, Tensor] = {}
        self._keys: dict[str, Value] = {}
        self._layouts: dict[tuple[int, int, int, bool], Layout] = {}
        graph = Trace(engine)
        directions = None
        if any(probe.scale for probe in probes):
            scales = np.array([scale for _, scale in probes], np.float32)
            directions = Directions(len(self._seeds), graph.feed("scales", scales))
        super().__init__(graph, weights, directions)

    def parts(self, most: int) -> Sequence[OnnxView]:
        if len(self.probes) <= most:
            return [self]
        starts = range(0, len(self.probes), most)
        groups = (self.probes[start : start + most] for start in starts)
        return [OnnxView(self.weights, group, self._engine) for group in groups]

    def stored(self, name: str) -> Tensor:
        if name not in self._tensors:
            raw = in_place(self.weights, name)
            columns = self.weights.shape(name)[-1]
            self._tensors[name] = self.graph.weight(name, raw, columns)
        return self._tensors[name]

    def keys(self, name: str) -> Value:
        if name not in self._keys:
            kind = self.weights.direction.kind
            keys = np.array([noise.key(seed, name, kind) for seed in self._seeds], np.uint32)
            self._keys[name] = self.graph.feed(f"{name}.keys", keys)
        return self._keys[name]

    def layout(self, batch: Batch, rows: Rows, prefix: int, causal: bool) -> Layout:
        key = (id(batch), id(rows), prefix, causal)
        if key not in self._layouts:
            arrays = segments(batch, rows, prefix, causal)
            self._layouts[key] = Layout(*map(self.graph.data, arrays))
        return self._layouts[key]

    def scores(self, name: str, h: Array, rows: Rows = None, bias: str | None = None) -> Array:
        return np.asarray(super().scores(name, h, rows, bias))

    def nll(
        self, name: str, h: Array, at: Integers, targets: Integers, bias: str | None = None
    ) -> Array:
        return np.asarray(super().nll(name, h, at, targets, bias))

    def cross_entropy(self, scores: np.ndarray, labels: Integers, counts: Integers) -> np.ndarray:
        return NumpyView.cross_entropy(cast(NumpyView, self), scores, labels, counts)


def runs(seeds: Sequence[int]) -> list[int]:
    """One seed for each run of equal ones, if all runs are as long; else all of them."""
    groups = [(seed, len(list(run))) for seed, run in groupby(seeds)]
    lengths = {length for _, length in groups}
    return [seed for seed, _ in groups] if len(lengths) == 1 else list(seeds)


def segments(batch: Batch, rows: Rows, prefix: int, causal: bool) -> tuple[np.ndarray, ...]:
    """A Layout's arrays."""
    blocks = list(batch.attention_blocks(rows, len(batch.ids), prefix))
    asking = max(block.queries.stop - block.queries.start for block in blocks)
    tokens = np.arange(len(batch.ids) + prefix)
    seen = max(len(tokens[block.keys]) for block in blocks)
    queries = np.zeros((len(blocks), asking), np.int64)
    keys = np.zeros((len(blocks), seen), np.int64)
    hidden = np.full((len(blocks), 1, asking, seen), HIDDEN)
    places = []
    for at, block in enumerate(blocks):
        own = np.arange(block.queries.start, block.queries.stop)
        visible = tokens[block.keys]
        queries[at, : len(own)] = own
        keys[at, : len(visible)] = visible
        is_seen = np.arange(len(visible)) <= block.places[:, None] if causal else True
        hidden[at, 0, : len(own), : len(visible)] = np.where(is_seen, np.float32(0), HIDDEN)
        places.append(at * asking + np.arange(len(own)))
    return queries, keys, hidden, np.concatenate(places)
