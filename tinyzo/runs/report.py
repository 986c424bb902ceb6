"""What a person sees of a run: a line of progress, and the losses as a picture."""

import sys
from pathlib import Path
from typing import Any

from tinyzo.runs.run import read_lines


def say(text: str) -> None:
    """A line of log, to stderr."""
    print(text, file=sys.stderr, flush=True)


def progress(done: int, steps: int) -> Any:
    """tqdm's bar over the steps, on stderr."""
    from tqdm import tqdm

    return tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True, file=sys.stderr)


def show(bar: Any, metrics: dict[str, Any], accuracy: float | None) -> None:
    """One step forward on the bar: loss, accuracy on dev, s/step, peak memory."""
    dev = "" if accuracy is None else f", dev={accuracy:.3f}"
    peak = metrics["peak_bytes"] / 2**20
    text = f"loss={metrics['loss']:.4f}, s/step={metrics['seconds']:.3f}, peak={peak:.0f}MB"
    bar.set_postfix_str(text + dev, refresh=False)
    bar.update()


def plot(run: Path) -> str:
    """Draw the losses of a run to loss.png.

    returns: a line that says where it is, or how to get it
    """
    metrics, events = (read_lines(run / f"{name}.jsonl") for name in ("metrics", "events"))
    dev, picture = [e for e in events if e.get("split") == "dev"], run / "loss.png"
    try:
        from matplotlib.figure import Figure

        axes = Figure(figsize=(7, 4)).subplots()
        axes.plot([m["step"] for m in metrics], [m["loss"] for m in metrics], lw=0.6, label="train")
        axes.plot([e["step"] for e in dev], [e["loss"] for e in dev], "o-", label="dev")
        axes.set(xlabel="step", ylabel="loss")
        axes.legend()
        axes.figure.savefig(picture, dpi=120, bbox_inches="tight")
    except ImportError:
        return "no plot of the loss: pip install 'tinyzo[plot]' draws it"
    except OSError as error:
        return f"no plot of the loss: {picture}: {error.strerror}"
    return f"losses drawn in {picture}"
