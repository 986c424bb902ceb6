"""Weights that stay in their file. The next block is read while this one is in use.

    resident   all bytes in memory                       resident.py
    streamed   two blocks of rows in memory, reused      here
    overlay    some in memory, in front of either        overlay.py

All have the same verbs, and what is computed is the same to the bit. Nothing is mapped: the pages
of a mapped file count as memory of the process, those of a read file do not.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyzo.checkpoints.safetensors import open_safetensors
from tinyzo.checkpoints.sources import Source
from tinyzo.dtypes import STORAGE, Integers, narrow, widen
from tinyzo.engine.stores.resident import Resident
from tinyzo.engine.threads import Pool, Task
from tinyzo.engine.tiles import Block, tile_rows
from tinyzo.errors import CheckpointError, ConfigError, UsageError

TILES = 32  # tiles in a block: 8 MB of float32
FLOATS = ("F32", "F16", "BF16", "F64")  # what a tensor in the file may hold


class Place(NamedTuple):
    """Rows start .. stop of a tensor."""

    name: str
    start: int
    stop: int


class Ahead(NamedTuple):
    """A block that the reader's thread is reading, into the buffer that is not in use."""

    place: Place
    reading: Task[np.ndarray]


class Streamed:
    """A Store of tensors in a file. What `blocks` gives is overwritten two blocks later."""

    is_resident = False

    def __init__(
        self,
        source: Source,
        names: dict[str, str],
        dtype: str | np.dtype | None = None,
        tiles: int = TILES,
    ) -> None:
        """A file's tensors, which from now on belong to the store.

        names:  of each parameter in the source
        dtype:  to hand out, "<f4", "<f2" or "<u2" (bfloat16); None: the file's
        tiles:  the size of a block
        raises: CheckpointError for a tensor that is not of floats
        """
        self._source = source
        self._names = names
        for name in names:
            self._check(name)
        self.shapes = {name: self._shape(name) for name in names}
        self.dtypes = {name: np.dtype(dtype or self._own_type(name)) for name in names}
        self._reader = Pool(1)
        self._ahead: Ahead | None = None
        self._last: Place | None = None  # the block that was given out last
        self._follows: dict[tuple[str, Place | None], Place] = {}  # what came after it last time
        self.resize(tiles)

    def _check(self, name: str) -> None:
        """raises: CheckpointError for a tensor that is not of floats"""
        if self._tag(name) not in FLOATS:
            found = f"{self._source.path}: {name} is of {self._tag(name)}"
            hint = f"only {', '.join(FLOATS)} are read: take the model before it was quantised"
            raise CheckpointError(found, hint)

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._source.info(self._names[name]).shape

    def _tag(self, name: str) -> str:
        """The tag of a tensor's storage type in the file."""
        return self._source.info(self._names[name]).dtype

    def _own_type(self, name: str) -> np.dtype:
        """The type to hand out by default: the file's, or float32 for float64."""
        return np.dtype("<f4") if self._tag(name) == "F64" else STORAGE[self._tag(name)]

    def resize(self, tiles: int) -> None:
        self._wait()
        self._tiles = tiles
        self._buffers = [np.empty(self.block_bytes(tiles), np.uint8) for _ in range(2)]

    def block_bytes(self, tiles: int) -> int:
        return max(self._block_bytes_of(name, tiles) for name in self._names)

    def _block_bytes_of(self, name: str, tiles: int) -> int:
        shape = self.shapes[name]
        rows = min(shape[0], tiles * tile_rows(shape))
        return rows * math.prod(shape[1:]) * STORAGE[self._tag(name)].itemsize

    def load(self) -> Resident:
        """All of it into memory, block by block; the file is closed."""
        tensors = {name: self._room_for(name) for name in self.shapes}
        for name, tensor in tensors.items():
            for start, raw in self.blocks(name):
                tensor[start : start + len(raw)] = raw
        self.close()
        return Resident(tensors)

    def _room_for(self, name: str) -> np.ndarray:
        """An array for a whole tensor as it is handed out."""
        return np.empty(self.shapes[name], self.dtypes[name])

    def read(self, name: str) -> np.ndarray:
        return self._read(Place(name, 0, self.shapes[name][0]))

    def mapped(self, name: str) -> np.ndarray:
        """The whole tensor as pages of its file, which nobody copies.

        raises: ConfigError when it is handed out in another type than the file's; CheckpointError
            where the file cannot be mapped
        """
        if self.dtypes[name] != STORAGE[self._tag(name)]:
            found = f"{name} is {self._tag(name)} in its file, and is asked for in another type"
            raise ConfigError(found, "leave out --dtype, or take --residency resident")
        return self._source.mapped(self._names[name])

    def gather(self, name: str, rows: Integers) -> np.ndarray:
        return np.concatenate([self._read(Place(name, row, row + 1)) for row in rows.tolist()])

    def blocks(
        self, name: str, start: int = 0, stop: int | None = None, sweep: str = ""
    ) -> Iterator[Block]:
        rows = self._tiles * tile_rows(self.shapes[name])
        stop = self.shapes[name][0] if stop is None else stop
        for first in range(start, stop, rows):
            place = Place(name, first, min(stop, first + rows))
            yield first, self._next(place, sweep)
            if self._last is not place:  # so that its buffer may have been overwritten
                hint = "let each thread hold `weights.lock` while it reads or computes"
                raise UsageError(f"{name}: another pass has begun before the end of this one", hint)

    def _next(self, place: Place, sweep: str) -> np.ndarray:
        """A block; what followed it last time is read from now on, into the other buffer."""
        self._follows[sweep, self._last] = place
        self._last = place
        raw = self._read_ahead(place)
        if raw is None:
            raw = self._reader.submit(self._read, place, self._buffers[0]).result()
        self._buffers.reverse()
        following = self._follows.get((sweep, place))
        if following:
            reading = self._reader.submit(self._read, following, self._buffers[0])
            self._ahead = Ahead(following, reading)
        return raw

    def _read_ahead(self, place: Place) -> np.ndarray | None:
        """A block, if it is the one that was read ahead. Nothing is being read from then on."""
        ahead = self._ahead
        raw = self._wait()
        return raw if ahead and ahead.place == place else None

    def _wait(self) -> np.ndarray | None:
        """The block that was read ahead, if any. From then on the reader uses no buffer.

        But for an interrupt: then it may still use one, so that nobody else ever fills any.
        """
        ahead = self._ahead
        self._ahead = None
        return ahead.reading.result() if ahead else None

    def _read(self, place: Place, buffer: np.ndarray | None = None) -> np.ndarray:
        """Rows of a tensor in the type that is handed out. buffer: bytes, to read them into.

        raises: CheckpointError for a number that this type cannot hold
        """
        shape = (place.stop - place.start, *self.shapes[place.name][1:])
        raw: np.ndarray = np.ndarray(shape, STORAGE[self._tag(place.name)], buffer)
        self._source.read_into(self._names[place.name], raw, place.start)
        return convert(place.name, raw, self.dtypes[place.name])

    def move(self, path: Path) -> None:
        """Go on with another file, which holds the same tensors as they are handed out.

        raises: CheckpointError when it cannot be opened; nothing has changed then
        """
        source = open_safetensors(path)
        self.close()
        self._source = source
        self._names = {name: name for name in self._names}
        self.resize(self._tiles)

    def close(self) -> None:
        self._wait()
        self._source.close()


def convert(name: str, raw: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Stored numbers in another storage type, rounded to nearest; as they are in their own.

    raises: CheckpointError when one that is finite becomes infinite
    """
    if raw.dtype == dtype:
        return raw
    with np.errstate(over="ignore", under="ignore"):
        values = narrow(widen(raw), dtype, None)
    if np.isinf(widen(values)).any() and not np.isinf(raw).any():
        large = f"{name}: values too large for {dtype.name}"
        raise CheckpointError(large, "use another --dtype")
    return values
