"""Runs that are stopped on purpose, and what must be the same however they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from folders import lines

UNEQUAL = (
    "seconds",
    "waited_seconds",
    "peak_bytes",
    "resident_bytes",
)  # of a line of metrics.jsonl


class Killed(BaseException):
    """The end of the process, as far as one process can say."""


def die_at(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, call: int, after: bool) -> None:
    """Die at that call of a function, before or after it has done its work."""
    original, count = getattr(where, name), [0]

    def dying(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] == call and not after:
            raise Killed
        result = original(*args, **kwargs)
        if count[0] == call:
            raise Killed
        return result

    monkeypatch.setattr(where, name, dying)


def record(run: Path) -> tuple[bytes, list[dict], list[dict], dict]:
    """Journal, metrics, evaluations, answers and result, without times and places."""
    metrics = [
        {k: v for k, v in line.items() if k not in UNEQUAL} for line in lines(run / "metrics.jsonl")
    ]
    found = lines(run / "events.jsonl")
    events = [e for e in found if e["event"] in ("evaluation", "returned", "stopped")]
    answers = {(e["step"], e["row"]): e for e in found if e["event"] == "answer"}  # maybe twice
    events.extend(answers.values())
    events.sort(key=lambda e: (e["step"], e.get("split", ""), e.get("row", -1)))
    result = json.loads((run / "result.json").read_text())
    for name in ("run", "peak_bytes", "seconds", "seconds_per_step"):
        del result[name]
    return (run / "journal").read_bytes(), metrics, events, result
