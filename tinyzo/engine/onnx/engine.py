"""ONNX Runtime as the engine: each pass is one graph that a session runs, weights where they lie.

A view records a pass as a graph, and runs it when its scores are asked for. A graph holds neither
weights nor a batch: these are its inputs, so a pass of the same model with as many probes is the
same graph, and one session runs it, for batches of any size. The graph is kept: from the second
pass on, a verb only looks up what it has added. Weights are read where they lie (places.py).

Before each pass a mapped file is compared with what was opened, as streamed reading does. What
cannot be caught: a file that is written into while a pass runs, which gives wrong numbers, and one
that is cut off then, which ends the process (SIGBUS). Replace a file in use; never write into it.

The runtime sums in an order that hangs on the number of threads. With as many of them a loss is the
same bits each time; with others its last bits may differ, and so do the coefficients of steps. The
journal has these coefficients, so a run is replayed to the bit with any number, and on any engine.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Generic, NamedTuple, TypeVar, cast
from weakref import ref

import numpy as np

from tinyzo.batch import Batch
from tinyzo.checkpoints.groups import scales_of
from tinyzo.dtypes import Array, Integers, Rows
from tinyzo.engine import noise
from tinyzo.engine.numpy_engine import NumpyEngine, NumpyView
from tinyzo.engine.onnx.graph import Graph, Shape, Value
from tinyzo.engine.onnx.places import RawGroups, in_place
from tinyzo.engine.onnx.protobuf import BFLOAT16, TYPES, Described, Dimension
from tinyzo.engine.onnx.tensors import Floats, Groups, Tensor
from tinyzo.engine.onnx.view import HIDDEN, Directions, GraphView, Layout, as_array
from tinyzo.engine.terms import Probe
from tinyzo.engine.threads import ENGINES, POOLS, Pool, new_lock
from tinyzo.engine.weights import Parameters
from tinyzo.errors import ConfigError
from tinyzo.machine.cpus import default_threads
from tinyzo.machine.memory import give_back_large_arrays
from tinyzo.packages import in_a_line, is_missing

T = TypeVar("T")
LEAST = (1, 21)  # before it no product of uint32, by which z is made
KEPT = 8  # graphs, and sessions: a run with evaluations has three or four
QUIET = 4  # of the runtime's log: what ends the process; all else is raised too


def check_runtime() -> None:
    """raises: ConfigError where there is no ONNX Runtime, or one that cannot be used"""
    why = "engine 'onnx' cannot be had here"
    install = "pip install 'tinyzo[onnx]' (Termux: pkg install python-onnxruntime)"
    way_out = f"{install}, or take --engine numpy"
    try:
        import onnxruntime

        version = str(onnxruntime.__version__)
    except Exception as error:
        if is_missing(error, "onnxruntime"):
            raise ConfigError(f"{why}: ONNX Runtime is not installed", way_out) from None
        raise ConfigError(f"{why} ({in_a_line(error)})", way_out) from None
    if tuple(int(part) for part in version.split(".")[:2]) < LEAST:
        least = ".".join(map(str, LEAST))
        raise ConfigError(f"{why}: ONNX Runtime {version} is older than {least}", way_out)


class OnnxEngine(NumpyEngine):
    """An Engine that runs each pass as a graph, one at a time; a fold is NumPy's.

    threads: of the runtime; None: one on each fast CPU
    raises:  ConfigError where there is no ONNX Runtime
    """

    name = "onnx"

    def __init__(self, threads: int | None = None) -> None:
        check_runtime()
        self._lock = new_lock(ENGINES)
        self.threads = threads or default_threads()
        self._recordings: Latest[Recording] = Latest()
        self._sessions = Sessions()
        self._runner = Pool(1)
        give_back_large_arrays()  # the runtime makes some outside of what it manages itself

    def view(self, weights: Parameters, probes: Sequence[Probe]) -> OnnxView:  # type: ignore[override]
        return OnnxView(weights, probes, self)

    def recording(self, key: object) -> Recording:
        """The graph of all passes that have this in common, by what they have done so far."""
        with self._lock:
            return self._recordings.get(key, Recording)

    def run(self, program: Program, feeds: dict[str, np.ndarray]) -> np.ndarray:
        """The program's output.

        A signal's handler that raises, such as Ctrl-C's, ends the run after the node it is at.
        raises: ConfigError when the runtime refuses the graph; MemoryError when it gets no memory
        """
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.log_severity_level = QUIET
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        with self._lock:
            task = self._runner.submit(self._run, program, feeds, options)
            try:
                task.wait()
            except BaseException:
                options.terminate = True
                task.wait()  # it reads memory that others may change after this
                raise
            return task.result()

    def _run(self, program: Program, feeds: dict[str, np.ndarray], options: Any) -> np.ndarray:
        import onnxruntime

        new = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
        try:
            make = lambda: self._new_session(program.model)  # noqa: E731
            session = self._sessions.get(program.model, make)
            given = {name: new(feeds[name], kind) for name, kind in program.inputs.items()}
            (found,) = session.run_with_ort_values([program.output], given, options)
            return cast(np.ndarray, found.numpy())
        except Exception as error:
            if is_of_memory(error):
                raise MemoryError(in_a_line(error)) from error
            raise refused(error) from error

    def _new_session(self, model: bytes) -> Any:
        """A session that copies no weights, and takes no more memory than it has to.

        Prepacking would copy all of them. The runtime's plan of its memory (`mem_pattern`) is of
        one size of batch, and takes more. What a pass has used is given back after it.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.log_severity_level = QUIET
        options.enable_mem_pattern = False
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def refused(error: Exception) -> ConfigError:
    """What the runtime raised of a graph, as an error of ours."""
    import onnxruntime

    found = f"ONNX Runtime {onnxruntime.__version__} refuses a pass: {in_a_line(error)}"
    return ConfigError(found, "try another version of onnxruntime, or take --engine numpy")


def is_of_memory(error: Exception) -> bool:
    """Whether the runtime got no memory, which it tells by words alone."""
    return any(words in str(error) for words in ("bad_alloc", "Failed to allocate memory"))


class Latest(Generic[T]):
    """What was made for the keys that were asked for last."""

    def __init__(self) -> None:
        self._made: OrderedDict[object, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._made)

    def get(self, key: object, make: Callable[[], T]) -> T:
        if key not in self._made:
            if len(self._made) == KEPT:
                self._made.popitem(last=False)
            self._made[key] = make()
        self._made.move_to_end(key)
        return self._made[key]


class Sessions(Latest[Any]):
    """Sessions by the bytes of their graphs, whose threads end before a fork, as those of a Pool.

    They are made again when they are needed, in both processes.
    """

    def __init__(self) -> None:
        super().__init__()
        POOLS.append(ref(self, POOLS.remove))

    def stop(self) -> None:
        """End all; none runs, since a pass holds the engine's lock."""
        self._made.clear()

    def acquire(self) -> None:
        """What a fork does to a lock."""
        self.stop()

    def release(self) -> None:
        """Nothing is to be done after it."""


class Program(NamedTuple):
    """A graph that can be run.

    inputs: the types (TensorProto.DataType) of what it takes
    """

    model: bytes
    inputs: dict[str, int]
    output: str


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
        self, kept: Recording, engine: OnnxEngine, weights: Parameters, seeds: Sequence[int]
    ) -> None:
        super().__init__(kept)
        self.kept = kept
        self.feeds: dict[str, np.ndarray] = {}
        self._engine = engine
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
        return self._engine.run(self.kept.programs[value.name], self.feeds)

    def program(self, value: Value) -> Program:
        """What of the graph a float32 value needs."""
        part = self.part([value.name])
        shape = tuple(f"{value.name}_{axis}" for axis in range(len(value.shape)))
        model = part.model([Described(value.name, TYPES[np.dtype("f4")], shape)])
        types = {each.name: each.type for each in part.inputs.values()}
        return Program(model, types, value.name)


class OnnxView(GraphView):
    """A View that is run when its scores are asked for."""

    graph: Trace

    def __init__(self, weights: Parameters, probes: Sequence[Probe], engine: OnnxEngine) -> None:
        self.probes = probes
        self._engine = engine
        self._layouts: dict[tuple[int, int, int, bool], Layout] = {}
        self._seen: list[tuple[Batch, Rows]] = []  # kept, so that no other gets the id of one
        seeds = runs([seed for seed, _ in probes])
        scales = np.array([scale for _, scale in probes], np.float32)
        directions = len(seeds) if scales.any() else 0
        kept = engine.recording(kind_of(weights, directions, len(probes)))
        graph = Trace(kept, engine, weights, seeds)
        super().__init__(
            graph,
            weights,
            Directions(directions, graph.feed("scales", scales)) if directions else None,
        )

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
        return self.graph.noise(name) if is_vector else super().noise(name, index)

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
        key = (verb, *(v.name if isinstance(v, Value) else v for v in values))
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
