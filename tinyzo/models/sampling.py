"""The next token of a sequence: the likeliest, or drawn from the likely ones.

    p = softmax(logits / temperature)       temperature 0: the likeliest, the first of equal ones
    top_p: the fewest tokens whose p reaches it, the likeliest first (Holtzman et al. 2020)

The draw is a word of the counter hash that makes z (engine/noise.py), of the seed, the sequence and
its length. So it does not depend on what else is generated, and is the same on every machine up to
the rounding of p.
"""

from dataclasses import dataclass

import numpy as np

from tinyzo.dtypes import Array
from tinyzo.engine import noise
from tinyzo.errors import NumericError, UsageError


@dataclass(frozen=True)
class Sampler:
    """How tokens are chosen.

    raises: UsageError for a temperature below 0, or top_p outside of 0 (excluded) to 1
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < np.inf:
            raise UsageError(f"temperature {self.temperature}", "0 is greedy, 1 as the model says")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p {self.top_p}", "a share above 0, and up to 1, which is all")
        noise.key(self.seed, "")  # its seed may be out of range

    def choose(self, logits: Array, sequence: int, step: int) -> int:
        """The token number `step` of a sequence. logits: f32[V]

        raises: NumericError when they are not finite
        """
        best = int(logits.argmax())
        if not np.isfinite(logits[best]):
            hint = "tinyzo doctor finds weights that are not finite"
            raise NumericError(f"the model's scores have {logits[best]}", hint)
        if not self.temperature:
            return best
        odds = np.exp((logits.astype(np.float64) - logits[best]) / self.temperature)
        odds /= odds.sum()
        tokens = self.likely(odds)
        reach = odds[tokens].cumsum()
        return int(tokens[np.searchsorted(reach, self.draw(sequence, step) * reach[-1], "right")])

    def likely(self, odds: np.ndarray) -> np.ndarray:
        """The tokens to draw from: i64[.]. odds: f64[V], their p"""
        if self.top_p == 1:
            return np.flatnonzero(odds)
        # All of those below that p have less than 1 - top_p together.
        tokens = np.flatnonzero(odds > (1 - self.top_p) / len(odds))
        tokens = tokens[np.argsort(-odds[tokens], kind="stable")]
        return tokens[: np.searchsorted(odds[tokens].cumsum(), self.top_p) + 1]

    def draw(self, sequence: int, step: int) -> float:
        """A number from 0 to 1, without both."""
        key = noise.key(self.seed, f"generate.{sequence}", "rounding")
        (word,) = noise.words(key, np.array([step], np.uint32))
        return (int(word) + 0.5) / 2**32
