"""Whose losses count, and their mean."""

from __future__ import annotations

import numpy as np
import pytest

from tinyzo.fleet.robust import Answer, mean, outliers


def honest(clients=20, seed=0):
    """Losses of one two-sided query: levels as unlike as labels make them, slopes much alike."""
    random = np.random.RandomState(seed)
    levels = random.uniform(0.1, 3.0, clients)
    slopes = random.normal(1e-3, 1e-2, clients)
    return {n: Answer(level + slope * np.array([1.0, -1.0]), 4) for n, (level, slope) in
            enumerate(zip(levels, slopes, strict=True))}  # fmt: skip


def test_honest_clients_count_however_unlike_their_levels():
    assert outliers(honest(), 2) == {}


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        ([np.nan, 1.0], "a loss is not finite"),
        ([1.0, -np.inf], "a loss is not finite"),
        ([1.0], "1 losses of 4 rows, where 2 were due"),
        ([1e6, 1e6], "its loss is 1e+06, the median client's 1."),
        ([1e308, 1e308], "its loss is "),
        ([1.5, 0.5], "its slope is 6 deviations from the median client's, or more"),
    ],
)
def test_a_liar_is_left_out_with_the_reason(losses, why):
    found = outliers(honest() | {99: Answer(np.array(losses), 4)}, 2)
    assert list(found) == [99]
    assert found[99].startswith(why)


def test_an_answer_of_no_rows_is_left_out():
    answer = Answer(np.array([1.0, 1.0]), 0)
    assert outliers({1: answer}, 2) == {1: "2 losses of 0 rows, where 2 were due"}


@pytest.mark.parametrize(("slope", "is_far"), [(40.0, False), (52.0, True), (-52.0, True)])
def test_a_slope_is_far_off_by_the_spread_of_the_others(slope, is_far):
    """Of -10 .. 10 the median distance from the median is 5: six deviations are 44.5."""
    slopes = dict(enumerate([*range(-10, 11), slope]))
    found = outliers({n: Answer(np.array([each, -each]), 4) for n, each in slopes.items()}, 2)
    assert list(found) == [21] * is_far


def test_nearly_half_may_lie():
    liars = {n: Answer(np.array([5.0, -5.0]), 4) for n in range(100, 118)}
    assert outliers(honest() | liars, 2).keys() == liars.keys()


def test_of_few_clients_no_slope_is_judged():
    few = {n: Answer(np.array([1.0, 1.0 + n]), 4) for n in range(4)}
    assert outliers(few, 2) == {}
    assert outliers({}, 2) == {}


def test_the_mean_is_over_rows_and_in_any_order_the_same():
    answers = honest()
    answers[3] = answers[3]._replace(rows=1)
    backwards = dict(reversed(answers.items()))
    assert mean(answers, 4).tobytes() == mean(backwards, 4).tobytes()
    rows = [each.rows for each in answers.values()]
    losses = [each.losses for each in answers.values()]
    np.testing.assert_allclose(mean(answers, 4), np.average(losses, axis=0, weights=rows))


def test_no_client_counts_for_more_rows_than_it_was_asked_for():
    answers = {1: Answer(np.array([1.0]), 10**9), 2: Answer(np.array([3.0]), 2)}
    assert mean(answers, 2) == [2.0]
