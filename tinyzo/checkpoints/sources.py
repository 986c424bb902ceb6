"""Named tensors in files, read row by row into the caller's memory.

    Source               names, types, shapes, rows
      SafetensorsFile      safetensors.py
      TorchBin             torch_bin.py
      Sharded              several of either, behind an index

Nothing is mapped and nothing is cached: reading costs the memory of the buffer that is filled.
"""

import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Set
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TypeGuard, TypeVar

import numpy as np

from tinyzo import parsing, system
from tinyzo.dtypes import STORAGE
from tinyzo.errors import ConfigError, ShapeError, refuse
from tinyzo.packages import say_once
from tinyzo.unique import Unique

_MIXED = "index and shards are of two different versions: download the folder again"
_MAX_AXES = 32  # of an array in NumPy 1; NumPy 2 has 64

AnySource = TypeVar("AnySource", bound="Source")


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
    file: system.ReadFile
    storage: str
    start: int
    stride: tuple[int, ...]


def reach(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """The distance from a tensor's first element to its last, in elements."""
    return sum((length - 1) * step for length, step in zip(shape, stride, strict=True))


def is_shape(shape: tuple[object, ...], dtype: str) -> TypeGuard[tuple[int, ...]]:
    """Whether NumPy can hold an array of that shape and storage type."""
    if len(shape) > _MAX_AXES:
        return False
    size = STORAGE[dtype].itemsize
    for length in shape:
        if not parsing.is_natural(length):
            return False
        size *= max(length, 1)  # NumPy wants the other axes to fit though one is empty
    return size <= sys.maxsize


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The stride of a tensor in C order, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


class Source(Unique, ABC):
    """Tensors by name, in the file's order, of which any run of rows can be read alone.

    It is closed by `close`, at the end of a `with`, or when the last reference to it is gone.

    raises: CheckpointError for a file that is missing, damaged or hostile, and ConfigError on a
        big-endian machine, whose arrays are not those of the files
    """

    is_compared = False  # whether all that is read is compared with checksums

    def __init__(self, path: str | Path) -> None:
        self._opened = ExitStack()  # what `close` closes: nothing yet, and all once it is checked
        if sys.byteorder != "little":
            hint = "take a little-endian one, as all x86 and nearly all ARM machines are"
            raise ConfigError("this machine is big-endian", hint)
        self.path = Path(path)
        with ExitStack() as opened:
            self._tensors = self._load(opened)
            self._opened = opened.pop_all()

    @abstractmethod
    def _load(self, opened: ExitStack) -> dict[str, Stored]:
        """Open the file, to be closed with `opened`, check it, and list what it holds."""

    def names(self) -> list[str]:
        return list(self._tensors)

    def info(self, name: str) -> TensorInfo:
        """Type and shape of a tensor.

        raises: CheckpointError when there is none of that name
        """
        if name not in self._tensors:
            refuse(self.path, f"it has no tensor {name!r}", "`tinyzo inspect` lists them")
        return self._tensors[name].info

    def ties(self) -> dict[str, str]:
        """Each tensor whose bytes belong to another one before it, and that one's name."""
        first: dict[Stored, str] = {}
        ties = {}
        for name, place in self._tensors.items():
            if place in first:
                ties[name] = first[place]
            else:
                first[place] = name
        return ties

    def read_into(self, name: str, out: np.ndarray, start: int = 0) -> None:
        """Fill `out` with the rows start, start + 1, ... of a tensor; without axes, with all of it.

        out: writable, C-contiguous, of the type in STORAGE and of the tensor's shape[1:]
        raises: ShapeError when `out` is not so or more rows are asked for than there are;
            CheckpointError when the file cannot be read, or has changed since it was opened
        """
        info = self.info(name)
        dtype = STORAGE[info.dtype]
        if (
            out.dtype != dtype
            or not out.flags.carray
            or not _are_rows(out.shape, info.shape, start)
        ):
            asked = f"{name!r} {info.dtype} {list(info.shape)} from row {start} on"
            raise ShapeError(
                f"{asked} does not fit {out.dtype} {list(out.shape)}",
                f"give a writable C-contiguous array of {dtype}, no longer than the rest",
            )
        if out.size:
            place = self._tensors[name]
            _fill(out, place, start)
            if not self.is_compared:  # such a file may be ours, and not yet synced
                system.check_unchanged(place.file)

    def read(self, name: str) -> np.ndarray:
        """The whole tensor, in its type of STORAGE."""
        info = self.info(name)
        out = np.empty(info.shape, STORAGE[info.dtype])
        self.read_into(name, out)
        return out

    def offset(self, name: str) -> int:
        """The byte of the file at which a tensor begins, for whoever reads it without us.

        raises: CheckpointError for one whose elements do not lie in order in the file
        """
        info = self.info(name)
        place = self._tensors[name]
        if place.stride != contiguous(info.shape):
            refuse(
                self.path, f"{name:.80} is transposed in it", "tinyzo convert writes it in order"
            )
        return place.start

    def mapped(self, name: str) -> np.ndarray:
        """The whole tensor as pages of the file, which are no memory of the process's own.

        raises: CheckpointError for one whose elements do not lie in order in the file, or a file
            that cannot be mapped
        """
        dtype, shape = self.info(name)
        start = self.offset(name)
        pages = system.map_file(self._tensors[name].file, self.path)
        found = np.frombuffer(pages, STORAGE[dtype], math.prod(shape), start)
        return found.reshape(shape)

    def close(self) -> None:
        """Close the file; nothing can be read any more, and closing again does nothing."""
        self._opened.close()

    def __enter__(self: AnySource) -> AnySource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()  # before Python does, with a warning


def _are_rows(part: tuple[int, ...], whole: tuple[int, ...], start: int) -> bool:
    """Whether an array of shape `part` can hold rows from `start` on of one of shape `whole`."""
    if len(part) != len(whole) or part[1:] != whole[1:] or start < 0:
        return False
    if not whole:
        return start == 0
    return start + part[0] <= whole[0]


def _fill(out: np.ndarray, place: Stored, first_row: int) -> None:
    """Fill `out`, which fits and is not empty: at once, or by way of all that its rows span."""
    start = place.start
    if first_row:
        start += first_row * place.stride[0] * out.itemsize
    strides = []  # in bytes; an axis of length one may have any, so it gets that of `out`
    for length, step, own in zip(out.shape, place.stride, out.strides, strict=True):
        strides.append(own if length == 1 else step * out.itemsize)
    if tuple(strides) == out.strides:
        system.read_at(place.file, out, start)
    else:
        span = np.empty(1 + reach(out.shape, place.stride), out.dtype)
        system.read_at(place.file, span, start)
        out[...] = np.ndarray(out.shape, out.dtype, span, 0, strides)


def open_source(path: str | Path, kind: type[Source]) -> Source:
    """A file of one kind, or several of it behind a `*.index.json`."""
    if Path(path).suffix == ".json":
        return Sharded(path, kind)
    return kind(path)


class Sharded(Source):
    """The files that a `*.index.json` of transformers names in its `weight_map`, as one source.

    raises: CheckpointError unless each shard lies beside the index and holds the tensors that the
        index places in it, and none that it places in another; one that it places nowhere is
        passed over, as transformers does, with a remark
    """

    def __init__(self, path: str | Path, kind: type[Source]) -> None:
        self._kind = kind
        super().__init__(path)

    def _load(self, opened: ExitStack) -> dict[str, Stored]:
        places = self._weight_map(opened)
        promised: dict[str, set[str]] = {}  # the names in each shard
        for name, place in places.items():
            promised.setdefault(place, set()).add(name)
        tensors: dict[str, Stored] = {}
        for place, names in promised.items():
            if not _is_plain_name(place):
                refuse(self.path, f"the shard {place!r:.80} is not a plain file name")
            shard = self.path.with_name(place)
            if not os.path.exists(shard):
                hint = system.why_not_there(shard) or "download it too"
                refuse(self.path, f"its shard {place} is not there", hint)
            held = opened.enter_context(self._kind(shard))._tensors
            self._check_shard(place, held.keys(), names, places)
            tensors |= {name: held[name] for name in held if name in names}
        return tensors

    def _weight_map(self, opened: ExitStack) -> dict[str, str]:
        """The name of the file that each tensor is in."""
        file, size = system.open_file(self.path, opened, rb"\{")
        if size > parsing.MAX_BYTES:
            found = f"it has {size} bytes, more than {parsing.MAX_BYTES}"
            refuse(self.path, found, "no model that tinyzo reads has so many tensors")
        index = parsing.parse_json(system.read_bytes(file, size, 0), self.path)
        places = index.get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
            refuse(self.path, "its weight_map does not give each tensor the name of a file")
        return places

    def _check_shard(
        self, place: str, held: Set[str], promised: Set[str], places: dict[str, str]
    ) -> None:
        """Check that a shard holds what the index places in it, and nothing that it places in
        another; say what it places nowhere."""
        for name in sorted(held ^ promised):
            if name in places:
                verb = "has" if name in held else "lacks"
                found = f"it places {name!r:.80} in {places[name]}, but {place} {verb} it"
                refuse(self.path, found, _MIXED)
        for name in sorted(held - promised)[:1]:
            file = self.path.with_name(place)
            index = self.path.name
            say_once(f"{file}: {name!r:.80} is not read, as {index} places it nowhere")


def _is_plain_name(name: str) -> bool:
    """Whether a file of that name lies in the folder itself, on every system."""
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")
