"""Which learning rate: a few short runs, and the loss on dev after each.

A range test (Smith 2017) for methods whose gradient is not known: the rates lie a factor of
sqrt(10) apart around the method's own default; what diverges counts as infinite.
"""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tinyzo.errors import NumericError, UsageError
from tinyzo.models.model import read_config
from tinyzo.runs import report
from tinyzo.runs.settings import settings_from
from tinyzo.runs.train import finetune

RATES = 7
STEPS = 40  # of each run


def find_lr(choices: dict[str, Any]) -> float:
    """The learning rate with the least loss on dev after STEPS steps; each rate is logged.

    choices: fields of Settings, lr not among them
    raises: UsageError when there are no dev rows
    """
    settings = settings_from(choices, "finetune")
    centre = settings.complete(read_config(settings.model_path)[0]).lr
    with TemporaryDirectory() as room:
        trial = choices | {"steps": STEPS, "eval_every": STEPS, "limit": 1, "fold_every": 0}
        losses = {}
        for i in range(RATES):
            lr = centre * 10 ** ((i - RATES // 2) / 2)
            losses[lr] = _loss_after(Path(room) / str(i), trial | {"lr": lr})
            report.say(f"find-lr: lr {lr:.2g} gives {losses[lr]:.4f} on dev")
    return min(losses, key=lambda lr: losses[lr])


def _loss_after(output: Path, choices: dict[str, Any]) -> float:
    try:
        evaluations = finetune(output, **choices).evaluations("dev")
    except NumericError:
        return math.inf
    if STEPS not in evaluations:
        raise UsageError("--find-lr needs dev rows", "give a dev file, or more rows to train on")
    return evaluations[STEPS]["loss"]
