"""Short rows of the tasks that list candidates, or have their answers written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from folders import write_jsonl, write_model

Rows = list[dict[str, Any]]


def record_rows(count: int) -> Rows:
    """Of ReCoRD, with two to four entities, of which one or two are right."""
    names = ["Al", "Bo", "Cy", "Di"]
    return [
        {
            "passage": f"{n}.\n@highlight\nNo",
            "query": "@placeholder no",
            "entities": names[: 2 + n % 3],
            "answers": names[: 1 + n % 2],
        }
        for n in range(count)
    ]


def squad_rows(count: int) -> Rows:
    return [
        {
            "title": "T",
            "context": f"No {n}.",
            "question": "No?",
            "answers": {"text": [f"No {n}", "No"]},
        }
        for n in range(count)
    ]


def drop_rows(count: int) -> Rows:
    return [
        {"passage": f"No {n}.", "question": "No?", "answers_spans": {"spans": [f"{n}"]}}
        for n in range(count)
    ]


def multirc_rows(count: int) -> Rows:
    return [
        {"paragraph": f"No {n}", "question": "No?", "answer": "No", "label": n % 2}
        for n in range(count)
    ]


def copa_rows(count: int) -> Rows:
    """Of COPA, whose choices have several tokens, and not the same number."""
    return [
        {
            "premise": f"No {n}.",
            "question": "cause",
            "choice1": "no no " * (1 + n % 3),
            "choice2": "a",
            "label": n % 2,
        }
        for n in range(count)
    ]


ROWS = {"MultiRC": multirc_rows, "ReCoRD": record_rows, "SQuAD": squad_rows, "DROP": drop_rows}


def write_questions(home: Path, count: int) -> Path:
    """An `opt` of 128 positions, and so many rows of each task."""
    write_model(home / "opt", "opt")
    for name, rows in (ROWS | {"COPA": copa_rows}).items():
        write_jsonl(home / f"{name}.jsonl", rows(count))
    return home
