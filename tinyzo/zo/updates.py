"""From projected gradients to what is added to theta, and how the learning rate runs.

    sgd       -lr g z
    sign      -lr sign(g) z
    momentum  -lr sum_k 0.9^k g z                          over the last K steps, k = 0 the newest
    adamezo   -100 lr M / (sqrt(V) + 1e-5)                 engine/moments.py, over the last K steps

An update is a list of terms, so a journal holds it. Those that look back have no state: the
moments are made again from the seeds of the last K steps (AdaMeZO, 2605.00650).

Schedules are transformers' three common ones:

    constant  lr
    linear    lr (1 - s)
    cosine    lr (1 + cos(pi s)) / 2           s = (step - warmup) / (steps - warmup)

with lr (step + 1) / warmup during the first `warmup` steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tinyzo.engine.moments import Moments
from tinyzo.engine.terms import Term, Update
from tinyzo.errors import check_choice

Past = Sequence[tuple[Sequence[int], Sequence[float]]]  # (seeds, g) of steps, the newest first
MOMENTUM = 0.9


@dataclass(frozen=True)
class UpdateRule:
    """From the projected gradients of the last steps to what is added to theta.

    rule: sgd, sign, momentum or adamezo; window: K; clip: the most that |g| counts
    """

    rule: str = "sgd"
    window: int = 10
    clip: float = math.inf

    @property
    def memory(self) -> int:
        """How many steps an update has terms of."""
        return self.window if self.rule in ("momentum", "adamezo") else 1

    def count(self, queries: int) -> int:
        """How many terms the journal has of a step."""
        return self.memory * queries + (self.rule == "adamezo")

    def update(self, past: Past, lr: float, decay: float = 0.0) -> Update:
        """The update of a step; where there are no K steps yet, the missing are 0."""
        terms: list[Term] = []
        for k in range(self.memory):
            seeds, gradients = past[k] if k < len(past) else (past[0][0], [0.0] * len(past[0][1]))
            for seed, g in zip(seeds, gradients, strict=True):
                g = max(-self.clip, min(self.clip, g))
                terms.append((seed, g if self.rule == "adamezo" else -lr * self.weight(k, g)))
        moments = Moments(lr, len(past[0][0])) if self.rule == "adamezo" else None
        return Update(tuple(terms), decay, moments)

    def weight(self, k: int, g: float) -> float:
        """What a projected gradient counts k steps later."""
        return (g > 0) - (g < 0) if self.rule == "sign" else MOMENTUM**k * g

    def to_journal(self, update: Update) -> tuple[Term, ...]:
        """The terms as a journal records them: AdaMeZO's end with (any seed, lr)."""
        terms = tuple(update.terms)
        return (*terms, (terms[0][0], update.moments.lr)) if update.moments else terms

    def from_journal(self, terms: Sequence[Term], decay: float) -> Update:
        """The update that `to_journal` made the terms of."""
        if self.rule != "adamezo":
            return Update(tuple(terms), decay)
        *terms, (_, lr) = terms
        return Update(tuple(terms), decay, Moments(lr, len(terms) // self.memory))


SCHEDULES = {"constant": lambda s: 1.0, "linear": lambda s: 1.0 - s,
             "cosine": lambda s: (1.0 + math.cos(math.pi * s)) / 2}  # fmt: skip


def learning_rate(step: int, steps: int, lr: float, schedule: str = "constant",
                  warmup: int = 0) -> float:  # fmt: skip
    """The learning rate of step `step` (from 0) of `steps`.

    raises: ConfigError for an unknown schedule
    differs: warm-up counts from 1, so that the first step is not lost on lr = 0
    """
    check_choice("schedule", schedule, tuple(SCHEDULES))
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr * SCHEDULES[schedule]((step - warmup) / max(1, steps - warmup))
