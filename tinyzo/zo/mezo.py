"""MeZO (Malladi et al. 2023, algorithm 1): a step of SGD from two forward passes.

    g     = (L(theta + eps z) - L(theta - eps z)) / (2 eps)      z ~ N(0, I), from a seed
    theta = (1 - lr decay) theta - lr g z

g, the projected gradient, estimates z^T grad L, and E[g z] = grad L (SPSA, Spall 1992).
z is never stored: `weights.view` makes theta +- eps z while it multiplies, and `weights.add`
makes the same z again from the seed. Differs from the paper: theta is not walked to
theta + eps z and back, so it stays exact; z belongs to (seed, tensor, element), not to an order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinyzo.engine.terms import Probe, Term
from tinyzo.errors import NumericError

if TYPE_CHECKING:
    from tinyzo.engine.weights import Weights

# (view of P probes, batch) -> P losses. Any: a step hands the batch on and never looks into it.
Loss = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Step:
    """A step's losses and the terms that it added to theta, from which a journal redoes it."""

    losses: tuple[float, ...]
    projected_gradient: float
    terms: tuple[Term, ...]
    decay: float = 0.0

    @property
    def loss(self) -> float:
        """The mean over the probes: the loss at theta, up to terms in eps^2."""
        return sum(self.losses) / len(self.losses)


def mezo_step(
    weights: Weights, loss: Loss, batch: Any, seed: int, eps: float, lr: float, decay: float = 0.0
) -> Step:
    """One MeZO step; theta changes in place.

    loss: (view of P probes, batch) -> P losses
    raises: NumericError when a loss is not finite; theta is then unchanged
    """
    theta = weights.view([Probe(seed, +eps), Probe(seed, -eps)])
    loss_plus, loss_minus = check_finite(loss(theta, batch))
    projected_gradient = (loss_plus - loss_minus) / (2 * eps)
    terms = ((seed, -lr * projected_gradient),)
    weights.add(terms, lr * decay)
    return Step((loss_plus, loss_minus), projected_gradient, terms, lr * decay)


def check_finite(losses: Iterable[float]) -> list[float]:
    """The losses as Python floats.

    raises: NumericError when one is not finite
    """
    found = [float(value) for value in losses]
    if not all(math.isfinite(value) for value in found):
        raise NumericError(f"losses {found}", "theta is as before; try a smaller lr or eps")
    return found
