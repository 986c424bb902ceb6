"""What the model says of ten rows, before it is tuned and after: lines of events.jsonl.

An evaluation asks of these rows as of all others, so they cost nothing. Their lines are written
with the line of the evaluation, before it: an evaluation on record has its answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from tinyzo.parsing import JsonObject
from tinyzo.text.answers import exact_match
from tinyzo.text.rows import Row
from tinyzo.text.tasks import Example, Task
from tinyzo.text.templates import parse_template

ROWS = 10
TEXT_LETTERS = 300  # of what is kept of a row's text, and of a label or an answer
LABEL_LETTERS = 100
GAP = " ... "
BETWEEN = " | "  # the columns of a row, and its gold answers


class Shown(NamedTuple):
    """A row as a person reads it.

    row:   its place among the rows reported on, from 0
    text:  what its columns say
    label: its gold label; its gold answers, where there may be several
    names: what the labels that the model chooses from are called
    """

    row: int
    text: str
    label: str
    names: tuple[str, ...]


class Answer(NamedTuple):
    """What was said of a row.

    row, text, label: as in Shown
    said:        the likeliest label, or the answer that the model wrote
    probability: of that; None where it was written
    is_right:    whether that is a gold one
    """

    row: int
    text: str
    label: str
    said: str
    probability: float | None
    is_right: bool


class Change(NamedTuple):
    """A row's answer before tuning, and after; None: not known, or not yet."""

    before: Answer
    after: Answer | None


def shown_rows(task: Task, rows: Sequence[Row]) -> list[Shown]:
    """Ten of these rows, evenly apart, since files may be sorted by their labels."""
    most = min(len(rows), ROWS)
    return [_shown(task, number * len(rows) // most, rows) for number in range(most)]


def _shown(task: Task, place: int, rows: Sequence[Row]) -> Shown:
    row = rows[place]
    texts = [task.text(row, name) for name in _columns(task)]
    if task.labels:
        names = [word.strip() for word in task.endings(row, ())]
        gold = [names[number] for number in task.gold(row)]
    else:
        names = list(task.texts(row, task.choices)) if task.choices else []
        gold = list(dict.fromkeys(task.answers(row)))
    return Shown(
        row=place,
        text=squeezed(BETWEEN.join(filter(None, texts)), TEXT_LETTERS),
        label=squeezed(BETWEEN.join(gold), LABEL_LETTERS),
        names=tuple(names),
    )


def _columns(task: Task) -> list[str]:
    """The columns that say what is asked, without those that only name labels (COPA)."""
    templates = [task.template] if task.labels else [task.template, *task.words]
    pieces = chain.from_iterable(map(parse_template, templates))
    return list(dict.fromkeys(piece.field for piece in pieces if piece.field))


def answers(
    shown: Sequence[Shown], examples: Sequence[Example], said: Sequence[np.ndarray | str]
) -> list[Answer]:
    """The answers to the rows that are shown.

    said: of each example the scores of its candidates, f64[C], -inf where it has fewer; or the
        answer that the model wrote
    """
    return [
        Answer(
            row=each.row,
            text=each.text,
            label=each.label,
            **_said(each.names, examples[each.row], said[each.row]),
        )
        for each in shown
    ]


def _said(names: Sequence[str], example: Example, said: np.ndarray | str) -> JsonObject:
    """What an answer has besides its row."""
    if isinstance(said, str):
        return {
            "said": squeezed(said, LABEL_LETTERS),
            "probability": None,
            "is_right": exact_match(said, example.answers) == 1,
        }
    odds = np.exp(said - said.max())
    best = int(odds.argmax())
    return {
        "said": squeezed(names[best], LABEL_LETTERS),
        "probability": float(odds[best] / odds.sum()),
        "is_right": example.is_right(best),
    }


def squeezed(text: str, letters: int) -> str:
    """A text, without its middle where it has more letters: a question may come at its end."""
    if len(text) <= letters:
        return text
    kept = letters - len(GAP)
    end = text[-(kept // 2) :]
    return f"{text[: kept - kept // 2].rstrip()}{GAP}{end.partition(' ')[2] or end}"


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
