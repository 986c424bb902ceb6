"""A run as `tinyzo report` reads it: a page whatever its lines hold, with nothing in it obeyed."""

from __future__ import annotations

from fuzz.reader import Reader, place
from fuzz.readers.events import EVENTS, METRICS, file
from fuzz.readers.journal import READER as JOURNAL

from tinyzo.cli.answers import table
from tinyzo.runs.answers import changes
from tinyzo.runs.lines import read_lines, sealed
from tinyzo.runs.page import html_page
from tinyzo.runs.recorded import read_run

MARK = b"<script>"
ANSWERS = [
    {"event": "answer", "step": step, "split": "test", "row": row, "text": "<script>\x1b[31m\u202e",
     "label": "great", "said": "terrible", "probability": 0.75, "is_right": False}
    for step in (0, 4)
    for row in (0, 7)
]  # fmt: skip


def read_page(data: bytes) -> None:
    """Both files have the same lines, each of which takes those of its kind."""
    place("page/journal", JOURNAL.seeds[0])
    place("page/metrics.jsonl", data)
    path = place("page/events.jsonl", data)
    page = html_page([read_run(path.parent)]).encode()
    is_obeyed = MARK in page.lower() or b"\x1b" in page or b"\0" in page
    if is_obeyed:
        raise ValueError("a text of a file is obeyed")
    list(table(changes(read_lines(path), 4), 60))


READER = Reader(
    read_page,
    seeds=[
        file([sealed(event) for event in (*ANSWERS, *EVENTS)]),
        file([*ANSWERS, *EVENTS]),
        file(METRICS),
        b"",
    ],
    words=[b'"row"', b'"step"', b"1e308", b"9" * 400, MARK, b"true", b"\\ud800", b"\\u0000", b"\n"],
)
