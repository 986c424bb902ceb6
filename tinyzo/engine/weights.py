"""The owner of theta: tensors in their storage type, read in tiles, changed only by adding terms.

    theta = checkpoint + sum_i coefficient_i * z(seed_i)

Storage is float32, float16, or bfloat16 (as uint16: its bits are the upper half of a float32).
Arithmetic is float32. A fold into 16-bit storage rounds stochastically, since an update of 1e-6
on a bfloat16 weight would otherwise round to nothing; the bits come from the same counter hash,
so the result is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyzo.engine import noise
from tinyzo.errors import NumericError

TILE = 1 << 16  # elements in work at once: 256 kB of float32, so that z and w stay in cache


@dataclass(frozen=True)
class Probe:
    """One perturbed copy of the model, theta + scale * z(seed). scale = 0: the model itself."""

    seed: int
    scale: float


Term = tuple[int, float]  # (seed, coefficient): an update, theta += coefficient * z(seed)


def widen(raw: np.ndarray) -> np.ndarray:
    """Storage to float32, exactly. A float32 array comes back as it is, not as a copy."""
    if raw.dtype == np.uint16:
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32, copy=False)


def narrow(values: np.ndarray, dtype: np.dtype, bits: np.ndarray | None) -> np.ndarray:
    """float32 to storage: at random to one of the two neighbours, so that the mean is kept.

    bits: u32, the random word of each element; None rounds to nearest. float32 passes as it is.
    """
    if dtype == np.float32:
        return values
    if dtype == np.uint16:
        word = values.view(np.uint32)
        carry = 0x7FFF + ((word >> 16) & 1) if bits is None else bits >> 16
        return ((word + carry) >> 16).astype(np.uint16)
    if bits is None:
        return values.astype(np.float16)
    exponent = values.view(np.uint32) & np.uint32(0x7F800000)
    ulp = np.maximum(exponent, 113 << 23) - np.uint32(10 << 23)  # subnormals: a fixed 2^-24
    ulp = ulp.view(np.float32)
    dither = (bits >> 19).astype(np.float32) * np.float32(2.0**-13)
    return (np.floor(values / ulp + dither) * ulp).astype(np.float16)


class Weights:
    """Named tensors with the verbs that zeroth-order training needs: read, view, add.

    tensors: name -> f32, f16 or u16 (bfloat16) array, owned and changed in place.
    engine:  makes the view, engine(weights, probes); it holds all arithmetic of the forward pass.
    kind:    the distribution of z.
    """

    def __init__(
        self, tensors: dict[str, np.ndarray], engine: Callable[..., Any], kind: str = "gaussian"
    ) -> None:
        self._tensors, self._engine, self.kind = tensors, engine, kind

    def names(self) -> list[str]:
        """The tensors, by the checkpoint's own names."""
        return list(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def dtype(self, name: str) -> np.dtype:
        return self._tensors[name].dtype

    def nbytes(self) -> int:
        return sum(t.nbytes for t in self._tensors.values())

    def read(self, name: str) -> np.ndarray:
        """A copy of one tensor as it is now: f32."""
        return widen(self._tensors[name]).copy()

    def stored(self, name: str) -> np.ndarray:
        """One tensor in its storage type, to read and not to write."""
        return self._tensors[name]

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start .. stop, or single elements of a vector: f32, to read and not to write."""
        return widen(self._tensors[name][start:stop])

    def gather(self, name: str, rows: np.ndarray) -> np.ndarray:
        """The given rows: f32[len(rows), ...]."""
        return widen(self._tensors[name][rows])

    def tiles(self, name: str) -> Iterator[tuple[int, int]]:
        """The tensor as ranges of rows of about TILE elements."""
        rows, *rest = self.shape(name)
        step = max(1, TILE // int(np.prod(rest)))
        return ((start, min(start + step, rows)) for start in range(0, rows, step))

    def index(self, name: str, start: int, stop: int) -> np.ndarray:
        """The flat element numbers of rows start .. stop, the counters of z: u32."""
        rest = self.shape(name)[1:]
        return noise.counters(start * int(np.prod(rest)), (stop - start, *rest))

    def view(self, probes: Sequence[Probe] = (Probe(0, 0.0),)) -> Any:
        """The model at several perturbed points at once; theta itself is not touched."""
        return self._engine(self, list(probes))

    def add(self, terms: Sequence[Term], decay: float = 0.0) -> None:
        """theta <- (1 - decay) theta + sum_i c_i z(seed_i), in place, tile by tile.

        Decay reaches matrices only: not biases, not the vectors of a LayerNorm.
        raises: NumericError when a coefficient is not finite; theta is then unchanged
        """
        if not (np.abs([decay, *(c for _, c in terms)]) <= np.finfo(np.float32).max).all():
            raise NumericError(
                f"an update that is not finite: {terms}", "a smaller lr or a clip helps"
            )
        for name in self._tensors:
            for start, stop in self.tiles(name):
                self._fold(name, start, stop, terms, decay)

    def _fold(
        self, name: str, start: int, stop: int, terms: Sequence[Term], decay: float
    ) -> None:
        stored = self._tensors[name][start:stop]
        index = self.index(name, start, stop)
        w = widen(stored)
        if decay and w.ndim > 1:
            w = w * np.float32(1 - decay)
        for seed, coefficient in terms:
            w = w + np.float32(coefficient) * noise.at(seed, name, index.copy(), self.kind)
        bits = None
        if stored.dtype != np.float32 and terms:
            bits = noise.words(noise.key(terms[0][0], name, "rounding"), index)
        stored[...] = narrow(w, stored.dtype, bits)
