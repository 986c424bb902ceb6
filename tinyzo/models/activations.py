"""Adapters along the inputs of their layers: A from one forward pass (ZO-Act, arXiv 2607.01125).

    X = U S V^T     the inputs of a matrix W, tokens x width
    A = V[:, :r]^T  their r leading directions, orthonormal

The gradient of W is dY^T X: its rows lie in the span of inputs, and mostly in that of a few. So z
in B, behind such an A, has more of the gradient than behind a random one. The same A begins EVA
(arXiv 2410.07170), whose adapters backpropagation trains.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from tinyzo.dtypes import Array
from tinyzo.engine.adapters import adapter
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.protocols import View
from tinyzo.engine.weights import Weights
from tinyzo.errors import ConfigError


class Watcher:
    """A view that hands on the inputs of linear modules. Its other verbs are the view's behind it.

    seen: takes the name of a matrix and its inputs, f32[N, in]
    """

    def __init__(self, view: View, seen: Callable[[str, Array], None]) -> None:
        self.view = view
        self.seen = seen

    def __getattr__(self, verb: str) -> Any:
        return getattr(self.view, verb)

    def linear(self, name: str, x: Array, residual: Array | None = None) -> Array:
        """As View's."""
        self.seen(f"{name}.weight", x[0])
        return self.view.linear(name, x, residual)


def lead_by_inputs(weights: Weights, forward: Callable[[View], object]) -> None:
    """Set the A of every adapter to the leading directions of its matrix's inputs.

    weights: with new adapters; only their A changes
    forward: a forward pass on a view of one probe. NumPy computes it, whatever the engine is
    raises: ConfigError for an adapter of a matrix that has no inputs: a table
    """
    waiting = {name: adapter(name) for name in weights.names()}
    waiting = {name: halves for name, halves in waiting.items() if halves.a in weights}

    def lead(name: str, x: Array) -> None:
        if name in waiting:
            a = weights.stored(waiting.pop(name).a)
            a[...] = leading_directions(x, len(a))

    forward(cast(View, Watcher(NumpyEngine().view(weights, []), lead)))
    if waiting:
        found = f"{min(waiting)} is a table, and has no inputs to take directions from"
        raise ConfigError(found, "--lora-targets names projections; or take --train lora-fa")


def leading_directions(x: Array, rank: int) -> Array:
    """The first right singular vectors of x, each with its largest element above 0.

    x: f32[N, D]; returns f32[rank, D], whose rows beyond the N-th or the D-th are 0
    """
    _, _, found = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    a = np.zeros((rank, x.shape[1]), np.float32)
    for row, direction in zip(a, found, strict=False):
        largest = direction[np.abs(direction).argmax()]
        row[...] = direction * np.sign(largest)
    return a
