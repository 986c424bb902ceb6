"""Weights that stay in their file: a step reads each once, the next while this one is at work.

    resident   all bytes in memory                       resident.py
    streamed   two blocks of rows in memory, reused      here
    overlay    some in memory, in front of either        overlay.py

All have the same verbs, and what is computed is the same to the bit. Nothing is mapped: the pages
of a mapped file count as memory of the process, those of a read file do not.
"""

import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tinyzo.checkpoints.safetensors import open_safetensors
from tinyzo.checkpoints.sources import Source
from tinyzo.dtypes import STORAGE, narrow, widen
from tinyzo.engine.stores.resident import Resident
from tinyzo.engine.tiles import Block, tile_rows
from tinyzo.errors import CheckpointError

Place = tuple[str, int, int]  # tensor, first row, row after the last
TILES = 32  # of weights.TILE elements in a block: 8 MB of float32


class Streamed:
    """Tensors in a file, by the verbs of Resident; a block is good until the next is asked for."""

    is_resident = False

    def __init__(self, source: Source, names: dict[str, str], dtype: str | None = None,
                 tiles: int = TILES) -> None:  # fmt: skip
        """names: of each parameter in the source. dtype: to hand out, "<f4", "<f2" or "<u2"
        (bfloat16); None: the file's. tiles: the size of a block, in tiles.

        raises: CheckpointError for a tensor that is not of floats
        """
        self._source, self._names = source, names
        infos = {name: source.info(file) for name, file in names.items()}
        for name, info in infos.items():
            if info.dtype not in ("F32", "F16", "BF16", "F64"):
                hint = "only F32, F16, BF16, F64 are read"
                raise CheckpointError(f"{name}: {info.dtype} weights", hint)
        self.shapes = {name: info.shape for name, info in infos.items()}
        own = {name: "<f4" if i.dtype == "F64" else STORAGE[i.dtype] for name, i in infos.items()}
        self.dtypes = {name: np.dtype(dtype or own[name]) for name in names}
        self._reader = ThreadPoolExecutor(1)
        self._follows: dict[tuple[str, Place | None], Place] = {}  # what came after it last time
        self._last: Place | None = None
        self._ahead: tuple[Place, Future] | None = None
        self.resize(tiles)

    def resize(self, tiles: int) -> None:
        """Take blocks of so many tiles from now on."""
        self._wait()
        self._tiles = tiles
        self._buffers = [np.empty(self.block_bytes(tiles), np.uint8) for _ in range(2)]

    def block_bytes(self, tiles: int) -> int:
        """The most that a block of so many tiles takes."""
        types = (STORAGE[self._source.info(file).dtype] for file in self._names.values())
        counts = (min(n[0], tiles * tile_rows(n)) * math.prod(n[1:]) for n in self.shapes.values())
        return max(count * t.itemsize for count, t in zip(counts, types, strict=True))

    def load(self) -> Resident:
        """All of it into memory, block by block; the file is closed."""
        tensors = {name: np.empty(self.shapes[name], self.dtypes[name]) for name in self.shapes}
        for name, tensor in tensors.items():
            for start, raw in self.blocks(name):
                tensor[start : start + len(raw)] = raw
        self.close()
        return Resident(tensors)

    def read(self, name: str) -> np.ndarray:
        return self._read((name, 0, self.shapes[name][0]))

    def gather(self, name: str, rows: np.ndarray) -> np.ndarray:
        return np.concatenate([self._read((name, row, row + 1)) for row in rows.tolist()])

    def blocks(self, name: str, start: int = 0, stop: int | None = None,
               sweep: str = "") -> Iterator[Block]:  # fmt: skip
        """sweep: within one, the same block is taken to come next as the last time."""
        rows = self._tiles * tile_rows(self.shapes[name])
        stop = self.shapes[name][0] if stop is None else stop
        for first in range(start, stop, rows):
            yield first, self._next((name, first, min(stop, first + rows)), sweep)

    def _next(self, place: Place, sweep: str) -> np.ndarray:
        """A block; what followed it last time is read from now on, into the other buffer."""
        expected, raw = self._wait()
        if expected != place:
            raw = self._read(place, self._buffers[0])
        self._follows[sweep, self._last], self._last = place, place
        self._buffers.reverse()
        if following := self._follows.get((sweep, place)):
            reading = self._reader.submit(self._read, following, self._buffers[0])
            self._ahead = following, reading
        return raw

    def _wait(self) -> tuple[Place | None, np.ndarray | None]:
        """What was read ahead, if anything; both buffers are free of the reader then."""
        ahead, self._ahead = self._ahead, None
        return (ahead[0], ahead[1].result()) if ahead else (None, None)

    def _read(self, place: Place, buffer: np.ndarray | None = None) -> np.ndarray:
        """Rows of a tensor, in a buffer of bytes if it is given, in the type that is handed out."""
        name, start, stop = place
        file, shape = self._names[name], (stop - start, *self.shapes[name][1:])
        dtype = STORAGE[self._source.info(file).dtype]
        raw = np.empty(shape, dtype) if buffer is None else np.ndarray(shape, dtype, buffer)
        self._source.read_into(file, raw, start)
        if raw.dtype == (target := self.dtypes[name]):
            return raw
        with np.errstate(over="ignore"):
            values = narrow(widen(raw), target, None)
        if np.isinf(widen(values)).any() and not np.isinf(raw).any():
            large = f"{name}: values too large for {target.name}"
            raise CheckpointError(large, "use another --dtype")
        return values

    def move(self, path: Path) -> None:
        """Read from another file now, one that holds the same tensors as they are handed out."""
        self.close()
        self._source, self._names = open_safetensors(path), {name: name for name in self._names}
        self.resize(self._tiles)

    def close(self) -> None:
        self._wait()
        self._source.close()
