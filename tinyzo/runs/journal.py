"""The journal: the list of terms that is the fine-tune, a few dozen bytes a step.

    header   "tinyzo-j", format, losses and terms a record, kind and format of z,
             SHA-256 of the base, CRC-32
    record   step, decay, projected gradient, losses, (seed, coefficient) of each term, CRC-32

Little-endian, every record of one size. Each CRC covers the one before it, so a record cannot be
dropped, repeated or swapped unseen. A last record that is torn or wrong is as if never written
(the step is done again, to the same bytes); a wrong record before it is an error with its number.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tinyzo.engine import noise
from tinyzo.engine.noise import KINDS
from tinyzo.errors import RunError
from tinyzo.zo.mezo import Step

MAGIC, FORMAT = b"tinyzo-j", 1
HEADER = struct.Struct("<8sHHHBB32sI")
INTERFERED = "restore the journal from a copy; the steps before this record are intact"


@dataclass(frozen=True)
class Header:
    """What all records of a journal share. base: SHA-256 of the checkpoint that it builds on."""

    losses: int
    terms: int
    kind: str
    base: str

    def pack(self) -> bytes:
        z = KINDS[self.kind], noise.FORMAT
        base = bytes.fromhex(self.base)
        body = HEADER.pack(MAGIC, FORMAT, self.losses, self.terms, *z, base, 0)[:-4]
        return body + struct.pack("<I", zlib.crc32(body))

    def __str__(self) -> str:
        terms = f"{self.losses} losses and {self.terms} {self.kind} terms a step"
        return f"{terms} on base {self.base[:12]}"

    @property
    def record(self) -> struct.Struct:
        return struct.Struct(f"<Idd{self.losses}d" + "Qd" * self.terms + "I")


class Journal(AbstractContextManager):
    """An open journal: `steps` as read, and `append`. Held by one process at a time."""

    def __init__(self, path: Path, header: Header) -> None:
        """Open for appending, made when new; a torn last record is cut off.

        raises: RunError when another process holds it, it belongs to another base, or is corrupt
        """
        self.path, self.header = path, header
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (held until close)
        except OSError as error:
            raise RunError(f"{path}: {error.strerror}", "a run must be writable") from None
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        _lock(self._file, self.path)
        self._file.seek(0)
        start = self.header.pack()
        if len(found := self._file.read(len(start))) < len(start) and start.startswith(found):
            self._file.truncate(0)
            self._write(start)
        header, self.steps, self._crc = read_journal(self.path)
        if header != self.header:
            raise RunError(
                f"{self.path}: it records {header}; this run has {self.header}",
                "a journal belongs to the run that wrote it",
            )
        self._file.truncate(HEADER.size + len(self.steps) * header.record.size)

    def append(self, step: Step) -> None:
        """Write the next step; it survives the death of this process.

        raises: RunError when the disk is full; theta and the journal then part by this step
        """
        terms = (x for term in step.terms for x in term)
        number = len(self.steps) + 1
        record = self.header.record
        fields = (number, step.decay, step.projected_gradient, *step.losses, *terms)
        body = record.pack(*fields, 0)[:-4]
        self._crc = zlib.crc32(body, self._crc)
        self._write(body + struct.pack("<I", self._crc))
        self.steps.append(step)

    def _write(self, data: bytes) -> None:
        try:
            if self._file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise RunError(
                f"{self.path}: {error.strerror}", "make room on the disk, then --resume"
            ) from None

    def sync(self) -> None:
        """Push what is written through to the disk, against loss of power."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_journal(path: Path) -> tuple[Header, list[Step], int]:
    """Header, steps and the last CRC of a journal; a torn last record is left out.

    raises: RunError when it cannot be read or a record before the last is wrong, by number
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}", "name a run's directory") from None
    header = _read_header(path, data)
    record = header.record
    steps: list[Step] = []
    crc = zlib.crc32(data[: HEADER.size - 4])  # with its own CRC, any header would give the same
    count = (len(data) - HEADER.size) // record.size
    for i in range(count):
        at = HEADER.size + i * record.size
        body = data[at : at + record.size - 4]
        number, decay, gradient, *rest, stored = record.unpack_from(data, at)
        expected = zlib.crc32(body, crc)
        if stored != expected or number != i + 1:
            if i == count - 1:
                break
            raise RunError(f"{path}: record {i + 1} of {count} is corrupt", INTERFERED)
        crc = expected
        terms = _pairs(rest[header.losses :])
        steps.append(Step(tuple(rest[: header.losses]), gradient, terms, decay))
    return header, steps, crc


def _read_header(path: Path, data: bytes) -> Header:
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise RunError(f"{path}: not a journal of tinyzo", "name a run's directory")
    _, version, losses, terms, kind, z_format, base, crc = HEADER.unpack_from(data)
    if (version, z_format) != (FORMAT, noise.FORMAT):
        raise RunError(
            f"{path}: its header says journal format {version} and z format {z_format}",
            f"this tinyzo reads {FORMAT} and {noise.FORMAT}; "
            "if it wrote this, restore it from a copy",
        )
    kinds = {number: name for name, number in KINDS.items()}
    if crc != zlib.crc32(data[: HEADER.size - 4]) or kind not in kinds:
        raise RunError(f"{path}: its header is corrupt", "restore the journal from a copy")
    return Header(losses, terms, kinds[kind], base.hex())


def _pairs(flat: Sequence[float]) -> tuple[tuple[int, float], ...]:
    return tuple(zip(map(int, flat[::2]), flat[1::2], strict=True))


def _lock(file, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no flock: two processes on one run go unseen there
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RunError(f"{path}: another process is at work on this run", "wait for it") from None
