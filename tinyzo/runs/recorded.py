"""What the files of a run say, however far it came, and whatever became of them since.

Other readers refuse a damaged file, since they go on with what it says; this one only shows it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, TypeVar

from tinyzo.errors import RunError, TinyzoError, shown
from tinyzo.parsing import JsonObject
from tinyzo.runs.answers import Change, changes
from tinyzo.runs.charts import Point
from tinyzo.runs.journal import read_journal
from tinyzo.runs.lines import EVENTS, read
from tinyzo.runs.run import RUN_TOML, Run, directory_of

T = TypeVar("T")
METRICS = "metrics.jsonl"
MEGABYTE = 1e6
LARGEST = 1e300  # of a number that can be drawn; JSON has larger integers


class Recorded(NamedTuple):
    """A run as its files have it.

    name:     what the page calls it
    run:      None when run.toml cannot be read
    metrics:  the lines of metrics.jsonl; passes, seconds: until the end of each of these steps
    events:   the lines of events.jsonl
    steps:    in the journal; None when it cannot be read
    result:   of a finished run, else empty
    problems: what is missing or damaged, a line each
    """

    name: str
    path: Path
    run: Run | None
    metrics: list[JsonObject]
    passes: list[float]
    seconds: list[float]
    events: list[JsonObject]
    steps: int | None
    journal_bytes: int
    result: JsonObject
    best_step: int | None
    problems: list[str]

    @property
    def final_step(self) -> int | None:
        """The best step, whose model is the result; None while other steps may be better."""
        return self.best_step if self.result else None

    def column(self, key: str) -> list[float]:
        """A key of metrics.jsonl at each step; NaN where there is no number."""
        return [number_of(line.get(key)) for line in self.metrics]

    def against(self, ends: Sequence[float], key: str) -> list[Point]:
        """A key of metrics.jsonl against `passes` or `seconds`."""
        return [Point(*pair) for pair in zip(ends, self.column(key), strict=True)]

    def evaluations(self, split: str) -> list[JsonObject]:
        """The evaluations of a split, by step."""
        found = [e for e in self.events if e["event"] == "evaluation" and e["split"] == split]
        return sorted(found, key=lambda event: event["step"])

    def evaluated(self, ends: Sequence[float], split: str, key: str) -> list[Point]:
        """A key of a split's evaluations against `passes` or `seconds`, as far as these go."""
        places = [0.0, *ends]
        return [
            Point(places[event["step"]], number_of(event[key]))
            for event in self.evaluations(split)
            if 0 <= event["step"] < len(places)
        ]

    def returns(self) -> list[JsonObject]:
        """Where the run went back."""
        return [event for event in self.events if event["event"] == "returned"]

    def changes(self) -> list[Change]:
        """Ten rows with what the model said before and after."""
        return changes(self.events, self.final_step)


def number_of(value: object) -> float:
    """A number of a file as a float; NaN for what is none, or is too large to be drawn."""
    is_number = isinstance(value, int | float) and abs(value) < LARGEST
    return float(value) if is_number else float("nan")  # type: ignore[arg-type]  # as just seen


def read_run(path: Path) -> Recorded:
    """All that can be read of a run.

    path: its directory, or a file in it
    raises: RunError for a folder that has nothing of a run
    """
    path = directory_of(path)
    if not any(os.path.isfile(path / name) for name in (RUN_TOML, "journal", METRICS)):
        raise RunError(f"{path}: there is no run", "name the --output of finetune")
    problems: list[str] = []
    run = _tried(lambda: Run.open(path), problems)
    metrics = _read_lines(path / METRICS, problems)
    events = _read_lines(path / EVENTS, problems)
    contents = _tried(lambda: read_journal(path / "journal"), problems)
    result: JsonObject = {}
    best_step = None
    if run is not None:
        result = _tried(lambda: run.result, problems) or {}
        best_step = _tried(run.best_step, [])  # of what is damaged, it is said above
    problems += [str(e["message"]) for e in events if e["event"] == "error" and e.get("message")]
    return Recorded(
        name=path.resolve().name or str(path),
        path=path,
        run=run,
        metrics=metrics,
        passes=_sums(line["forwards"] for line in metrics),
        seconds=_sums(line.get("seconds") for line in metrics),
        events=events,
        steps=None if contents is None else len(contents.steps),
        journal_bytes=_size(path / "journal"),
        result=result,
        best_step=best_step,
        problems=[_without(path, problem) for problem in dict.fromkeys(problems)],
    )


def _tried(read_it: Callable[[], T], problems: list[str]) -> T | None:
    """What can be read; None, and why not among the problems, for what cannot."""
    try:
        return read_it()
    except TinyzoError as error:
        problems.append(error.message)
    return None


def _read_lines(path: Path, problems: list[str]) -> list[JsonObject]:
    """The lines of a file up to the first that is damaged."""
    found = _tried(lambda: read(path), problems)
    if found is None:
        return []
    if found.is_damaged:
        problems.append(f"{path}: line {len(found.lines) + 1} is damaged, and what follows unread")
    is_of_metrics = path.name == METRICS
    return [line for line in found.lines if ("event" in line) != is_of_metrics]


def _sums(values: Iterable[object]) -> list[float]:
    """The sum up to each value; what is not known, of a step made again, counts as nothing."""
    numbers = (number_of(value) for value in values)
    return list(accumulate(0.0 if number != number else number for number in numbers))


def _without(path: Path, problem: str) -> str:
    """A problem without the run's path, which is said beside it."""
    own = shown(str(path))
    return problem.removeprefix(f"{own}: ").removeprefix(f"{own}{os.sep}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
