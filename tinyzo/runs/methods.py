"""A method of a run as one object: how it begins, steps, and is stepped again.

    ZerothOrder    losses at a few points make a list of terms, which is all that a journal needs
      LowRank      the same on U alone, of matrices that move by U V^T (LOZO); V ends with a window
    FirstOrder     a gradient, which no journal holds: its steps are redone from their batches

`method_of` makes the object that a run's settings ask for; nothing else in runs/ knows which it is.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyzo.engine.noise import step_seed
from tinyzo.engine.stores.overlay import Overlay
from tinyzo.engine.terms import Direction
from tinyzo.engine.weights import Weights
from tinyzo.errors import RunError
from tinyzo.runs.settings import RunSettings
from tinyzo.zo.directions import low_rank, magnitude_limits, renew
from tinyzo.zo.estimators import ESTIMATORS, zo_step
from tinyzo.zo.methods import METHODS
from tinyzo.zo.mezo import Loss, Step, mezo_step
from tinyzo.zo.updates import Past, UpdateRule, learning_rate


class JournalShape(NamedTuple):
    """How many numbers the journal has of each step."""

    losses: int
    terms: int


class RunMethod(ABC):
    """What a run asks of its method. Steps are counted from 0; `weights` are a run's own.

    journal_shape: what a record of the journal holds
    forwards:      the cost of a step, in forward passes
    probes:        copies of the model that are computed at once
    keeps_gradients: whether a step holds a gradient, and what layers keep for it
    """

    journal_shape: JournalShape
    forwards: int
    probes: int
    keeps_gradients = False

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings

    @abstractmethod
    def begin(self, weights: Weights) -> None:
        """Make weights, still in their file, ones that this method can step."""

    @abstractmethod
    def step(
        self, number: int, weights: Weights, loss: Loss, batch: Any, done: Sequence[Step]
    ) -> Step:
        """Take a step. done: at least the steps before this one.

        raises: NumericError when a loss is not finite; the weights are then unchanged
        """

    @abstractmethod
    def redo(self, weights: Weights, step: Step, again: Callable[[], object]) -> None:
        """Do again a step that the journal has. again: takes it from its batch, as `step` did.

        raises: RunError from `again`, where a batch cannot be had and is needed
        """

    def is_snapshot_due(
        self, weights: Weights, steps: int, is_new: bool, is_worth_it: Callable[[], bool]
    ) -> bool:
        """Whether the weights are to be written after so many steps.

        is_new: whether the last of them was taken by this process, and not redone
        is_worth_it: whether that takes less time than it will save
        """
        return is_new and is_worth_it()

    def end_step(self, weights: Weights, steps: int, is_written: bool) -> None:
        """Do what is due after so many steps: nothing, but for some methods.

        is_written: a snapshot has just been taken of the weights
        """
        return None

    def must_be_resident(self, start: int, stop: int) -> bool:
        """Whether redoing the steps between needs the weights in memory."""
        return False

    def metrics(self, step: Step) -> dict[str, float]:
        """What a line of metrics.jsonl says of a step, beside its loss."""
        return {"projected_gradient": step.projected_gradient}

    def lr(self, number: int) -> float:
        """The learning rate of a step."""
        s = self.settings
        return learning_rate(number, s.steps, s.lr, s.schedule, s.warmup)


class ZerothOrder(RunMethod):
    """Steps by differences of losses, or by forward derivatives."""

    def __init__(self, settings: RunSettings) -> None:
        super().__init__(settings)
        s = settings
        self.estimator = ESTIMATORS[s.estimator]
        self.rule = UpdateRule(s.update, s.window, math.inf if s.clip is None else s.clip)
        self.probes = self.estimator.count(s.queries)
        self.forwards = self.estimator.forwards(s.queries)
        self.journal_shape = JournalShape(self.probes, self.rule.count(s.queries))
        parts = (s.estimator, s.queries, s.update, s.clip)
        self.is_mezo = parts == ("two-sided", 1, "sgd", None)

    def begin(self, weights: Weights) -> None:
        if self.settings.direction == "magnitude":
            weights.direction = Direction(limits=magnitude_limits(weights))
        elif self.settings.direction == "rademacher":
            weights.direction = Direction("rademacher")

    def step(
        self, number: int, weights: Weights, loss: Loss, batch: Any, done: Sequence[Step]
    ) -> Step:
        s, lr, seeds = self.settings, self.lr(number), self.seeds(number)
        if self.is_mezo:  # the step that zo/mezo.py explains, to the same bits
            return mezo_step(weights, loss, batch, seeds[0], s.eps, lr, s.weight_decay)
        past = self.past(number, done)
        return zo_step(
            weights, loss, batch, seeds, s.eps, lr, s.weight_decay, self.estimator, self.rule, past
        )

    def redo(self, weights: Weights, step: Step, again: Callable[[], object]) -> None:
        weights.apply(self.rule.from_journal(step.terms, step.decay), fold=False)

    def metrics(self, step: Step) -> dict[str, float]:
        return self.estimator.summary(np.array(step.losses)) | super().metrics(step)

    def seeds(self, number: int) -> list[int]:
        """The seeds of a step, one for each query."""
        s = self.settings
        return [step_seed(s.seed, number * s.queries + query) for query in range(s.queries)]

    def past(self, number: int, done: Sequence[Step]) -> list[Past]:
        """The steps that the update looks back on, the newest first."""
        first = max(0, number - self.rule.memory + 1)
        return [self._past_step(n, done[n]) for n in range(number - 1, first - 1, -1)]

    def _past_step(self, number: int, step: Step) -> Past:
        gradients = self.estimator.gradients(np.array(step.losses), self.settings.eps)
        return Past(self.seeds(number), gradients.tolist())


class LowRank(ZerothOrder):
    """Matrices move by U V^T, of which V is kept for a window of steps (LOZO, 2410.07698)."""

    def begin(self, weights: Weights) -> None:
        low_rank(weights, step_seed(self.settings.seed, 0))

    def ends_window(self, steps: int) -> bool:
        return steps % self.settings.window == 0

    def is_snapshot_due(
        self, weights: Weights, steps: int, is_new: bool, is_worth_it: Callable[[], bool]
    ) -> bool:
        """At the end of a window only; if streamed at each, since what is streamed is merged as it
        is written."""
        if not self.ends_window(steps):
            return False
        is_streamed = isinstance(weights.store, Overlay) and not weights.store.base.is_resident
        return is_streamed or super().is_snapshot_due(weights, steps, is_new, is_worth_it)

    def end_step(self, weights: Weights, steps: int, is_written: bool) -> None:
        """At the end of a window, U V^T into the matrices, and another V."""
        if not self.ends_window(steps):
            return
        if not is_written:  # writing merges in memory too, whoever takes what is written
            weights.write(lambda name, raw: None, list(weights.saved))
        renew(weights, step_seed(self.settings.seed, steps))

    def must_be_resident(self, start: int, stop: int) -> bool:
        return start // self.settings.window < stop // self.settings.window


class FirstOrder(RunMethod):
    """Backpropagation, to compare with."""

    journal_shape = JournalShape(losses=1, terms=0)
    forwards = 3  # a backward pass costs as much as two
    probes = 1
    keeps_gradients = True

    def __init__(self, settings: RunSettings) -> None:
        from tinyzo.autodiff.adam import RULES  # loaded only to compare with

        super().__init__(settings)
        self.rule = RULES[METHODS[settings.method].gradient]

    def begin(self, weights: Weights) -> None:
        from tinyzo.autodiff.adam import add_moments

        if self.rule.moments:
            add_moments(weights)

    def step(
        self, number: int, weights: Weights, loss: Loss, batch: Any, done: Sequence[Step]
    ) -> Step:
        from tinyzo.autodiff.adam import step_number

        decay = self.settings.weight_decay
        return step_number(number, self.rule, weights, loss, batch, self.lr(number), decay)

    def redo(self, weights: Weights, step: Step, again: Callable[[], object]) -> None:
        again()

    def is_snapshot_due(
        self, weights: Weights, steps: int, is_new: bool, is_worth_it: Callable[[], bool]
    ) -> bool:
        """At each evaluation, since nothing but a snapshot says what a gradient has done."""
        is_evaluated = steps % self.settings.eval_every == 0 or steps == self.settings.steps
        return is_new and is_evaluated

    def metrics(self, step: Step) -> dict[str, float]:
        return {"gradient_norm": step.projected_gradient}


def method_of(settings: RunSettings) -> RunMethod:
    """The method of a run."""
    if METHODS[settings.method].gradient:
        return FirstOrder(settings)
    if settings.direction == "low-rank":
        return LowRank(settings)
    return ZerothOrder(settings)


def no_batch(what: str) -> Callable[[], object]:
    """For `redo`, where there are no batches: raises RunError."""

    def again() -> object:
        hint = "a gradient is in no journal; there are the best step and the last"
        raise RunError(what, hint)

    return again
