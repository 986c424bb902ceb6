"""Weights as ONNX Runtime reads them: where they lie, in every type, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from folders import SHAPES, write_model
from in_groups import KINDS, in_groups
from tiny import MODELS, WORDS, examples_for, toy_task

from tinyzo.engine.onnx.protobuf import TYPES
from tinyzo.engine.stores.resident import Resident
from tinyzo.engine.stores.streamed import Streamed
from tinyzo.engine.terms import Probe
from tinyzo.errors import ConfigError, UsageError
from tinyzo.models.model import Model, load, open_model
from tinyzo.models.trainable import train_only
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
        for name, tensor in model.weights.store.own.tensors.items():
            tensor[...] += 0.1 * np.float32(".lora_B." in name)
        found.append(model.settle(engine, **choices))
    return found


def check(numpy: Model, onnx: Model) -> None:
    for loss in ("classification",) if numpy.family == "roberta" else ("classification", "lm"):
        assert losses(onnx, loss) == pytest.approx(losses(numpy, loss), abs=TOLERANCE)


# -- where weights lie


@families
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_a_file_is_read_where_it_lies(tmp_path, family, dtype):
    numpy, onnx = both(write_model(tmp_path / "model", family, dtype))
    assert isinstance(onnx.weights.store.base, Streamed)
    check(numpy, onnx)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("name", MODELS)
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


@families
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
