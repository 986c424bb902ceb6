"""Which curves a page of `tinyzo report` has: of all runs together, and of one alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tinyzo.runs.charts import COLOURS, Chart, Line, Point, extremes, last_ones, means
from tinyzo.runs.recorded import MEGABYTE, Recorded

PASSES = "forward passes"
SECONDS = "seconds"
MEANS = 40  # points of a mean
POINTS = 240  # of what lies behind it
EVALUATIONS = 120
ALL_POINTS = 2400  # of all runs, in one line of each
LEAST_POINTS = 12
DASHED = COLOURS + 1  # the second colour, so that what lies below it is seen
PROBES = {
    "loss_plus": "at theta + eps z",
    "loss_minus": "at theta - eps z",
    "loss_at_theta": "at theta",
    "loss_probes": "mean of the probes",
}


def charts(runs: Sequence[Recorded]) -> Iterator[Chart]:
    """The curves of all runs, a colour for each."""
    yield from _of_losses(runs)
    yield from _of_gradients(runs)
    yield Chart("Memory", _of_memory(runs), PASSES, "MB", list(_memory(runs)), from_zero=True)


def _of_losses(runs: Sequence[Recorded]) -> Iterator[Chart]:
    """What is learnt, against forward passes and in time."""
    train = "of the batches, means of some steps"
    if len(runs) == 1:
        train = "of the batches, and its mean over some steps"
    dev = "on the rows for choosing"
    passes = [run.passes for run in runs]
    seconds = [run.seconds for run in runs]
    yield Chart("Loss", train, PASSES, "loss", _of_steps(runs, passes, "loss"))
    yield Chart("Dev loss", dev, PASSES, "loss", _of_dev(runs, passes, "loss"))
    yield Chart("Dev accuracy", dev, PASSES, "accuracy", _of_dev(runs, passes, "accuracy"))
    yield Chart("Loss in time", train, SECONDS, "loss", _of_steps(runs, seconds, "loss"))
    in_time = _of_dev(runs, seconds, "accuracy")
    yield Chart("Dev accuracy in time", dev, SECONDS, "accuracy", in_time)


def _of_gradients(runs: Sequence[Recorded]) -> Iterator[Chart]:
    projected = _all_steps(runs, "projected_gradient")
    norms = _all_steps(runs, "gradient_norm")
    about = "summed over queries"
    yield Chart("Projected gradients", about, PASSES, "loss a unit of eps", projected)
    yield Chart("Norms of gradients", "by backpropagation", PASSES, "norm", norms)


def _points(most: int, runs: Sequence[Recorded]) -> int:
    """How many points a line has, of so many runs."""
    return max(LEAST_POINTS, min(most, ALL_POINTS // len(runs)))


def _of_steps(runs: Sequence[Recorded], ends: Sequence[list[float]], key: str) -> list[Line]:
    """Means of what each step has; of one run also each step."""
    lines = []
    for number, (run, end) in enumerate(zip(runs, ends, strict=True)):
        points = _finite(run.against(end, key))
        if len(runs) == 1:
            lines.append(Line(run.name, extremes(points, POINTS), number, is_faint=True))
        lines.append(Line(run.name, means(points, _points(MEANS, runs)), number))
    return lines


def _of_dev(runs: Sequence[Recorded], ends: Sequence[list[float]], key: str) -> list[Line]:
    most = _points(EVALUATIONS, runs)
    return [
        Line(run.name, last_ones(run.evaluated(end, "dev", key), most), number)
        for number, (run, end) in enumerate(zip(runs, ends, strict=True))
    ]


def _all_steps(runs: Sequence[Recorded], key: str) -> list[Line]:
    most = _points(POINTS, runs)
    return [
        Line(run.name, extremes(_finite(run.against(run.passes, key)), most), number)
        for number, run in enumerate(runs)
    ]


def _of_memory(runs: Sequence[Recorded]) -> str:
    if len(runs) > 1:
        return "the largest resident set so far"
    return "the resident set, now and at most"


def _memory(runs: Sequence[Recorded]) -> Iterator[Line]:
    """Peaks; of one run also what is resident."""
    most = _points(MEANS, runs)
    for number, run in enumerate(runs):
        peak = "peak" if len(runs) == 1 else run.name
        yield Line(peak, last_ones(_in_megabytes(run, "peak_bytes"), most), number)
    if len(runs) == 1:
        yield Line("resident", last_ones(_in_megabytes(runs[0], "resident_bytes"), most), DASHED)


def _in_megabytes(run: Recorded, key: str) -> list[Point]:
    points = _finite(run.against(run.passes, key))
    return [Point(x, y / MEGABYTE) for x, y in points if y > 0]  # 0: the system does not say


def _finite(points: Iterable[Point]) -> list[Point]:
    return [point for point in points if point.y == point.y]


def probes(run: Recorded) -> Chart:
    """The losses that a step measures."""
    lines: list[Line] = []
    for key, name in PROBES.items():
        points = means(_finite(run.against(run.passes, key)), MEANS)
        if points:
            lines.append(Line(name, points, DASHED if lines else 0))
    about = "means of some steps"
    return Chart("Loss of the probes", about, PASSES, "loss", lines)
