"""The tables of the pages are those that bench/figures.py makes of the results on record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import scripts
from disturbed import Killed, die_at
from folders import lines, write_model, write_reviews

from tinyzo.errors import DataError, NumericError, UsageError
from tinyzo.runs.journal import Journal

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


def test_passes_before_the_first_step_learn_nothing(figures):
    settings, first, later = {"eval_every": 10}, [0, 0.5, 1.0], [36, 0.7, 0.8]
    run = {"settings": settings, "forwards_per_step": 2, "dev": [first, later]}
    assert figures.curve_of(run) == [first, [16, 0.5, 1.0], later]
    assert figures.reach([figures.curve_of(run)], 1, 0.6).since == pytest.approx(26)
    plain = run | {"dev": [first, [20, 0.7, 0.8]]}
    assert figures.curve_of(plain) == plain["dev"]
    assert figures.curve_of(run | {"dev": [first]}) == [first]


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
        ["MeZO", "75.0 (7.1) / 90.5 (1.2)", "25.0 / 88.0", ""],
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


# -- bench/mezo_table.py, on a task of our own


@pytest.fixture
def bench(figures: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # with these it starts anew
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "common", scripts.load("common"))
    monkeypatch.setitem(sys.modules, "figures", figures)
    return scripts.load("mezo_table")


def options(place: Path, **more: Any) -> Namespace:
    if not (place / "model").exists():
        write_model(place / "model")
        write_reviews(place / "data", train=24)
    values: dict[str, Any] = {
        "model": str(place / "model"),
        "data": {"reviews": str(place / "data")},
        "out": place / "out.jsonl",
        "runs": place / "runs",
        "rows": ["MeZO", "first order"],
        "seeds": [13],
        "lr": {"mezo": 1e-2},
        "steps": 6,
        "batch_size": 4,
        "recipes": None,
        "k_shot": 2,
        "limit": None,
        "threads": 1,
        "minutes": 60,
    }
    return Namespace(**values | more)


def scores(path: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name not in ("seconds", "commit")}
        for line in lines(path)
    ]


@pytest.mark.parametrize("call", [4, 9])  # in the first run, and in the second
def test_a_table_goes_on_where_it_was_stopped(bench: ModuleType, tmp_path: Path, call: int) -> None:
    bench.measure(options(tmp_path, out=tmp_path / "whole.jsonl", runs=tmp_path / "others"))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        die_at(patch, Journal, "append", call, after=True)
        bench.measure(options(tmp_path))
    bench.measure(options(tmp_path))
    whole = scores(tmp_path / "whole.jsonl")
    assert [line["row"] for line in whole] == ["MeZO", "first order"]
    assert [line["settings"]["steps"] for line in whole] == [6, 6]
    assert scores(tmp_path / "out.jsonl") == whole
    bench.measure(options(tmp_path))
    assert scores(tmp_path / "out.jsonl") == whole  # what is done is not done again


def test_a_run_of_other_settings_is_not_taken_for_the_one_asked(
    bench: ModuleType, tmp_path: Path
) -> None:
    for steps in (2, 3):
        bench.measure(options(tmp_path, out=tmp_path / f"{steps}", rows=["MeZO"], steps=steps))
    assert scores(tmp_path / "3")[0]["settings"]["steps"] == 3
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.parametrize("error", [UsageError, NumericError, DataError])
def test_what_no_seed_has_is_tried_once_and_what_one_seed_has_not_again(
    bench: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: type[Exception],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error("it is so")

    monkeypatch.setattr(bench.tinyzo, "finetune", refuse)
    bench.measure(options(tmp_path, seeds=[13, 21], rows=["MeZO"]))
    found = capsys.readouterr().err
    times = 1 if error is UsageError else 2
    assert found == "reviews, MeZO: passed over, it is so\n" * times


def test_folders_of_a_seed_hold_rows_that_are_drawn_already(
    bench: ModuleType, tmp_path: Path
) -> None:
    given = options(tmp_path, rows=["MeZO"], seeds=[13, 21])
    (tmp_path / "data").rename(tmp_path / "2-21")
    given.data = {"reviews": str(tmp_path / "2-{seed}")}
    bench.measure(given)
    assert [(line["seed"], line["k_shot"]) for line in scores(given.out)] == [(21, 2)]
    (run,) = given.runs.iterdir()
    assert "k_shot" not in (run / "run.toml").read_text()


def test_settings_are_those_of_a_recipe_and_of_the_command(
    bench: ModuleType, tmp_path: Path
) -> None:
    given = options(tmp_path, recipes="roberta-large", lr={}, steps=None, batch_size=None)
    table = bench.Table(given)
    found = table.settings("SST-2", bench.ROWS["MeZO, LoRA"])
    assert (found["lr"], found["steps"], found["weight_decay"]) == (1e-4, 100_000, 0.1)
    given.steps, given.batch_size, given.lr = 50, 4, {"lora": 1.0}
    found = table.settings("SST-2", bench.ROWS["MeZO, LoRA"])
    assert (found["lr"], found["steps"], found["batch_size"]) == (1.0, 50, 4)
    assert found["eval_every"] == 10 and "k_shot" not in found
    assert table.settings("SST-2", bench.ROWS["first order"])["batch_size"] == 8
    given.recipes = None  # the folder is called "model"
    assert table.settings("SST-2", bench.ROWS["MeZO"])["method"] == "mezo"
