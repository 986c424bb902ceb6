"""The gradient of every tensor, against central differences in float64, and against PyTorch's."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from autodiff.exact import (
    FEW,
    GOLDEN,
    add_adapters,
    add_golden_adapters,
    add_prefixes,
    attention_parts,
    core_cases,
    exact_gradient,
    exact_loss,
    few_cases,
    golden_case,
    task_of,
    tiny_model,
)
from folders import write_model
from golden.seeded import GRADIENTS
from tiny import ANY_STORE

import tinyzo
from tinyzo.autodiff.forward_mode import ForwardView
from tinyzo.autodiff.reverse_mode import GradientView
from tinyzo.autodiff.tape import Variable
from tinyzo.engine.numpy_engine import NumpyEngine, NumpyView
from tinyzo.engine.terms import Probe
from tinyzo.errors import ConfigError, ShapeError
from tinyzo.models.model import load, open_model
from tinyzo.models.trainable import adapters_of, train_only

# Of the largest derivative of the model. The share used is printed: up to 45 %.
TOLERANCE = 64 * 2.0**-24


def close(found: dict, expected: dict, tolerance: float) -> float:
    """The share of the tolerance that is used."""
    assert found.keys() == expected.keys()
    peak = max(np.abs(e).max() for e in expected.values())
    for name, e in expected.items():
        assert found[name].dtype == np.float32 and found[name].shape == e.shape
    error = max(np.abs(found[name] - e).max() for name, e in expected.items())
    print(f"used {error / peak / tolerance:.0%}")
    return error / peak / tolerance


def gradient(model, loss: str, max_tokens: int = 4096) -> dict[str, np.ndarray]:
    objective, examples = task_of(model, loss, max_tokens)
    return objective(GradientView(model.weights), examples).backward()


def check(model, loss="classification") -> None:
    objective, examples = task_of(model, loss)
    found = objective(GradientView(model.weights), examples)
    assert found.value.dtype == np.float64
    assert found.value == pytest.approx([exact_loss(objective, examples)], rel=TOLERANCE)
    trained = model.weights.trained
    expected = {name: exact_gradient(objective, name, examples) for name in trained}
    used = close(found.backward(), expected, TOLERANCE)
    assert used < 1, f"{used:.0%} of the tolerance"


@core_cases
def test_every_derivative(name, loss):
    check(tiny_model(name), loss)


@core_cases
@pytest.mark.parametrize("max_tokens", [1, 15])
def test_micro_batches_and_small_blocks(name, loss, max_tokens, monkeypatch):
    model = tiny_model(name)
    whole = gradient(model, loss)
    monkeypatch.setattr("tinyzo.autodiff.reverse_mode.QUERIES", 2)
    assert close(gradient(model, loss, max_tokens), whole, TOLERANCE) < 1


@pytest.mark.parametrize(("name", "dtype"), [("roberta", "bf16"), ("opt-post", "f16")])
def test_16_bit_storage(name, dtype):
    check(tiny_model(name, dtype))


@few_cases
@pytest.mark.parametrize("part", ["bias", "embed", "norm", "attn", "layers.0"])
def test_only_what_is_trained_has_a_gradient(name, loss, part):
    model = tiny_model(name)
    model.weights.trained = dict.fromkeys(n for n in model.weights.names() if part in n)
    if model.weights.trained:
        check(model, loss)


def test_nothing_trained_keeps_nothing():
    model = tiny_model("roberta")
    model.weights.trained = {}
    objective, examples = task_of(model, "classification")
    loss = objective(GradientView(model.weights), examples)
    assert loss.node is None and loss.backward() == {}


@few_cases
@pytest.mark.parametrize("add", [add_adapters, add_prefixes])
def test_adapters_and_prefixes(name, loss, add):
    model = tiny_model(name)
    add(model)
    alone = gradient(model, loss)
    assert alone.keys() == model.weights.trained.keys()
    model.weights.trained = dict.fromkeys(model.weights.names())
    check(model, loss)
    whole = gradient(model, loss)
    assert all(np.array_equal(whole[tensor], g) for tensor, g in alone.items())


@core_cases
@pytest.mark.parametrize("add", [lambda model: None, add_adapters, add_prefixes])
def test_forward_mode_is_its_product_with_z(name, loss, add):
    model, probes = tiny_model(name), [Probe(3, 1.0), Probe(2**53 - 1, -0.5)]
    add(model)
    objective, examples = task_of(model, loss)
    gradients, reverse = gradient(model, loss), []
    for probe in probes:
        z = {n: tinyzo.noise(probe.seed, n, g.shape) for n, g in gradients.items()}
        products = [z[n].astype(np.float64) * g for n, g in gradients.items()]
        reverse.append(probe.scale * sum(product.sum() for product in products))
    forward = objective(ForwardView(model.weights, probes), examples)[1:]
    assert forward == pytest.approx(reverse, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", GRADIENTS)
def test_pytorch_has_the_same_gradients(name):
    objective, examples = golden_case(name)
    loss = objective(GradientView(objective.objective.model.weights), examples)
    with np.load(GOLDEN) as golden:
        expected = {n: golden[f"{name}.{n}"] for n in objective.objective.model.weights.names()}
        assert loss.value == pytest.approx(golden[f"{name}.loss"][None], rel=1e-6)
    found = loss.backward()
    assert close(found, expected, 1e-5) < 1
    for tensor, e in expected.items():  # each by itself, but for those that are 0 but for rounding
        if np.abs(e).max() > 1e-6:
            assert np.abs(found[tensor] - e).max() < 1e-5 * np.abs(e).max(), tensor


def test_the_gradient_is_that_of_what_is_pending():
    model, folded = tiny_model("opt"), tiny_model("opt")
    model.weights.add([(5, 0.1)], 0.01, fold=False)
    folded.weights.add([(5, 0.1)], 0.01)
    found, expected = gradient(model, "lm"), gradient(folded, "lm")
    assert all(np.array_equal(found[n], expected[n]) for n in expected)


def test_backward_frees_what_it_has_used():
    model = tiny_model("roberta")
    objective, examples = task_of(model, "classification")
    loss = objective(GradientView(model.weights), examples)
    nodes, waiting = [], [loss.node]
    while waiting:
        nodes.append(node := waiting.pop())
        waiting += [target for target, _ in node.edges]
    below = [weakref.ref(node) for node in nodes[1:]]
    kept = sum(len(node.edges) for node in nodes)
    del nodes, node
    gc.disable()
    try:
        loss.backward()
        alive = [ref for ref in below if ref() is not None]
    finally:
        gc.enable()
    assert kept > 10 and loss.node.edges == [] and alive == []


def counted(monkeypatch) -> list[str]:
    """The modules of which attention is asked on Variables, from now on."""
    asked: list[str] = []
    attention = GradientView.attention

    def count(view, name, *given, **named):
        asked.append(name)
        return attention(view, name, *given, **named)

    monkeypatch.setattr(GradientView, "attention", count)
    return asked


@few_cases
def test_a_layer_is_computed_again_when_its_gradient_comes(name, loss, monkeypatch):
    model = tiny_model(name)
    add_adapters(model)
    asked = counted(monkeypatch)
    objective, examples = task_of(model, loss)
    value = objective(GradientView(model.weights), examples)
    assert asked == []
    value.backward()
    layers = [parts[0] for parts in attention_parts(model)]
    assert layers and asked == layers[::-1]


def test_layers_below_all_that_is_trained_are_not(monkeypatch):
    model = tiny_model("roberta")
    names = model.weights.names()
    asked = counted(monkeypatch)
    for part, count in (("lm_head", 0), ("layer.1.output", 1), ("layer.0.output", 2)):
        model.weights.trained = dict.fromkeys(name for name in names if part in name)
        check(model)
        assert len(asked) == count
        asked.clear()


@pytest.mark.parametrize(("name", "loss"), sorted(FEW))
@pytest.mark.parametrize("engine", ANY_STORE)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "int4"])
def test_streamed_weights_have_the_same_gradient_to_the_bit(
    name, loss, engine, dtype, tmp_path, monkeypatch
):
    """Matrices in many pieces, each in one block of the file or in several."""
    monkeypatch.setattr("tinyzo.engine.tiles.TILE", 32)
    monkeypatch.setattr("tinyzo.autodiff.reverse_mode.PIECE", 2)
    folder = write_model(tmp_path / "model", name)
    kind = {"base_dtype": dtype} if dtype == "int4" else {"dtype": dtype}
    found = []
    for residency, tiles in (("resident", 32), ("streamed", 32), ("streamed", 1)):
        model = open_model(folder, **kind)
        train_only(model, "lora", 1, 2, 4.0)
        for half in adapters_of(model.weights).values():
            half[...] = np.linspace(-0.1, 0.2, half.size).reshape(half.shape)
        model.settle("numpy", residency, tiles=tiles)
        model.weights.engine = ANY_STORE[engine]
        found.append(gradient(model, loss))
    assert all(len(each) == 8 for each in found)
    for each in found[1:]:
        assert all(np.array_equal(each[n], g) for n, g in found[0].items())


@few_cases
@pytest.mark.parametrize("add", [add_adapters, add_prefixes, lambda model: None])
@pytest.mark.skipif("numba" not in ANY_STORE, reason="Numba is not here")
def test_engines_and_threads(name, loss, add):
    fast = type(ANY_STORE["numba"])
    found = []
    for engine in (NumpyEngine(), fast(1), fast(3)):
        model = tiny_model(name)
        add(model)
        model.weights.engine = engine
        found.append(gradient(model, loss))
    numpy, one, three = found
    assert close(one, numpy, TOLERANCE) < 1
    assert all(np.array_equal(one[n], three[n]) for n in one)


@pytest.mark.parametrize("add", [add_adapters, lambda model: None])
def test_the_vocabulary_in_pieces(add, monkeypatch):
    model = tiny_model("opt")
    add(model)
    whole = gradient(model, "lm")
    monkeypatch.setattr("tinyzo.engine.tiles.TILE", 16)
    monkeypatch.setattr("tinyzo.autodiff.reverse_mode.PIECE", 3)
    assert close(gradient(model, "lm"), whole, TOLERANCE) < 1


@pytest.mark.parametrize("name", GRADIENTS)
def test_peft_has_the_same_gradients_of_lora(name):
    objective, examples = golden_case(name)
    model = objective.objective.model
    add_golden_adapters(model)
    loss = objective(GradientView(model.weights), examples)
    found = loss.backward()
    with np.load(GOLDEN) as golden:
        expected = {n: golden[f"lora.{name}.{n}"] for n in model.weights.trained}
        assert loss.value == pytest.approx(golden[f"lora.{name}.loss"][None], rel=1e-6)
    assert len(expected) == 12 and close(found, expected, 1e-5) < 1


def test_a_view_gives_a_second_gradient():
    model = tiny_model("opt")
    objective, examples = task_of(model, "lm")
    theta = GradientView(model.weights)
    first, second = (objective(theta, examples).backward() for _ in range(2))
    assert all(np.array_equal(first[n], second[n]) and first[n] is not second[n] for n in first)


def test_other_sums_than_those_of_objectives_are_refused():
    x = Variable(np.ones((1, 4), np.float32))
    with pytest.raises(TypeError):
        np.multiply.reduceat(x, [0, 2], axis=-1)
    with pytest.raises(TypeError):
        np.exp(x)


def test_streamed_weights_that_move_or_are_perturbed_are_refused(tmp_path):
    model = load(write_model(tmp_path / "model"), engine="numpy", residency="streamed")
    model.weights.add([(1, 0.1)])
    with pytest.raises(ConfigError, match=r"weights that move\n.*--residency resident"):
        GradientView(model.weights)
    model.weights.store.close()
    with pytest.raises(ConfigError, match="perturbed point"):
        GradientView(tiny_model("opt").weights, [Probe(1, 1e-3)])
    theta = GradientView(tiny_model("opt").weights, [Probe(0, 0.0)])
    with pytest.raises(ShapeError, match="does not take width 7"):
        theta.linear("model.decoder.layers.0.fc1", Variable(np.zeros((1, 3, 7), np.float32)))


right_norm = GradientView.norm
right_softmax = NumpyView.softmax
FAULTS = {
    "softmax": (
        "opt",
        NumpyView,  # which attention asks
        lambda *given: right_softmax(*given) * np.float32(1.001),
    ),
    "relu": (
        "opt",
        GradientView,
        lambda view, x: Variable(np.maximum(x.value, 0), (x.node, lambda dy: dy)),
    ),
    "norm": (
        "opt",
        GradientView,
        lambda view, name, x, ln_eps: right_norm(view, name, x, 2 * ln_eps),
    ),
    "gelu": (
        "roberta",
        GradientView,
        lambda view, x: Variable(view.values.gelu(x.value), (x.node, np.abs)),
    ),
}


@pytest.mark.parametrize("verb", FAULTS)
def test_a_wrong_verb_is_seen(verb, monkeypatch):
    name, view, wrong = FAULTS[verb]
    monkeypatch.setattr(view, verb, wrong)
    with pytest.raises(AssertionError):
        check(tiny_model(name))
