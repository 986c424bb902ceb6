"""Which learning rate: a few short runs, and the loss on dev after each.

A range test (Smith 2017) for methods whose gradient is not known: the rates lie a factor of
sqrt(10) apart around the method's own default; what diverges counts as infinite.
"""

import math
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import Any

from tinyzo.errors import NumericError, UsageError
from tinyzo.models.model import read_config
from tinyzo.runs import report
from tinyzo.runs.settings import settings_from
from tinyzo.runs.train import finetune

REACH, STEPS, SLACK = 3, 40, 1.02  # rates on either side of the default; steps of each run


def find_lr(choices: dict[str, Any]) -> float:
    """The largest learning rate whose loss on dev after STEPS steps is near the least.

    Near is a factor SLACK, since a short run hardly moves a loss, and then the larger rate is the
    better one in the long run. Each rate is logged.

    choices: fields of Settings, lr not among them
    raises: UsageError when there are no dev rows
    """
    settings, losses = settings_from(choices, "finetune"), {}
    centre = settings.complete(read_config(settings.model_path)[0]).lr
    trial = choices | {"steps": STEPS, "eval_every": STEPS, "limit": 1, "fold_every": 0}
    for lr in (centre * 10 ** (k / 2) for k in range(-REACH, REACH + 1)):
        with TemporaryDirectory() as room, suppress(NumericError):
            losses[lr] = math.inf
            found = finetune(f"{room}/run", **trial | {"lr": lr}).evaluations("dev")
            if STEPS not in found:
                raise UsageError("--find-lr needs dev rows", "give a dev file, or more rows")
            losses[lr] = found[STEPS]["loss"]
        report.say(f"find-lr: lr {lr:.2g} gives {losses[lr]:.4f} on dev")
    return max(lr for lr in losses if losses[lr] <= SLACK * min(losses.values()))
