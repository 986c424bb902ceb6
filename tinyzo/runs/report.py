"""A run as a person sees it: a line of progress, and a picture of the losses."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from tinyzo.errors import shown
from tinyzo.packages import in_a_line, is_missing, optional, tell
from tinyzo.parsing import JsonObject
from tinyzo.runs.lines import read_lines
from tinyzo.system import write_file

LINE_SECONDS = 30.0  # between lines of progress, at least
BAR_COLUMNS = 40
BAR = "{n_fmt}/{total_fmt}|{bar}| left {remaining}, {desc}"  # what counts most comes first


def say(text: str) -> None:
    """Print a line of log to stderr, if somebody listens."""
    tell(shown(text))


@contextmanager
def resumable(run: Path) -> Iterator[None]:
    """Put the run that goes on into the `run` of a KeyboardInterrupt that stops what is inside."""
    try:
        yield
    except KeyboardInterrupt as stop:
        vars(stop)["run"] = run
        raise


def say_all(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)


def number(x: float) -> str:
    """A measured number as a person reads it: 0.6931, 3.2e+13, 1.5e-05."""
    if x == 0 or 1e-3 <= abs(x) < 1e4:
        return f"{x:.4f}"
    return f"{x:.4g}"


def progress(done: int, steps: int) -> Any:  # a tqdm, whose package has no types, or Lines
    """What shows the steps on stderr: a bar of tqdm where a terminal can draw it, else lines."""
    bar = None
    if _can_draw():
        bar = optional("tqdm", "no bar is shown", lambda: _bar(done, steps))
    return Lines(done, steps) if bar is None else bar


def _bar(done: int, steps: int) -> Any:
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no thread of its own, which a fork would meet

        def __str__(self) -> str:
            """The line, without the part that the end of a narrow terminal cuts in two."""
            line = super().__str__()
            whole = self.desc
            while whole not in line:
                whole = whole.rpartition(", ")[0]
            return line[: line.rindex(whole) + len(whole)]

    return Bar(
        total=steps,
        initial=done,
        unit="step",
        bar_format=BAR,
        miniters=1,
        dynamic_ncols=True,
        file=sys.stderr,
    )


def _can_draw() -> bool:
    """Whether stderr is a terminal that goes back in a line, of which a bar takes BAR_COLUMNS."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # a file, a pipe, or no descriptor, as in a notebook
        return False
    return columns >= BAR_COLUMNS and os.environ.get("TERM") != "dumb"


class Lines:
    """Progress for a log file, by the names that a bar of tqdm has.

    A line for the first step, for the last, and between them for the newest every LINE_SECONDS:

        step 120/400, loss=0.6931, dev=0.750, passes=240, memory=60MB, peak=64MB, s/step=0.123,
        left=0:00:34, in one line
    """

    def __init__(self, done: int, steps: int) -> None:
        self._done = done
        self._first = done
        self._steps = steps
        self._text = ""
        self._start = time.monotonic()
        self._next = self._start  # when a line is due

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set_description_str(self, text: str, refresh: bool) -> None:
        self._text = text

    def update(self) -> None:
        """Count a step, and say so if a line is due."""
        self._done += 1
        now = time.monotonic()
        if now >= self._next or self._done == self._steps:
            self._next = now + LINE_SECONDS
            taken = self._done - self._first
            seconds = (now - self._start) * (self._steps - self._done) / taken
            left = timedelta(seconds=round(seconds))
            say(f"step {self._done}/{self._steps}, {self._text}, left={left}")


def show(bar: Any, metrics: JsonObject, accuracy: float | None) -> None:
    """Move the bar by one step: loss, accuracy on dev if it is known, forward passes so far,
    memory now and at most, seconds.

    metrics: a line of metrics.jsonl
    """
    parts = [f"loss={number(metrics['loss'])}"]
    if accuracy is not None:
        parts.append(f"dev={accuracy:.3f}")
    parts.append(f"passes={metrics['step'] * metrics['forwards']}")
    if metrics["resident_bytes"]:  # 0 where the system does not say
        parts.append(f"memory={metrics['resident_bytes'] / 1e6:.0f}MB")
    parts.append(f"peak={metrics['peak_bytes'] / 1e6:.0f}MB")
    parts.append(f"s/step={metrics['seconds']:.3f}")
    bar.set_description_str(", ".join(parts), refresh=False)
    bar.update()


def plot(run: Path) -> str:
    """Draw the losses of a run to loss.png.

    returns: a line that says where it is, or how to get it
    """
    metrics = read_lines(run / "metrics.jsonl")
    events = read_lines(run / "events.jsonl")
    dev = [event for event in events if event.get("split") == "dev"]
    picture = run / "loss.png"
    try:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4))
        axes = figure.subplots()
        axes.plot(*_curve(metrics), lw=0.6, label="train")
        axes.plot(*_curve(dev), "o-", label="dev")
        axes.set(xlabel="step", ylabel="loss")
        axes.legend()
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=120, bbox_inches="tight")
        write_file(picture, drawn.getvalue())
    except Exception as error:  # of matplotlib's import, or its drawing
        if is_missing(error, "matplotlib"):
            return "no plot of the loss: pip install 'tinyzo[plot]' draws it"
        if isinstance(error, OSError) and error.strerror:
            return f"no plot of the loss: {picture}: {error.strerror}"
        return f"no plot of the loss: matplotlib cannot be used ({in_a_line(error)})"
    return f"losses drawn in {picture}"


def _curve(lines: list[JsonObject]) -> tuple[list[int], list[float]]:
    """Steps and losses."""
    return [line["step"] for line in lines], [line["loss"] for line in lines]
