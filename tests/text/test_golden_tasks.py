"""Every published task makes the ids of golden/tasks.json, which tinyzo had no part in."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tinyzo.text.tasks import TASKS, Example, get_task
from tinyzo.text.tokenizer import Tokenizer, load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "tasks.json").read_text(encoding="utf-8"))
OURS = ("topics", "reviews")  # of the data that ship


@cache
def shipped(family: str) -> Tokenizer:
    return load_tokenizer(ROOT / "weights" / f"{family}-tiny")


def name_of(case: dict[str, Any]) -> str:
    return f"{case['family']}-{case['task']}-{case['max_length']}"


@pytest.mark.parametrize("case", GOLDEN, ids=name_of)
def test_a_row_becomes_the_published_ids(case: dict[str, Any]) -> None:
    task = get_task(case["task"], case["family"])
    bound = task.bind(shipped(case["family"]), case["max_length"])
    example = bound.encode(case["row"])
    wanted = case["example"]
    assert list(example.prompt) == wanted["prompt"]
    assert [list(candidate) for candidate in example.candidates] == wanted["candidates"]
    assert example.mask_at == wanted["mask_at"]
    assert [example.label, *example.also_gold] == [wanted["label"], *wanted["also_gold"]]
    assert list(example.answers) == wanted["answers"]
    assert bound.label_word_ids == case["words"]


@pytest.mark.parametrize("case", GOLDEN, ids=name_of)
def test_a_row_without_its_label_makes_the_same_prompt(case: dict[str, Any]) -> None:
    task = get_task(case["task"], case["family"])
    bound = task.bind(shipped(case["family"]), case["max_length"])
    labelled = bound.encode(case["row"])
    row = {name: value for name, value in case["row"].items() if not name.startswith("answers")}
    example = bound.encode(row, labelled=False)
    assert (example.prompt, example.mask_at, example.label) == (
        labelled.prompt,
        labelled.mask_at,
        -1,
    )
    assert example.candidates == (() if task.is_generated else labelled.candidates)
    assert (example.also_gold, example.answers) == ((), ())


def test_all_published_tasks_are_there_and_some_rows_are_cut() -> None:
    golden = {(case["family"], case["task"]) for case in GOLDEN}
    assert golden == {(task.family, task.name) for task in TASKS if task.name not in OURS}
    assert [sum(family == each for each, _ in golden) for family in ("roberta", "opt")] == [6, 11]
    full = {case["task"] for case in GOLDEN if _length(case) == case["max_length"]}
    assert full == {"SST-2", "RTE", "BoolQ", "MultiRC", "ReCoRD", "SQuAD", "DROP"}


def _length(case: dict[str, Any]) -> int:
    """The tokens of a prompt with its longest candidate, or with the room for an answer."""
    candidates = [len(candidate) for candidate in case["example"]["candidates"]]
    room = 50 if case["example"]["answers"] else 0
    return len(case["example"]["prompt"]) + max([*candidates, room])


def test_a_changed_id_is_seen() -> None:
    case = next(case for case in GOLDEN if case["task"] == "ReCoRD")
    bound = get_task("ReCoRD", "opt").bind(shipped("opt"))
    row = {**case["row"], "query": case["row"]["query"].lower()}
    example: Example = bound.encode(row)
    assert [list(candidate) for candidate in example.candidates] != case["example"]["candidates"]
