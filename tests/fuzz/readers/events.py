"""events.jsonl and metrics.jsonl: whole lines, torn ones, and the best step of what is left."""

from __future__ import annotations

import json

from fuzz.reader import Reader, place
from fuzz.readers.journal import READER as JOURNAL

from tinyzo.runs.lines import read, sealed
from tinyzo.runs.run import Run
from tinyzo.runs.settings import Settings

SETTINGS = Settings().resolve("opt")
EVENTS = [
    {"event": "evaluation", "step": step, "split": split, "examples": 8, "accuracy": 0.5,
     "loss": 0.25 * step}
    for step in (0, 2, 4)
    for split in ("dev", "test")
]  # fmt: skip
METRICS = [
    {"step": step, "loss": 0.5, "projected_gradient": -1.5, "lr": 1e-6, "eps": 1e-3, "seed": 7,
     "seconds": None if step == 1 else 0.25, "forwards": 2, "peak_bytes": 1 << 27}
    for step in (1, 2)
]  # fmt: skip


def read_both(data: bytes) -> None:
    place("journal", JOURNAL.seeds[0])
    path = place("events.jsonl", data)
    for family in ("opt", "roberta"):
        for line in read(path).lines:
            json.dumps(sealed(line))
        Run(path.parent, SETTINGS, {"family": family}).best_step()


def file(lines: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


ERROR = {"event": "error", "step": 3, "message": "the run has diverged: losses [nan, nan]"}
READER = Reader(
    read_both,
    seeds=[
        file([sealed(event) for event in EVENTS]),
        file([*EVENTS, ERROR]),
        file(METRICS),
        b"",
    ],
    words=[b'"crc"', b'"step"', b'"event"', b'"dev"', b"Infinity", b"\n"],
)
