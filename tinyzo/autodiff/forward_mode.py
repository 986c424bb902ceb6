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
from collections.abc import Iterator

import numpy as np

from tinyzo.engine import noise
from tinyzo.engine.adapters import AdaptedView
from tinyzo.engine.gelu import normal_distribution
from tinyzo.engine.numpy_engine import NumpyView, in_cache, present

DENSITY = np.float32(1 / math.sqrt(2 * math.pi))


def gelu_slope(x: np.ndarray) -> np.ndarray:
    """Phi(x) + x phi(x), the derivative of x Phi(x), by which x is overwritten. f32, contiguous."""
    slope = np.empty_like(x)
    for block, s in in_cache(x, slope):
        cdf = normal_distribution(block)
        s[...] = cdf + DENSITY * block * np.exp(np.float32(-0.5) * block * block)
        block *= cdf
    return slope


class ForwardView(AdaptedView):
    """The weights with k directions: activations f32[1 + k, N, D], a loss f64[1 + k].

    probes: one for each direction, scale * z(seed) on weights.trained; all other tensors have none
    differs: the axis is 1 + k from the first verb on, since no tangent is not the same tangent
    """

    def copy_count(self, name: str, x: np.ndarray) -> int:
        return len(x)

    def parts(self, most: int) -> list[NumpyView]:
        return [self]

    def tangents(self, name: str, index: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """A tensor's own tangents, where it has any: (row, scale * z). index: u32, kept."""
        for i, probe in enumerate(self.probes if name in self.perturbed else (), 1):
            z = noise.at(probe.seed, name, index.copy(), self.weights.direction.kind)
            yield i, np.float32(probe.scale) * z

    def copies(self, name: str, w: np.ndarray, index: np.ndarray) -> Iterator[np.ndarray]:
        """w, and its tangent for each probe."""
        both = np.zeros((1 + len(self.probes), *w.shape), np.float32)
        both[0] = w
        for i, tangent in self.tangents(name, index):
            both[i] = tangent
        yield from both

    def multiply(self, x, name, w, index, out=None) -> np.ndarray:
        out = np.matmul(x, w.T, out=out)
        for i, tangent in self.tangents(name, index):
            out[i] += x[0] @ tangent.T
        return out

    def bilinear(self, f, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        out = f(a, b[:1])
        out[1:] += f(a[:1], b[1:])
        return out

    def standardise(self, x: np.ndarray, ln_eps: np.float32) -> np.ndarray:
        x /= np.sqrt(np.square(x[:1]).mean(axis=-1, keepdims=True) + ln_eps)
        x[1:] -= x[:1] * (x[:1] * x[1:]).mean(axis=-1, keepdims=True)
        return x

    def softmax(self, score: np.ndarray, hidden: np.ndarray | None) -> np.ndarray:
        p = super().softmax(score[:1], hidden)
        score[1:] -= (p * score[1:]).sum(axis=-1, keepdims=True)
        score[1:] *= p
        return score

    def log_sum_exp(self, y: np.ndarray, top: np.ndarray, total: np.ndarray) -> None:
        """Tangents' rows of total are the running sums of e^y dy, scaled as row 0."""
        new = np.maximum(top[0], y[0].max(axis=-1))
        y[0] -= new[:, None]
        np.exp(y[0], out=y[0])
        y[1:] *= y[0]
        total *= np.exp(top[0] - new)
        total += y.sum(axis=-1)
        top[0] = new

    def log_total(self, top: np.ndarray, total: np.ndarray) -> np.ndarray:
        out = total / total[:1]
        out[0] = super().log_total(top[0], total[0])
        return out

    def cross_entropy(self, scores, labels, counts) -> np.ndarray:
        value = super().cross_entropy(scores[:1], labels, counts)
        p = super().softmax(present(scores[0], counts)[None], None)
        p[0, np.arange(len(labels)), labels] -= 1
        return np.append(value, (p * scores[1:]).sum(axis=(1, 2)))

    def gelu(self, x: np.ndarray) -> np.ndarray:
        x[1:] *= gelu_slope(x[0])
        return x

    def relu(self, x: np.ndarray) -> np.ndarray:
        x[1:] *= x[:1] > 0
        super().relu(x[:1])
        return x
