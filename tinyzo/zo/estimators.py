"""Estimators: from the losses at a few points around theta to a gradient, sum_i g_i z_i.

    two-sided      g_i = (L(theta + eps z_i) - L(theta - eps z_i)) / (2 eps q)        n-SPSA, P-RGE
    one-sided      g_i = (L(theta + eps z_i) - L(theta)) / (q s)                      FZOO
    leave-one-out  g_i = (l_i - mean l) / (eps (q - 1)),  l_i = L(theta + eps z_i)
    forward        g_i = z_i^T grad L(theta) / q, exactly: autodiff/forward_mode.py

z_i is from the i-th of q seeds. s is the standard deviation of the q losses, so one-sided steps
are as long on flat ground as on steep (2506.09034). All points are one view: one pass over the
weights, each z made once (2409.15520).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights
from tinyzo.zo.mezo import Loss, Step, check_finite
from tinyzo.zo.updates import Past, UpdateRule

Losses = NDArray[np.float64]
SPREAD = 1e-6  # the least that s counts, since losses may be all alike


def two_sided(losses: Losses, eps: float) -> Losses:
    plus = losses[::2]
    minus = losses[1::2]
    return (plus - minus) / (2 * eps) / len(plus)


def one_sided(losses: Losses, eps: float) -> Losses:
    at_theta = losses[0]
    probes = losses[1:]
    deviation = max(float(probes.std()), SPREAD)
    return (probes - at_theta) / (len(probes) * deviation)


def leave_one_out(losses: Losses, eps: float) -> Losses:
    return (losses - losses.mean()) / (eps * (len(losses) - 1))


def both_sides(losses: Losses) -> dict[str, float]:
    plus = losses[::2]
    minus = losses[1::2]
    return {"loss_plus": float(plus.mean()), "loss_minus": float(minus.mean())}


def centre_and_spread(losses: Losses) -> dict[str, float]:
    return {"loss_at_theta": float(losses[0]), **spread(losses[1:])}


def spread(losses: Losses) -> dict[str, float]:
    return {"loss_probes": float(losses.mean()), "loss_probes_std": float(losses.std())}


def tangent_centre(losses: Losses) -> dict[str, float]:
    return {"loss_at_theta": float(losses.mean())}


@dataclass(frozen=True)
class Estimator:
    """The points at which the loss is read, and the gradient that follows from it.

    gradients:  (losses, eps) -> the q numbers g_i
    summary:    losses -> the fields of a line of metrics.jsonl
    sides:      the points along each z_i, in units of eps
    has_centre: the loss is read at theta itself, too, and first
    is_exact:   derivatives stand for differences
    """

    gradients: Callable[[Losses, float], Losses]
    summary: Callable[[Losses], dict[str, float]]
    sides: tuple[int, ...]
    has_centre: bool = False
    is_exact: bool = False

    def points(self, seeds: Sequence[int], eps: float) -> list[Probe]:
        """The points at which the loss is read."""
        centre = [Probe(0, 0.0)] if self.has_centre else []
        return centre + [Probe(seed, side * eps) for seed in seeds for side in self.sides]

    def count(self, queries: int) -> int:
        """The number of losses that a step reads."""
        return len(self.points(range(queries), 1.0))

    def forwards(self, queries: int) -> int:
        """The cost of a step in forward passes; an exact derivative counts as two."""
        if self.is_exact:
            return 1 + 2 * queries
        return self.count(queries)


ESTIMATORS = {
    "two-sided": Estimator(two_sided, both_sides, sides=(+1, -1)),
    "one-sided": Estimator(one_sided, centre_and_spread, sides=(+1,), has_centre=True),
    "leave-one-out": Estimator(leave_one_out, spread, sides=(+1,)),
    "forward": Estimator(two_sided, tangent_centre, sides=(+1, -1), is_exact=True),
}


def zo_step(
    weights: Weights,
    loss: Loss,
    batch: Any,
    seeds: Sequence[int],
    eps: float,
    lr: float,
    decay: float = 0.0,
    estimator: Estimator = ESTIMATORS["two-sided"],
    rule: UpdateRule = UpdateRule(),  # noqa: B008 (frozen)
    past: Sequence[Past] = (),
) -> Step:
    """One step of any estimator and update; theta changes in place.

    loss:  (view of P probes, batch) -> P losses
    seeds: one for each query
    past:  the steps before, the newest first, for updates that look back
    raises: NumericError when a loss is not finite; theta is then unchanged
    """
    points = estimator.points(seeds, eps)
    if estimator.is_exact:
        losses = check_finite(losses_on_tangent(weights, loss, batch, points))
    else:
        losses = check_finite(loss(weights.view(points), batch))
    gradients = estimator.gradients(np.array(losses), eps)
    now = Past(seeds, gradients.tolist())
    update = rule.update([now, *past], lr, lr * decay)
    weights.apply(update)
    return Step(tuple(losses), float(gradients.sum()), rule.to_journal(update), update.decay)


def losses_on_tangent(
    weights: Weights, loss: Loss, batch: Any, points: Sequence[Probe]
) -> list[float]:
    """The losses at the points if L were its tangent plane at theta: L + scale z^T grad L."""
    from tinyzo.autodiff.forward_mode import ForwardView  # loaded only by this estimator

    seeds = list(dict.fromkeys(point.seed for point in points))
    theta = ForwardView(weights, [Probe(seed, 1.0) for seed in seeds])
    at_theta, *slopes = loss(theta, batch)
    slope = dict(zip(seeds, slopes, strict=True))
    return [at_theta + point.scale * slope[point.seed] for point in points]
