"""Find a learning rate and an eps by a few short runs, and the loss on dev after each.

A range test (Smith 2017) for methods whose gradient is not known. The rates lie a factor of
sqrt(10) apart around the method's own default; a run that diverges has an infinite loss. At the
best rate, eps is then tried a factor of 10 to either side.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tinyzo.errors import NumericError, UsageError
from tinyzo.models.model import open_model
from tinyzo.runs import report
from tinyzo.runs.run import settle_method
from tinyzo.runs.settings import Settings
from tinyzo.runs.train import tune

STEPS = 40  # of each run
SLACK = 1.02  # a loss within this factor of the least is near it
# Multiples of the defaults to try; of several near the least loss, the first one is taken.
LR_RATIOS = [10 ** (k / 2) for k in range(3, -4, -1)]
EPS_RATIOS = [1, 10, 0.1]


class Found(NamedTuple):
    """The learning rate and the eps that a search has found, or that it tries."""

    lr: float
    eps: float


def find_lr(given: Settings) -> Found:
    """The first lr, then the first eps, whose loss on dev after STEPS steps is near the least.

    Near means within a factor SLACK, since a short run hardly moves a loss. Of rates that are near,
    the larger one does better in the long run; of eps that are, the default does. Each run is
    logged.

    given: the search begins at its lr and eps, or at their defaults
    raises: UsageError when there are no dev rows; NumericError when every rate diverges
    """
    model = open_model(given.model_path)
    given = settle_method(given, model)
    settings = given.resolve(model.family)
    if settings.lr == 0:
        raise UsageError("--find-lr with --lr 0", "give the lr to search around, or leave it out")
    trial = replace(given, steps=STEPS, eval_every=STEPS, limit=1, fold_every=0)
    trial = replace(trial, guard=0, patience=0)  # a rate that diverges is to be seen
    losses: dict[Found, float] = {}

    def loss(at: Found) -> float:
        if at not in losses:
            losses[at] = loss_after(replace(trial, lr=at.lr, eps=at.eps))
            report.say(f"find-lr: lr {at.lr:.2g}, eps {at.eps:.2g}: {losses[at]:.4f} on dev")
        return losses[at]

    rates = [settings.lr * ratio for ratio in LR_RATIOS]
    rates = [rate for rate in rates if rate * settings.weight_decay <= 1]  # others are refused
    lr = first_near_least(rates, lambda lr: loss(Found(lr, settings.eps)))
    if losses[Found(lr, settings.eps)] == math.inf:
        found = f"every lr from {min(rates):.2g} to {max(rates):.2g} diverges"
        raise NumericError(f"--find-lr: {found}", "begin with a smaller --lr or --eps")
    sizes = [settings.eps * ratio for ratio in EPS_RATIOS]
    eps = first_near_least(sizes, lambda eps: loss(Found(lr, eps)))
    return Found(lr, eps)


def first_near_least(values: Sequence[float], loss: Callable[[float], float]) -> float:
    """The first value whose loss is near the least."""
    losses = [loss(value) for value in values]
    near = SLACK * min(losses)
    return next(value for value, found in zip(values, losses, strict=True) if found <= near)


def loss_after(settings: Settings) -> float:
    """The loss on dev of a short run; infinite when it diverges.

    raises: UsageError when there are no dev rows
    """
    with TemporaryDirectory() as folder, suppress(NumericError):
        evaluations = tune(settings, Path(folder) / "run").evaluations("dev")
        if STEPS not in evaluations:
            raise UsageError("--find-lr needs dev rows", "give a dev file, or more rows")
        return float(evaluations[STEPS]["loss"])
    return math.inf
