"""The journal: the list of terms that is the fine-tune, a few dozen bytes a step.

    header   "tinyzo-j", format, losses and terms a record, kind and format of z,
             SHA-256 of the base, CRC-32
    record   step, decay, projected gradient, losses, (seed, coefficient) of each term, CRC-32

Little-endian, every record of one size. Each CRC covers the one before it, so a record cannot be
dropped, repeated or swapped unseen. A last record that is torn or wrong is as if never written
(the step is done again, to the same bytes); a wrong record before it is an error with its number.
"""

import errno
import os
import struct
import zlib
from contextlib import AbstractContextManager, ExitStack
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from tinyzo.engine import noise
from tinyzo.engine.noise import KINDS
from tinyzo.errors import RunError
from tinyzo.system import lock, os_errors
from tinyzo.zo.mezo import Step

MAGIC, FORMAT = b"tinyzo-j", 1
HEADER = struct.Struct("<8sHHHBB32sI")
INTERFERED = "restore the journal from a copy; the steps before this record are intact"


class Header(NamedTuple):
    """What all records of a journal share. base: SHA-256 of the checkpoint that it builds on."""

    losses: int
    terms: int
    kind: str
    base: str

    def pack(self) -> bytes:
        z, base = (KINDS[self.kind], noise.FORMAT), bytes.fromhex(self.base)
        return _sealed(HEADER, 0, MAGIC, FORMAT, self.losses, self.terms, *z, base)

    def __str__(self) -> str:
        return f"{self.losses} losses, {self.terms} {self.kind} terms a step, base {self.base[:12]}"

    @property
    def record(self) -> struct.Struct:
        return struct.Struct(f"<Idd{self.losses}d" + "Qd" * self.terms + "I")


class Journal(AbstractContextManager):
    """An open journal: `steps` as read, and `append`. Held by one process at a time."""

    def __init__(self, path: Path, header: Header) -> None:
        """Open for appending, made when new; a torn last record is cut off.

        raises: RunError when another process holds it, it belongs to another base, or is corrupt
        """
        self.path, self.header, start = path, header, header.pack()
        with ExitStack() as opened:
            with os_errors(RunError, path, "a run must be writable"):
                self._file = opened.enter_context(open(path, "a+b", buffering=0))
            lock(self._file, RunError, f"{path}: another process is at work on this run")
            self._file.seek(0)
            if len(found := self._file.read(len(start))) < len(start) and start.startswith(found):
                self._file.truncate(0)
                self._write(start)
            there, self.steps, self._crc = read_journal(path)
            if there != header:
                why = f"{path}: it records {there}; this run has {header}"
                raise RunError(why, "a journal belongs to the run that wrote it")
            self._file.truncate(HEADER.size + len(self.steps) * header.record.size)
            opened.pop_all()

    def append(self, step: Step) -> None:
        """Write the next step; it survives the death of this process.

        raises: RunError when the disk is full; theta and the journal then part by this step
        """
        numbers = (len(self.steps) + 1, step.decay, step.projected_gradient, *step.losses)
        record = _sealed(self.header.record, self._crc, *numbers, *chain(*step.terms))
        self._crc = int.from_bytes(record[-4:], "little")
        self._write(record)
        self.steps.append(step)

    def _write(self, data: bytes) -> None:
        with os_errors(RunError, self.path, "make room on the disk, then --resume"):
            if self._file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def read_journal(path: Path) -> tuple[Header, list[Step], int]:
    """Header, steps and the last CRC of a journal; a torn last record is left out.

    raises: RunError when it cannot be read or a record before the last is wrong, by number
    """
    with os_errors(RunError, path, "name a run's directory"):
        data = path.read_bytes()
    header = _read_header(path, data)
    record, losses = header.record, header.losses
    steps: list[Step] = []
    crc = zlib.crc32(data[: HEADER.size - 4])  # with its own CRC, any header would give the same
    count = (len(data) - HEADER.size) // record.size
    for i in range(count):
        at = HEADER.size + i * record.size
        number, decay, gradient, *rest, stored = record.unpack_from(data, at)
        expected = zlib.crc32(data[at : at + record.size - 4], crc)
        if stored != expected or number != i + 1:
            if i == count - 1:
                break
            raise RunError(f"{path}: record {i + 1} of {count} is corrupt", INTERFERED)
        crc = expected
        terms = tuple(zip(rest[losses::2], rest[losses + 1 :: 2], strict=True))
        steps.append(Step(tuple(rest[:losses]), gradient, terms, decay))
    return header, steps, crc


def record_crc(path: Path, step: int) -> str:
    """The CRC of the record of a step, which says what history led to it."""
    data = path.read_bytes()
    end = HEADER.size + step * _read_header(path, data).record.size
    return data[end - 4 : end].hex()


def _read_header(path: Path, data: bytes) -> Header:
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise RunError(f"{path}: not a journal of tinyzo", "name a run's directory")
    _, version, losses, terms, kind, z_format, base, crc = HEADER.unpack_from(data)
    if (version, z_format) != (FORMAT, noise.FORMAT):
        why = f"its header says journal format {version} and z format {z_format}"
        ours = f"this tinyzo reads {FORMAT} and {noise.FORMAT}"
        raise RunError(f"{path}: {why}", f"{ours}; if it wrote this, restore it from a copy")
    kinds = {number: name for name, number in KINDS.items()}
    if crc != zlib.crc32(data[: HEADER.size - 4]) or kind not in kinds:
        raise RunError(f"{path}: its header is corrupt", "restore the journal from a copy")
    return Header(losses, terms, kinds[kind], base.hex())


def _sealed(layout: struct.Struct, crc: int, *fields: object) -> bytes:
    """The fields, and a CRC-32 of them that goes on from `crc`."""
    body = layout.pack(*fields, 0)[:-4]
    return body + struct.pack("<I", zlib.crc32(body, crc))
