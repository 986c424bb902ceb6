"""Ten rows with what the model said before and after, as lines of a terminal."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from tinyzo.cli.streams import put
from tinyzo.errors import shown

if TYPE_CHECKING:
    from tinyzo.runs.answers import Answer, Change
    from tinyzo.runs.run import Run

CUT = "..."
TEXT_SHARE = 3  # one column of a terminal in so many is a text's, in a table
NOTHING = "(nothing)"  # where a model wrote an empty answer
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


def table(found: Sequence[Change], columns: int) -> Iterable[str]:
    """A row in each line; where that leaves a text too little room, in a block of lines."""
    cells = [
        (shown(before.label), _said(before), _said(after), shown(before.text))
        for before, after in found
    ]
    widths = [max(map(width, column)) for column in list(zip(HEAD, *cells, strict=True))[:-1]]
    left = columns - 2 - sum(size + 2 for size in widths)
    if left < columns // TEXT_SHARE:
        return chain.from_iterable(_block(row, columns) for row in cells)
    return (_line(row, widths, left) for row in (HEAD, *cells))


def _line(cells: Sequence[str], widths: Sequence[int], left: int) -> str:
    """A row in one line, whose text has what is left of it."""
    *others, text = cells
    padded = "  ".join(map(pad, others, widths))
    return f"  {padded}  {squeezed(text, left)}".rstrip()


def _block(cells: Sequence[str], columns: int) -> Iterator[str]:
    """A row as lines: the text, and below it what is said of it."""
    *others, text = cells
    size = max(map(width, HEAD[:-1]))
    yield f"  {squeezed(text, columns - 2)}"
    for name, cell in zip(HEAD, others, strict=False):
        yield f"    {pad(name, size)}  {cut(cell, columns - size - 6)}"


def _said(answer: Answer | None) -> str:
    """As `+ great 0.73`, or of an answer that was written `- the Alps`."""
    if answer is None:
        return "?"
    said = f"{'+' if answer.is_right else '-'} {shown(answer.said) or NOTHING}"
    return said if answer.probability is None else f"{said} {answer.probability:.2f}"


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
    return _beginning(text, columns - len(CUT)).rstrip() + CUT


def squeezed(text: str, columns: int) -> str:
    """The same, with its middle cut out: a question may come after a passage."""
    text = shown(text)
    if width(text) <= columns:
        return text
    room = columns - len(CUT)
    end = _beginning(text[::-1], room // 2)[::-1]
    return _beginning(text, room - room // 2).rstrip() + CUT + (end.partition(" ")[2] or end)


def _beginning(text: str, columns: int) -> str:
    """As much of a text as fits."""
    while width(text) > columns:
        text = text[:-1]
    return text
