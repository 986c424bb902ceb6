"""Weights as ONNX Runtime reads them: where they lie, in every type, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import cycle, product
from pathlib import Path

import numpy as np
import pytest
from checkpoints import hostile
from folders import SHAPES, write_model, write_tensors
from in_groups import KINDS, in_groups
from tiny import DTYPE_NAMES, MODELS, WORDS, by_default, examples_for, toy_task

from tinyzo.checkpoints.safetensors import SafetensorsFile, SafetensorsWriter
from tinyzo.checkpoints.sources import TensorInfo
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.onnx.engine import OnnxEngine
from tinyzo.engine.onnx.graph import Graph
from tinyzo.engine.onnx.padded import PaddedRows, PaddedView
from tinyzo.engine.onnx.protobuf import TYPES, External
from tinyzo.engine.onnx.tensors import Floats
from tinyzo.engine.stores.resident import Resident
from tinyzo.engine.stores.streamed import Streamed
from tinyzo.engine.terms import Probe
from tinyzo.errors import CheckpointError, ConfigError, UsageError
from tinyzo.models.model import Model, load, open_model
from tinyzo.models.trainable import train_only
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.export import convert
from tinyzo.zo.objectives import Objective

onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not here")

EPS = 1e-2
PAIRS = [Probe(seed, scale) for seed in (5, 6) for scale in (EPS, -EPS)]
TOLERANCE = 1e-5  # of a loss
families = pytest.mark.parametrize("family", SHAPES)


def losses(model: Model, loss: str = "classification") -> np.ndarray:
    theta = model.weights.view(PAIRS)
    return Objective(model, toy_task(model.family, loss))(theta, examples_for(model.family))


def both(folder, what: str = "lora", **choices) -> list[Model]:
    """A model with each engine, and small tensors beside it that move."""
    found = []
    for engine in ("numpy", "onnx"):
        model = open_model(folder)
        train_only(model, what, 3, 2, 4.0, ids=WORDS)
        own = {} if what == "full" else model.weights.store.own.tensors
        for name, tensor in own.items():
            tensor[...] += np.float32(0.1 * (".lora_B." in name))
        found.append(model.settle(engine, **choices))
    return found


def check(numpy: Model, onnx: Model) -> None:
    for loss in ("classification",) if numpy.family == "roberta" else ("classification", "lm"):
        assert losses(onnx, loss) == pytest.approx(losses(numpy, loss), abs=TOLERANCE)


# -- where weights lie


@families
@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_a_file_is_read_where_it_lies(tmp_path, family, dtype):
    numpy, onnx = both(write_model(tmp_path / "model", family, dtype))
    assert isinstance(onnx.weights.store.base, Streamed)
    check(numpy, onnx)


EACH_ONCE = set(zip(MODELS, DTYPE_NAMES, strict=True))


@pytest.mark.parametrize(("name", "dtype"), by_default(EACH_ONCE, product(MODELS, DTYPE_NAMES)))
def test_weights_in_memory(name, dtype):
    check(MODELS[name](dtype), load_onnx(MODELS[name](dtype)))


def load_onnx(model: Model) -> Model:
    return model.settle("onnx")


def test_a_session_is_given_the_pages_of_the_file(tmp_path):
    _, model = both(write_model(tmp_path / "model", "opt"))
    view = model.weights.view()
    view.stored("model.decoder.embed_tokens.weight")
    (given,) = view.graph.feeds.values()
    assert not given.flags.writeable and not given.flags.owndata
    new = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
    value = new(given, TYPES[given.dtype])
    assert value.data_ptr() == given.ctypes.data


@pytest.mark.parametrize("family", by_default({("roberta",)}, product(SHAPES)))
def test_full_tuning_needs_the_weights_in_memory(tmp_path, family):
    folder = write_model(tmp_path / "model", family)
    models = [open_model(folder).settle(engine, "resident") for engine in ("numpy", "onnx")]
    for model in models:
        model.weights.add([(1, -1e-2)])
    check(*models)
    streamed = open_model(folder).settle("onnx", "streamed")
    streamed.weights.add([(1, -1e-2)])
    with pytest.raises(ConfigError, match=r"is trained, and is still in its file\n.*resident"):
        losses(streamed)
    with pytest.raises(UsageError, match="engine onnx maps weights in their file, and cannot"):
        streamed.settle("onnx", "streamed")
    assert isinstance(streamed.settle("onnx").weights.store, Resident)
    check(models[0], streamed)


def test_another_type_than_the_file_s_is_made_in_memory(tmp_path):
    folder = write_model(tmp_path / "model", "opt", "f16")
    assert isinstance(load(folder, "onnx", dtype="f32").weights.store, Resident)
    with pytest.raises(ConfigError, match="F16 in its file, and is asked for in another type"):
        load(folder, "onnx", "streamed", dtype="f32")


# -- groups of integers


@pytest.fixture(params=KINDS)
def quantised(request, tmp_path):
    """Folders of both families: widths that are no multiples of a group, and one that is."""

    def make(family):
        folder = write_model(tmp_path / family, family)
        return convert(folder, tmp_path / f"{family}-{request.param}", request.param)

    return make


@families
def test_groups_are_read_where_they_lie(quantised, family):
    check(*both(quantised(family)))


def test_groups_come_from_a_file_that_has_them(tmp_path):
    model = in_groups(MODELS["opt"](), tmp_path / "file", "int4", is_streamed=True)
    with pytest.raises(ConfigError, match=r"this one has floats\n.*tinyzo convert --dtype int4"):
        model.settle("onnx")
    model = in_groups(MODELS["opt"](), tmp_path / "other", "int4")
    with pytest.raises(ConfigError, match=r"these are in memory\n.*leave out --residency"):
        model.settle("onnx")


def test_groups_stay_in_their_file(quantised):
    with pytest.raises(ConfigError, match=r"reads INT. matrices in their file\n.*leave it out"):
        load(quantised("opt"), "onnx", "resident")


# -- kinds of files


def rewritten(folder: Path, write: Callable[[Path, dict[str, np.ndarray]], None]) -> Path:
    """A model's folder with its float32 tensors in another kind of file."""
    with SafetensorsFile(folder / "model.safetensors") as file:
        tensors = {name: file.read(name) for name in file.names()}
    (folder / "model.safetensors").unlink()
    write(folder, tensors)
    return folder


def in_shards(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    places = {name: f"{number % 2}.safetensors" for number, name in enumerate(tensors)}
    for shard in set(places.values()):
        write_tensors(folder / shard, {n: t for n, t in tensors.items() if places[n] == shard})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def by_torch(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    state = {name: hostile.tensor("F32", values) for name, values in tensors.items()}
    (folder / "pytorch_model.bin").write_bytes(hostile.torch_bin(state))


def by_torch_transposed(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    """fc1 as it is where its transpose is what has been saved."""
    state = {name: hostile.tensor("F32", values) for name, values in tensors.items()}
    name = next(name for name in tensors if name.endswith("fc1.weight"))
    state[name] = hostile.tensor("F32", tensors[name].T)
    state[name].shape, state[name].stride = tensors[name].shape, (1, len(tensors[name]))
    (folder / "pytorch_model.bin").write_bytes(hostile.torch_bin(state))


def in_float64(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    infos = {name: TensorInfo("F64", tensor.shape) for name, tensor in tensors.items()}
    with SafetensorsWriter(folder / "model.safetensors", infos) as writer:
        for name in writer.names():
            writer.write(name, tensors[name].astype(np.float64))


@pytest.mark.parametrize("write", [in_shards, by_torch])
def test_other_files_are_read_where_they_lie(tmp_path, write):
    numpy, onnx = both(rewritten(write_model(tmp_path / "model", "opt"), write))
    assert isinstance(onnx.weights.store.base, Streamed)
    check(numpy, onnx)


NOT_MAPPED = {
    "transposed": (by_torch_transposed, CheckpointError, r"fc1.weight is transposed in it"),
    "float64": (in_float64, ConfigError, r"F64 in its file, and is asked for in another type"),
}


@pytest.mark.parametrize("case", NOT_MAPPED)
def test_what_cannot_be_read_in_place_comes_into_memory_or_is_refused(tmp_path, monkeypatch, case):
    write, error, message = NOT_MAPPED[case]
    folder = rewritten(write_model(tmp_path / "model", "opt"), write)
    numpy, onnx = both(folder)
    assert isinstance(onnx.weights.store.base, Resident)
    check(numpy, onnx)
    with pytest.raises(error, match=message):
        load(folder, "onnx", "streamed")
    monkeypatch.setattr("tinyzo.models.model.free_bytes", lambda: 0)
    with pytest.raises(error, match=message):  # too large to come into memory unasked
        load(folder, "onnx")


# -- in parts


TRAINED = ("lora", "label-words", "prefix", "full")
BY_TURNS = set(zip(cycle(SHAPES), TRAINED, strict=False))


@pytest.mark.parametrize(("family", "what"), by_default(BY_TURNS, product(SHAPES, TRAINED)))
def test_parts_of_the_vocabulary_add_up(tmp_path, monkeypatch, family, what):
    """As many rows at once as make three parts and a bit."""
    folder = write_model(tmp_path / "model", family)
    vocabulary = open_model(folder).config.vocab_size
    monkeypatch.setattr("tinyzo.engine.onnx.view.PART", 16 * (vocabulary // 3))
    residency = "resident" if what == "full" else "auto"
    numpy, onnx = both(folder, what, residency=residency)
    check(numpy, onnx)
    ids = [[5, 6, 7], [8, 9]]
    for one, other in zip(numpy.logits(ids), onnx.logits(ids), strict=True):
        assert other == pytest.approx(one, abs=1e-5)


# -- what a runtime makes of it


@pytest.mark.parametrize("name", MODELS)
def test_no_matrix_of_a_file_is_a_constant_to_fold_or_to_pack(name):
    """Each goes through a Reshape by a shape that only the rows make known."""
    model = MODELS[name]()
    graph = Graph()
    ids, mask = (graph.given(each, "i8", ("S", "T")) for each in ("ids", "mask"))
    padded = PaddedRows(ids, mask)

    def stored(name: str) -> Floats:
        shape = model.weights.shape(name)
        return Floats(graph.stored(External(name, 1, shape, "file", 0, 0)), is_wide=True)

    view = PaddedView(model.weights, padded, stored, {})
    h = model.architecture.hidden(view, model.config, padded.batch())
    model.architecture.logits(view, model.config, h)
    matrices = {each.name for each in graph.externals.values() if len(each.shape) > 1}
    assert matrices
    readers = [node for node in graph.nodes if matrices & set(node.inputs)]
    assert {node.op for node in readers} == {"Reshape"}
    made = set(graph.nodes.values())
    assert all(node.inputs[1] in made for node in readers)


def test_what_takes_fewer_steps_comes_first():
    """So that a weight is widened when the activations are there, and not before."""
    graph = Graph()
    x, w = graph.given("x", "f4", (2, 2)), graph.given("w", "f2", (2, 2))
    for _ in range(3):
        x = graph.op("Tanh", x, shape=(2, 2))
    y = x @ w.cast("f4")
    assert [node.op for node, _ in graph.in_order()] == ["Tanh", "Cast", "Tanh", "Tanh", "MatMul"]
    assert graph.in_order()[-1][1] == y.name


def test_all_micro_batches_are_one_graph(monkeypatch):
    made = []
    new = OnnxEngine._new_session
    monkeypatch.setattr(
        OnnxEngine, "_new_session", lambda self, model: made.append(model) or new(self, model)
    )
    found = []
    for engine in (OnnxEngine(1), NumpyEngine()):
        model = MODELS["opt"]("f32", engine)
        loss = BoundedLoss(Objective(model, toy_task("opt")), 30)
        found.append(loss(model.weights.view(PAIRS[:2]), examples_for("opt", 40)))
    assert len(made) == 1
    assert found[0] == pytest.approx(found[1], abs=TOLERANCE)
