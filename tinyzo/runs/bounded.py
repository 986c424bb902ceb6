"""A loss in bounded memory: a batch in micro-batches, and probes in groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinyzo.engine.protocols import View
from tinyzo.text.packing import micro_batches, packed_size
from tinyzo.text.tasks import Example
from tinyzo.zo.objectives import Objective


@dataclass(frozen=True)
class BoundedLoss:
    """The loss of an objective, computed part by part; sums are float64, so parts hardly matter.

    max_tokens: packed tokens of a micro-batch, of two probes: more probes go in groups
    """

    objective: Objective
    max_tokens: int

    def __call__(self, theta: View, examples: Sequence[Example]) -> np.ndarray:
        total: np.ndarray | None = None
        for part in micro_batches(examples, self.max_tokens):
            sums = self.sums(theta, part)
            total = sums if total is None else total + sums
        return self.objective.mean(total, self.objective.count(examples))

    def sums(self, theta: View, part: Sequence[Example]) -> np.ndarray:
        """The sums of one micro-batch over all probes."""
        tokens = sum(packed_size(example) for example in part)
        views = theta.parts(max(2, self.max_tokens // tokens * 2))
        sums = [self.objective.sums(view, part) for view in views]
        return sums[0] if len(sums) == 1 else np.concatenate(sums)
