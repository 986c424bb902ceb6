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

from tinyzo.engine.weights import Probe, Weights
from tinyzo.zo.mezo import Loss, Step, check_finite
from tinyzo.zo.updates import Past, Update

SPREAD = 1e-6  # the least that s counts, since losses may be all alike


@dataclass(frozen=True)
class Estimator:
    """points(seeds, eps): where the loss is read; gradients(losses, eps): the q numbers g_i.

    count(q): how many losses there are
    """

    points: Callable[[Sequence[int], float], list[Probe]]
    gradients: Callable[[np.ndarray, float], np.ndarray]
    count: Callable[[int], int]
    is_exact: bool = False

    def forwards(self, queries: int) -> int:
        """What a step costs, in forward passes: exactly, one and two for each derivative."""
        return 1 + 2 * queries if self.is_exact else self.count(queries)


def _both_sides(seeds: Sequence[int], eps: float) -> list[Probe]:
    return [Probe(seed, scale) for seed in seeds for scale in (+eps, -eps)]


def _two_sided(losses: np.ndarray, eps: float) -> np.ndarray:
    return (losses[::2] - losses[1::2]) / (2 * eps) / (len(losses) // 2)


def _one_side(seeds: Sequence[int], eps: float) -> list[Probe]:
    return [Probe(seed, eps) for seed in seeds]


def _here_and_one_side(seeds: Sequence[int], eps: float) -> list[Probe]:
    return [Probe(0, 0.0), *_one_side(seeds, eps)]


def _one_sided(losses: np.ndarray, eps: float) -> np.ndarray:
    here, others = losses[0], losses[1:]
    return (others - here) / (len(others) * max(float(others.std()), SPREAD))


def _leave_one_out(losses: np.ndarray, eps: float) -> np.ndarray:
    return (losses - losses.mean()) / (eps * (len(losses) - 1))


ESTIMATORS = {
    "two-sided": Estimator(_both_sides, _two_sided, lambda q: 2 * q),
    "one-sided": Estimator(_here_and_one_side, _one_sided, lambda q: q + 1),
    "leave-one-out": Estimator(_one_side, _leave_one_out, lambda q: q),
    "forward": Estimator(_both_sides, _two_sided, lambda q: 2 * q, is_exact=True),
}


def zo_step(weights: Weights, loss: Loss, batch: Any, seeds: Sequence[int], eps: float, lr: float,
            decay: float, estimator: Estimator, update: Update, past: Past) -> Step:  # fmt: skip
    """One step of any estimator and update; theta changes in place.

    past: (seeds, g) of the steps before, the newest first, for updates that look back
    raises: NumericError when a loss is not finite; theta is then unchanged
    """
    points = estimator.points(seeds, eps)
    if estimator.is_exact:
        found = _on_the_tangent(weights, loss, batch, points)
    else:
        found = loss(weights.view(points), batch)
    losses = check_finite(found)
    gradients = estimator.gradients(np.array(losses), eps)
    terms = update.terms([(seeds, gradients.tolist()), *past], lr)
    weights.add(terms, lr * decay)
    return Step(tuple(losses), float(gradients.sum()), terms, lr * decay)


def _on_the_tangent(weights: Weights, loss: Loss, batch: Any, points: list[Probe]) -> list[float]:
    """The losses at the points if L were its tangent plane at theta: L + scale z^T grad L."""
    from tinyzo_gradients.forward_mode import ForwardView  # exact derivatives, beside this package

    seeds = list(dict.fromkeys(point.seed for point in points))
    here, *slopes = loss(ForwardView(weights, [Probe(seed, 1.0) for seed in seeds]), batch)
    slope = dict(zip(seeds, slopes, strict=True))
    return [here + point.scale * slope[point.seed] for point in points]
