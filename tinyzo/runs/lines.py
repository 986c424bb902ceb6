"""metrics.jsonl and events.jsonl: an object a line, the last of which may be torn.

A line of events.jsonl says its CRC-32 too, since evaluations decide which step is best.
"""

from __future__ import annotations

import json
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tinyzo.errors import RunError
from tinyzo.parsing import JsonObject
from tinyzo.system import os_errors

FOLDER = "check the folder of the run"
EVENTS = "events.jsonl"
NUMBER = (int, float)
LONGEST = 1 << 16  # bytes of a line; what a run writes has some 300, or 5,000 with a text
MOST_KEYS = 32
# What there is in a line at least: of an event, by its name; of metrics.jsonl, which names none.
KEYS: dict[str, dict[str, tuple[type, ...]]] = {
    "None": {"step": (int,), "loss": NUMBER, "seconds": (*NUMBER, type(None)), "forwards": (int,)},
    "evaluation": {
        "step": (int,),
        "split": (str,),
        "examples": (int,),
        "accuracy": (*NUMBER, type(None)),
        "loss": NUMBER,
    },
    "answer": {
        "step": (int,),
        "split": (str,),
        "row": (int,),
        "text": (str,),
        "label": (str,),
        "said": (str,),
        "probability": (float, type(None)),
        "is_right": (bool,),
    },
    "error": {"step": (int,)},
    "engine": {"step": (int,), "engine": (str,)},
    "returned": {"step": (int,), "to": (int,), "factor": NUMBER},
    "dropped": {"step": (int,), "node": (str,), "why": (str,)},  # of a fleet
    "stopped": {"step": (int,), "best": (int,)},
}


def read_lines(path: Path) -> list[JsonObject]:
    """The lines of metrics.jsonl or events.jsonl up to the first that is torn or damaged.

    None when there is no file.
    """
    return read(path)[0]


class Lines(NamedTuple):
    """The lines up to the first that is not whole. is_damaged: there are others after it."""

    lines: list[JsonObject]
    is_damaged: bool


def read(path: Path) -> Lines:
    """The lines of a file; none when there is no file.

    raises: RunError when it cannot be read
    """
    data = b""
    with os_errors(RunError, path, FOLDER), suppress(FileNotFoundError):
        data = path.read_bytes()
    lines: list[JsonObject] = []
    *whole, last = data.split(b"\n")
    for text in whole:
        line = _parse_line(text)
        if line is None:
            return Lines(lines, is_damaged=True)
        lines.append(line)
    line = _parse_line(last)  # it has no end: of a process that died, or that is writing it
    return Lines(lines if line is None else [*lines, line], is_damaged=False)


def _parse_line(text: bytes) -> JsonObject | None:
    """A flat object with the keys of its kind and, if it says a CRC, with this CRC; else None."""
    line = parse_object(text) if len(text) <= LONGEST else None
    if line is None or len(line) > MOST_KEYS or _has_parts(line):
        return None
    if line.pop("crc", None) not in (None, _crc(line)):
        return None
    keys = KEYS.get(str(line.get("event")), {"event": ()})
    is_whole = all(key in line and isinstance(line[key], kinds) for key, kinds in keys.items())
    return line if is_whole else None


def _has_parts(line: JsonObject) -> bool:
    return any(isinstance(value, dict | list) for value in line.values())


def parse_object(text: bytes) -> JsonObject | None:
    """A JSON object, whose numbers are finite as JSON's are; None for all else."""
    try:
        found = json.loads(text.decode())
        json.dumps(found, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def sealed(line: JsonObject) -> JsonObject:
    """A line with its CRC."""
    return line | {"crc": _crc(line)}


def _crc(line: JsonObject) -> str:
    """The CRC-32 of a line without its own."""
    return f"{zlib.crc32(json.dumps(line).encode()):08x}"
