"""A run as a person sees it: a line of progress, and a picture of the losses."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tinyzo.packages import in_a_line, is_missing, optional
from tinyzo.parsing import JsonObject
from tinyzo.runs.lines import read_lines


def say(text: str) -> None:
    """Print a line of log to stderr."""
    print(text, file=sys.stderr, flush=True)


def say_all(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)


def number(x: float) -> str:
    """A measured number as a person reads it: 0.6931, 3.2e+13, 1.5e-05."""
    if x == 0 or 1e-3 <= abs(x) < 1e4:
        return f"{x:.4f}"
    return f"{x:.4g}"


class NoBar:
    """What shows nothing, where there is no tqdm."""

    def __enter__(self) -> "NoBar":
        return self

    def __exit__(self, *error: object) -> None: ...

    def set_postfix_str(self, text: str, refresh: bool) -> None: ...

    def update(self) -> None: ...


def progress(done: int, steps: int) -> Any:  # a tqdm, whose package has no types
    """A bar over the steps, on stderr."""
    bar = optional("tqdm", "no bar is shown", lambda: _bar(done, steps))
    return NoBar() if bar is None else bar


def _bar(done: int, steps: int) -> Any:
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no thread of its own, which a fork would meet

    return Bar(
        total=steps,
        initial=done,
        unit="step",
        miniters=1,
        dynamic_ncols=True,
        file=sys.stderr,
    )


def show(bar: Any, metrics: JsonObject, accuracy: float | None) -> None:
    """Move the bar by one step: loss, s/step, peak memory, accuracy on dev if it is known.

    metrics: a line of metrics.jsonl
    """
    parts = [
        f"loss={number(metrics['loss'])}",
        f"s/step={metrics['seconds']:.3f}",
        f"peak={metrics['peak_bytes'] / 2**20:.0f}MB",
    ]
    if accuracy is not None:
        parts.append(f"dev={accuracy:.3f}")
    bar.set_postfix_str(", ".join(parts), refresh=False)
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
        figure.savefig(picture, dpi=120, bbox_inches="tight")
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
