"""The method of a run as one object: how it begins, takes a step, and takes it again on resuming.

    ZerothOrder    differences of losses make a step of a few terms, and the journal holds them
      LowRank      matrices move by U V^T (LOZO): steps change U, and each window has a new V
    FirstOrder     a gradient makes a step; no journal holds one, so it is redone from its batch

`method_of` makes the object that a run's settings ask for; nothing else in runs/ knows which it is.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from tinyzo.engine.noise import step_seed
from tinyzo.engine.stores.overlay import Overlay
from tinyzo.engine.terms import Direction
from tinyzo.engine.weights import Weights
from tinyzo.errors import RunError
from tinyzo.runs.history import History, Taken
from tinyzo.runs.settings import RunSettings
from tinyzo.text.tasks import Example
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
    """All that a run asks of its method. `number` counts steps from 0; `weights` are the run's own.

    journal_shape:   how many numbers a record of the journal holds
    forwards:        what a step costs, in forward passes
    probes:          copies of the model that are computed at once
    keeps_gradients: whether a step ends in a backward pass
    differentiates:  whether a step takes derivatives, which NumPy does whatever the engine
    """

    journal_shape: JournalShape
    forwards: int
    probes: int
    keeps_gradients = False
    differentiates = False

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings

    @abstractmethod
    def begin(self, weights: Weights) -> None:
        """Prepare weights that are still in their file for the steps of this method."""

    @abstractmethod
    def step(
        self,
        number: int,
        weights: Weights,
        loss: Loss,
        batch: Sequence[Example],
        done: History,
    ) -> Step:
        """Take a step.

        done: all that came before this step, and maybe more
        raises: NumericError when a loss is not finite; the weights are then unchanged
        """

    @abstractmethod
    def redo(self, weights: Weights, step: Step, from_batch: Callable[[], object]) -> None:
        """Do again a step that the journal has.

        from_batch: takes the step by `step`, for a method to which its record is not enough
        raises: what `from_batch` raises
        """

    def is_snapshot_due(
        self, weights: Weights, steps: int, is_new: bool, is_worth_it: Callable[[], bool]
    ) -> bool:
        """Whether the weights are to be written after so many steps.

        is_new:      whether the last of them was taken by this process, and not redone
        is_worth_it: says whether writing takes less time than it will save
        """
        return is_new and is_worth_it()

    def end_step(self, weights: Weights, steps: int, is_written: bool) -> None:
        """Do what a method has to do between steps: most have nothing to do.

        is_written: whether the weights have just been written to a snapshot, or read from one
        """
        return None

    def must_be_resident(self, steps: Sequence[Taken]) -> bool:
        """Whether redoing these steps needs the weights in memory."""
        return False

    def metrics(self, step: Step) -> dict[str, float]:
        """The numbers that a line of metrics.jsonl has of this method's steps alone."""
        return {"projected_gradient": step.projected_gradient}

    def lr(self, number: int, done: History) -> float:
        """The learning rate of a step."""
        s = self.settings
        span = s.lr_passes / self.forwards
        rate = learning_rate(number, s.steps, s.lr, s.schedule, s.warmup, span)
        return rate * done.factor(number)


class ZerothOrder(RunMethod):
    """Steps by differences of losses, or by forward derivatives."""

    def __init__(self, settings: RunSettings) -> None:
        super().__init__(settings)
        s = settings
        clip = math.inf if s.clip is None else s.clip
        self.estimator = ESTIMATORS[s.estimator]
        self.rule = UpdateRule(s.update, s.window, clip)
        self.probes = self.estimator.count(s.queries)
        self.forwards = self.estimator.forwards(s.queries)
        self.differentiates = s.estimator == "forward"
        self.journal_shape = JournalShape(self.probes, self.rule.count(s.queries))
        parts = (s.estimator, s.queries, s.update, s.clip)
        self.is_mezo = parts == ("two-sided", 1, "sgd", None)

    def begin(self, weights: Weights) -> None:
        if self.settings.direction == "magnitude":
            weights.direction = Direction(limits=magnitude_limits(weights))
        elif self.settings.direction == "rademacher":
            weights.direction = Direction("rademacher")

    def step(
        self,
        number: int,
        weights: Weights,
        loss: Loss,
        batch: Sequence[Example],
        done: History,
    ) -> Step:
        s = self.settings
        lr = self.lr(number, done)
        seeds = self.seeds(number)
        if self.is_mezo:  # the step that zo/mezo.py explains, to the same bits
            return mezo_step(weights, loss, batch, seeds[0], s.eps, lr, s.weight_decay)
        past = self.past(number, done)
        return zo_step(
            weights, loss, batch, seeds, s.eps, lr, s.weight_decay, self.estimator, self.rule, past
        )

    def redo(self, weights: Weights, step: Step, from_batch: Callable[[], object]) -> None:
        weights.apply(self.rule.from_journal(step.terms, step.decay), fold=False)

    def metrics(self, step: Step) -> dict[str, float]:
        return self.estimator.summary(np.array(step.losses)) | super().metrics(step)

    def seeds(self, number: int) -> list[int]:
        """The seeds of a step, one for each query."""
        s = self.settings
        return [step_seed(s.seed, number * s.queries + query) for query in range(s.queries)]

    def past(self, number: int, done: History) -> list[Past]:
        """The steps that the update looks back on, the newest first."""
        before = islice(done.backwards(done.origin(number)), self.rule.memory - 1)
        return [self._past_step(*taken) for taken in before]

    def _past_step(self, number: int, step: Step) -> Past:
        gradients = self.estimator.gradients(np.array(step.losses), self.settings.eps)
        return Past(self.seeds(number), gradients.tolist())


class LowRank(ZerothOrder):
    """Matrices move by U V^T, whose V stays for a window of steps (LOZO, arXiv 2410.07698)."""

    def begin(self, weights: Weights) -> None:
        low_rank(weights, step_seed(self.settings.seed, 0))

    def ends_window(self, steps: int) -> bool:
        return steps % self.settings.window == 0

    def is_snapshot_due(
        self, weights: Weights, steps: int, is_new: bool, is_worth_it: Callable[[], bool]
    ) -> bool:
        """Only at the end of a window; at the end of each, if the weights are streamed, because
        U V^T gets into them by writing them anew."""
        if not self.ends_window(steps):
            return False
        is_streamed = isinstance(weights.store, Overlay) and not weights.store.base.is_resident
        return is_streamed or super().is_snapshot_due(weights, steps, is_new, is_worth_it)

    def end_step(self, weights: Weights, steps: int, is_written: bool) -> None:
        """At the end of a window, add U V^T to the matrices and draw a new V."""
        if not self.ends_window(steps):
            return
        if not is_written:  # writing adds it in memory too, even if nobody takes what is written
            weights.write(lambda name, raw: None, list(weights.saved))
        renew(weights, step_seed(self.settings.seed, steps))

    def must_be_resident(self, steps: Sequence[Taken]) -> bool:
        return any(self.ends_window(number + 1) for number, _ in steps)


class FirstOrder(RunMethod):
    """Backpropagation by layers, to compare with."""

    journal_shape = JournalShape(losses=1, terms=0)
    forwards = 4  # a backward pass costs as much as two, and layers are computed twice
    probes = 1
    keeps_gradients = True
    differentiates = True

    def __init__(self, settings: RunSettings) -> None:
        from tinyzo.autodiff.adam import RULES  # loaded only to compare with

        super().__init__(settings)
        self.rule = RULES[METHODS[settings.method].gradient]

    def begin(self, weights: Weights) -> None:
        from tinyzo.autodiff.adam import add_moments

        if self.rule.moments:
            add_moments(weights)

    def step(
        self,
        number: int,
        weights: Weights,
        loss: Loss,
        batch: Sequence[Example],
        done: History,
    ) -> Step:
        from tinyzo.autodiff.adam import step_number

        decay = self.settings.weight_decay
        lr = self.lr(number, done)
        return step_number(number, self.rule, weights, loss, batch, lr, decay)

    def redo(self, weights: Weights, step: Step, from_batch: Callable[[], object]) -> None:
        from_batch()

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


def no_batch(found: str) -> Callable[[], object]:
    """The `from_batch` of `RunMethod.redo` where there are no batches: it raises a RunError."""

    def refuse() -> object:
        hint = "a gradient is in no journal; there are the best step and the last"
        raise RunError(found, hint)

    return refuse
