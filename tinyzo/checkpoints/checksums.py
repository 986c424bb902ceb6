"""Checksums of the rows of a safetensors file, which it has as one more tensor.

    s = sum_i w_i  mod 2^64      w_i: the row's bytes as little-endian words of 64 bits

A row is tensor[i]; of a tensor of one axis, the next LINE elements. A row of bytes that are no
multiple of 8 has words of 32, 16 or 8 bits. Whatever changes within one word is noticed. NumPy
sums faster than memory is read, which no CRC of Python's does.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tinyzo.checkpoints.sources import Stored, TensorInfo
from tinyzo.errors import refuse
from tinyzo.system import read_at

TENSOR = "tinyzo.checksums"  # U8 [rows, 8], of all rows in the file's order; the last in the file
LINE = 1 << 16
PIECE = 1 << 19  # bytes that stay in a cache between their reading and their sum
BYTES = 8  # of a checksum


class Checksums:
    """The checksums of the rows of some tensors: made as these are written, compared as read.

    table: u8[rows, 8]
    info:  of the table as a tensor
    """

    def __init__(self, infos: Mapping[str, TensorInfo]) -> None:
        self._infos = infos
        self._first: dict[str, int] = {}
        rows = 0
        for name in sorted(infos):
            self._first[name] = rows
            rows += _row_count(infos[name].shape)
        self._next = dict(self._first)
        self.info = TensorInfo("U8", (rows, BYTES))
        self.table = np.zeros(self.info.shape, np.uint8)
        self._sums = self.table.view("<u8")[:, 0]

    def make(self, name: str, rows: np.ndarray) -> None:
        """Take in the next rows of a tensor; of one axis, whole lines or all that is left."""
        made = row_sums(rows)
        at = self._next[name]
        self._sums[at : at + len(made)] = made
        self._next[name] = at + len(made)

    def check(self, path: Path, name: str, rows: np.ndarray, start: int) -> None:
        """Compare rows that were read, from row `start` on; of one axis, the whole lines.

        raises: CheckpointError that names the file, the tensor and the first row that differs
        """
        size = 1
        if rows.ndim == 1:
            size = LINE
            rows = self._whole_lines(name, rows, start)
        made = row_sums(rows)
        at = self._first[name] + start // size
        wrong = np.flatnonzero(made != self._sums[at : at + len(made)])
        if wrong.size:
            row = start + size * int(wrong[0])
            why = f"{name!r:.80} is damaged at row {row}: its checksum is another"
            refuse(path, why, "a run goes on without it by finetune --resume")

    def _whole_lines(self, name: str, elements: np.ndarray, start: int) -> np.ndarray:
        """Of elements from `start` on, those up to the end of the last whole line; [n]."""
        if start % LINE:
            return elements[:0]
        stop = start + len(elements)
        if stop < self._infos[name].shape[0]:
            stop -= stop % LINE
        return elements[: stop - start]


def pieces(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Parts of about PIECE bytes, (first row, rows); all at once where there is no row."""
    if rows.ndim < 2:
        yield 0, rows
        return
    step = max(1, PIECE * len(rows) // rows.nbytes)
    for at in range(0, len(rows), step):
        yield at, rows[at : at + step]


def row_sums(rows: np.ndarray) -> np.ndarray:
    """The checksum of each row: u64[rows]."""
    if rows.ndim == 1:
        lines = [rows[None, at : at + LINE] for at in range(0, len(rows), LINE)]
        return np.array([row_sums(line)[0] for line in lines], np.uint64)
    count = len(rows) if rows.ndim else 1
    raw = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
    words = raw.reshape(count, raw.size // max(count, 1))
    size = math.gcd(words.shape[1], BYTES)
    sums: np.ndarray = words.view(f"<u{size}").sum(axis=1, dtype=np.uint64)
    return sums


def _row_count(shape: tuple[int, ...]) -> int:
    if len(shape) == 1:
        return -(-shape[0] // LINE)
    return shape[0] if shape else 1


def read(path: Path, place: Stored, infos: Mapping[str, TensorInfo]) -> Checksums:
    """The checksums that a file has of its tensors.

    place: of TENSOR
    raises: CheckpointError when there are too few or too many
    """
    made = Checksums(infos)
    if place.info != made.info:
        refuse(path, f"{TENSOR} is {place.info}, not {made.info}")
    read_at(place.file, made.table, place.start)
    return made
