"""The forward pass in NumPy: a view of theta with a few verbs. Clear, always there, the oracle.

A view stands for P perturbed copies of the model. Activations carry that axis in front,
[P, N, D], and it stays 1 until the first perturbed tensor is touched. A tile of W is read once,
its z made once per seed, and W + scale * z lives only while it is multiplied.
"""

from collections.abc import Callable, Iterator

import numpy as np

from tinyzo.engine.adapters import Adapters, adapter, plus
from tinyzo.engine.noise import polynomial
from tinyzo.engine.weights import Probe, Weights, narrow, split
from tinyzo.errors import ShapeError
from tinyzo.text.batches import Batch

QUERIES = 128  # attention scores are made for so many queries at once

# Phi(x) = 1/2 + x P(x^2) / Q(x^2) on |x| <= 5.5, within 7e-9: the normal distribution function,
# fitted for tinyzo, since NumPy has no erf. Beyond 5.5 a float32 Phi is 0 or 1.
PHI_LIMIT = 5.5
PHI_P = (0.39894223462721035, 0.03385265997064125, 0.004677261233943165, 0.00016882578683706924,
         6.352116785300932e-06, 2.2749383392528723e-08)  # fmt: skip
PHI_Q = (1.0, 0.25152195303413954, 0.02864587870524476, 0.0018844454405474056, 7.36475297521632e-05,
         1.1975043840867986e-06)  # fmt: skip


def normal_distribution(x: np.ndarray) -> np.ndarray:
    """Phi(x) of the standard normal distribution, within 3e-7 in float32."""
    t = np.clip(x, np.float32(-PHI_LIMIT), np.float32(PHI_LIMIT))
    square = t * t
    t *= polynomial(PHI_P, square)
    t /= polynomial(PHI_Q, square)
    t += np.float32(0.5)
    return t


def blocks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Contiguous arrays of one size in flat blocks, small enough to stay in cache."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, 1 << 14):
        yield tuple(each[start : start + (1 << 14)] for each in flat)


def present(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Scores of candidates, -inf for those that an example does not have. f64[P, B, C], i64[B]."""
    return np.where(np.arange(scores.shape[-1]) < counts[:, None], scores, -np.inf)


class NumpyView(Adapters):
    """P perturbed copies of the weights, seen through the verbs that a model needs.

    Arrays are float32. P is 1 below the first perturbed tensor and len(probes) from there on.
    """

    def __init__(self, weights: Weights, probes: list[Probe]) -> None:
        self.weights, self.probes = weights, probes
        self.perturbed = weights.trained if any(probe.scale for probe in probes) else {}

    @staticmethod
    def fold(weights: Weights, name: str, raw: np.ndarray, start: int) -> None:
        """What is pending into the bytes of some of a tensor's rows, from row `start` on."""
        for first, tile in split(start, raw):
            w = weights.now(name, tile, weights.index(name, first, first + len(tile)))
            tile[...] = narrow(w, tile.dtype, None)  # exact: rounded by `now`

    def parts(self, most: int) -> list["NumpyView"]:
        """The same probes in views of at most so many, which bounds memory."""
        if len(self.probes) <= most:
            return [self]
        starts = range(0, len(self.probes), most)
        return [self.weights.view(self.probes[i : i + most]) for i in starts]

    # -- the perturbation ------------------------------------------------------------------

    def copies(self, name: str, w: np.ndarray, index: np.ndarray) -> Iterator[np.ndarray]:
        """w + scale * z for each probe, one after another; once, when nothing is perturbed.

        w: f32, some elements of tensor `name`; index: u32, their flat numbers.
        """
        if name not in self.perturbed:
            yield w
            return
        z: dict[int, np.ndarray] = {}
        for probe in self.probes:
            if probe.scale and probe.seed not in z:
                z[probe.seed] = self.weights.direction(probe.seed, name, w, index)
            yield w + np.float32(probe.scale) * z[probe.seed] if probe.scale else w

    def vector(self, name: str) -> np.ndarray:
        """A bias or a LayerNorm vector: f32[P, 1, D]."""
        return self.whole(name)[:, None]

    def whole(self, name: str) -> np.ndarray:
        """All of a small tensor: f32[P, ...]."""
        index = self.weights.index(name, 0, self.weights.shape(name)[0])
        return np.stack(list(self.copies(name, self.weights.read(name), index)))

    def check_width(self, name: str, x: np.ndarray) -> None:
        """raises: ShapeError when the matrix does not take rows as wide as x's"""
        rows, width = self.weights.shape(name)
        if x.shape[-1] != width:
            raise ShapeError(f"{name} [{rows}, {width}] does not take width {x.shape[-1]}",
                             "check config.json against the weights")  # fmt: skip

    def project(self, name: str, x: np.ndarray,
                out: np.ndarray | None = None) -> Iterator[tuple[int, int, np.ndarray]]:
        """x W^T in tiles of W's rows: (start, stop, f32[P, N, stop - start]), in `out` if given."""
        self.check_width(name, x)
        for start, raw in self.weights.tiles(name):
            stop = start + len(raw)
            here = None if out is None else out[..., start:stop]
            index = self.weights.index(name, start, stop)
            w = self.weights.now(name, raw, index)
            yield start, stop, self.multiply(x, name, w, index, here)

    def multiply(self, x: np.ndarray, name: str, w: np.ndarray, index: np.ndarray,
                 out: np.ndarray | None = None) -> np.ndarray:  # fmt: skip
        """x w^T for each probe's w. x: f32[P or 1, N, D], w: f32[R, D]; f32[P or 1, N, R]."""
        if out is None:
            out = self.empty(name, x, len(w))
        if name not in self.perturbed:
            return np.matmul(x, w.T, out=out)
        for p, copy in enumerate(self.copies(name, w, index)):
            np.matmul(x[p if len(x) > 1 else 0], copy.T, out=out[p])
        return out

    def full(self, name: str, x: np.ndarray) -> np.ndarray:
        """x W^T whole: f32[P, N, rows of W]."""
        y = self.empty(name, x, self.weights.shape(name)[0])
        for _ in self.project(name, x, y):
            pass
        return y

    def empty(self, name: str, x: np.ndarray, width: int) -> np.ndarray:
        """Room for what a matrix makes of x: f32[P, N, width]."""
        return np.empty((self.count(name, x), x.shape[1], width), np.float32)

    def count(self, name: str, x: np.ndarray) -> int:
        """How many copies there are of what a tensor makes of x."""
        return len(self.probes) if name in self.perturbed else len(x)

    def row_copies(self, name: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The given rows of a table and their flat element numbers."""
        return self.weights.gather(name, rows), self.weights.row_index(name, rows)

    # -- verbs with parameters -------------------------------------------------------------

    def embed(self, name: str, ids: np.ndarray) -> np.ndarray:
        """Rows of a table. ids: int[N]; returns f32[P, N, D]."""
        rows, back = np.unique(ids, return_inverse=True)
        x = np.stack([copy[back] for copy in self.copies(name, *self.row_copies(name, rows))])
        return self.adapt_rows(name, ids, x)

    def linear(self, name: str, x: np.ndarray, residual: np.ndarray | None = None) -> np.ndarray:
        """x W^T + b, and the residual on top. x: f32[P, N, D]; f32[P, N, out]. b is optional."""
        y = self.full(f"{name}.weight", x)
        if f"{name}.bias" in self.weights:
            y = plus(y, self.vector(f"{name}.bias"))
        y = y if residual is None else plus(y, residual)
        return self.adapt(name, x, y)

    def norm(self, name: str, x: np.ndarray, ln_eps: float) -> np.ndarray:
        """LayerNorm (Ba et al. 2016) over the last axis. x: f32[P, N, D]; returns the same.

        Without its two vectors in the checkpoint it only centres and scales.
        """
        x = self.standardise(x - x.mean(axis=-1, keepdims=True), np.float32(ln_eps))
        if f"{name}.weight" in self.weights:
            x = self.bilinear(np.multiply, x, self.vector(f"{name}.weight"))
            x = plus(x, self.vector(f"{name}.bias"))
        return x

    def scores(self, name: str, h: np.ndarray, rows: np.ndarray | None = None,
               bias: str | None = None) -> np.ndarray:  # fmt: skip
        """The vocabulary projection h E^T + b, of all rows or of those asked for.

        h: f32[P, N, D]; rows: int[R]; bias: name of f32[V]; returns f32[P, N, R or V].
        """
        if rows is None:
            y = self.full(name, h)
        else:
            y = self.multiply(h, name, *self.row_copies(name, rows))
        if bias is not None:
            y = plus(y, self.vector(bias)[..., slice(None) if rows is None else rows])
        return self.adapt(name, h, y, rows)

    def nll(self, name: str, h: np.ndarray, at: np.ndarray, targets: np.ndarray,
            bias: str | None = None) -> np.ndarray:  # fmt: skip
        """-log p(target), the softmax over the vocabulary taken tile by tile.

        h: f32[P, N, D]; at: int[K], rows of h; targets: int[K]; returns f32[P, K].
        """
        b = self.vector(bias) if bias is not None else None
        copies = max(self.count(each, h) for each in (name, bias, *adapter(name)))
        top = np.full((copies, h.shape[1]), -np.inf, np.float32)
        total, picked = np.zeros_like(top), np.empty((copies, len(at)), np.float32)
        for start, stop, y in self.project(name, h):
            if b is not None:
                y = plus(y, b[..., start:stop])
            y = self.adapt(name, h, y, np.arange(start, stop))
            here = (start <= targets) & (targets < stop)
            picked[:, here] = y[:, at[here], targets[here] - start]
            self.log_sum_exp(y, top, total)
        return self.log_total(top, total)[:, at] - picked

    # -- mathematics without parameters ----------------------------------------------------

    def attention(self, name: str, q: np.ndarray, k: np.ndarray, v: np.ndarray, batch: Batch,
                  causal: bool, rows: np.ndarray | None = None) -> np.ndarray:  # fmt: skip
        """Scaled dot-product attention within each packed segment (Vaswani et al. 2017, eq. 1).

        softmax(q k^T / sqrt(K)) v; a segment sees its parent and itself, up to each query's own
        place if causal. q: f32[P, M, H, K], the queries of tokens `rows` (None: all N);
        k, v: f32[P, N, H, K]; returns f32[P, M, H, K].
        name: of the layer's attention, to find a prefix (Li & Liang 2021) that every query sees
        differs: no padding mask exists, since nothing is padded
        """
        k, v, prefix = self.prefixed(name, k, v)
        out = np.empty((max(len(q), len(k), len(v)), *q.shape[1:]), np.float32)
        scale = np.float32(q.shape[-1] ** -0.5)
        for queries, keys, places in batch.attention_blocks(rows, QUERIES, prefix):
            # [P, H, T, K] x [P, H, K, S]
            queried = q[:, queries].swapaxes(1, 2), k[:, keys].transpose(0, 2, 3, 1)
            score = self.bilinear(np.matmul, *queried)
            score *= scale
            hidden = places[:, None] < np.arange(score.shape[-1]) if causal else None
            score = self.softmax(score, hidden)
            values = self.bilinear(np.matmul, score, v[:, keys].swapaxes(1, 2))
            out[:, queries] = values.swapaxes(1, 2)
        return out

    # -- what is not linear in the activations ---------------------------------------------

    def bilinear(self, f: Callable[..., np.ndarray], a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """f(a, b), f linear in both."""
        return f(a, b)

    def standardise(self, x: np.ndarray, ln_eps: np.float32) -> np.ndarray:
        """x / sqrt(mean x^2 + ln_eps) over the last axis; x is overwritten."""
        x /= np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + ln_eps)
        return x

    def softmax(self, score: np.ndarray, hidden: np.ndarray | None) -> np.ndarray:
        """Over the last axis, in place. hidden: bool[T, S], which keys no query may see."""
        if hidden is not None:
            score[:, :, hidden] = -np.inf
        score -= score.max(axis=-1, keepdims=True)
        np.exp(score, out=score)
        score /= score.sum(axis=-1, keepdims=True)
        return score

    def log_sum_exp(self, y: np.ndarray, top: np.ndarray, total: np.ndarray) -> None:
        """Take y: f32[P, N, R] into the running sums total e^top: f32[P, N] each; y is spent."""
        new = np.maximum(top, y.max(axis=-1))
        y -= new[..., None]
        total *= np.exp(top - new)
        total += np.exp(y, out=y).sum(axis=-1)
        top[...] = new

    def log_total(self, top: np.ndarray, total: np.ndarray) -> np.ndarray:
        """log(total e^top), of f32[P, N] each."""
        return np.log(total) + top

    def cross_entropy(self, scores: np.ndarray, labels: np.ndarray,
                      counts: np.ndarray) -> np.ndarray:  # fmt: skip
        """Sum over the examples of -log softmax(scores)[label].

        scores: f64[P, B, C]; labels: i64[B]; counts: i64[B], how many candidates each example has;
        returns f64[P]
        """
        scores = present(scores, counts)
        top = scores.max(axis=-1, keepdims=True)
        log_total = top[..., 0] + np.log(np.exp(scores - top).sum(axis=-1))
        return (log_total - scores[:, np.arange(len(labels)), labels]).sum(axis=-1)

    def gelu(self, x: np.ndarray) -> np.ndarray:
        """x Phi(x), the exact GELU (Hendrycks & Gimpel 2016), within 3e-7 |x|; x is overwritten."""
        for (block,) in blocks(x):
            block *= normal_distribution(block)
        return x

    def relu(self, x: np.ndarray) -> np.ndarray:
        """max(x, 0); x is overwritten."""
        return np.maximum(x, 0, out=x)
