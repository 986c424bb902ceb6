"""Each estimator's coefficients by hand, and many directions in one pass as one after another."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import ENGINES, MODELS, exact_slope, examples_for, raw_bytes, toy_task

import tinyzo
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.terms import Direction
from tinyzo.engine.weights import Weights
from tinyzo.errors import NumericError
from tinyzo.models.trainable import train_only
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.zo.estimators import ESTIMATORS, SPREAD, zo_step
from tinyzo.zo.mezo import mezo_step
from tinyzo.zo.objectives import Objective
from tinyzo.zo.updates import UpdateRule

EPS, LR, SEEDS, D = 0.125, 0.01, [3, 2**53 - 1, 0, 8], 20
engines = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)


def curved(w: np.ndarray) -> np.ndarray:
    """A loss of the last axis, f64[...]."""
    w = w.astype(np.float64)
    return np.square(w - np.linspace(-1, 1, D)).sum(axis=-1) / 2 + np.sin(w).sum(axis=-1)


def toy(kind: str = "gaussian") -> tuple[Weights, np.ndarray]:
    w = tinyzo.noise(1, "start", (D,)).copy()
    return Weights({"w": w.copy()}, NumpyEngine(), Direction(kind)), w


def loss_of(theta, _) -> np.ndarray:
    return curved(theta.vector("w")[:, 0])


def by_hand(name: str, w: np.ndarray, kind: str) -> tuple[list[float], list[float]]:
    """The losses in order and the g_i, one by one."""
    q, zs = len(SEEDS), [tinyzo.noise(seed, "w", (D,), kind) for seed in SEEDS]
    plus = [float(curved(w + np.float32(EPS) * z)) for z in zs]
    minus = [float(curved(w - np.float32(EPS) * z)) for z in zs]
    here, mean = float(curved(w)), sum(plus) / q
    spread = (sum((p - mean) ** 2 for p in plus) / q) ** 0.5
    if name == "two-sided":
        both = [loss for pair in zip(plus, minus, strict=True) for loss in pair]
        return both, [(p - m) / (2 * EPS * q) for p, m in zip(plus, minus, strict=True)]
    if name == "one-sided":
        return [here, *plus], [(p - here) / (q * spread) for p in plus]
    return plus, [(p - mean) / (EPS * (q - 1)) for p in plus]


@pytest.mark.parametrize("name", ["two-sided", "one-sided", "leave-one-out"])
@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_coefficients_by_hand(name, kind):
    weights, w = toy(kind)
    losses, g = by_hand(name, w, kind)
    estimator = ESTIMATORS[name]
    step = zo_step(weights, loss_of, None, SEEDS, EPS, LR, 0.5, estimator, UpdateRule(), [])
    assert step.losses == pytest.approx(losses, rel=1e-12)
    assert [seed for seed, _ in step.terms] == SEEDS
    assert [c for _, c in step.terms] == pytest.approx([-LR * x for x in g], rel=1e-9)
    assert step.projected_gradient == pytest.approx(sum(g), rel=1e-9)
    assert (step.decay, len(losses)) == (LR * 0.5, estimator.count(len(SEEDS)))
    assert estimator.forwards(len(SEEDS)) == len(losses)
    for seed, c in step.terms:
        w = w + np.float32(c) * tinyzo.noise(seed, "w", (D,), kind)
    assert np.array_equal(weights.read("w"), w)


def test_leave_one_out_compares_each_with_the_mean_of_the_others():
    losses = np.array([1.0, 4.0, 2.0])
    found = ESTIMATORS["leave-one-out"].gradients(losses, EPS)
    others = [(4 + 2) / 2, (1 + 2) / 2, (1 + 4) / 2]
    assert found == pytest.approx((losses - others) / (EPS * 3))


@pytest.mark.parametrize("losses", [[2.0, 2.0, 2.0], [2.0, 3.0, 3.0], [2.0, 3.0, 3.0 + 1e-9]])
def test_a_spread_of_nothing_counts_as_the_floor(losses):
    found = ESTIMATORS["one-sided"].gradients(np.array(losses), EPS)
    assert found == pytest.approx((np.array(losses[1:]) - 2) / (2 * SPREAD), rel=1e-6)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", ["roberta", "opt", "opt-post"])
def test_forward_is_the_slope_of_two_sides_as_eps_falls(name):
    model = MODELS[name]()
    objective, batch = Objective(model, toy_task(model.family)), examples_for(model.family)
    expected = [exact_slope(model.weights, objective, batch, seed, 1e-6) for seed in SEEDS]
    forward = ESTIMATORS["forward"]
    step = zo_step(model.weights, objective, batch, SEEDS, EPS, LR, 0, forward, UpdateRule(), [])
    g = [c / -LR * len(SEEDS) for _, c in step.terms]
    assert g == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert forward.forwards(4) == 9 and len(step.losses) == 8
    assert forward.gradients(np.array(step.losses), EPS).tolist() == pytest.approx(
        [x / len(SEEDS) for x in g], rel=1e-12
    )  # as momentum reads it from the journal


CASES = [("roberta", "classification"), ("opt", "classification"), ("opt-post", "lm")]


def setting(name: str, loss: str, dtype: str, engine, max_tokens: int = 4096):
    model = MODELS[name](dtype, engine)
    train_only(model, "lora-fa", 0, 2, 4.0)
    model.weights.add([(99, 0.3)])
    task = toy_task(model.family, loss)
    return (
        model.weights,
        BoundedLoss(Objective(model, task), max_tokens),
        examples_for(model.family),
    )


@engines
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(("name", "loss"), CASES)
def test_queries_in_one_pass_are_those_one_by_one(name, loss, dtype, engine):
    weights, *task = setting(name, loss, dtype, engine)
    losses = []
    for seed in SEEDS:
        losses += mezo_step(weights, *task, seed, 1e-2, lr=0.0).losses
    more = (ESTIMATORS["two-sided"], UpdateRule(), [])
    step = zo_step(weights, *task, SEEDS, 1e-2, LR, 0.0, *more)
    assert step.losses == pytest.approx(losses, rel=1e-6)
    g = [(a - b) / (2e-2 * 4) for a, b in zip(losses[::2], losses[1::2], strict=True)]
    assert [c for _, c in step.terms] == pytest.approx([-LR * x for x in g], abs=1e-4 * LR)


@engines
@pytest.mark.parametrize(("name", "loss"), CASES)
def test_groups_of_probes_change_nothing_but_rounding(monkeypatch, name, loss, engine):
    sizes = []
    view = type(MODELS[name](engine=engine).weights.view())
    parts = view.parts
    monkeypatch.setattr(view, "parts", lambda s, most: [sizes.append(most), parts(s, most)][1])
    found = []
    for max_tokens in (1, 20, 4096):
        weights, *task = setting(name, loss, "f32", engine, max_tokens)
        more = (ESTIMATORS["one-sided"], UpdateRule(), [])
        found.append(zo_step(weights, *task, SEEDS, 1e-2, 0.0, 0.0, *more).losses)
    assert min(sizes) == 2 and max(sizes) >= 5
    assert found[0] == pytest.approx(found[2], rel=1e-6)
    assert found[1] == pytest.approx(found[2], rel=1e-6)


@engines
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(("name", "loss"), CASES)
def test_one_query_is_mezos_step_to_the_bit(name, loss, dtype, engine):
    (a, *task), (b, other, _) = (setting(name, loss, dtype, engine) for _ in range(2))
    more = (ESTIMATORS["two-sided"], UpdateRule(), [])
    for seed in (5, 6):
        expected = mezo_step(a, *task, seed, 1e-2, LR, 0.1)
        assert zo_step(b, other, task[1], [seed], 1e-2, LR, 0.1, *more) == expected
    assert raw_bytes(a) == raw_bytes(b)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_loss_that_is_not_finite_stops_before_theta_changes(name):
    weights, w = toy()
    more = (ESTIMATORS[name], UpdateRule(), [])
    with pytest.raises(NumericError, match="theta is as before"):
        zo_step(weights, lambda theta, _: [float("nan")] * 5, None, SEEDS, EPS, LR, 0.0,
                *more)  # fmt: skip
    assert np.array_equal(weights.read("w"), w)
