"""Derivatives along z in one forward pass, against central differences in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from autodiff.exact import (
    Exact,
    add_adapters,
    add_prefixes,
    core_cases,
    exact_derivatives,
    exact_loss,
    task_of,
    tiny_model,
)
from tiny import DTYPE_NAMES, ENGINES

from tinyzo.autodiff.forward_mode import ForwardView, gelu_slope
from tinyzo.engine import noise, numpy_engine, tiles
from tinyzo.engine.numpy_engine import NumpyView
from tinyzo.engine.terms import Direction, Probe

at = noise.at
PROBES = [Probe(3, 1.0), Probe(2**53 - 1, -0.5)]
# Of |z^T grad L|, or of 1: float32 sums of width 8 to 29, of which a derivative has three times as
# many as a loss has. The share used is printed: up to 20 %, and to 45 % with NumPy 1.26's BLAS.
TOLERANCE = 256 * 2.0**-24


def check(model, loss="classification", probes=PROBES, max_tokens=4096, view=ForwardView) -> None:
    objective, examples = task_of(model, loss, max_tokens)
    found = objective(view(model.weights, probes), examples)
    assert found.dtype == np.float64 and found.shape == (1 + len(probes),)
    exact = exact_derivatives(objective, probes, examples)
    expected = np.append(exact_loss(objective, examples), exact)
    error = np.abs(found - expected) / np.maximum(1, np.abs(expected))
    used = error.max() / TOLERANCE
    print(f"used {used:.0%}: {expected}")
    assert used < 1, f"{used:.0%} of the tolerance"


@core_cases
def test_loss_and_derivatives(name, loss):
    check(tiny_model(name), loss)


@core_cases
def test_the_loss_is_the_numpy_engines(name, loss):
    model = tiny_model(name)
    objective, examples = task_of(model, loss)
    (expected,) = objective(NumpyView(model.weights, [Probe(0, 0.0)]), examples)
    for probes in ([], PROBES):
        found = objective(ForwardView(model.weights, probes), examples)
        assert found[0] == pytest.approx(expected, rel=2e-7)


@core_cases
def test_small_tiles_blocks_and_micro_batches(name, loss, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 24)
    monkeypatch.setattr(numpy_engine, "QUERIES", 2)
    for max_tokens in (1, 15):
        check(tiny_model(name), loss, max_tokens=max_tokens)


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_any_storage_and_kind_of_noise(dtype, kind):
    model = tiny_model("opt", dtype)
    model.weights.direction = Direction(kind)
    check(model)


@core_cases
@pytest.mark.parametrize("part", ["bias", "embed", "norm", "attn", "layers.0", "nothing"])
def test_tensors_that_are_not_trained_have_no_tangent(name, loss, part):
    model = tiny_model(name)
    model.weights.trained = dict.fromkeys(n for n in model.weights.names() if part in n)
    check(model, loss)


@core_cases
def test_adapters(name, loss):
    model = tiny_model(name)
    add_adapters(model)
    check(model, loss)
    model.weights.trained = dict.fromkeys(model.weights.names())
    check(model, loss)


@core_cases
def test_prefixes(name, loss):
    model = tiny_model(name)
    add_prefixes(model)
    check(model, loss)
    model.weights.trained = dict.fromkeys(model.weights.names())
    check(model, loss)


@core_cases
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("add", [add_adapters, add_prefixes])
def test_every_engine_perturbs_adapters_and_prefixes(name, loss, engine, add):
    model, probes = tiny_model(name), [Probe(3, 1e-2), Probe(3, -1e-2)]
    add(model)
    for trained in (model.weights.trained, dict.fromkeys(model.weights.names())):
        model.weights.trained, model.weights.engine = trained, ENGINES[engine]
        objective, examples = task_of(model, loss)
        found = objective(model.weights.view(probes), examples)
        assert found == pytest.approx(objective(Exact(model.weights, probes), examples), rel=4e-6)


def test_a_direction_of_scale_0_has_no_derivative():
    model = tiny_model("roberta")
    objective, examples = task_of(model, "classification")
    derivatives = objective(ForwardView(model.weights, [Probe(3, 0.0), *PROBES]), examples)[1:]
    assert derivatives[0] == 0
    alone = [objective(ForwardView(model.weights, [p]), examples)[1] for p in PROBES]
    assert derivatives[1:] == pytest.approx(alone, rel=1e-6)


def test_what_is_pending_counts():
    model, folded = tiny_model("opt"), tiny_model("opt")
    model.weights.add([(5, 0.1)], 0.01, fold=False)
    folded.weights.add([(5, 0.1)], 0.01)
    found, expected = (
        task_of(m, "lm")[0](ForwardView(m.weights, PROBES), task_of(m, "lm")[1])
        for m in (model, folded)
    )
    assert model.weights.pending and np.array_equal(found, expected)


def test_no_z_is_ever_whole(monkeypatch):
    made, model = [], tiny_model("opt")
    monkeypatch.setattr(tiles, "TILE", 24)
    monkeypatch.setattr(noise, "at", lambda *a: [made.append((a[1], a[2].size)), at(*a)][1])
    objective, examples = task_of(model, "lm")
    objective(ForwardView(model.weights, PROBES), examples)
    linear = [size for name, size in made if "fc1.weight" in name]
    assert linear == [24] * (12 * 8 // 24) * len(PROBES) * 2  # of two layers
    assert max(size for name, size in made) < 29 * 8  # the rows of the table that are embedded


def test_the_slope_of_gelu():
    x = np.linspace(-8, 8, 40002, dtype=np.float32).reshape(3, -1)
    exact = x.astype(np.float64)
    cdf = np.vectorize(lambda v: (1 + math.erf(v / math.sqrt(2))) / 2)(exact)
    expected = cdf + exact * np.exp(-exact * exact / 2) / np.sqrt(2 * np.pi)
    assert np.abs(gelu_slope(x) - expected).max() < 1e-6
    assert np.abs(x - exact * cdf).max() < 1e-5


def test_a_loss_that_is_not_a_number_is_not_hidden():
    model = tiny_model("roberta")
    model.weights.stored("lm_head.bias")[...] = np.nan
    objective, examples = task_of(model, "classification")
    assert np.isnan(objective(ForwardView(model.weights, PROBES), examples)).all()


FAULTS = {
    "softmax": ["roberta", lambda view, score, hidden: NumpyView.softmax(view, score, hidden)],
    "gelu": ["roberta", lambda view, x: NumpyView.gelu(view, x)],
    "relu": ["opt", lambda view, x: NumpyView.relu(view, x)],
    "bilinear": ["opt", lambda view, f, a, b: f(a, b[:1])],
    "standardise": ["opt", lambda view, x, ln_eps: NumpyView.standardise(view, x, ln_eps)],
}


@pytest.mark.parametrize("verb", FAULTS)
def test_a_verb_without_its_derivative_is_seen(verb):
    name, wrong = FAULTS[verb]
    faulty = type("Faulty", (ForwardView,), {verb: wrong})
    with pytest.raises(AssertionError, match="of the tolerance"):
        check(tiny_model(name), "classification", view=faulty)
