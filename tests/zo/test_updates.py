"""The learning rate's schedules."""

from __future__ import annotations

import pytest

from tinyzo.errors import ConfigError
from tinyzo.zo.updates import learning_rate


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


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_may_last_the_whole_run(schedule):
    assert [learning_rate(s, 2, 1.0, schedule, warmup=2) for s in range(2)] == [0.5, 1.0]
    assert learning_rate(0, 1, 1.0, schedule) == 1.0


def test_an_unknown_schedule_is_refused():
    message = r"unknown schedule 'polynomial'\n.*one of constant, linear, cosine"
    with pytest.raises(ConfigError, match=message):
        learning_rate(0, 10, 1.0, "polynomial")
