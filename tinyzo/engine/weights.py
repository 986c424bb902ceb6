"""The owner of theta: tensors in their storage type, read in tiles, changed only by adding terms.

    theta = checkpoint + sum_i coefficient_i * z(seed_i)

Storage is float32, float16, or bfloat16 (as uint16: its bits are the upper half of a float32).
Arithmetic is float32. A fold into 16-bit storage rounds stochastically, since an update of 1e-6
on a bfloat16 weight would otherwise round to nothing; the bits come from the same counter hash,
so the result is the same on every machine.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyzo.engine import noise
from tinyzo.engine.moments import adam_change
from tinyzo.errors import NumericError

TILE = 1 << 16  # elements in work at once: 256 kB of float32, so that z and w stay in cache


class Probe(NamedTuple):
    """One perturbed copy of the model, theta + scale * z(seed). scale = 0: the model itself."""

    seed: int
    scale: float


Block = tuple[int, np.ndarray]  # the number of its first row, and its rows in storage type
Term = tuple[int, float]  # (seed, coefficient): theta += coefficient * z(seed)
Update = tuple[Sequence[Term], float]  # (terms, decay): theta <- (1 - decay) theta + its terms


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
    # Half's last place, 2^-10 of the power of two; of subnormals a fixed 2^-24.
    ulp = (np.maximum(exponent, 113 << 23) - np.uint32(10 << 23)).view(np.float32)
    dither = (bits >> 19).astype(np.float32) * np.float32(2.0**-13)
    return (np.floor(values / ulp + dither) * ulp).astype(np.float16)


class Resident:
    """Where the bytes live: here in memory, changed in place. streaming.py has the other place.

    shapes, dtypes: of each tensor, by name
    """

    is_resident = True

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.tensors = tensors
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in tensors.items()}

    def load(self) -> "Resident":
        """Itself: it is in memory."""
        return self

    def read(self, name: str) -> np.ndarray:
        """A whole tensor, in its storage type."""
        return self.tensors[name]

    def blocks(self, name: str, start: int = 0, stop: int | None = None,
               sweep: str = "") -> Iterator[Block]:  # fmt: skip
        """Rows start .. stop in blocks: (number of the first row, rows in storage type)."""
        yield start, self.tensors[name][start:stop]

    def gather(self, name: str, rows: np.ndarray) -> np.ndarray:
        """The given rows, in storage type."""
        return self.tensors[name][rows]

    def move(self, path: Path) -> None:
        """Nothing: what has been written is in memory too."""


class Weights:
    """Named tensors with the verbs that zeroth-order training needs: read, view, add.

    store:   where the bytes live; a dict of arrays is Resident: name -> f32, f16 or u16 (bfloat16).
    engine:  makes a view, engine(weights, probes), folds, merges; it holds all the arithmetic.
    kind:    the distribution of z.
    trained: the tensors that z reaches; all others stay as they are.
    saved:   the tensors that a snapshot holds.
    limits:  of a tensor: z is 0 where |theta| is larger (Sparse-MeZO, arXiv 2402.15751).
    scale:   of every adapter, alpha / r (adapters.py).
    adam:    terms of a step, where updates are Adam's (moments.py); 0 where they are sums.
    pending: updates that count in all that is read and are not yet in the bytes.
    """

    def __init__(self, store: Any, engine: Any, kind: str = "gaussian") -> None:
        self.store = Resident(store) if isinstance(store, dict) else store
        self.engine, self.kind = engine, kind
        self.trained = self.saved = dict.fromkeys(self.store.shapes)  # in order, quick to look up
        self.limits: dict[str, float] = {}
        self.scale, self.adam = 1.0, 0
        self.pending: list[Update] = []

    def names(self) -> list[str]:
        """The tensors, by the checkpoint's own names."""
        return list(self.store.shapes)

    def __contains__(self, name: str) -> bool:
        return name in self.store.shapes

    def shape(self, name: str) -> tuple[int, ...]:
        return self.store.shapes[name]

    def dtype(self, name: str) -> np.dtype:
        return self.store.dtypes[name]

    def nbytes(self) -> int:
        """Of all tensors as they are stored, wherever that is."""
        return sum(math.prod(self.shape(n)) * self.dtype(n).itemsize for n in self.names())

    def elements(self, names: Iterable[str]) -> int:
        """How many numbers these tensors hold."""
        return sum(math.prod(self.shape(name)) for name in names)

    def stored(self, name: str) -> np.ndarray:
        """One tensor's bytes in their storage type, without what is pending: not to write."""
        return self.store.read(name)

    def read(self, name: str) -> np.ndarray:
        """A copy of one tensor as it is now: f32."""
        return self.now(name, self.stored(name), self.index(name, 0, self.shape(name)[0])).copy()

    def gather(self, name: str, rows: np.ndarray) -> np.ndarray:
        """The given rows as they are now: f32[len(rows), ...]."""
        return self.now(name, self.store.gather(name, rows), self.row_index(name, rows))

    def tiles(self, name: str) -> Iterator[Block]:
        """The tensor's bytes as (first row, rows of about TILE elements), in turn."""
        for block in self.store.blocks(name):
            yield from split(*block)

    def now(self, name: str, raw: np.ndarray, index: np.ndarray) -> np.ndarray:
        """What is stored, with what is pending: each update added, and rounded as in storage.

        raw: elements of a tensor; index: u32, their flat numbers, kept; returns f32 of that shape
        """
        w, is_matrix = widen(raw), len(self.shape(name)) > 1
        for terms, decay in self.pending if name in self.trained else ():
            kept = np.float32(1 - decay if is_matrix else 1)
            if self.adam:
                w = kept * w + adam_change(self, terms, name, w, index)
            for seed, coefficient in () if self.adam else terms or [(0, 0.0)]:
                z = self.direction(seed, name, w, index)
                w, kept = kept * w + np.float32(coefficient) * z, np.float32(1)
            if raw.dtype != np.float32:
                bits = noise.words(noise.key(salt(terms), name, "rounding"), index.copy())
                w = widen(narrow(w, raw.dtype, bits))
        return w

    def direction(self, seed: int, name: str, w: np.ndarray, index: np.ndarray) -> np.ndarray:
        """z of some elements that are now w, f32; index as for `now`."""
        z = noise.at(seed, name, index.copy(), self.kind)
        limit = self.limits.get(name)
        return z if limit is None else np.where(np.abs(w) > np.float32(limit), np.float32(0), z)

    def index(self, name: str, start: int, stop: int) -> np.ndarray:
        """The flat element numbers of rows start .. stop, the counters of z: u32."""
        rest = self.shape(name)[1:]
        return noise.counters(start * math.prod(rest), (stop - start, *rest))

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

        fold: into the bytes at once, where they are in memory; else it is pending. The result is
        the same: 16-bit storage is rounded after each update, by words that its first seed makes.
        raises: NumericError when a coefficient is not finite; theta is then unchanged
        """
        if not (np.abs([decay, *(c for _, c in terms)]) <= np.finfo(np.float32).max).all():
            raise NumericError(f"an update that is not finite: {terms}",
                               "a smaller lr or a clip helps")  # fmt: skip
        self.pending.append((tuple(terms), decay))
        if fold:
            self.fold()

    def fold(self) -> None:
        """All that is pending into the bytes, in one sweep, where they are in memory."""
        if self.pending and self.store.is_resident:
            for name in self.trained:
                self.engine.fold(self, name, self.stored(name), 0)
            self.pending.clear()

    def write(self, write: Callable[[str, np.ndarray], None], names: Sequence[str]) -> None:
        """Give `write` each tensor as it is now: its name and, block by block, its bytes."""
        self.fold()
        for name in names:
            for start, raw in self.store.blocks(name, sweep="write"):
                if self.pending and name in self.trained:
                    self.engine.fold(self, name, raw, start)
                self.engine.merge(self, name, raw, start)
                write(name, raw)

    def move(self, path: Path) -> None:
        """To a file of what `write` gave, where they are not in memory; so nothing is pending."""
        self.store.move(path)
        self.pending.clear()


def salt(terms: Sequence[Term]) -> int:
    """The seed of an update's rounding."""
    return terms[0][0] if terms else 0


def split(start: int, raw: np.ndarray) -> Iterator[Block]:
    """A block in tiles of about TILE elements: (first row, rows)."""
    rows = tile_rows(raw.shape)
    return ((start + at, raw[at : at + rows]) for at in range(0, len(raw), rows))


def tile_rows(shape: tuple[int, ...]) -> int:
    """How many rows of a tensor are a tile."""
    return max(1, TILE // math.prod(shape[1:]))
