"""The tables of the pages are those that bench/figures.py makes of the results on record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


def test_the_tables_of_mezo_stand_beside_the_published_figures(figures):
    def line(model, row, score, k_shot=16, task="SST-2"):
        return {"model": model, "task": task, "k_shot": k_shot, "row": row, "score": score}

    lines = [
        line("roberta-base", "zero-shot", 0.5),
        line("roberta-base", "MeZO", 0.7),
        line("roberta-base", "MeZO", 0.8),
        line("opt-125m", "MeZO", 0.25, None, "COPA"),
        line("opt-125m", "ICL", 0.5, 16, "COPA"),
    ]
    table = figures.mezo_table(lines)
    assert table.head[1:] == [
        "roberta-base, SST-2, k=16", "opt-125m, COPA, all rows", "opt-125m, COPA, k=16"
    ]  # fmt: skip
    assert table.rows == [
        ["zero-shot", "50.0 / 79.0", " / 80.0", " / 80.0"],
        ["ICL", "", "", "50.0"],
        ["MeZO", "75.0 (7.1) / 90.5", "25.0 / 88.0", ""],
    ]


def test_a_long_run_says_what_shorter_budgets_come_to(figures):
    dev = [[0, 0.5, 1.0], [378, 0.9, 0.9], [1512, 0.6, 0.8], [6048, 0.7, 1.1]]
    opt = {"task": "t", "method": "m", "budget": 6144, "settings": {"model": "opt-tiny"}}
    long = opt | {"course": "constant", "dev": dev}
    short = opt | {"course": "linear", "budget": 384, "dev": dev[:2]}
    table = figures.budgets([long] * 3 + [short], figures.last_losses, "loss")
    assert [row[1:] for row in table.rows] == [
        ["0", "0.500, 1.000"],
        ["384", "0.900"],
        ["1,536", "0.800"],
        ["6,144", "1.100 (3 worse)"],
        ["384", "0.900 [1]"],
    ]
    broken = long | {"dev": dev[:3], "error": "the run has diverged"}
    table = figures.budgets([long, long, broken], figures.last_losses, "loss")
    assert [row[2] for row in table.rows[1:]] == ["0.900", "0.800", "1.100 (2 worse) (1 diverged)"]
    table = figures.budgets([broken], figures.last_losses, "loss")
    assert table.rows[3][2] == "(1 diverged) [1]"
    assert figures.reported_scores([long], 6144) == "0.600, 0.800"  # OPT by loss
    roberta = long | {"settings": {"model": "roberta-tiny"}}
    assert figures.reported_scores([roberta], 6144) == "0.900, 0.900"


def test_a_line_that_is_torn_is_taken_off(tmp_path):
    path = tmp_path / "results.jsonl"
    whole = {"model": "m", "task": "RTE", "k_shot": 16, "row": "ICL", "score": 0.5}
    path.write_text(json.dumps(whole) + '\n{"model": "m')
    command = [sys.executable, ROOT / "bench" / "mezo_table.py", "--out", path, "--table"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "| ICL | 50.0 |" in done.stdout
    assert path.read_text() == json.dumps(whole) + "\n"
