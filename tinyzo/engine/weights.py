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


Term = tuple[int, float]  # (seed, coefficient): theta += coefficient * z(seed)
Update = tuple[Sequence[Term], float]  # theta <- (1 - decay) theta + its terms; (terms, decay)
Factor = tuple[int, float, float]  # (seed, kept, added): w <- kept w + added z(seed)


def factors(updates: Sequence[Update], is_matrix: bool) -> list[Factor]:
    """What updates do to one tensor, in order. Decay reaches matrices only: no bias, no norm."""
    every: list[Factor] = []
    for terms, decay in updates:
        kept = 1 - decay if is_matrix else 1.0
        for seed, coefficient in terms or [(0, 0.0)]:
            every.append((seed, kept, coefficient))
            kept = 1.0
    return every


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
    engine:  makes a view, engine(weights, probes), and folds; it holds all the arithmetic.
    kind:    the distribution of z.
    pending: updates that count in all that is read and are not yet in the bytes.
    """

    def __init__(
        self, tensors: dict[str, np.ndarray], engine: Callable[..., Any], kind: str = "gaussian"
    ) -> None:
        self._tensors, self.engine, self.kind = tensors, engine, kind
        self.pending: list[Update] = []

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

    def stored(self, name: str) -> np.ndarray:
        """One tensor's bytes in their storage type, without what is pending: not to write."""
        return self._tensors[name]

    def read(self, name: str) -> np.ndarray:
        """A copy of one tensor as it is now: f32."""
        return self.rows(name, 0, len(self._tensors[name])).copy()

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start .. stop, or single elements of a vector: f32, to read and not to write."""
        return self._now(name, self._tensors[name][start:stop], self.index(name, start, stop))

    def gather(self, name: str, rows: np.ndarray) -> np.ndarray:
        """The given rows: f32[len(rows), ...]."""
        return self._now(name, self._tensors[name][rows], self.row_index(name, rows))

    def _now(self, name: str, raw: np.ndarray, index: np.ndarray) -> np.ndarray:
        pending = self.factors(name, self.pending)
        return apply_factors(widen(raw), name, index, pending, self.kind)

    def factors(self, name: str, updates: Sequence[Update]) -> list[Factor]:
        """What updates do to a tensor."""
        return factors(updates, len(self.shape(name)) > 1)

    def tiles(self, name: str) -> Iterator[tuple[int, int]]:
        """The tensor as ranges of rows of about TILE elements."""
        rows, *rest = self.shape(name)
        step = max(1, TILE // int(np.prod(rest)))
        return ((start, min(start + step, rows)) for start in range(0, rows, step))

    def index(self, name: str, start: int, stop: int) -> np.ndarray:
        """The flat element numbers of rows start .. stop, the counters of z: u32."""
        rest = self.shape(name)[1:]
        return noise.counters(start * int(np.prod(rest)), (stop - start, *rest))

    def row_index(self, name: str, rows: np.ndarray) -> np.ndarray:
        """The flat element numbers of the given rows: u32[len(rows), ...]."""
        within = self.index(name, 0, 1)[0]
        first = rows.astype(np.uint32) * np.uint32(within.size)
        return first.reshape(-1, *(1,) * within.ndim) + within

    def view(self, probes: Sequence[Probe] = (Probe(0, 0.0),)) -> Any:
        """The model at several perturbed points at once; theta itself is not touched."""
        return self.engine(self, list(probes))

    def add(self, terms: Sequence[Term], decay: float = 0.0, fold: bool = True) -> None:
        """theta <- (1 - decay) theta + sum_i c_i z(seed_i); decay reaches matrices only.

        fold: into the bytes, in place, with all that is pending, rounded once by the newest seed;
        otherwise it stays pending.
        raises: NumericError when a coefficient is not finite; theta is then unchanged
        """
        if not (np.abs([decay, *(c for _, c in terms)]) <= np.finfo(np.float32).max).all():
            raise NumericError(
                f"an update that is not finite: {terms}", "a smaller lr or a clip helps"
            )
        self.pending.append((tuple(terms), decay))
        if fold:
            salt = terms[0][0] if terms else 0
            for name in self._tensors:
                self.engine.fold(self, name, self.factors(name, self.pending), salt)
            self.pending.clear()


def apply_factors(
    w: np.ndarray, name: str, index: np.ndarray, factors: Sequence[Factor], kind: str
) -> np.ndarray:
    """w <- kept w + added z for each factor. w: f32, kept; index: u32, its elements' numbers."""
    for seed, kept, added in factors:
        z = noise.at(seed, name, index.copy(), kind)
        w = np.float32(kept) * w + np.float32(added) * z
    return w
