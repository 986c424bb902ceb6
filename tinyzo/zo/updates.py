"""How the learning rate runs over the steps (transformers' three common schedules).

    constant  lr
    linear    lr (1 - s)
    cosine    lr (1 + cos(pi s)) / 2           s = (step - warmup) / (steps - warmup)

with lr (step + 1) / warmup during the first `warmup` steps.
"""

import math

from tinyzo.errors import ConfigError

SCHEDULES = {"constant": lambda s: 1.0, "linear": lambda s: 1.0 - s,
             "cosine": lambda s: (1.0 + math.cos(math.pi * s)) / 2}  # fmt: skip


def learning_rate(step: int, steps: int, lr: float, schedule: str = "constant",
                  warmup: int = 0) -> float:  # fmt: skip
    """The learning rate of step `step` (from 0) of `steps`.

    raises: ConfigError for an unknown schedule
    differs: warm-up counts from 1, so that the first step is not lost on lr = 0
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"unknown schedule {schedule!r}", f"one of {', '.join(SCHEDULES)}")
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr * SCHEDULES[schedule]((step - warmup) / max(1, steps - warmup))
