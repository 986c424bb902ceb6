"""A loss in bounded memory: a batch in micro-batches, and probes in groups."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from tinyzo.batch import Batch
from tinyzo.engine.numpy_engine import present
from tinyzo.engine.protocols import View
from tinyzo.text.packing import micro_batches, packed_size
from tinyzo.text.tasks import Example
from tinyzo.zo.objectives import Objective

WRITTEN = 4  # times max_tokens are kept, with those to come, while a pass reads one token of each


@dataclass(frozen=True)
class BoundedLoss:
    """The loss of an objective, computed part by part: f64[P].

    Sums are float64, so how a batch is divided changes a loss by rounding only.

    max_tokens: the most packed tokens of a micro-batch; probes that exceed two times as many
        tokens together are computed in groups
    """

    objective: Objective
    max_tokens: int

    def __call__(self, theta: View, examples: Sequence[Example]) -> np.ndarray:
        parts = micro_batches(self.objective.read(examples), self.max_tokens)
        if self.objective.is_of_answers:
            parts = self.written(examples)
        return self.objective.mean(self.total(theta, parts), self.objective.count(examples))

    def shares(self, theta: View, examples: Sequence[Example]) -> Iterator[np.ndarray]:
        """What each micro-batch has of a loss that is a mean: f64[P], which add up to it."""
        count = self.objective.count(examples)
        for part in micro_batches(examples, self.max_tokens):
            yield self.objective.mean(self.sums(theta, part), count)

    def written(self, examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
        """Parts whose answers are written together, each token in one pass."""
        most_new = self.objective.bound.task.max_new_tokens
        most = WRITTEN * self.max_tokens
        return micro_batches(examples, most, lambda each: len(each.prompt) + most_new)

    def total(self, theta: View, parts: Iterable[Sequence[Example]]) -> np.ndarray:
        """The sums over all micro-batches: f64[P, ...]."""
        return reduce(add, (self.sums(theta, part) for part in parts))

    def scores(self, theta: View, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        """The scores of each micro-batch, f64[B, C], by a view of one probe; -inf where an example
        has fewer than C candidates."""
        for batch in batches:
            yield present(self.objective.scores(theta, batch), batch.counts)[0]

    def answers(self, theta: View, parts: Iterable[Sequence[Example]]) -> Iterator[str]:
        """The answer that the model writes to each example of some parts."""
        for part in parts:
            yield from self.objective.answers(theta, part)

    def sums(self, theta: View, part: Sequence[Example]) -> np.ndarray:
        """The sums of one micro-batch over all probes: f64[P, ...]."""
        tokens = sum(packed_size(example) for example in part)
        groups = theta.parts(most_probes(tokens, self.max_tokens))
        sums = [self.objective.sums(group, part) for group in groups]
        if len(sums) == 1:
            return sums[0]  # as it is: of a view that records a tape, no array
        return np.concatenate(sums)


def most_probes(tokens: int, max_tokens: int) -> int:
    """The most probes of so many tokens each that are computed at once."""
    return max(2, max_tokens // tokens * 2)
