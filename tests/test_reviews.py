"""The shipped reviews: balanced, clean, and no review in two splits."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations, pairwise, product
from pathlib import Path

import pytest

REVIEWS = Path(__file__).resolve().parents[1] / "weights" / "reviews"
TOPICS, MOODS = ("movie", "phone", "food"), ("great", "terrible")
ROWS_PER_CELL = {"train": 32, "dev": 8, "test": 20}  # a cell is one (topic, mood) pair
splits = pytest.mark.parametrize("split", ROWS_PER_CELL)


def read(split: str) -> list[tuple[str, ...]]:
    """The rows (text, topic, mood) of one split, without its header."""
    lines = (REVIEWS / f"{split}.tsv").read_bytes().decode("ascii").split("\n")
    assert lines[0] == "text\ttopic\tmood" and lines[-1] == ""
    return [tuple(line.split("\t")) for line in lines[1:-1]]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


@splits
def test_every_cell_has_the_same_number_of_rows(split):
    expected = dict.fromkeys(product(TOPICS, MOODS), ROWS_PER_CELL[split])
    assert Counter(row[1:] for row in read(split)) == expected


@splits
def test_texts_are_one_clean_line_of_5_to_22_words(split):
    for text, *_ in read(split):
        assert re.fullmatch(r"[A-Z][A-Za-z',;:.!? -]*[.!?]", text), text
        assert "  " not in text and 5 <= len(words(text)) <= 22, text


@splits
def test_labels_are_not_given_away(split):
    rows = read(split)
    assert not [text for text, *_ in rows if set(MOODS) & set(words(text))]
    for topic in TOPICS:
        own = [words(text) for text, label, _ in rows if label == topic]
        assert sum(topic in text or topic + "s" in text for text in own) <= len(own) / 4


@splits
def test_rows_are_shuffled(split):
    cells = [row[1:] for row in read(split)]
    same = sum(cell == following for cell, following in pairwise(cells))
    assert same < len(cells) / 3  # a sixth is expected, and nearly all when sorted


def test_no_two_reviews_are_alike():
    bags = [frozenset(words(text)) for split in ROWS_PER_CELL for text, *_ in read(split)]
    assert len(bags) == 360
    for one, other in combinations(bags, 2):
        assert len(one & other) < 0.5 * len(one | other), (sorted(one), sorted(other))
