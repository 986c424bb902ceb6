"""Safetensors files, read and written piece by piece.

    8 bytes      length of the header, little-endian
    header       JSON: {"__metadata__": {str: str}, name: {"dtype", "shape", "data_offsets"}, ...}
    data         the tensors, back to back, C order, little-endian

Source: github.com/huggingface/safetensors, whose crate is the oracle of the tests.
"""

import json
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from tinyzo import parsing, system
from tinyzo.checkpoints.sources import Source, Stored, TensorInfo, is_shape
from tinyzo.dtypes import STORAGE
from tinyzo.errors import CheckpointError, ShapeError, refuse

Infos, Strings = Mapping[str, TensorInfo], Mapping[str, str] | None
Places = dict[str, tuple[int, TensorInfo]]  # where in the data each tensor begins, and what it is
_MAX_HEADER_BYTES = 100_000_000  # the crate's own limit


class SafetensorsFile(Source):
    """One safetensors file; `metadata` is its `__metadata__`.

    raises: CheckpointError for whatever the crate refuses
    differs: also refuses what the crate lets pass: blanks before the header, a name that is there
        twice, fields beyond the three, an entry written as a list, types below one byte (F4, F6),
        and shapes that NumPy cannot hold
    """

    def _load(self, opened: ExitStack) -> dict[str, Stored]:
        file, size = system.open_file(self.path, opened)
        header_size = int.from_bytes(system.read_bytes(file, 8, 0), "little")
        data_start = 8 + header_size
        if header_size > _MAX_HEADER_BYTES or data_start > size:
            refuse(self.path, f"it claims a header of {header_size} bytes and has {size}")
        header = system.read_bytes(file, header_size, 8)
        self.metadata, places = _parse(header, size - data_start, self.path)
        return {name: Stored(info, file, name, data_start + start, _stride(info.shape))
                for name, (start, info) in places.items()}  # fmt: skip


open_safetensors = SafetensorsFile.open


def _stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _parse(header: bytes, data_size: int, path: Path) -> tuple[dict[str, str], Places]:
    """Metadata, and places in the order of the data, once all of a header has been checked."""
    numbers = dict.fromkeys(("parse_int", "parse_float", "parse_constant"), _natural)
    entries = parsing.parse_json(header, path, **numbers)
    metadata = entries.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        refuse(path, "its __metadata__ is not a map of strings")
    spans = {name: _span(path, name, entry) for name, entry in entries.items()}
    places, end = {}, 0
    for name, (start, stop, info) in sorted(spans.items(), key=lambda item: item[1][:2]):
        if start != end:
            refuse(path, f"{name!r:.80} starts at byte {start} of the data, not at {end}")
        if stop - start != info.nbytes:
            refuse(path, f"{name!r:.80} has {stop - start} bytes, not {info.nbytes}")
        places[name], end = (start, info), stop
    if end != data_size:
        refuse(path, f"its tensors end at byte {end} of the data, the file at {data_size}")
    return metadata, places


def _natural(text: str) -> int:
    if not text.isdecimal() or len(text) > 19:  # 19 digits: the most that fit 64 bits for certain
        raise ValueError(f"{text[:30]} is not a natural number of 64 bits")
    return int(text)


def _span(path: Path, name: str, entry: Any) -> tuple[int, int, TensorInfo]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        refuse(path, f"{name!r:.80} has other fields than dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in STORAGE:
        kind = dtype if isinstance(dtype, str) else type(dtype).__name__
        refuse(path, f"{name!r:.80} is of the unknown type {kind:.30}")
    if not isinstance(shape, list) or not is_shape(tuple(shape), dtype):
        refuse(path, f"{name!r:.80} has an impossible shape")
    if not isinstance(offsets, list) or [*map(type, offsets)] != [int, int]:  # see _natural
        refuse(path, f"{name!r:.80} has impossible data_offsets")
    return offsets[0], offsets[1], TensorInfo(dtype, tuple(shape))


class SafetensorsWriter(AbstractContextManager):
    """Writes a safetensors file chunk by chunk; it takes its name only when it is whole.

        with SafetensorsWriter(path, infos) as writer:
            for name in writer.names():
                for chunk in chunks_of(name):
                    writer.write(name, chunk)

    infos: the tensors to come, in any order; the file's order is the crate's, by type, then name
    raises: CheckpointError when the disk fails or a tensor stays incomplete, in which case a file
        that was there before is left as it was; ShapeError for a chunk that does not fit
    """

    def __init__(self, path: str | Path, infos: Infos, metadata: Strings = None) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f".{self.path.name}.partial")
        names = sorted(infos, key=lambda name: (-[*STORAGE].index(infos[name].dtype), name))
        self._infos = {name: TensorInfo(*infos[name]) for name in names}
        self._missing = {name: i.nbytes for name, i in self._infos.items() if i.nbytes}
        data_size = sum(self._missing.values())
        header = _header(self._infos, metadata)
        _parse(header, data_size, self.path)  # never write what cannot be read
        self._size = 8 + len(header) + data_size
        with self._os_errors(), ExitStack() as partly:
            self._file = partly.enter_context(open(self.partial, "ab"))
            system.lock(self._file, CheckpointError, f"{self.path}: another process is writing it")
            partly.callback(self.partial.unlink, missing_ok=True)
            self._file.truncate(0)  # what a process left that died
            self._file.write(len(header).to_bytes(8, "little") + header)
            self._partly = partly.pop_all()  # undoes what is on the disk so far

    def names(self) -> list[str]:
        """The order in which `write` wants the tensors."""
        return list(self._infos)

    def write(self, name: str, chunk: np.ndarray) -> None:
        """Append the next rows of a tensor (the whole of it, if it has no axis).

        chunk: of the type in STORAGE, never converted, and of the tensor's shape but for axis 0
        """
        dtype, shape = self._infos[name]
        if (chunk.ndim, chunk.shape[1:], chunk.dtype) != (len(shape), shape[1:], STORAGE[dtype]):
            wrong = f"{name!r} is {dtype} {list(shape)}, not {chunk.dtype} {list(chunk.shape)}"
            raise ShapeError(wrong, f"give rows of it, in {STORAGE[dtype]}")
        expected = next(iter(self._missing), None)
        if chunk.nbytes and (name != expected or chunk.nbytes > self._missing[name]):
            due = f"{self._missing.get(expected, 0)} of {expected!r} are due"
            wrong = f"{chunk.nbytes} bytes of {name!r} are given, {due}"
            raise ShapeError(wrong, "write each tensor once, in the order of names()")
        with self._os_errors():
            self._file.write(np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data)
            self._file.flush()  # so that `partial` can be read as soon as all is written
        if chunk.nbytes:
            self._missing[name] -= chunk.nbytes
        if not self._missing.get(name, 1):
            del self._missing[name]

    def close(self) -> None:
        """Put the finished file in its place, safe from a power failure from here on."""
        with self._os_errors(), self._partly:
            for name, left in self._missing.items():
                refuse(self.path, f"{name!r} lacks {left} bytes", "write all of its rows")
            system.put_in_place(self._file, self.partial, self.path)

    def _os_errors(self) -> AbstractContextManager:
        hint = f"the file needs {self._size} bytes in a folder that can be written"
        return system.os_errors(CheckpointError, self.path, hint)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            with suppress(OSError):  # closing a file flushes it, on a disk that may be full
                self._partly.close()


def _header(infos: Infos, metadata: Strings) -> bytes:
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, (dtype, shape) in infos.items():
        start, end = end, end + infos[name].nbytes
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":"))
    header = text.encode("utf-8", "surrogatepass")  # what is not UTF-8 then fails in `_parse`
    return header + b" " * (-len(header) % 8)  # the data starts aligned, as the crate's does
