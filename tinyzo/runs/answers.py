"""What the model says of ten rows, before it is tuned and after: lines of events.jsonl.

An evaluation scores these rows with all others, so they cost nothing. Their lines are written
with the line of the evaluation, before it: an evaluation on record has its answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tinyzo.parsing import JsonObject
from tinyzo.text.tasks import BoundTask, Example

ROWS = 10
TEXT_LETTERS = 300  # of a row's text, and of a label, that are kept
LABEL_LETTERS = 60


class Answer(NamedTuple):
    """What was said of a row.

    row:         its place among the rows reported on, from 0
    text:        the row's first text
    label:       the gold label, by its label word
    said:        the likeliest label
    probability: of that
    is_right:    whether that is a gold one, of which a row may have several
    """

    row: int
    text: str
    label: str
    said: str
    probability: float
    is_right: bool


class Change(NamedTuple):
    """A row's answer before tuning, and after; None: not known, or not yet."""

    before: Answer
    after: Answer | None


def shown_rows(count: int) -> list[int]:
    """Ten rows of `count`, evenly apart, since files may be sorted by their labels."""
    most = min(count, ROWS)
    return [number * count // most for number in range(most)]


def answers(
    bound: BoundTask, examples: Sequence[Example], scores: Sequence[np.ndarray]
) -> list[Answer]:
    """The answers to the rows that are shown.

    scores: f64[C] of each example's candidates, -inf where it has fewer
    """
    names = bound.task.names_of_labels
    found = []
    for row in shown_rows(len(examples)):
        odds = np.exp(scores[row] - scores[row].max())
        best = int(odds.argmax())
        found.append(
            Answer(
                row,
                examples[row].text[:TEXT_LETTERS],
                _name(names, examples[row].label),
                _name(names, best),
                float(odds[best] / odds.sum()),
                examples[row].is_right(best),
            )
        )
    return found


def _name(names: Sequence[str], label: int) -> str:
    """The name of a label, or its number where candidates have none."""
    name = names[label] if label < len(names) else str(label)
    return name[:LABEL_LETTERS]


def lines(step: int, split: str, found: Iterable[Answer]) -> list[JsonObject]:
    """Answers as lines of events.jsonl."""
    about = {"event": "answer", "step": step, "split": split}
    return [about | answer._asdict() for answer in found]


def changes(events: Iterable[JsonObject], best_step: int | None) -> list[Change]:
    """The rows shown, with the answers of step 0 and of the best step.

    events: of a run; those that a kill made be written twice count once
    """
    said: dict[int, dict[int, Answer]] = {}
    for event in events:
        if event.get("event") == "answer" and event["split"] == "test":
            answer = Answer(*(event[name] for name in Answer._fields))
            said.setdefault(event["step"], {})[answer.row] = answer
    after = said.get(best_step, {}) if best_step is not None else {}
    return [Change(said[0][row], after.get(row)) for row in sorted(said.get(0, {}))]
