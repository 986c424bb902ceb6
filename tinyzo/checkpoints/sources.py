"""Named tensors in files, read row by row into the caller's memory.

    Source               names, types, shapes, rows
      SafetensorsFile      safetensors.py
      TorchBin             torch_bin.py
      Sharded              several of either, behind an index

Nothing is mapped and nothing is cached: reading costs the memory of the buffer that is filled.
"""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyzo.checkpoints import files
from tinyzo.errors import ShapeError

# How tensors of each type are held, as NumPy knows no bfloat16 and no float8. The order is that of
# the safetensors crate's `Dtype`, by which it sorts a file; its types below one byte are left out.
_CODES = """BOOL ? U8 u1 I8 i1 F8_E5M2 u1 F8_E4M3 u1 F8_E8M0 u1 F8_E4M3FNUZ u1 F8_E5M2FNUZ u1
    I16 <i2 U16 <u2 F16 <f2 BF16 <u2 I32 <i4 U32 <u4 F32 <f4 C64 <c8 F64 <f8 I64 <i8 U64 <u8"""
_WORDS = _CODES.split()
STORAGE = {dtype: np.dtype(c) for dtype, c in zip(_WORDS[::2], _WORDS[1::2], strict=True)}


class TensorInfo(NamedTuple):
    """Type (a key of STORAGE) and shape of a stored tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * STORAGE[self.dtype].itemsize


def is_natural(value: object) -> bool:
    return type(value) is int and value >= 0  # isinstance would let True pass


def is_shape(shape: tuple[object, ...], dtype: str) -> bool:
    """Whether NumPy can hold an array of that shape."""
    return (
        len(shape) <= 32  # axes, the most of NumPy 1
        and all(is_natural(n) for n in shape)
        and math.prod(n or 1 for n in shape) * STORAGE[dtype].itemsize <= sys.maxsize
    )


class Source(AbstractContextManager):
    """Tensors by name, in the file's order, of which any run of rows can be read alone.

    raises: CheckpointError for a file that is missing, damaged or hostile
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with ExitStack() as opened:
            self._infos = self._load(opened)
            self._opened = opened.pop_all()

    @abstractmethod
    def _load(self, opened: ExitStack) -> dict[str, TensorInfo]:
        """Open the file, check it, and list what it holds."""

    @abstractmethod
    def _fill(self, name: str, out: np.ndarray, start: int) -> None:
        """Fill `out`, which fits, with the rows from `start` on."""

    def names(self) -> list[str]:
        return list(self._infos)

    def info(self, name: str) -> TensorInfo:
        if name not in self._infos:
            files.refuse(self.path, f"it has no tensor {name!r}", "`tinyzo inspect` lists them")
        return self._infos[name]

    def ties(self) -> dict[str, str]:
        """Each tensor whose bytes belong to another one before it, and that one's name."""
        return {}

    def read_into(self, name: str, out: np.ndarray, start: int = 0) -> None:
        """Fill `out` with the rows start, start + 1, ... of a tensor; without axes, with all of it.

        out: writable, C-contiguous, of the type in STORAGE and of the tensor's shape[1:]
        raises: ShapeError when `out` is not so or more rows are asked for than there are;
            CheckpointError when the file cannot be read or has shrunk
        differs: without os.preadv (Windows), one thread at a time
        """
        dtype, shape = self.info(name)
        fits = out.ndim == len(shape) and out.shape[1:] == shape[1:]
        there = 0 <= start <= start + sum(out.shape[:1]) <= sum(shape[:1])
        if not (fits and there and out.dtype == STORAGE[dtype] and out.flags.carray):
            raise ShapeError(
                f"{name!r} {dtype} {list(shape)} from row {start} on does not fit "
                f"{out.dtype} {list(out.shape)}",
                f"give a writable C-contiguous array of {STORAGE[dtype]}, no longer than the rest",
            )
        self._fill(name, out, start)

    def read(self, name: str) -> np.ndarray:
        """The whole tensor, in its type of STORAGE."""
        dtype, shape = self.info(name)
        out = np.empty(shape, STORAGE[dtype])
        self.read_into(name, out)
        return out

    def close(self) -> None:
        self._opened.close()

    def __exit__(self, *exc: object) -> None:
        self.close()


class Sharded(Source):
    """The files that a `*.index.json` of transformers names in its `weight_map`, as one source.

    raises: CheckpointError unless each shard lies beside the index and holds the tensors that the
        index places in it, and no other
    """

    def __init__(self, path: str | Path, reader: type[Source]) -> None:
        self._reader = reader
        super().__init__(path)

    def _load(self, opened: ExitStack) -> dict[str, TensorInfo]:
        text = files.read_bytes(*files.open_file(self.path, opened), 0)
        places = files.parse_json(text, self.path).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
            files.refuse(self.path, "its weight_map does not give each tensor the name of a file")
        self._homes: dict[str, Source] = {}
        for place in dict.fromkeys(places.values()):
            if set(place) & set("/\\:\0") or place in ("", ".", ".."):
                files.refuse(self.path, f"the shard {place!r:.80} is not a plain file name")
            shard = opened.enter_context(self._reader(self.path.with_name(place)))
            held, promised = set(shard.names()), {name for name in places if places[name] == place}
            for name in sorted(held ^ promised):
                found = f"but {place} {'has' if name in held else 'lacks'} it"
                files.refuse(self.path, f"it places {name!r:.80} in {places.get(name)}, {found}")
            self._homes.update(dict.fromkeys(shard.names(), shard))
        return {name: shard.info(name) for name, shard in self._homes.items()}

    def _fill(self, name: str, out: np.ndarray, start: int) -> None:
        self._homes[name]._fill(name, out, start)

    def ties(self) -> dict[str, str]:
        return {a: b for shard in set(self._homes.values()) for a, b in shard.ties().items()}
