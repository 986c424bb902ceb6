"""Ten rows with what the model said before and after, as lines of a terminal."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tinyzo.cli.streams import put
from tinyzo.errors import shown

if TYPE_CHECKING:
    from tinyzo.runs.answers import Answer, Change
    from tinyzo.runs.run import Run

CUT = "..."
LEAST_TEXT = 12  # columns of a text, however narrow the terminal is
MOST_LABEL = 16
HEAD = ("label", "before", "after", "text")


def put_changes(run: Run, best_step: int) -> None:
    """Print what a run's model said of ten rows; nothing, if the run has kept none."""
    from tinyzo.runs.answers import changes
    from tinyzo.runs.lines import EVENTS, read_lines

    found = changes(read_lines(run.path / EVENTS), best_step)
    if found:
        steps = "1 step" if best_step == 1 else f"{best_step} steps"
        put(f"{len(found)} of these rows, before and after {steps} (+ right, - wrong):")
        for line in table(found, shutil.get_terminal_size().columns):
            put(line)


def table(found: Sequence[Change], columns: int) -> Iterator[str]:
    """Lines of at most so many columns, where that leaves LEAST_TEXT for a text."""
    rows = [HEAD]
    for before, after in found:
        label = cut(before.label, MOST_LABEL)
        rows.append((label, _said(before), _said(after), shown(before.text)))
    widths = [max(map(width, column)) for column in list(zip(*rows, strict=True))[:-1]]
    left = max(LEAST_TEXT, columns - 2 - sum(size + 2 for size in widths))
    for *cells, text in rows:
        padded = (pad(cell, size) for cell, size in zip(cells, widths, strict=True))
        yield f"  {'  '.join(padded)}  {cut(text, left)}".rstrip()


def _said(answer: Answer | None) -> str:
    """As `+ great 0.73`."""
    if answer is None:
        return "?"
    mark = "+" if answer.is_right else "-"
    return f"{mark} {cut(answer.said, MOST_LABEL)} {answer.probability:.2f}"


def width(text: str) -> int:
    """The columns that a text takes in a terminal: of a Chinese letter two, of an accent none."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)


def pad(text: str, columns: int) -> str:
    return text + " " * (columns - width(text))


def cut(text: str, columns: int) -> str:
    """A text as a terminal may show it, its end cut off where it takes more columns."""
    text = shown(text)
    if width(text) <= columns:
        return text
    while width(text) > columns - len(CUT):
        text = text[:-1]
    return text.rstrip() + CUT
