"""The tables of the pages are those that bench/figures.py makes of the results on record."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import scripts

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    return scripts.load("figures")


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_the_tables_of_a_page_are_those_of_the_results(figures, page):
    text = page.read_text(encoding="utf-8")
    assert figures.filled(text) == text, "run bench/figures.py"


def test_every_table_stands_in_a_page(figures):
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")]
    found = {name for text in pages for _, name, _ in figures.MARKED.findall(text)}
    assert found == figures.TABLES.keys()


def test_a_changed_number_is_seen(figures):
    text = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    assert "| 0.23 |" in text
    assert figures.filled(text.replace("| 0.23 |", "| 0.22 |")) == text


def test_a_mean_is_at_its_target_from_where_it_stays_there(figures):
    touched_twice = [[0, 0.5, 1.0], [10, 0.7, 1.0], [20, 0.5, 1.0], [40, 0.9, 1.0]]
    found = figures.reach([touched_twice], column=1, target=0.7)
    assert found == figures.Reach(pytest.approx(30), ends=1, curves=1)
    assert figures.reach([touched_twice], column=2, target=0.5).since is None
