"""The classic walk in place: the same step as mezo_step, and the rounding that it leaves."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import MODELS, examples_for, raw_bytes, toy_task
from walk import walk_step, walked

import tinyzo
from tinyzo.engine.weights import Weights
from tinyzo.errors import NumericError
from tinyzo.zo.mezo import mezo_step
from tinyzo.zo.objectives import Objective

EPS, LR = 1e-3, 1e-2
models = pytest.mark.parametrize("name", MODELS)


def setting(name: str, dtype: str = "f32"):
    model = MODELS[name](dtype)
    return model.weights, Objective(model, toy_task(model.family)), examples_for(model.family)


def check_back(weights: Weights, before: dict[str, np.ndarray], seed: int, walks: int) -> float:
    """theta is back within rounding; returns the used share.

    A walk of two folds rounds twice: each time by half a last place of the largest value met,
    |w| + eps |z|, so by 2^-24 of it.
    """
    used = 0.0
    for name, w in before.items():
        z = tinyzo.noise(seed, name, w.shape)
        bound = walks * 2 * 2.0**-24 * (np.abs(w) + EPS * np.abs(z)) * 1.001
        used = max(used, (np.abs(weights.read(name) - w) / bound).max())
    assert used < 1
    return used


def read_all(weights: Weights) -> dict[str, np.ndarray]:
    return {name: weights.read(name) for name in weights.names()}


@models
@pytest.mark.parametrize("seed", [0, 7])
def test_a_walk_measures_the_same_slope_and_makes_the_same_step(name, seed):
    weights, loss, batch = setting(name)
    walking, walking_loss, _ = setting(name)
    step = mezo_step(weights, loss, batch, seed, EPS, LR, decay=0.5)
    walk = walk_step(walking, walking_loss, batch, seed, EPS, LR, decay=0.5)
    # Two float32 losses, each off by 16 halves of a last place (test_conformance.py).
    bound = 2 * 16 * 2.0**-24 * max(1, step.loss) / EPS
    error = abs(step.projected_gradient - walk.projected_gradient)
    print(f"used {error / bound:.0%}")
    assert error < bound
    assert walk.terms == ((seed, -LR * walk.projected_gradient),) and walk.decay == step.decay
    assert walk.losses == pytest.approx(step.losses, rel=32 * 2.0**-24)
    for tensor, w in read_all(weights).items():
        assert np.allclose(walking.read(tensor), w, rtol=1e-6, atol=6 * LR * bound), tensor


@models
def test_theta_is_walked_and_walked_back(name):
    weights, _, _ = setting(name)
    before = read_all(weights)
    with walked(weights, 7, EPS):
        for tensor, w in before.items():
            z = tinyzo.noise(7, tensor, w.shape)
            assert np.array_equal(weights.read(tensor), w + np.float32(EPS) * z)
    print(f"used {check_back(weights, before, 7, walks=1):.0%}")


def test_an_exception_in_the_loss_walks_back():
    weights, _, batch = setting("opt")
    before = read_all(weights)

    def loss(theta, batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        walk_step(weights, loss, batch, 7, EPS, LR)
    check_back(weights, before, 7, walks=1)


def test_a_loss_that_is_not_finite_walks_back():
    weights, _, batch = setting("opt")
    before = read_all(weights)
    losses = iter([1.0, float("nan")])
    with pytest.raises(NumericError, match=r"losses \[nan\]"):
        walk_step(weights, lambda theta, batch: [next(losses)], batch, 7, EPS, LR)
    check_back(weights, before, 7, walks=2)


@pytest.mark.parametrize(
    "dtype", ["f32", "bf16", pytest.param("f16", marks=pytest.mark.exhaustive)]
)
def test_only_the_walk_drifts(dtype):
    """Forty steps with lr = 0: the walk moves theta, most of all in 16 bits; ours never."""
    drift = {}
    for step in (mezo_step, walk_step):
        weights, loss, batch = setting("opt", dtype)
        bits, before = raw_bytes(weights), read_all(weights)
        for seed in range(40):
            step(weights, loss, batch, seed, EPS, lr=0.0)
        square = sum(float(np.square(weights.read(n) - w).sum()) for n, w in before.items())
        drift[step] = (square / sum(float(np.square(w).sum()) for w in before.values())) ** 0.5
        assert (raw_bytes(weights) == bits) == (step is mezo_step)
    print(f"{dtype}: relative drift of 40 steps {drift[walk_step]:.1e}")
    assert drift[mezo_step] == 0
    assert drift[walk_step] > {"f32": 1e-9, "bf16": 1e-2, "f16": 1e-3}[dtype]
