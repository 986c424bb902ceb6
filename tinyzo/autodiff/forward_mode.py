"""Forward-mode differentiation: the loss and its exact derivatives along z, in one pass.

    (f, df)   df = d/dt f(theta + t scale z(seed)) at t = 0          one df for each probe

Wengert 1964; as forward gradients: Baydin et al. 2022. Row 0 of the probe axis is the value, rows
1 .. k are its tangents, so what is linear in the activations (reshape, +, rows, sums) is already
right, as are the verbs made of that; the others below carry their derivative.

    x W^T             dx W^T + x dW^T                three products for MeZO's two
    f(a, b)           f(da, b) + f(a, db)            f bilinear: products, attention
    x / s             (dx - y mean(y dx)) / s        y = x / s, s = sqrt(mean x^2 + ln_eps)
    softmax           p (ds - sum p ds)
    log sum exp       sum p dy
    gelu              (Phi(x) + x phi(x)) dx

A tile of W is read once, its z made once per seed, and no z is ever whole.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from tinyzo.dtypes import Array, Integers
from tinyzo.engine import noise
from tinyzo.engine.adapters import AdaptedView
from tinyzo.engine.gelu import normal_distribution
from tinyzo.engine.numpy_engine import NumpyView, in_cache, present

DENSITY = np.float32(1 / math.sqrt(2 * math.pi))


class Tangent(NamedTuple):
    """scale * z of some elements of a tensor, and the row of the probe axis it is in."""

    row: int
    value: Array


class ForwardView(AdaptedView):
    """The weights with k directions: activations f32[1 + k, N, D], a loss f64[1 + k].

    probes: one for each direction, scale * z(seed) on weights.trained; all other tensors have none
    differs: the axis is 1 + k from the first verb on, since no tangent is not the same tangent
    """

    def copy_count(self, name: str, x: Array) -> int:
        return len(x)

    def parts(self, most: int) -> list[NumpyView]:
        return [self]

    def tangents(self, name: str, index: np.ndarray) -> Iterator[Tangent]:
        """The tangents of some elements of a tensor, if it is trained. index: u32, kept."""
        if name not in self.perturbed:
            return
        kind = self.weights.direction.kind
        for row, probe in enumerate(self.probes, 1):
            z = noise.at(probe.seed, name, index.copy(), kind)
            yield Tangent(row, np.float32(probe.scale) * z)

    def copies(self, name: str, w: Array, index: np.ndarray) -> Iterator[Array]:
        """w, and its tangent for each probe."""
        both = np.zeros((1 + len(self.probes), *w.shape), np.float32)
        both[0] = w
        for row, tangent in self.tangents(name, index):
            both[row] = tangent
        yield from both

    def multiply(self, x: Array, name: str, w: Array, index: np.ndarray) -> Array:
        y: Array = x @ w.T
        for row, tangent in self.tangents(name, index):
            y[row] += x[0] @ tangent.T
        return y

    def bilinear(self, f: Callable[..., Array], a: Array, b: Array) -> Array:
        out = f(a, b[:1])
        out[1:] += f(a[:1], b[1:])
        return out

    def standardise(self, x: Array, ln_eps: np.float32) -> Array:
        value, tangents = split(x)
        x /= np.sqrt(np.square(value).mean(axis=-1, keepdims=True) + ln_eps)
        tangents -= value * (value * tangents).mean(axis=-1, keepdims=True)
        return x

    def softmax(self, score: Array, hidden: np.ndarray | None) -> Array:
        value, tangents = split(score)
        p = super().softmax(value, hidden)
        tangents -= (p * tangents).sum(axis=-1, keepdims=True)
        tangents *= p
        return score

    def log_sum_exp(self, y: Array, top: Array, total: Array) -> None:
        """Tangents' rows of total are the running sums of e^y dy, scaled as row 0."""
        new = np.maximum(top[0], y[0].max(axis=-1))
        y[0] -= new[:, None]
        np.exp(y[0], out=y[0])
        y[1:] *= y[0]
        total *= np.exp(top[0] - new)
        total += y.sum(axis=-1)
        top[0] = new

    def log_total(self, top: Array, total: Array) -> Array:
        out = total / total[:1]
        out[0] = super().log_total(top[0], total[0])
        return out

    def cross_entropy(self, scores: np.ndarray, labels: Integers, counts: Integers) -> np.ndarray:
        value, tangents = split(scores)
        loss = super().cross_entropy(value, labels, counts)
        p = super().softmax(present(value, counts), None)
        p[0, np.arange(len(labels)), labels] -= 1
        return np.append(loss, (p * tangents).sum(axis=(1, 2)))

    def gelu(self, x: Array) -> Array:
        x[1:] *= gelu_slope(x[0])
        return x

    def relu(self, x: Array) -> Array:
        value, tangents = split(x)
        tangents *= value > 0
        super().relu(value)
        return x


def split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The value, [1, ...], and its tangents, [k, ...]: both are views."""
    return x[:1], x[1:]


def gelu_slope(x: Array) -> Array:
    """Phi(x) + x phi(x), the derivative of x Phi(x), by which x is overwritten. f32, contiguous."""
    slope = np.empty_like(x)
    for block, out in in_cache(x, slope):
        cdf = normal_distribution(block)
        bell = np.exp(np.float32(-0.5) * block * block)
        out[...] = cdf + DENSITY * block * bell
        block *= cdf
    return slope
