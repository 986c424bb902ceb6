"""Which learning rate, and which eps: a few short runs, and the loss on dev after each.

A range test (Smith 2017) for methods whose gradient is not known: the rates lie a factor of
sqrt(10) apart around the method's own default; what diverges counts as infinite. Then eps at the
best of them, a factor of 10 to either side.
"""

import math
from contextlib import suppress
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

from tinyzo.errors import NumericError, UsageError
from tinyzo.models.model import read_config
from tinyzo.runs import report
from tinyzo.runs.settings import settings_from
from tinyzo.runs.train import finetune

STEPS, SLACK = 40, 1.02  # of each run; what is near the least loss
RATIOS = {"lr": [10 ** (k / 2) for k in range(3, -4, -1)], "eps": [1, 10, 0.1]}  # liked best first


def find_lr(choices: dict[str, Any]) -> dict[str, float]:
    """The first lr, then the first eps, whose loss on dev after STEPS steps is near the least.

    Near is a factor SLACK, since a short run hardly moves a loss: then the larger rate is the
    better one in the long run, and the default eps as good as another. Each run is logged.

    choices: fields of Settings; an lr or eps among them is where the search begins
    returns: "lr" and "eps"
    raises: UsageError when there are no dev rows
    """
    settings = settings_from(choices, "finetune")
    settings = settings.complete(read_config(settings.model_path)[0])
    best = {"lr": settings.lr, "eps": settings.eps}
    trial = choices | {"steps": STEPS, "eval_every": STEPS, "limit": 1, "fold_every": 0}

    @cache
    def loss(lr: float, eps: float) -> float:
        found = {STEPS: {"loss": math.inf}}
        with TemporaryDirectory() as room, suppress(NumericError):
            found = finetune(f"{room}/run", **trial | {"lr": lr, "eps": eps}).evaluations("dev")
        if STEPS not in found:
            raise UsageError("--find-lr needs dev rows", "give a dev file, or more rows")
        report.say(f"find-lr: lr {lr:.2g}, eps {eps:.2g}: {found[STEPS]['loss']:.4f} on dev")
        return found[STEPS]["loss"]

    for name, ratios in RATIOS.items():
        losses = {ratio: loss(**best | {name: best[name] * ratio}) for ratio in ratios}
        near = SLACK * min(losses.values())
        best[name] *= next(ratio for ratio in ratios if losses[ratio] <= near)
    return best
