"""Adam without state: its moments are made again from the terms of the last K steps (AdaMeZO).

theta <- theta - 100 lr M / (sqrt(V) + 1e-5)
M = sum_k b1^k g_k z_k,  V = sum_k b2^k g_k^2 z_k^2        k = 0 the newest; arXiv 2605.00650
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tinyzo.dtypes import Array
from tinyzo.engine.terms import Term

BETA_1 = 0.7
BETA_2 = 0.9
BOOST = 100.0
FLOOR = np.float32(1e-5)


class AgedTerm(NamedTuple):
    """A term of the moments: first * z is added to M, second * z^2 to V."""

    seed: int
    first: float
    second: float


@dataclass(frozen=True)
class Moments:
    """AdaMeZO's step from the terms (seed, projected gradient) of an update.

    lr:      the learning rate
    queries: the number of terms of each step; the newest step's come first
    """

    lr: float
    queries: int

    @property
    def rate(self) -> float:
        """The factor of M / (sqrt(V) + FLOOR)."""
        return -BOOST * self.lr

    def aged(self, terms: Sequence[Term]) -> list[AgedTerm]:
        """The terms, each with the weights of its step's age."""
        ages = [i // self.queries for i in range(len(terms))]
        return [
            AgedTerm(seed, BETA_1**age * g, BETA_2**age * g * g)
            for age, (seed, g) in zip(ages, terms, strict=True)
        ]

    def change(self, terms: Sequence[Term], z_of: Callable[[int], Array]) -> Array:
        """The change of some elements by the update. z_of: seed -> their z, f32."""
        m: Array | np.float32 = np.float32(0)
        v: Array | np.float32 = np.float32(0)
        for seed, first, second in self.aged(terms):
            z = z_of(seed)
            m = m + np.float32(first) * z
            v = v + np.float32(second) * (z * z)
        change: Array = np.float32(self.rate) * (m / (np.sqrt(v) + FLOOR))
        return change
