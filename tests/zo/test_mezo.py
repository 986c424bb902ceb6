"""MeZO's step against the exact directional derivative z^T grad L, taken in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from tiny import MODELS, Float64View, exact_slope, examples_for, raw_bytes, toy_task

import tinyzo
from tinyzo.engine import noise
from tinyzo.engine.numpy_engine import NumpyEngine, NumpyView
from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights
from tinyzo.errors import NumericError
from tinyzo.models.model import Model
from tinyzo.zo import mezo
from tinyzo.zo.mezo import Step, check_finite, mezo_step
from tinyzo.zo.objectives import Objective

EPS, LR, SEEDS = 1e-3, 1e-2, (0, 1, 2, 3, 2**64 - 1)
CASES = [("roberta", "classification"), ("opt", "classification"), ("opt-post", "lm")]
cases = pytest.mark.parametrize(("name", "loss"), CASES)

# A float32 loss is off by at most 16 halves of a last place of max(1, loss) (test_conformance.py),
# so half the difference of two, over eps, by that over eps.
LOSS_ERROR = 16 * 2.0**-24


def setting(name: str, loss: str, dtype: str = "f32") -> tuple[Model, Objective, list]:
    model = MODELS[name](dtype)
    return model, Objective(model, toy_task(model.family, loss)), examples_for(model.family)


def exact_gradient(weights: Weights, loss: Callable, batch: list) -> dict[str, np.ndarray]:
    """grad L by central differences of each parameter, in float64."""
    gradient, h = {}, 1e-5
    for name in weights.names():
        theta = Float64View(weights, [Probe(0, 0.0)])
        n = theta.theta[name].size
        shifts = h * np.concatenate([np.eye(n), -np.eye(n)]).reshape(2 * n, *weights.shape(name))
        theta.theta[name] = theta.theta[name] + shifts
        losses = loss(theta, batch)
        if len(losses) == 1:  # a tensor that nothing reads
            losses = np.repeat(losses, 2 * n)
        gradient[name] = ((losses[:n] - losses[n:]) / (2 * h)).reshape(weights.shape(name))
    return gradient


def direction(weights: Weights, seed: int) -> dict[str, np.ndarray]:
    return {n: tinyzo.noise(seed, n, weights.shape(n)) for n in weights.names()}


def dot(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    return sum(float(a[name].ravel().astype(np.float64) @ b[name].ravel()) for name in a)


# -- one step ------------------------------------------------------------------------------


def check_step(name: str, loss_name: str, planted: Callable = lambda: None) -> float:
    """The slope along z and the update along the same z; returns the used share.

    planted: puts a fault in, once everything expected has been computed.
    """
    model, loss, batch = setting(name, loss_name)
    weights = model.weights
    expected = [exact_slope(weights, loss, batch, seed, EPS) for seed in SEEDS]
    directions = [direction(weights, seed) for seed in SEEDS]
    planted()
    used = 0.0
    for seed, slope, z in zip(SEEDS, expected, directions, strict=True):
        before = {n: weights.read(n) for n in weights.names()}
        step = mezo_step(weights, loss, batch, seed, EPS, LR)
        bound = LOSS_ERROR * max(1, step.loss) / EPS
        used = max(used, abs(step.projected_gradient - slope) / bound)
        coefficient = np.float32(-LR * step.projected_gradient)
        for n, w in before.items():
            assert np.array_equal(weights.read(n), w + coefficient * z[n]), "another direction"
            weights.stored(n)[...] = w  # the next seed starts at the same theta
    assert used < 1, f"a slope of {used:.0%} of its tolerance"
    return used


@cases
def test_the_projected_gradient_is_the_slope_along_z(name, loss):
    print(f"used {check_step(name, loss):.0%}")


@cases
def test_the_slope_is_z_times_the_gradient(name, loss):
    """Ties exact_slope, the yardstick above, to a gradient taken parameter by parameter."""
    model, objective, batch = setting(name, loss)
    gradient = exact_gradient(model.weights, objective, batch)
    for seed in SEEDS:
        slope = exact_slope(model.weights, objective, batch, seed, 1e-5)
        assert slope == pytest.approx(dot(direction(model.weights, seed), gradient), abs=1e-6)


def swapped_signs(monkeypatch):
    monkeypatch.setattr(mezo, "Probe", lambda seed, scale: Probe(seed, -scale))


def one_stream_for_all_tensors(monkeypatch):
    monkeypatch.setattr(noise, "tensor_id", lambda tensor: 0)


def another_z_in_the_update(monkeypatch):
    add = Weights.add
    monkeypatch.setattr(
        Weights, "add", lambda self, terms, decay: add(self, [(s + 1, c) for s, c in terms], decay)
    )


def one_side_only(monkeypatch):
    monkeypatch.setattr(mezo, "Probe", lambda seed, scale: Probe(seed, max(scale, 0.0)))


def slightly_too_far(monkeypatch):
    monkeypatch.setattr(mezo, "Probe", lambda seed, scale: Probe(seed, scale * 1.01))


def not_descending(monkeypatch):
    add = Weights.add
    monkeypatch.setattr(
        Weights, "add", lambda self, terms, decay: add(self, [(s, -c) for s, c in terms], decay)
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (swapped_signs, "its tolerance"),
        (one_side_only, "its tolerance"),
        (slightly_too_far, "its tolerance"),
        (one_stream_for_all_tensors, "another direction"),
        (another_z_in_the_update, "another direction"),
        (not_descending, "another direction"),
    ],
)
@cases
def test_a_planted_fault_is_caught(monkeypatch, name, loss, fault, message):
    with pytest.raises(AssertionError, match=message):
        check_step(name, loss, lambda: fault(monkeypatch))


def test_the_error_falls_with_the_square_of_eps():
    """The slope's truncation is eps^2 / 6 times a third derivative: a quarter at half of eps.

    Not so for OPT: at the kinks of its relu there is no third derivative.
    """
    model, objective, batch = setting("roberta", "classification")
    exact = exact_slope(model.weights, objective, batch, 3, 1e-5)
    errors = [exact_slope(model.weights, objective, batch, 3, e) - exact for e in (4e-3, 2e-3)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.02)


# -- many steps ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "loss"),
    [CASES[0], *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in CASES[1:])],
)
def test_the_mean_of_g_z_is_the_gradient(name, loss):
    """E[g z] = grad L. The mean of n has cosine 1 / sqrt(1 + (d + 1) / n) with it, d parameters.

    Chance has 1 / sqrt(d). The cosine's own deviation is below 1 / sqrt(n): five of them.
    """
    model, objective, batch = setting(name, loss)
    gradient = exact_gradient(model.weights, objective, batch)
    d, n = sum(g.size for g in gradient.values()), 300
    mean = {name: np.zeros(g.shape) for name, g in gradient.items()}
    for seed in range(n):
        g = mezo_step(model.weights, objective, batch, seed, EPS, lr=0.0).projected_gradient
        for tensor, z in direction(model.weights, seed).items():
            mean[tensor] += g / n * z
    cosine = dot(mean, gradient) / math.sqrt(dot(mean, mean) * dot(gradient, gradient))
    expected, chance = 1 / math.sqrt(1 + (d + 1) / n), 1 / math.sqrt(d)
    print(f"d = {d}: cosine {cosine:.3f}, expected {expected:.3f}, chance {chance:.3f}")
    assert abs(cosine - expected) < 5 / math.sqrt(n) * (1 - expected**2)
    assert cosine > 10 * chance


def quadratic(theta: NumpyView, target: np.ndarray) -> np.ndarray:
    """|w - target|^2 / 2 of each probe."""
    return np.square(theta.vector("w")[:, 0] - target, dtype=np.float64).sum(axis=-1) / 2


def test_a_quadratic_is_minimised():
    """E |w - target|^2 shrinks by 1 - 2 lr + lr^2 (d + 2) a step: lr = 1 / (d + 2) is the best."""
    d = 20
    target = np.linspace(-1, 1, d, dtype=np.float32)
    weights = Weights({"w": np.zeros(d, np.float32)}, NumpyEngine())
    steps = [
        mezo_step(weights, quadratic, target, noise.step_seed(0, step), EPS, 1 / (d + 2))
        for step in range(400)
    ]
    rate = (1 - 1 / (d + 2)) ** 400  # 8e-9; the logarithm of a product of 400 has a spread
    assert quadratic(weights.view(), target)[0] < 1e3 * rate * steps[0].loss + 1e-10
    assert steps[0].loss == pytest.approx(float(target @ target) / 2, rel=1e-4)


# -- the rules of a step -------------------------------------------------------------------


@cases
def test_a_learning_rate_of_zero_changes_no_bit(name, loss):
    for dtype in ("f32", "bf16", "f16"):
        model, objective, batch = setting(name, loss, dtype)
        before = raw_bytes(model.weights)
        step = mezo_step(model.weights, objective, batch, 5, EPS, lr=0.0)
        assert step.projected_gradient != 0
        assert raw_bytes(model.weights) == before


def test_seed_0_is_a_seed_and_every_seed_repeats():
    steps = {}
    for seed in (0, 0, 1):
        model, objective, batch = setting("opt", "lm")
        step = mezo_step(model.weights, objective, batch, seed, EPS, LR)
        assert steps.setdefault(seed, step) == step
    assert steps[0].projected_gradient != steps[1].projected_gradient


def test_a_step_says_all_that_a_journal_needs():
    model, objective, batch = setting("roberta", "classification")
    step = mezo_step(model.weights, objective, batch, 5, EPS, LR, decay=0.5)
    plus, minus = step.losses
    assert step.projected_gradient == (plus - minus) / (2 * EPS)
    assert step.terms == ((5, -LR * step.projected_gradient),)
    assert step.decay == LR * 0.5
    assert step.loss == (plus + minus) / 2

    replayed, _, _ = setting("roberta", "classification")
    replayed.weights.add(step.terms, step.decay)
    assert raw_bytes(replayed.weights) == raw_bytes(model.weights)


def test_decay_shrinks_matrices_and_leaves_vectors():
    model, objective, batch = setting("roberta", "classification")
    before = {n: model.weights.read(n) for n in model.weights.names()}
    step = mezo_step(model.weights, objective, batch, 5, EPS, LR, decay=2.0)
    c = np.float32(step.terms[0][1])
    for name, w in before.items():
        kept = w * np.float32(1 - LR * 2.0) if w.ndim == 2 else w
        z = tinyzo.noise(5, name, w.shape)
        assert np.array_equal(model.weights.read(name), kept + c * z), name


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_theta_changes(bad):
    model, _, batch = setting("opt", "lm")
    before = raw_bytes(model.weights)
    with pytest.raises(NumericError, match=r"losses \[1\.0, (nan|inf)\]\n.*theta is as before"):
        mezo_step(model.weights, lambda theta, _: [1.0, bad], batch, 5, EPS, LR)
    assert raw_bytes(model.weights) == before


def test_a_slope_that_float32_cannot_hold_stops_before_theta_changes():
    model, _, batch = setting("opt", "lm")
    before = raw_bytes(model.weights)
    with pytest.raises(NumericError, match="an update that is not finite"):
        mezo_step(model.weights, lambda theta, _: [1e38, -1e38], batch, 5, EPS, lr=1.0)
    assert raw_bytes(model.weights) == before


def test_losses_become_plain_floats():
    found = check_finite(np.float32([0.5, 0.25]))
    assert found == [0.5, 0.25] and all(type(value) is float for value in found)
    assert Step((1.0, 2.0, 6.0), 0.0, ()).loss == 3.0
