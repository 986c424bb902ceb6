"""A run as a person sees it: a line of progress, and a picture of the losses."""

import sys
from pathlib import Path
from typing import Any

from tinyzo.parsing import JsonObject
from tinyzo.runs.lines import read_lines


def say(text: str) -> None:
    """Print a line of log to stderr."""
    print(text, file=sys.stderr, flush=True)


def number(x: float) -> str:
    """A measured number as a person reads it: 0.6931, 3.2e+13, 1.5e-05."""
    if x == 0 or 1e-3 <= abs(x) < 1e4:
        return f"{x:.4f}"
    return f"{x:.4g}"


def progress(done: int, steps: int) -> Any:  # a tqdm, whose package has no types
    """A bar of tqdm over the steps, on stderr."""
    from tqdm import tqdm

    return tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True, file=sys.stderr)


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
    except ImportError:
        return "no plot of the loss: pip install 'tinyzo[plot]' draws it"
    except OSError as error:
        return f"no plot of the loss: {picture}: {error.strerror}"
    return f"losses drawn in {picture}"


def _curve(lines: list[JsonObject]) -> tuple[list[int], list[float]]:
    """Steps and losses."""
    return [line["step"] for line in lines], [line["loss"] for line in lines]
