"""Update rules: from projected gradients to a change of theta; and schedules of the learning rate.

    sgd       -lr g z
    sign      -lr sign(g) z
    momentum  -lr sum_k 0.9^k g z                          over the last K steps, k = 0 the newest
    rms       -lr sum_k 0.9^k g z / (sqrt(sum_k 0.9^k g^2) + 1e-5)
    adamezo   -100 lr M / (sqrt(V) + 1e-5)                 engine/moments.py, over the last K steps

An update is a list of terms, so a journal holds it. Those that look back have no state: the
moments are made again from the seeds of the last K steps (AdaMeZO, 2605.00650).

rms is Adam with one number for V. The square of element i of g z is |grad L|^2 (1 + 2 c_i^2) in the
mean, c_i being the share of the gradient in i, sum c_i^2 = 1: nearly the same for every element.

Schedules are transformers' three common ones, and one for budgets that are not known before:

    constant  lr
    linear    lr (1 - s)
    cosine    lr (1 + cos(pi s)) / 2           s = (step - warmup) / (steps - warmup)
    sqrt      lr / sqrt(1 + t)                 t = (step - warmup) / span

with lr (step + 1) / warmup during the first `warmup` steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tinyzo.engine.moments import FLOOR, Moments
from tinyzo.engine.terms import Term, Update
from tinyzo.errors import check_choice

MOMENTUM = 0.9
LOOKING_BACK = ("momentum", "rms", "adamezo")
RULES = ("sgd", "sign", *LOOKING_BACK)
ANY_TIME = ("constant", "sqrt")  # schedules that do not depend on how many steps there are
SCHEDULES = (*ANY_TIME, "linear", "cosine")


class Past(NamedTuple):
    """A step's seeds and its projected gradients, one for each query."""

    seeds: Sequence[int]
    gradients: Sequence[float]


@dataclass(frozen=True)
class UpdateRule:
    """From the projected gradients of the last steps to an update of theta.

    rule: one of RULES; window: K; clip: the largest |g|, larger ones are cut
    """

    rule: str = "sgd"
    window: int = 10
    clip: float = math.inf

    @property
    def memory(self) -> int:
        """The number of steps of which an update has terms."""
        if self.rule in LOOKING_BACK:
            return self.window
        return 1

    def count(self, queries: int) -> int:
        """The number of terms that the journal has of a step."""
        own = self.memory * queries
        if self.rule == "adamezo":
            return own + 1
        return own

    def update(self, past: Sequence[Past], lr: float, decay: float = 0.0) -> Update:
        """The update of a step.

        past: this step and those before it, the newest first; where there are no K steps yet, the
        missing ones count as gradients of 0 along this step's seeds
        """
        rate = lr / self._root(past) if self.rule == "rms" else lr
        terms: list[Term] = []
        for age in range(self.memory):
            for seed, g in self._aged(past, age):
                terms.append((seed, self._coefficient(g, age, rate)))
        moments = Moments(lr, len(past[0].seeds)) if self.rule == "adamezo" else None
        return Update(tuple(terms), decay, moments)

    def _aged(self, past: Sequence[Past], age: int) -> list[Term]:
        """(seed, g) of each query of the step `age` steps ago, clipped."""
        if age >= len(past):
            return [(seed, 0.0) for seed in past[0].seeds]
        clipped = [max(-self.clip, min(self.clip, g)) for g in past[age].gradients]
        return list(zip(past[age].seeds, clipped, strict=True))

    def _root(self, past: Sequence[Past]) -> float:
        """What rms divides by: the root of AdaMeZO's V where z^2 is its mean, 1."""
        v = 0.0
        for age in range(self.memory):
            for _, g in self._aged(past, age):
                v += MOMENTUM**age * g * g
        return math.sqrt(v) + float(FLOOR)

    def _coefficient(self, g: float, age: int, lr: float) -> float:
        """The coefficient of z; adamezo's is the projected gradient, which Moments weighs."""
        if self.rule == "adamezo":
            return g
        if self.rule == "sign":
            sign = math.copysign(1.0, g) if g else 0.0
            return -lr * sign
        return -lr * (MOMENTUM**age * g)

    def to_journal(self, update: Update) -> tuple[Term, ...]:
        """The terms as a journal records them: adamezo's end with (any seed, lr)."""
        terms = tuple(update.terms)
        if update.moments is None:
            return terms
        return (*terms, (terms[0][0], update.moments.lr))

    def from_journal(self, terms: Sequence[Term], decay: float) -> Update:
        """The update of which `to_journal` made the terms."""
        if self.rule != "adamezo":
            return Update(tuple(terms), decay)
        *own, (_, lr) = terms
        return Update(tuple(own), decay, Moments(lr, len(own) // self.memory))

    def scaled(self, terms: Sequence[Term], factor: float) -> tuple[Term, ...]:
        """Terms of a journal whose update is `factor` times as large; of adamezo by its rate."""
        if self.rule != "adamezo":
            return tuple((seed, factor * c) for seed, c in terms)
        *own, (seed, lr) = terms
        return (*own, (seed, factor * lr))


def learning_rate(
    step: int,
    steps: int,
    lr: float,
    schedule: str = "constant",
    warmup: int = 0,
    span: float = 1.0,
) -> float:
    """The learning rate of step `step` (from 0) of `steps`.

    span: the steps that `lr` was chosen for, of which `sqrt` goes by
    raises: ConfigError for an unknown schedule
    differs: warm-up counts from 1, so that the first step is not lost on lr = 0
    """
    check_choice("schedule", schedule, SCHEDULES)
    if step < warmup:
        return lr * (step + 1) / warmup
    if schedule == "sqrt":
        return lr / math.sqrt(1.0 + (step - warmup) / span)
    share = (step - warmup) / max(1, steps - warmup)
    if schedule == "linear":
        return lr * (1.0 - share)
    if schedule == "cosine":
        return lr * ((1.0 + math.cos(math.pi * share)) / 2)
    return lr
