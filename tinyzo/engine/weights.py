"""The owner of theta: tensors in their storage type, read in tiles, changed only by adding terms.

    theta = checkpoint + sum_i coefficient_i * z(seed_i)

Storage is float32, float16, or bfloat16 (as uint16: its bits are the upper half of a float32).
Arithmetic is float32. A fold into 16-bit storage rounds stochastically, since an update of 1e-6
on a bfloat16 weight would otherwise round to nothing; the bits come from the same counter hash,
so the result is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinyzo.dtypes import Array, Integers, narrow, widen
from tinyzo.engine import noise
from tinyzo.engine.stores.resident import Resident
from tinyzo.engine.terms import Direction, Probe, Term, Update
from tinyzo.engine.tiles import Block, split
from tinyzo.errors import NumericError

if TYPE_CHECKING:
    from tinyzo.engine.protocols import Engine, Store, View

ITSELF = (Probe(0, 0.0),)  # the model as it is


class Parameters:
    """Theta as an engine sees it, to be read tensor by tensor or tile by tile.

    store:     where the bytes live
    direction: the distribution of z
    trained:   the tensors that z reaches, in order; all others stay as they are
    pending:   updates that count in all that is read, and are not yet in the bytes
    adapter_scale: alpha / r of every adapter (adapters.py); None where there are none
    lock:      held while theta changes, and by a pass (Model's) while it must not
    """

    def __init__(self, store: Store, direction: Direction) -> None:
        from tinyzo.engine.threads import WEIGHTS, new_lock  # not of the mathematics

        self.store = store
        self.direction = direction
        self.trained: dict[str, None] = dict.fromkeys(store.shapes)
        self.pending: list[Update] = []
        self.adapter_scale: float | None = None
        self.lock = new_lock(WEIGHTS)

    def names(self) -> list[str]:
        """The tensors, by the checkpoint's own names."""
        return list(self.store.shapes)

    def __contains__(self, name: str) -> bool:
        return name in self.store.shapes

    def shape(self, name: str) -> tuple[int, ...]:
        return self.store.shapes[name]

    def dtype(self, name: str) -> np.dtype:
        """The type in which a tensor is stored."""
        return self.store.dtypes[name]

    def elements(self, names: Iterable[str]) -> int:
        """The number of elements of these tensors."""
        return sum(math.prod(self.shape(name)) for name in names)

    def nbytes(self) -> int:
        """The size of all tensors in their storage types."""
        return sum(self.elements([name]) * self.dtype(name).itemsize for name in self.names())

    def stored(self, name: str) -> np.ndarray:
        """One tensor in its storage type, without what is pending. It must not be changed."""
        return self.store.read(name)

    def read(self, name: str) -> Array:
        """A copy of one tensor as it is now: f32."""
        with self.lock, np.errstate(under="ignore"):
            return np.array(self.now(name, self.stored(name), noise.counters(0, self.shape(name))))

    def gather(self, name: str, rows: Integers) -> Array:
        """The given rows as they are now: f32[len(rows), ...]."""
        return self.now(name, self.store.gather(name, rows), self.row_index(name, rows))

    def tiles(self, name: str) -> Iterator[Block]:
        """The tensor's bytes as (first row, rows of about TILE elements), in turn."""
        for start, raw in self.store.blocks(name):
            yield from split(start, raw)

    def now(self, name: str, raw: np.ndarray, index: np.ndarray) -> Array:
        """Stored elements with all pending updates, each rounded as it would be in storage.

        raw: elements of a tensor; index: u32, their flat numbers, kept; returns f32 of that shape
        """
        w = widen(raw)
        if name not in self.trained:
            return w
        for update in self.pending:
            w = self._updated(update, name, w, index)
            if raw.dtype != np.float32:
                key = noise.key(update.rounding_seed, name, "rounding")
                w = widen(narrow(w, raw.dtype, noise.words(key, index.copy())))
        return w

    def _updated(self, update: Update, name: str, w: Array, index: np.ndarray) -> Array:
        """Elements after one update. An update without terms counts as one of coefficient 0."""
        kept = np.float32(update.kept(self.shape(name)))
        if update.moments:
            change = update.moments.change(update.terms, lambda s: self.z(s, name, w, index))
            return kept * w + change
        for seed, coefficient in update.terms or [(0, 0.0)]:
            z = self.z(seed, name, w, index)
            w = kept * w + np.float32(coefficient) * z
            kept = np.float32(1)
        return w

    def z(self, seed: int, name: str, w: Array, index: np.ndarray) -> Array:
        """z of some elements that are now w, f32; index as for `now`."""
        z = noise.at(seed, name, index.copy(), self.direction.kind)
        limit = self.direction.limits.get(name)
        if limit is not None:
            z[np.abs(w) > np.float32(limit)] = 0
        return z

    def index(self, name: str, start: int, stop: int) -> np.ndarray:
        """The flat element numbers of rows start .. stop, by which z is made: u32."""
        rest = self.shape(name)[1:]
        return noise.counters(start * math.prod(rest), (stop - start, *rest))

    def row_index(self, name: str, rows: Integers) -> np.ndarray:
        """The flat element numbers of the given rows: u32[len(rows), ...]."""
        within = self.index(name, 0, 1)[0]
        first = rows.astype(np.uint32) * np.uint32(within.size)
        return np.add.outer(first, within)


class Weights(Parameters):
    """Parameters with the verbs that zeroth-order training needs: read, view, add.

    store:  where the bytes live; a dict of arrays, name -> f32, f16 or u16 (bfloat16), is Resident
    engine: what computes; it sees Parameters, and neither owns nor changes anything unasked
    saved:  the tensors that a snapshot holds
    """

    def __init__(
        self,
        store: Store | dict[str, np.ndarray],
        engine: Engine,
        direction: Direction = Direction(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(Resident(store) if isinstance(store, dict) else store, direction)
        self.engine = engine
        self.saved = self.trained

    def view(self, probes: Sequence[Probe] = ITSELF) -> View:
        """The model at several perturbed points at once; theta itself is not touched."""
        return self.engine.view(self, list(probes))

    def add(self, terms: Sequence[Term], decay: float = 0.0, fold: bool = True) -> None:
        """theta <- (1 - decay) theta + sum_i c_i z(seed_i); decay reaches matrices only.

        terms: (seed_i, c_i) of each; fold, raises: as for `apply`
        """
        self.apply(Update(tuple(terms), decay), fold)

    def apply(self, update: Update, fold: bool = True) -> None:
        """theta <- theta after the update.

        fold: into the bytes at once, where they are in memory; else it is pending. The result is
        the same: 16-bit storage is rounded after each update, by words that its first seed makes.
        raises: NumericError when a coefficient is not finite; theta is then unchanged
        """
        numbers = np.array([update.decay, *(coefficient for _, coefficient in update.terms)])
        if not (np.abs(numbers) <= np.finfo(np.float32).max).all():
            found = f"an update that is not finite: {update.terms}"
            raise NumericError(found, "a smaller lr or a clip helps")
        with self.lock:
            self.pending.append(update)
            if fold:
                self.fold()

    def fold(self) -> None:
        """All that is pending into the bytes, in one sweep, where they are in memory."""
        from tinyzo.engine.threads import uninterrupted  # not of the mathematics

        with self.lock, uninterrupted(), np.errstate(under="ignore"):
            if self.pending and self.store.is_resident:
                for name in self.trained:
                    self.engine.fold(self, name, self.stored(name), 0)
                self.pending.clear()

    def write(self, write: Callable[[str, np.ndarray], None], names: Sequence[str]) -> None:
        """Give `write` each tensor's name and its bytes as they are now, block by block."""
        from tinyzo.engine.adapters import merge  # loaded only where something is written

        with self.lock, np.errstate(under="ignore"):
            self.fold()
            for name in names:
                for start, raw in self.store.blocks(name, sweep="write"):
                    if self.pending and name in self.trained:
                        self.engine.fold(self, name, raw, start)
                    merge(self, name, raw, start)
                    write(name, raw)

    def move(self, path: Path) -> None:
        """Go on with a file of what `write` gave, if the weights are not in memory."""
        with self.lock:
            self.store.move(path)
            self.pending.clear()
