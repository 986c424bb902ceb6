"""Scores of answers: by hand, and as SQuAD's own evaluation gives them."""

from __future__ import annotations

import pytest

from tinyzo.text.answers import best_f1, exact_match, normalise


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("The  Cat, a dog!", "cat dog"),
        ("an apple\tand\nAN orange", "apple and orange"),
        ("theatre another", "theatre another"),  # articles are whole words
        ("the-end", "theend"),  # punctuation goes first, and joins what it parted
        ("U.S. Army's", "us armys"),
        ("“naïve” café…", "“naïve” café…"),  # only ASCII's punctuation goes
        ("A", ""),
        ("$5.50 (five)", "550 five"),
    ],
)
def test_what_does_not_count_is_taken_out(answer: str, plain: str) -> None:
    assert normalise(answer) == plain


@pytest.mark.parametrize(
    ("answer", "golds", "f1", "match"),
    [
        ("Denver Broncos", ["Denver Broncos"], 1.0, 1.0),
        ("the denver broncos.", ["Denver Broncos"], 1.0, 1.0),
        ("Denver", ["Denver Broncos"], 2 / 3, 0.0),
        ("in Santa Clara, California", ["Santa Clara", "Levi's Stadium"], 2 / 3, 0.0),
        ("a b c d", ["x", "b c", "b"], 4 / 5, 0.0),  # "a" is an article
        ("gold gold", ["gold"], 2 / 3, 0.0),  # a word counts as often as both have it
        ("gold gold", ["gold gold leaf"], 4 / 5, 0.0),
        ("10", ["10", "ten points"], 1.0, 1.0),
        ("ten", ["10", "ten points"], 2 / 3, 0.0),
        ("", ["gold"], 0.0, 0.0),
        ("the", ["a"], 0.0, 1.0),  # nothing is left of either
        ("silver", ["gold"], 0.0, 0.0),
    ],
)
def test_the_best_gold_answer_counts(
    answer: str, golds: list[str], f1: float, match: float
) -> None:
    assert best_f1(answer, golds) == pytest.approx(f1)
    assert exact_match(answer, golds) == match
