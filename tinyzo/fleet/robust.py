"""The robust mean: whose losses count, and their mean.

Client c has the losses l_c at the P points of a step. Their mean, its level, says how hard its rows
are, and differs honestly. Only the contrasts l_c - mean(l_c) become a gradient. So it is left out

    when there are not P losses, or one is not finite
    when its level is 100 times the median client's
    when a contrast is LIMIT deviations from the median client's. A deviation is 1.4826 times the
    median distance from the median: sigma, of normal errors

What remains is averaged, since the mean has the least variance. A client that turns the sign of an
ordinary contrast round is not seen: it costs twice its share of the step.
"""

from collections.abc import Mapping
from math import fsum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
LIMIT = 6.0  # deviations
FEWEST = 8  # clients, below which no distance from the others says much
NORMAL = 1.4826  # sigma / median absolute deviation
TALLEST = 100.0  # times 1 + the median level


class Answer(NamedTuple):
    """A client's losses at the points, and of how many rows they are the mean."""

    losses: Float64
    rows: int


def outliers(answers: Mapping[int, Answer], points: int) -> dict[int, str]:
    """The clients whose losses do not count, and why."""
    found = {}
    for client, (losses, rows) in answers.items():
        if losses.shape != (points,) or rows < 1:
            found[client] = f"{losses.size} losses of {rows} rows, where {points} were due"
        elif not np.isfinite(losses).all():
            found[client] = "a loss is not finite"
    left = {client: each.losses for client, each in answers.items() if client not in found}
    return found | _far_off(left)


def _far_off(answers: Mapping[int, Float64]) -> dict[int, str]:
    """Of finite losses, those that are far from the median client's."""
    with np.errstate(over="ignore", invalid="ignore"):
        levels = {client: float(losses.mean()) for client, losses in answers.items()}
        middle = float(np.median([*levels.values()])) if levels else 0.0
        contrasts = {client: answers[client] - level for client, level in levels.items()}
        centre = np.median([*contrasts.values()], axis=0) if levels else 0.0
        distances = {client: np.abs(each - centre) for client, each in contrasts.items()}
        most = LIMIT * NORMAL * np.median([*distances.values()], axis=0) if levels else 0.0
    found = {}
    for client, level in levels.items():
        if not abs(level) <= TALLEST * (1 + abs(middle)):
            found[client] = f"its loss is {level:.4g}, the median client's {middle:.4g}"
        elif len(levels) >= FEWEST and not (distances[client] <= most).all():
            found[client] = f"its slope is {LIMIT:g} deviations from the median client's, or more"
    return found


def mean(answers: Mapping[int, Answer], most_rows: int) -> Float64:
    """The mean over all rows: f64[P], to the same bits in whatever order clients answer.

    most_rows: that each was asked for, so that none counts for more
    """
    rows = [min(each.rows, most_rows) for each in answers.values()]
    losses = np.array([each.losses for each in answers.values()])
    sums = [fsum(column) for column in losses.T * rows]
    return np.array(sums) / sum(rows)
