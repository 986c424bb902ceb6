"""A reader of files as the fuzzer sees it: bytes in, one of tinyzo's own errors out, or none."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
MEMORY = Path("/dev/shm")  # where Linux has files that never reach a disk


class Reader(NamedTuple):
    """A reader, in a file of readers/ that calls it READER.

    read:  reads these bytes as such a file. A TinyzoError is a right answer, any other exception
           is a fault
    seeds: files that are right, which are then damaged
    words: what a damaged file may be given: names, brackets, numbers at the edge
    """

    read: Callable[[bytes], object]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()


def names() -> list[str]:
    return sorted(file.stem for file in (HERE / "readers").glob("[a-z]*.py"))


def load(name: str) -> Reader:
    reader: Reader = import_module(f"fuzz.readers.{name}").READER
    return reader


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)


def place(name: str, data: bytes) -> Path:
    """A file of that name with these bytes, in a folder that is gone when the process ends."""
    path = Path(_folder().name) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
