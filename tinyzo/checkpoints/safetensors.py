"""Safetensors files, read and written piece by piece.

    8 bytes      length of the header, little-endian
    header       JSON: {"__metadata__": {str: str}, name: {"dtype", "shape", "data_offsets"}, ...}
    data         the tensors, back to back, C order, little-endian

Source: github.com/huggingface/safetensors, whose crate the tests compare with.
"""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyzo import parsing, system
from tinyzo.checkpoints import checksums
from tinyzo.checkpoints.sources import (
    Source,
    Stored,
    TensorInfo,
    contiguous,
    is_shape,
    open_source,
)
from tinyzo.dtypes import STORAGE
from tinyzo.errors import CheckpointError, ShapeError, refuse

Infos = Mapping[str, TensorInfo]
Metadata = Mapping[str, str] | None

_LENGTH_BYTES = 8
_OWN = rb".{4}\x00{4}\{"  # how a file with a header of a sane length begins
_MAX_DIGITS = 19  # the most that fit 64 bits for certain
_RANK = {tag: rank for rank, tag in enumerate(STORAGE)}  # by which the crate sorts a file


class SafetensorsFile(Source):
    """One safetensors file; `metadata` is its `__metadata__`.

    What has checksums is compared with them whenever it is read.

    raises: CheckpointError for whatever the crate refuses
    differs: also refuses what the crate lets pass: a header over 1 MB (the crate: 100), blanks
        before it, a name that is there twice, fields beyond the three, an entry written as a list,
        types below one byte (F4, F6), and shapes that NumPy cannot hold
    """

    metadata: dict[str, str]
    checksums: checksums.Checksums | None

    def _load(self, opened: ExitStack) -> dict[str, Stored]:
        file, size = system.open_file(self.path, opened, _OWN)
        header_size = int.from_bytes(system.read_bytes(file, _LENGTH_BYTES, 0), "little")
        data_start = _LENGTH_BYTES + header_size
        if data_start > size:
            refuse(self.path, f"it claims a header of {header_size} bytes and has {size}")
        if header_size > parsing.MAX_BYTES:
            found = f"a header of {header_size} bytes, more than {parsing.MAX_BYTES}"
            refuse(self.path, found, "no model that tinyzo reads has so many tensors")
        text = system.read_bytes(file, header_size, _LENGTH_BYTES)
        header = _parse_header(text, size - data_start, self.path)
        self.metadata = header.metadata
        tensors = {
            name: Stored(info, file, name, data_start + start, contiguous(info.shape))
            for name, info, start, _ in header.spans
        }
        place = tensors.pop(checksums.TENSOR, None)
        infos = {name: stored.info for name, stored in tensors.items()}
        self.checksums = checksums.read(self.path, place, infos) if place else None
        self.is_compared = place is not None
        return tensors

    def read_into(self, name: str, out: np.ndarray, start: int = 0) -> None:
        if not self.checksums or not out.size:
            super().read_into(name, out, start)
            return
        for at, rows in checksums.pieces(out):
            super().read_into(name, rows, start + at)
            self.checksums.check(self.path, name, rows, start + at)


def open_safetensors(path: str | Path) -> Source:
    """A safetensors file, or several behind a `model.safetensors.index.json`."""
    return open_source(path, SafetensorsFile)


# -- the header ------------------------------------------------------------------------


class _Span(NamedTuple):
    """A tensor, and the bytes of the data from `start` to `stop` that it claims."""

    name: str
    info: TensorInfo
    start: int
    stop: int


class _Header(NamedTuple):
    metadata: dict[str, str]
    spans: list[_Span]  # in the order of the data, of which they leave nothing out


def _parse_header(text: bytes, data_size: int, path: Path) -> _Header:
    """A header of which everything has been checked.

    raises: CheckpointError that names `path`
    """
    entries = parsing.parse_json(text, path, number=_natural)
    metadata = _parse_metadata(entries.pop("__metadata__", None), path)
    # Each entry is let go as soon as it is read.
    spans = [_parse_span(name, entries.pop(name), path) for name in list(entries)]
    spans.sort(key=lambda span: (span.start, span.stop))
    end = 0
    for name, info, start, stop in spans:
        if start != end:
            refuse(path, f"{name!r:.80} starts at byte {start} of the data, not at {end}")
        if stop - start != info.nbytes:
            refuse(path, f"{name!r:.80} has {stop - start} bytes, not {info.nbytes}")
        end = stop
    if end != data_size:
        refuse(path, f"its tensors end at byte {end} of the data, the file at {data_size}")
    return _Header(metadata, spans)


def _natural(text: str) -> int:
    """A number of the header, all of which are sizes or positions."""
    if not text.isdecimal() or len(text) > _MAX_DIGITS:
        raise ValueError(f"{text[:30]} is not a natural number of 64 bits")
    return int(text)


def _parse_metadata(found: object, path: Path) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        refuse(path, "its __metadata__ is not a map of strings")
    return found


def _parse_span(name: str, entry: object, path: Path) -> _Span:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        refuse(path, f"{name!r:.80} has other fields than dtype, shape and data_offsets")
    dtype = entry["dtype"]
    if not isinstance(dtype, str):
        refuse(path, f"{name!r:.80} is of the unknown type {type(dtype).__name__}")
    if dtype not in STORAGE:
        refuse(path, f"{name!r:.80} is of the unknown type {dtype:.30}")
    shape = entry["shape"]
    if not isinstance(shape, list) or not is_shape(tuple(shape), dtype):
        refuse(path, f"{name!r:.80} has an impossible shape")
    match entry["data_offsets"]:
        case [start, stop] if parsing.is_natural(start) and parsing.is_natural(stop):
            return _Span(name, TensorInfo(dtype, tuple(shape)), start, stop)
    refuse(path, f"{name!r:.80} has impossible data_offsets")


def _format_header(infos: Infos, metadata: Metadata) -> bytes:
    """The header of tensors that lie in that order."""
    entries: dict[str, object] = {}
    if metadata is not None:
        entries["__metadata__"] = dict(metadata)
    start = 0
    for name, info in infos.items():
        stop = start + info.nbytes
        entries[name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": (start, stop)}
        start = stop
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":"))
    header = text.encode("utf-8", "surrogatepass")  # `_parse_header` refuses what is not UTF-8
    padding = -len(header) % 8  # the data starts aligned, as the crate's does
    return header + b" " * padding


# -- writing ---------------------------------------------------------------------------


class SafetensorsWriter(AbstractContextManager["SafetensorsWriter"]):
    """Writes a safetensors file chunk by chunk. The file takes its name only when it is whole.

        with SafetensorsWriter(path, infos) as writer:
            for name in writer.names():
                for chunk in chunks_of(name):
                    writer.write(name, chunk)

    infos: the tensors to come, in any order; the file's order is the crate's, by type, then name
    raises: CheckpointError when the disk fails or a tensor stays incomplete, in which case a file
        that was there before is left as it was; ShapeError for a chunk that does not fit
    """

    def __init__(self, path: str | Path, infos: Infos, metadata: Metadata = None) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f".{self.path.name}.partial")
        names = sorted(infos, key=lambda name: (-_RANK[infos[name].dtype], name))
        self._infos = {name: infos[name] for name in names}
        sizes = {name: info.nbytes for name, info in self._infos.items()}
        self._missing = {name: size for name, size in sizes.items() if size}  # bytes, in order
        data_size = sum(sizes.values())
        header = _format_header(self._infos, metadata)
        _parse_header(header, data_size, self.path)  # never write what cannot be read
        self._size = _LENGTH_BYTES + len(header) + data_size
        with self._os_errors(), ExitStack() as unfinished:
            self._file = unfinished.enter_context(open(self.partial, "ab", opener=system.OPENER))
            self._begin(header, unfinished)
            self._unfinished = unfinished.pop_all()  # undoes what is on the disk so far

    def _begin(self, header: bytes, unfinished: ExitStack) -> None:
        """Take the partial file from other processes, and write all that is before the data."""
        system.lock(self._file, CheckpointError, f"{self.path}: another process is writing it")
        # It may have got its name before the lock was ours, and is another process's then.
        if not system.is_at(self._file, self.partial):
            refuse(
                self.path, "another process was writing it until now", "look at it, or try again"
            )
        unfinished.callback(self.partial.unlink, missing_ok=True)
        self._file.truncate(0)  # a process that died may have left something
        self._file.write(len(header).to_bytes(_LENGTH_BYTES, "little") + header)

    def names(self) -> list[str]:
        """The order in which `write` wants the tensors."""
        return list(self._infos)

    def write(self, name: str, chunk: np.ndarray) -> None:
        """Append the next rows of a tensor (the whole of it, if it has no axis).

        chunk: of the type in STORAGE, never converted, and of the tensor's shape but for axis 0
        """
        self._check_fits(name, chunk)
        if chunk.nbytes:
            self._check_due(name, chunk.nbytes)
        with self._os_errors():
            self._file.write(np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data)
            self._file.flush()  # so that `partial` can be read as soon as all is written
        if chunk.nbytes:
            self._missing[name] -= chunk.nbytes
            if self._missing[name] == 0:
                del self._missing[name]

    def _check_fits(self, name: str, chunk: np.ndarray) -> None:
        """Check that a chunk is rows of the tensor, in its type."""
        dtype, shape = self._infos[name]
        are_rows = chunk.ndim == len(shape) and chunk.shape[1:] == shape[1:]
        if not are_rows or chunk.dtype != STORAGE[dtype]:
            raise ShapeError(
                f"{name!r} is {dtype} {list(shape)}, not {chunk.dtype} {list(chunk.shape)}",
                f"give rows of it, in {STORAGE[dtype]}",
            )

    def _check_due(self, name: str, size: int) -> None:
        """Check that so many bytes of the tensor come next."""
        expected = next(iter(self._missing), None)
        left = 0 if expected is None else self._missing[expected]
        if name != expected or size > left:
            raise ShapeError(
                f"{size} bytes of {name!r} are given, {left} of {expected!r} are due",
                "write each tensor once, in the order of names()",
            )

    def close(self) -> None:
        """Put the finished file in its place, safe from a power failure from here on."""
        with self._os_errors(), self._unfinished:
            for name, left in self._missing.items():
                refuse(self.path, f"{name!r} lacks {left} bytes", "write all of its rows")
            system.put_in_place(self._file, self.partial, self.path)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            with suppress(OSError):  # closing a file flushes it, on a disk that may be full
                self._unfinished.close()

    def _os_errors(self) -> AbstractContextManager[None]:
        hint = f"the file needs {self._size} bytes in a folder that can be written"
        return system.os_errors(CheckpointError, self.path, hint, size=self._size)
