"""Files that may be damaged or hostile: opened, read at an offset, parsed as JSON."""

from __future__ import annotations

import io
import json
import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tinyzo.errors import CheckpointError

DAMAGED = "the file is damaged or of another kind: download or copy it again"
_LFS_POINTER = b"version https://git-lfs"


def refuse(path: object, why: str, hint: str = DAMAGED) -> NoReturn:
    raise CheckpointError(f"{path}: {why}", hint)


def open_file(path: Path, opened: ExitStack) -> tuple[io.FileIO, int]:
    """A regular file, closed when `opened` is, and its size, which is not 0."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would wait for ever
            refuse(path, "it is not a file", "give the weights file itself")
        file = opened.enter_context(io.FileIO(path))
        head, size = file.read(len(_LFS_POINTER)), os.fstat(file.fileno()).st_size
    except OSError as error:
        refuse(path, error.strerror, "check the path")
    if head == _LFS_POINTER:
        refuse(path, "it is a git-lfs pointer, not the file", "run `git lfs pull` in its clone")
    if not head:
        refuse(path, "it is empty")
    return file, size


def read_at(file: io.FileIO, out: np.ndarray, offset: int) -> None:
    """Fill a C-contiguous array with the file's bytes from `offset` on."""
    left = out.reshape(-1).view(np.uint8).data
    while left:
        try:
            count = _pread(file, left, offset)
        except OSError as error:
            refuse(file.name, error.strerror, "check the disk")
        if not count:
            refuse(file.name, f"it is truncated: {len(left)} bytes are missing at {offset}")
        left, offset = left[count:], offset + count


def _pread(file: io.FileIO, out: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [out], offset)
    file.seek(offset)  # Windows
    return file.readinto(out)


def read_bytes(file: io.FileIO, size: int, offset: int) -> bytes:
    out = np.empty(size, np.uint8)
    read_at(file, out, offset)
    return out.tobytes()


def parse_json(data: bytes, path: Path, **hooks: Any) -> dict[str, Any]:
    """The object in `data`, parsed as strictly as by Rust's serde_json; no name may repeat."""
    try:
        if not data.startswith(b"{"):
            raise ValueError("it does not start with '{'")
        value = json.loads(data.decode(), object_pairs_hook=_each_once, **hooks)
        json.dumps(value, ensure_ascii=False).encode()  # fails on half a surrogate pair
    except (ValueError, RecursionError) as error:
        refuse(path, f"its JSON is malformed: {error}")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r:.80} is there twice")
        found[name] = value
    return found
