"""Steps by the whole gradient: Adam (Kingma & Ba 2015, algorithm 1) and SGD.

    theta = (1 - lr decay) theta              matrices only, as weights.add: decoupled (AdamW,
    m     = b1 m + (1 - b1) g                 Loshchilov & Hutter 2019)
    v     = b2 v + (1 - b2) g^2
    theta = theta - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

m and v are float32, as large as theta each, where MeZO keeps nothing. 16-bit storage is rounded to
nearest, so that updates below half of a last place are lost (weights.add rounds at random).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyzo.autodiff.reverse_mode import GradientView
from tinyzo.dtypes import narrow, widen
from tinyzo.engine.numpy_engine import in_cache
from tinyzo.engine.stores.overlay import Overlay
from tinyzo.engine.weights import Weights
from tinyzo.errors import NumericError
from tinyzo.zo.mezo import Loss, Step, check_finite

State = dict[str, np.ndarray]  # "step": i64[]; "m.<tensor>", "v.<tensor>": f32; saved, it is all


@dataclass(frozen=True)
class SGD:
    """theta - lr g. Keeps nothing."""

    moments: Sequence[str] = ()

    def change(self, step: int, g: np.ndarray) -> np.ndarray:
        return g


@dataclass(frozen=True)
class Adam:
    """theta - lr m^ / (sqrt(v^) + eps). Two moments of each element."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    moments: Sequence[str] = ("m", "v")

    def change(self, step: int, g: np.ndarray, m: np.ndarray, v: np.ndarray) -> np.ndarray:
        """What step `step` (from 1) takes from theta, but for lr; m and v change in place."""
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (g * g - v)
        root = np.sqrt(v / (1 - self.beta2**step))
        return m / (1 - self.beta1**step) / (root + self.eps)


def first_order_step(weights: Weights, loss: Loss, batch: Any, state: State, lr: float,
                     decay: float = 0.0, rule: Adam | SGD = Adam()) -> Step:
    """One step down the gradient of loss(view, batch); theta and state change in place.

    weights: in memory; state: {} before the first step. The same from the same state, to the bit.
    returns the loss, and the gradient's norm as projected_gradient; no terms, since nothing less
    than the gradient makes the step again
    raises: NumericError when the loss or the gradient is not finite, ConfigError when the weights
    are streamed; theta and state are then unchanged
    """
    value = loss(GradientView(weights), batch)
    losses = check_finite(value.value)
    gradients = value.backward()
    norm = math.sqrt(sum(float(np.linalg.norm(g)) ** 2 for g in gradients.values()))
    if not math.isfinite(norm):
        raise NumericError(f"a gradient of norm {norm}", "theta is as before; try a smaller lr")
    step = state["step"] = state.get("step", np.zeros((), np.int64)) + 1
    for name, g in gradients.items():
        w, keep = weights.stored(name), 1 - lr * decay if g.ndim > 1 else 1.0
        kept = [state.setdefault(f"{m}.{name}", np.zeros_like(g)) for m in rule.moments]
        for raw, *each in in_cache(w, g, *kept):
            new = keep * widen(raw) - lr * rule.change(int(step), *each)
            raw[...] = narrow(new, raw.dtype, None)
    return Step(tuple(losses), norm, ())


def add_moments(weights: Weights) -> None:
    """Adam's m and v beside the weights of a run, so that its snapshots have them."""
    shapes = {name: weights.shape(name) for name in weights.trained}
    own = {f"{m}.{n}": np.zeros(shape, np.float32) for n, shape in shapes.items() for m in "mv"}
    weights.store = Overlay(weights.store, own)
    weights.saved = weights.saved | dict.fromkeys(own)


def step_number(number: int, method: str, weights: Weights, loss: Loss, batch: Any, lr: float,
                decay: float) -> Step:  # fmt: skip
    """A run's step `number` (from 0) by "adam", whose moments `add_moments` made, or "sgd"."""
    rule, kept = (Adam(), weights.store.own.tensors) if method == "adam" else (SGD(), {})
    state = kept | {"step": np.array(number)}
    return first_order_step(weights, loss, batch, state, lr, decay, rule)
