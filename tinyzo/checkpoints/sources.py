"""Named tensors in files, read row by row into the caller's memory.

    Source               names, types, shapes, rows
      SafetensorsFile      safetensors.py
      TorchBin             tinyzo_formats
      Sharded              several of either, behind an index

Nothing is mapped and nothing is cached: reading costs the memory of the buffer that is filled.
"""

import io
import math
import sys
from abc import abstractmethod
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyzo import parsing, system
from tinyzo.dtypes import STORAGE
from tinyzo.errors import ShapeError, refuse


class TensorInfo(NamedTuple):
    """Type (a key of STORAGE) and shape of a stored tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * STORAGE[self.dtype].itemsize


class Stored(NamedTuple):
    """A tensor in a file, whose bytes begin at `start`.

    stride: element [i, j, ...] lies i * stride[0] + j * stride[1] + ... elements after the first
    storage: the name of the bytes that it is made of; two tensors that are equal here are tied
    """

    info: TensorInfo
    file: io.FileIO
    storage: str
    start: int
    stride: tuple[int, ...]


def reach(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """How many elements the last one lies behind the first."""
    return sum((n - 1) * step for n, step in zip(shape, stride, strict=True))


def is_shape(shape: tuple[object, ...], dtype: str) -> bool:
    """Whether NumPy can hold an array of that shape."""
    natural = len(shape) <= 32 and all(map(parsing.is_natural, shape))  # 32 axes: NumPy 1 has no more
    return natural and math.prod(n or 1 for n in shape) * STORAGE[dtype].itemsize <= sys.maxsize


class Source(AbstractContextManager):
    """Tensors by name, in the file's order, of which any run of rows can be read alone.

    raises: CheckpointError for a file that is missing, damaged or hostile
    """

    _opened = ExitStack()  # nothing yet

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with ExitStack() as opened:
            self._tensors = self._load(opened)
            self._opened = opened.pop_all()

    @classmethod
    def open(cls, path: str | Path) -> "Source":
        """A file of this kind, or several behind a `*.index.json`."""
        return Sharded(path, cls) if Path(path).suffix == ".json" else cls(path)

    @abstractmethod
    def _load(self, opened: ExitStack) -> dict[str, Stored]:
        """Open the file, check it, and list what it holds."""

    def names(self) -> list[str]:
        return list(self._tensors)

    def info(self, name: str) -> TensorInfo:
        if name not in self._tensors:
            refuse(self.path, f"it has no tensor {name!r}", "`tinyzo inspect` lists them")
        return self._tensors[name].info

    def ties(self) -> dict[str, str]:
        """Each tensor whose bytes belong to another one before it, and that one's name."""
        first: dict[Stored, str] = {}
        firsts = {name: first.setdefault(place, name) for name, place in self._tensors.items()}
        return {name: other for name, other in firsts.items() if name != other}

    def read_into(self, name: str, out: np.ndarray, start: int = 0) -> None:
        """Fill `out` with the rows start, start + 1, ... of a tensor; without axes, with all of it.

        out: writable, C-contiguous, of the type in STORAGE and of the tensor's shape[1:]
        raises: ShapeError when `out` is not so or more rows are asked for than there are;
            CheckpointError when the file cannot be read or has shrunk
        """
        dtype, shape = self.info(name)
        fits = out.ndim == len(shape) and out.shape[1:] == shape[1:]
        there = 0 <= start <= start + sum(out.shape[:1]) <= sum(shape[:1])
        if not (fits and there and out.dtype == STORAGE[dtype] and out.flags.carray):
            rows = f"{name!r} {dtype} {list(shape)} from row {start} on"
            needed = f"a writable C-contiguous array of {STORAGE[dtype]}, no longer than the rest"
            raise ShapeError(f"{rows} does not fit {out.dtype} {list(out.shape)}", f"give {needed}")
        if out.size:
            _fill(out, self._tensors[name], start)

    def read(self, name: str) -> np.ndarray:
        """The whole tensor, in its type of STORAGE."""
        dtype, shape = self.info(name)
        out = np.empty(shape, STORAGE[dtype])
        self.read_into(name, out)
        return out

    def close(self) -> None:
        self._opened.close()

    __del__ = close

    def __exit__(self, *exc: object) -> None:
        self.close()


def _fill(out: np.ndarray, place: Stored, first_row: int) -> None:
    """Fill `out`, which fits and is not empty: at once, or by way of all that its rows span."""
    start = place.start + (first_row * place.stride[0] * out.itemsize if first_row else 0)
    axes = zip(out.shape, place.stride, out.strides, strict=True)
    strides = [ours if n == 1 else step * out.itemsize for n, step, ours in axes]
    if strides == list(out.strides):
        system.read_at(place.file, out, start)
    else:
        span = np.empty(1 + reach(out.shape, place.stride), out.dtype)
        system.read_at(place.file, span, start)
        out[...] = np.ndarray(out.shape, out.dtype, span, 0, strides)


class Sharded(Source):
    """The files that a `*.index.json` of transformers names in its `weight_map`, as one source.

    raises: CheckpointError unless each shard lies beside the index and holds the tensors that the
        index places in it, and no other
    """

    def __init__(self, path: str | Path, reader: type[Source]) -> None:
        self._reader = reader
        super().__init__(path)

    def _load(self, opened: ExitStack) -> dict[str, Stored]:
        text = system.read_bytes(*system.open_file(self.path, opened), 0)
        places = parsing.parse_json(text, self.path).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
            refuse(self.path, "its weight_map does not give each tensor the name of a file")
        tensors: dict[str, Stored] = {}
        for place in dict.fromkeys(places.values()):
            if set(place) & set("/\\:\0") or place in ("", ".", ".."):
                refuse(self.path, f"the shard {place!r:.80} is not a plain file name")
            shard = opened.enter_context(self._reader(self.path.with_name(place)))
            held, promised = set(shard.names()), {name for name in places if places[name] == place}
            for name in sorted(held ^ promised):
                found = f"but {place} {'has' if name in held else 'lacks'} it"
                refuse(self.path, f"it places {name!r:.80} in {places.get(name)}, {found}")
            tensors |= shard._tensors
        return tensors
