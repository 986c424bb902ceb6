"""The gradient of every tensor, against central differences in float64, and against PyTorch's."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from autodiff.exact import (
    GOLDEN,
    add_adapters,
    add_prefixes,
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

import tinyzo
from tinyzo.autodiff.forward_mode import ForwardView
from tinyzo.autodiff.reverse_mode import GradientView
from tinyzo.autodiff.tape import Variable
from tinyzo.engine.numpy_engine import NumpyView
from tinyzo.engine.terms import Probe
from tinyzo.errors import ConfigError, ShapeError
from tinyzo.models.model import load

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
    assert kept > 50 and loss.node.edges == [] and alive == []


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


def test_streamed_or_perturbed_weights_are_refused(tmp_path):
    model = load(write_model(tmp_path / "model"), engine="numpy", residency="streamed")
    with pytest.raises(ConfigError, match=r"streamed weights\n.*--residency resident"):
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
