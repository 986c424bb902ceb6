"""What is trained moves and nothing else, wherever the weights live; what a prefix is, against its
definition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from streams import PAIR, small_tiles, streamed  # noqa: F401 (small_tiles: used by all)
from tiny import (
    ENGINES,
    MODELS,
    WORDS,
    examples_for,
    raw_bytes,
    tiny_opt,
    tiny_roberta,
    toy_task,
)

import tinyzo
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.terms import Probe
from tinyzo.errors import ConfigError
from tinyzo.models.model import Model
from tinyzo.models.trainable import train_only
from tinyzo.text.tasks import Example
from tinyzo.zo.directions import low_rank
from tinyzo.zo.estimators import ESTIMATORS, zo_step
from tinyzo.zo.objectives import Objective
from tinyzo.zo.updates import UpdateRule

engines = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
dtypes = pytest.mark.parametrize("dtype", ["f32", "bf16"])
SETS = ["full", "lora", "lora-fa", "prefix", "label-words", "bias", "*.layer*.0.*", "*embed*"]
sets = pytest.mark.parametrize("what", SETS)
NUMPY = NumpyEngine()
EPS = 1e-2
TERMS = [(5, 0.25), (6, -0.5)]


def prepared(name: str, what: str, dtype: str = "f32", engine=NUMPY, path=None) -> Model:
    model = MODELS[name](dtype, engine)
    model = streamed(model, path) if path else model
    if what == "low-rank":
        low_rank(model.weights, 9)
    else:
        train_only(model, what, 3, 2, 4.0, ids=WORDS)
    return model


def losses(model: Model, probes, loss: str = "classification", **more) -> np.ndarray:
    objective = Objective(model, toy_task(model.family, loss), **more)
    return objective(model.weights.view(probes), examples_for(model.family))


def expected_names(model: Model, what: str) -> set[str]:
    names = model.weights.names()
    if what.startswith("lora"):
        ends = ("lora_B.weight", "lora_A.weight") if what == "lora" else ("lora_B.weight",)
        return {n for n in names if n.endswith(ends)}
    parts = {
        "full": "",
        "prefix": ".prefix.",
        "bias": ".bias",
        "*embed*": "embed",
        "label-words": ".lora_A.",
    }
    return {n for n in names if parts.get(what, ".0.") in n}


@engines
@sets
@dtypes
@pytest.mark.parametrize("name", ["roberta", "opt"])
def test_only_what_is_trained_moves_and_by_z(name, what, dtype, engine):
    model = prepared(name, what, dtype, engine)
    weights, before = model.weights, raw_bytes(model.weights)
    values = {n: weights.read(n) for n in weights.trained}
    assert set(weights.trained) == expected_names(model, what) == set(weights.saved)
    weights.add(TERMS)
    after = raw_bytes(weights)
    assert {n for n in before if before[n] != after[n]} == set(weights.trained)
    for n, w in values.items():
        for seed, c in TERMS:
            w = w + np.float32(c) * tinyzo.noise(seed, n, w.shape)
        error = 2.0**-7 * np.abs(w) if weights.dtype(n) == np.uint16 else 0
        assert (np.abs(weights.read(n) - w) <= error).all()


@engines
@pytest.mark.parametrize("what", [*SETS, "low-rank"])
@pytest.mark.parametrize("name", ["roberta", "opt", "opt-post"])
def test_to_add_is_to_probe_and_engines_agree(name, what, engine):
    model = prepared(name, what, "f32", engine)
    model.weights.add(TERMS)  # so that B is not 0
    probed = losses(model, [Probe(7, EPS)])
    reference = prepared(name, what)
    for weights in (model.weights, reference.weights):
        weights.add(TERMS if weights is reference.weights else ())
        weights.add([(7, EPS)])
    added = losses(model, [Probe(0, 0.0)])
    assert probed == pytest.approx(added, rel=2e-6)
    assert added == pytest.approx(losses(reference, [Probe(0, 0.0)]), rel=2e-6)


@engines
@pytest.mark.parametrize("what", [*SETS, "low-rank"])
@dtypes
def test_streamed_is_resident_to_the_bit(tmp_path, what, dtype, engine):
    if (engine.name, what) == ("onnx", "full"):
        pytest.skip("ONNX Runtime only reads what is in a file")
    here = prepared("opt", what, dtype, engine)
    there = prepared("opt", what, dtype, engine, tmp_path / "w")
    file = (tmp_path / "w").read_bytes()
    for step in range(3):
        done = []
        for model in (here, there):
            objective, how = Objective(model, toy_task("opt", "lm")), (EPS, 1e-2, 0.1)
            more = (ESTIMATORS["two-sided"], UpdateRule(), [])
            seeds = [70 + step, 80 + step]
            done.append(zo_step(model.weights, objective, examples_for("opt"), seeds, *how, *more))
        assert done[0] == done[1]
    assert np.array_equal(losses(here, PAIR), losses(there, PAIR))
    for n in here.weights.names():
        assert np.array_equal(here.weights.read(n), there.weights.read(n)), n
    assert (tmp_path / "w").read_bytes() == file
    if what != "full":  # what moves is in memory, so nothing waits to be written
        assert there.weights.pending == []


@engines
@pytest.mark.parametrize(
    ("name", "pattern", "below"),
    [
        ("roberta", "lm_head.*", 12),
        ("roberta", "*.layer.1.*", 6),
        ("opt", "*.layers.1.fc2.bias", 11),
    ],
)
def test_there_is_one_copy_below_the_first_trained_tensor(
    monkeypatch, name, pattern, below, engine
):
    build = {"roberta": tiny_roberta, "opt": tiny_opt}[name]
    model, met = build("f32", engine, num_hidden_layers=2), []
    train_only(model, pattern, 0, 1, 1.0)
    view = type(model.weights.view())
    linear = view.linear

    def spy(self, module, x, *args, **more):
        y = linear(self, module, x, *args, **more)
        met.append((module, len(x), len(y)))
        return y

    monkeypatch.setattr(view, "linear", spy)
    assert len(losses(model, PAIR * 2)) == 4
    assert [out for _, _, out in met[:below]] == [1] * below
    assert {out for *_, out in met[below:]} == {4} and met[below][1] == 1


def without_words(example: Example) -> Example:
    ids = dict.fromkeys(WORDS, 2)
    prompt, *candidates = (
        tuple(ids.get(i, i) for i in part) for part in (example.prompt, *example.candidates)
    )
    return dataclasses.replace(example, prompt=prompt, candidates=tuple(candidates))


@engines
@pytest.mark.parametrize("name", ["roberta", "opt"])
def test_label_words_move_their_rows_alone(monkeypatch, name, engine):
    """Both where they are scored and where they are read; nothing below has copies unless a text
    has one of them."""
    model, copies = prepared(name, "label-words", "f32", engine), []
    table, plain = model.architecture.TOKENS, MODELS[name]("f32", engine)
    (a,) = model.weights.trained
    for k, word in enumerate(WORDS):
        z = tinyzo.noise(7, a, model.weights.shape(a))
        plain.weights.stored(table)[word] += EPS * z[k]
    found = losses(model, [Probe(7, EPS), Probe(0, 0.0)])
    before = MODELS[name]("f32", engine)
    expected = [losses(each, [Probe(0, 0.0)])[0] for each in (plain, before)]
    assert found == pytest.approx(expected, rel=2e-6)
    view = type(model.weights.view())
    linear = view.linear

    def spy(self, *args, **more):
        y = linear(self, *args, **more)
        copies.append(len(y))
        return y

    monkeypatch.setattr(view, "linear", spy)
    texts = [without_words(e) for e in examples_for(name)]
    objective = Objective(model, toy_task(name))
    assert len(set(objective(model.weights.view(PAIR), texts))) == 2
    if engine.name == "onnx":  # its graph is there before the texts are
        return
    assert set(copies) == {1}
    objective(
        model.weights.view(PAIR),
        [*texts, dataclasses.replace(texts[0], prompt=(2, WORDS[0]), mask_at=0)],
    )
    assert set(copies) == {1, 2}


@engines
@pytest.mark.parametrize("name", ["roberta", "opt", "opt-post"])
def test_each_tensor_alone_gives_a_loss_for_each_probe(name, engine):
    for tensor in MODELS[name]().weights.names():
        model = MODELS[name]("f32", engine)
        train_only(model, tensor, 0, 1, 1.0)
        assert len(losses(model, PAIR)) == 2, tensor


def test_patterns_and_targets_that_name_nothing_are_refused():
    for what, targets in (
        ("*.nothing", None),
        ("", None),
        ("label-words", None),
        ("lora", ["nothing"]),
        ("lora", ["norm"]),
        ("lora-fa", ["layer_norm"]),
    ):
        with pytest.raises(ConfigError, match=r"names no (tensor|matrix) of the model"):
            train_only(tiny_opt(), what, 0, 1, 1.0, targets)


def test_adapters_begin_as_the_model_and_as_the_seed_says():
    model, plain = prepared("opt", "lora"), MODELS["opt"]()
    assert losses(model, [Probe(0, 0.0)]) == pytest.approx(losses(plain, [Probe(0, 0.0)]), rel=1e-6)
    assert model.weights.adapter_scale == 2.0
    name = "model.decoder.layers.0.self_attn.q_proj.lora_A.weight"
    a = model.weights.read(name)
    assert np.array_equal(a, prepared("opt", "lora").weights.read(name))
    assert np.abs(a - tinyzo.noise(3, name, (2, 8)) / np.sqrt(24)).max() < 1e-6


@pytest.mark.parametrize("name", ["roberta", "opt"])
def test_a_prefix_is_keys_and_values_of_tokens(name):
    """As every query saw the tokens' rows, could it see them: other losses, of the same seed."""
    found = [losses(prepared(name, what), [Probe(0, 0.0)])[0] for what in ("full", "prefix")]
    assert found[0] != found[1]
    model = prepared(name, "prefix")
    assert {model.weights.shape(n) for n in model.weights.trained} == {(5, 8)}
    again = raw_bytes(prepared(name, "prefix").weights)
    assert raw_bytes(model.weights) == again


def test_an_adapter_of_scale_0_merges_to_the_model_itself():
    plain, model = MODELS["opt"](), MODELS["opt"]()
    train_only(model, "lora", seed=5, rank=2, alpha=0.0)
    model.weights.add([(3, 0.5)])
    assert model.weights.adapter_scale == 0.0
    names = plain.weights.names()
    written = []
    model.weights.write(lambda name, raw: written.append((name, raw.tobytes())), names)
    assert written == [*raw_bytes(plain.weights).items()]
