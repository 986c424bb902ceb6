"""Weights that stay in their file: a step reads each once, the next while this one is at work.

    resident   all bytes in memory                       weights.Resident
    streamed   two blocks of rows in memory, reused      Streamed
    overlay    some in memory, in front of either        Overlay

All have the same verbs, and what is computed is the same to the bit. Nothing is mapped: the pages
of a mapped file count as memory of the process, those of a read file do not.
"""

import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tinyzo.checkpoints.safetensors import open_safetensors
from tinyzo.checkpoints.sources import STORAGE, Source
from tinyzo.engine.weights import Block, Resident, narrow, tile_rows, widen
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


class Overlay:
    """A store with tensors of its own, in memory, in front of another's; those alone are written.

    load, resize and block_bytes are the other's, which may be streamed.
    """

    is_resident = True

    def __init__(self, base: Any, own: dict[str, np.ndarray]) -> None:
        self.base, self.own = base, Resident(own)
        self.shapes = base.shapes | self.own.shapes
        self.dtypes = base.dtypes | self.own.dtypes

    def of(self, name: str) -> Any:
        """The store that has a tensor."""
        return self.own if name in self.own.tensors else self.base

    def read(self, name: str) -> np.ndarray:
        return self.of(name).read(name)

    def blocks(self, name: str, *rows: Any, **how: Any) -> Iterator[Block]:
        return self.of(name).blocks(name, *rows, **how)

    def gather(self, name: str, rows: np.ndarray) -> np.ndarray:
        return self.of(name).gather(name, rows)

    def load(self) -> "Overlay":
        return Overlay(self.base.load(), self.own.tensors)

    def resize(self, tiles: int) -> None:
        self.base.resize(tiles)

    def block_bytes(self, tiles: int) -> int:
        own = sum(tensor.nbytes for tensor in self.own.tensors.values())
        return self.base.block_bytes(tiles) + own // 2  # a plan counts two blocks

    def move(self, path: Path) -> None:
        """Take the trained tensors of a snapshot, and all others if it has them."""
        with open_safetensors(path) as file:
            for name in self.own.tensors.keys() & file.names():
                self.own.tensors[name][...] = file.read(name)
            whole = self.base.shapes.keys() <= set(file.names())
        if whole or isinstance(self.base, Overlay):
            self.base.move(path)
