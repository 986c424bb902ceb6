"""Estimators: from the losses at a few points around theta to a gradient, sum_i g_i z_i.

    two-sided      g_i = (L(theta + eps z_i) - L(theta - eps z_i)) / (2 eps q)        n-SPSA, P-RGE
    one-sided      g_i = (L(theta + eps z_i) - L(theta)) / (q s)                      FZOO
    leave-one-out  g_i = (l_i - mean l) / (eps (q - 1)),  l_i = L(theta + eps z_i)
    forward        g_i = z_i^T grad L(theta) / q, exactly: forward_mode.py

z_i is from the i-th of q seeds. s is the standard deviation of the q losses, so one-sided steps
are as long on flat ground as on steep (2506.09034). All points are one view: one pass over the
weights, each z made once (2409.15520).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights
from tinyzo.zo.mezo import Loss, Step, check_finite
from tinyzo.zo.updates import Past, UpdateRule

SPREAD = 1e-6  # the least that s counts, since losses may be all alike


def _two_sided(losses: np.ndarray, eps: float) -> np.ndarray:
    return (losses[::2] - losses[1::2]) / (2 * eps) / (len(losses) // 2)


def _one_sided(losses: np.ndarray, eps: float) -> np.ndarray:
    here, others = losses[0], losses[1:]
    return (others - here) / (len(others) * max(float(others.std()), SPREAD))


def _leave_one_out(losses: np.ndarray, eps: float) -> np.ndarray:
    return (losses - losses.mean()) / (eps * (len(losses) - 1))


@dataclass(frozen=True)
class Estimator:
    """gradients(losses, eps): the q numbers g_i.

    sides: where the loss is read along each z_i, in eps; has_centre: first of all at theta itself
    """

    gradients: Callable[[np.ndarray, float], np.ndarray]
    sides: tuple[int, ...]
    has_centre: bool = False
    is_exact: bool = False

    def points(self, seeds: Sequence[int], eps: float) -> list[Probe]:
        """Where the loss is read."""
        centre = [Probe(0, 0.0)] * self.has_centre
        return centre + [Probe(seed, side * eps) for seed in seeds for side in self.sides]

    def count(self, queries: int) -> int:
        """How many losses there are."""
        return self.has_centre + queries * len(self.sides)

    def forwards(self, queries: int) -> int:
        """What a step costs, in forward passes: exactly, one and two for each derivative."""
        return 1 + 2 * queries if self.is_exact else self.count(queries)


ESTIMATORS = {
    "two-sided": Estimator(_two_sided, sides=(+1, -1)),
    "one-sided": Estimator(_one_sided, sides=(+1,), has_centre=True),
    "leave-one-out": Estimator(_leave_one_out, sides=(+1,)),
    "forward": Estimator(_two_sided, sides=(+1, -1), is_exact=True),
}


def zo_step(weights: Weights, loss: Loss, batch: Any, seeds: Sequence[int], eps: float, lr: float,
            decay: float, estimator: Estimator, rule: UpdateRule, past: Past) -> Step:  # fmt: skip
    """One step of any estimator and update; theta changes in place.

    past: (seeds, g) of the steps before, the newest first, for updates that look back
    raises: NumericError when a loss is not finite; theta is then unchanged
    """
    points = estimator.points(seeds, eps)
    losses = check_finite(_on_the_tangent(weights, loss, batch, points) if estimator.is_exact
                          else loss(weights.view(points), batch))  # fmt: skip
    gradients = estimator.gradients(np.array(losses), eps)
    update = rule.update([(seeds, gradients.tolist()), *past], lr, lr * decay)
    weights.apply(update)
    return Step(tuple(losses), float(gradients.sum()), rule.to_journal(update), update.decay)


def _on_the_tangent(weights: Weights, loss: Loss, batch: Any, points: list[Probe]) -> list[float]:
    """The losses at the points if L were its tangent plane at theta: L + scale z^T grad L."""
    from tinyzo.autodiff.forward_mode import ForwardView  # exact derivatives, beside this package

    seeds = list(dict.fromkeys(point.seed for point in points))
    here, *slopes = loss(ForwardView(weights, [Probe(seed, 1.0) for seed in seeds]), batch)
    slope = dict(zip(seeds, slopes, strict=True))
    return [here + point.scale * slope[point.seed] for point in points]
