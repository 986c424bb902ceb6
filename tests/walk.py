"""The classic walk of MeZO, in place: theta + eps z, theta - eps z, and back (its algorithm 1).

For teaching and for comparison. Ten sweeps over memory a step, and each walk leaves rounding
behind: the way back does not meet the way out bit by bit. `zo/mezo.py` never walks.
Differs: 16-bit weights are rounded stochastically on the way, as by every fold here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tinyzo.engine.weights import Weights
from tinyzo.zo.mezo import Loss, Step, check_finite, mezo_step


@contextmanager
def walked(weights: Weights, seed: int, scale: float) -> Iterator[Any]:
    """A view of theta while it stands at theta + scale z; walked back even on an exception."""
    weights.add([(seed, scale)])
    try:
        yield weights.view()
    finally:
        weights.add([(seed, -scale)])


def walk_step(
    weights: Weights, loss: Loss, batch: Any, seed: int, eps: float, lr: float, decay: float = 0.0
) -> Step:
    """One step of `mezo_step`, its losses measured on perturbed weights in memory.

    raises: NumericError when a loss is not finite; theta is then back, up to rounding
    """

    def losses(_view: Any, batch: Any) -> Iterator[float]:
        for scale in (+eps, -eps):
            with walked(weights, seed, scale) as theta:
                yield from check_finite(loss(theta, batch))

    return mezo_step(weights, losses, batch, seed, eps, lr, decay)
