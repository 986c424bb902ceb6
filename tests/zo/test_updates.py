"""The learning rate's schedules, and what each update adds to theta."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinyzo
from tinyzo.engine.moments import Moments
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.terms import Update
from tinyzo.engine.weights import Weights
from tinyzo.errors import ConfigError
from tinyzo.zo.updates import ANY_TIME, RULES, Past, UpdateRule, learning_rate


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0: 1.0, 25: 1.0, 50: 1.0, 99: 1.0}),
        ("linear", {0: 1.0, 25: 0.75, 50: 0.5, 99: 0.01}),
        ("cosine", {0: 1.0, 25: 0.8535533905932737, 50: 0.5, 75: 0.14644660940672627}),
    ],
)
def test_schedules_run_over_the_steps(schedule, expected):
    for step, share in expected.items():
        assert learning_rate(step, 100, 3e-4, schedule) == pytest.approx(3e-4 * share, rel=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_rises_to_lr_and_the_schedule_starts_there(schedule):
    rates = [learning_rate(step, 14, 1.0, schedule, warmup=4) for step in range(14)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    expected = {"constant": 1.0, "linear": 0.5, "cosine": 0.5}[schedule]
    assert rates[9] == pytest.approx(expected)
    assert all(rate > 0 for rate in rates)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_constant_without_warm_up_is_the_default():
    assert [learning_rate(step, 3, 1e-6) for step in range(3)] == [1e-6] * 3


def test_a_rate_for_any_budget_does_not_ask_how_many_steps_there_are():
    for schedule in ANY_TIME:
        rates = [
            [learning_rate(step, steps, 3e-4, schedule, 5, span=12.0) for step in range(9)]
            for steps in (9, 10, 10_000)
        ]
        assert rates[0] == rates[1] == rates[2]
    rates = [learning_rate(step, 9, 1.0, "sqrt", span=4.0) for step in (0, 4, 12, 32)]
    assert rates == pytest.approx([1, 2**-0.5, 1 / 2, 1 / 3], rel=1e-12)
    assert learning_rate(3 + 12, 9, 1.0, "sqrt", warmup=3, span=4.0) == 0.5


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_may_last_the_whole_run(schedule):
    assert [learning_rate(s, 2, 1.0, schedule, warmup=2) for s in range(2)] == [0.5, 1.0]
    assert learning_rate(0, 1, 1.0, schedule) == 1.0


def test_an_unknown_schedule_is_refused():
    message = r"schedule 'polynomial' is not built\n.*one of constant, sqrt, linear, cosine"
    with pytest.raises(ConfigError, match=message):
        learning_rate(0, 10, 1.0, "polynomial")


# -- updates -------------------------------------------------------------------------------

HISTORY = [([10 + 2 * t, 11 + 2 * t], [0.5 - t, 0.25 * t + 0.125]) for t in range(6)]


def update_at(rule: UpdateRule, t: int, lr: float = 0.5, decay: float = 0.0) -> Update:
    """The update of step t, as it has seen the steps before, the newest first."""
    return rule.update([Past(*step) for step in HISTORY[t::-1]], lr, decay)


@pytest.mark.parametrize("clip", [math.inf, 0.75, 0.0])
@pytest.mark.parametrize("t", range(6))
def test_terms_by_hand(t, clip):
    def clipped(g: float) -> float:
        return math.copysign(min(abs(g), clip), g)

    def signed(g: float) -> float:
        return 0.0 if clipped(g) == 0 else math.copysign(1, g)

    seeds, gradients = HISTORY[t]
    now = list(zip(seeds, gradients, strict=True))
    sgd, sign = UpdateRule(clip=clip), UpdateRule("sign", clip=clip)
    momentum, adamezo = (UpdateRule(rule, 3, clip) for rule in ("momentum", "adamezo"))
    assert update_at(sgd, t).terms == tuple((s, -0.5 * clipped(g)) for s, g in now)
    assert update_at(sign, t).terms == tuple((s, -0.5 * signed(g)) for s, g in now)
    past = [(k, s, g) for k in range(3) if t >= k for s, g in zip(*HISTORY[t - k], strict=True)]
    found = [term for term in update_at(momentum, t).terms if term[1]]
    assert found == [(s, -0.5 * 0.9**k * clipped(g)) for k, s, g in past if clipped(g)]
    update = update_at(adamezo, t)
    assert update.moments == Moments(lr=0.5, queries=2)
    assert list(update.terms[: len(past)]) == [(s, clipped(g)) for _, s, g in past]
    assert {g for _, g in update.terms[len(past) :]} <= {0.0}


@pytest.mark.parametrize("t", [0, 5])
@pytest.mark.parametrize("rule", RULES)
def test_a_journal_has_all_of_an_update(rule, t):
    rule = UpdateRule(rule, 3)
    update = update_at(rule, t, lr=0.25, decay=0.125)
    terms = rule.to_journal(update)
    assert len(terms) == rule.count(2)
    assert rule.from_journal(terms, 0.125) == update
    if rule.rule == "adamezo":  # format 1 has the rate there
        assert terms[-1] == (HISTORY[t][0][0], 0.25)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_momentum_moves_as_its_sum(decay):
    weights, lr = Weights({"w": tinyzo.noise(0, "w", (9, 4)).copy()}, NumpyEngine()), 0.01
    w, m = weights.read("w").astype(np.float64), np.zeros((9, 4))
    for t in range(6):
        weights.apply(update_at(UpdateRule("momentum", 10), t, lr, lr * decay))
        z = [tinyzo.noise(seed, "w", (9, 4)).astype(np.float64) for seed in HISTORY[t][0]]
        m = 0.9 * m + sum(g * each for g, each in zip(HISTORY[t][1], z, strict=True))
        w = (1 - lr * decay) * w - lr * m
    assert weights.read("w") == pytest.approx(w, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_rms_moves_by_momentum_over_the_root_of_one_number(decay):
    weights = Weights({"w": tinyzo.noise(0, "w", (9, 4)).copy()}, NumpyEngine())
    lr, window = 1e-2, 3
    w = weights.read("w").astype(np.float64)
    for t in range(6):
        weights.apply(update_at(UpdateRule("rms", window), t, lr, lr * decay))
        m, v = np.zeros((9, 4)), 0.0
        for k in range(min(window, t + 1)):
            for seed, g in zip(*HISTORY[t - k], strict=True):
                m += 0.9**k * g * tinyzo.noise(seed, "w", (9, 4)).astype(np.float64)
                v += 0.9**k * g * g
        w = (1 - lr * decay) * w - lr * m / (np.sqrt(v) + 1e-5)
    assert weights.read("w") == pytest.approx(w, rel=1e-5, abs=1e-5)


def test_rms_takes_the_same_step_whatever_the_loss_is_scaled_by():
    def coefficients(scale: float) -> list[float]:
        past = [Past(seeds, [scale * g for g in gradients]) for seeds, gradients in HISTORY[::-1]]
        return [c for _, c in UpdateRule("rms", 4).update(past, 0.5).terms]

    assert coefficients(100.0) == pytest.approx(coefficients(1.0), rel=1e-4)
    flat = UpdateRule("rms").update([Past([3], [0.0])], 0.5)
    assert {c for _, c in flat.terms} == {0.0}


def test_over_one_step_rms_is_sign():
    past = [Past([3], [-0.25])]
    (_, found), (_, sign) = (
        UpdateRule(rule, window=1).update(past, 0.5).terms[0] for rule in ("rms", "sign")
    )
    assert found == pytest.approx(sign, rel=1e-4)


def test_a_clip_cuts_what_rms_divides_by_too():
    past = [Past([3], [8.0]), Past([4], [1.0])]
    cut = [Past([3], [1.0]), Past([4], [1.0])]
    assert UpdateRule("rms", 2, clip=1.0).update(past, 0.5) == UpdateRule("rms", 2).update(cut, 0.5)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_adamezo_moves_by_the_moments_of_its_window(decay):
    weights = Weights({"w": tinyzo.noise(0, "w", (9, 4)).copy()}, NumpyEngine())
    lr, window = 1e-4, 3
    w = weights.read("w").astype(np.float64)
    for t in range(6):
        weights.apply(update_at(UpdateRule("adamezo", window), t, lr, lr * decay))
        m, v = np.zeros((9, 4)), np.zeros((9, 4))
        for k in range(min(window, t + 1)):
            for seed, g in zip(*HISTORY[t - k], strict=True):
                z = tinyzo.noise(seed, "w", (9, 4)).astype(np.float64)
                m, v = m + 0.7**k * g * z, v + 0.9**k * (g * z) ** 2
        w = (1 - lr * decay) * w - lr * 100 * m / (np.sqrt(v) + 1e-5)
    assert weights.read("w") == pytest.approx(w, rel=1e-5, abs=1e-5)
