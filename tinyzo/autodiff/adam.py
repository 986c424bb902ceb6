"""Steps by the whole gradient: Adam (Kingma & Ba 2015, algorithm 1) and SGD.

    theta = (1 - lr decay) theta              matrices only, as weights.add: decoupled (AdamW,
    m     = b1 m + (1 - b1) g                 Loshchilov & Hutter 2019)
    v     = b2 v + (1 - b2) g^2
    theta = theta - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

m and v are float32, as large as theta each, where MeZO keeps nothing. 16-bit storage is rounded to
nearest, so that updates below half of a last place are lost (weights.add rounds at random).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from tinyzo.autodiff.reverse_mode import GradientView
from tinyzo.autodiff.tape import Variable
from tinyzo.dtypes import Array, narrow, widen
from tinyzo.engine.numpy_engine import in_cache
from tinyzo.engine.protocols import View
from tinyzo.engine.stores.overlay import Overlay, owner
from tinyzo.engine.terms import Update
from tinyzo.engine.threads import uninterrupted
from tinyzo.engine.weights import Weights
from tinyzo.errors import ConfigError, NumericError
from tinyzo.zo.mezo import Loss, Step, check_finite

Tensors = dict[str, Array]
State = dict[str, np.ndarray]  # "step": i64[]; "m.<tensor>", "v.<tensor>": f32; saved, it is all


@runtime_checkable
class SharedLoss(Protocol):
    """A loss that is a sum of shares, of parts of the batch."""

    def shares(self, theta: View, batch: Any) -> Iterator[Any]:
        """The shares, each computed when it is asked for."""


@dataclass(frozen=True)
class SGD:
    """theta - lr g.

    moments: the names of what is kept of each element: nothing
    """

    moments: Sequence[str] = ()

    def change(self, step: int, g: Array) -> Array:
        """The step, before it is multiplied by lr."""
        return g


@dataclass(frozen=True)
class Adam:
    """theta - lr m^ / (sqrt(v^) + eps), of two moments of each element."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    moments: Sequence[str] = ("m", "v")

    def change(self, step: int, g: Array, m: Array, v: Array) -> Array:
        """Step number `step` (from 1), before it is multiplied by lr; m and v change in place."""
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (g * g - v)
        weight1: float = 1 - self.beta1**step
        weight2: float = 1 - self.beta2**step
        root = np.sqrt(v / weight2)
        change: Array = m / weight1 / (root + self.eps)
        return change


Rule = Adam | SGD
RULES: dict[str, Rule] = {"adam": Adam(), "sgd": SGD()}


def first_order_step(
    weights: Weights,
    loss: Loss,
    batch: Any,
    state: State,
    lr: float,
    decay: float = 0.0,
    rule: Rule = Adam(),
) -> Step:
    """One step down the gradient of loss(view, batch); theta and state change in place.

    weights: what is trained is in memory
    state: {} before the first step. The same step from the same state, to the bit
    returns: the loss, and the gradient's norm as projected_gradient; no terms, since nothing less
        than the gradient makes the step again
    raises: NumericError when the loss or the gradient is not finite, ConfigError when what is
        trained is streamed; theta and state are then unchanged
    """
    check_in_memory(weights)
    # A loss computes on Variables as it does on arrays, which its type does not say.
    theta = cast(View, GradientView(weights))
    with weights.lock, np.errstate(under="ignore"):
        losses, gradients = gradients_of(theta, loss, batch)
        norm = finite_norm(gradients.values())
    step = int(state.get("step", 0)) + 1
    with weights.lock, uninterrupted(), np.errstate(under="ignore"):
        state["step"] = np.array(step)
        for name, g in gradients.items():
            moments = [state.setdefault(f"{m}.{name}", np.zeros_like(g)) for m in rule.moments]
            kept = Update((), lr * decay).kept(g.shape)
            for raw, *each in in_cache(weights.stored(name), g, *moments):
                change = rule.change(step, *each)
                new = np.float32(kept) * widen(raw) - np.float32(lr) * change
                raw[...] = narrow(new, raw.dtype, None)
    return Step(tuple(losses), norm, ())


def gradients_of(theta: View, loss: Loss, batch: Any) -> tuple[list[float], Tensors]:
    """The loss and its gradient: of each share in turn, so that no two keep activations at once.

    raises: NumericError when the loss is not finite
    """
    shares = loss.shares(theta, batch) if isinstance(loss, SharedLoss) else [loss(theta, batch)]
    losses = np.zeros(1)
    gradients: Tensors = {}
    for share in shares:
        value = cast(Variable, share)
        losses = losses + check_finite(value.value)
        for name, g in value.backward().items():
            gradients[name] = gradients[name] + g if name in gradients else g
    return losses.tolist(), gradients


def check_in_memory(weights: Weights) -> None:
    """raises: ConfigError when what is trained is not in memory, where a step changes it"""
    for name in weights.trained:
        if not owner(weights.store, name).is_resident:
            found = f"a gradient's step on streamed weights, as {name}"
            raise ConfigError(found, "--residency resident, or train what lies beside: lora")


def finite_norm(gradients: Iterable[Array]) -> float:
    """The length of the whole gradient.

    raises: NumericError when it is not finite
    """
    squares = [float(np.linalg.norm(g)) ** 2 for g in gradients]
    norm = math.sqrt(sum(squares))
    if not math.isfinite(norm):
        raise NumericError(f"a gradient of norm {norm}", "theta is as before; try a smaller lr")
    return norm


# -- in a run, whose snapshots hold the state beside what is trained


def add_moments(weights: Weights) -> None:
    """Put Adam's m and v, 0, beside the weights of a run."""
    own = {
        f"{moment}.{name}": np.zeros(weights.shape(name), np.float32)
        for name in weights.trained
        for moment in Adam().moments
    }
    weights.store = Overlay(weights.store, own)
    weights.saved = weights.saved | dict.fromkeys(own)


def step_number(
    number: int,
    rule: Rule,
    weights: Weights,
    loss: Loss,
    batch: Any,
    lr: float,
    decay: float,
) -> Step:
    """A run's step `number` (from 0). `add_moments` has made what the rule keeps, if anything."""
    state = {"step": np.array(number)}
    for moment in rule.moments:
        for name in weights.trained:
            state[f"{moment}.{name}"] = weights.stored(f"{moment}.{name}")
    return first_order_step(weights, loss, batch, state, lr, decay, rule)
