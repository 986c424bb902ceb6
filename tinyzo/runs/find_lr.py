"""Find a learning rate and an eps: a few short runs, and the loss on dev after each.

A range test (Smith 2017) for methods whose gradient is not known: the rates lie a factor of
sqrt(10) apart around the method's own default; what diverges counts as infinite. Then eps at the
best of them, a factor of 10 to either side.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tinyzo.errors import NumericError, UsageError
from tinyzo.models.model import read_config
from tinyzo.runs import report
from tinyzo.runs.settings import Settings
from tinyzo.runs.train import tune

STEPS = 40  # of each run
SLACK = 1.02  # a loss within this factor of the least is near it
LR_RATIOS = [10 ** (k / 2) for k in range(3, -4, -1)]  # the one liked best comes first
EPS_RATIOS = [1, 10, 0.1]


class Found(NamedTuple):
    """What a search takes."""

    lr: float
    eps: float


def find_lr(given: Settings) -> Found:
    """The first lr, then the first eps, whose loss on dev after STEPS steps is near the least.

    Near is a factor SLACK, since a short run hardly moves a loss: then the larger rate is the
    better one in the long run, and the default eps as good as another. Each run is logged.

    given: an lr or eps in it is where the search begins
    raises: UsageError when there are no dev rows
    """
    family = read_config(given.model_path)[0]
    settings = given.resolve(family)
    trial = replace(given, steps=STEPS, eval_every=STEPS, limit=1, fold_every=0)
    losses: dict[Found, float] = {}

    def loss(at: Found) -> float:
        if at not in losses:
            losses[at] = loss_after(replace(trial, lr=at.lr, eps=at.eps))
            report.say(f"find-lr: lr {at.lr:.2g}, eps {at.eps:.2g}: {losses[at]:.4f} on dev")
        return losses[at]

    lr = nearest([settings.lr * r for r in LR_RATIOS], lambda lr: loss(Found(lr, settings.eps)))
    eps = nearest([settings.eps * r for r in EPS_RATIOS], lambda eps: loss(Found(lr, eps)))
    return Found(lr, eps)


def nearest(values: Sequence[float], loss: Callable[[float], float]) -> float:
    """The first value whose loss is near the least."""
    losses = [loss(value) for value in values]
    near = SLACK * min(losses)
    return next(value for value, found in zip(values, losses, strict=True) if found <= near)


def loss_after(settings: Settings) -> float:
    """The loss on dev of a short run; infinite when it diverges.

    raises: UsageError when there are no dev rows
    """
    with TemporaryDirectory() as room, suppress(NumericError):
        evaluations = tune(settings, Path(room) / "run").evaluations("dev")
        if STEPS not in evaluations:
            raise UsageError("--find-lr needs dev rows", "give a dev file, or more rows")
        return float(evaluations[STEPS]["loss"])
    return math.inf
