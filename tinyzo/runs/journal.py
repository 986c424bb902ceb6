"""The journal: a few dozen bytes a step, whose terms are all that the fine-tune is.

    header   "tinyzo-j", format, losses and terms a record, kind and format of z,
             SHA-256 of the base, CRC-32
    record   step, decay, projected gradient, losses, (seed, coefficient) of each term, CRC-32
    return   0, factor of the rates, step that the run goes back to, zeros, CRC-32

Numbers are little-endian, and all records have one size. Each CRC covers the one before it too, so
no record can be dropped, repeated or swapped unseen. A last record that is torn or wrong counts as
never written: its step is done again, to the same bytes. A wrong record before it is an error.
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
from tinyzo.errors import RunError
from tinyzo.runs.history import History, Return
from tinyzo.system import is_at, lock, os_errors
from tinyzo.zo.mezo import Step

MAGIC = b"tinyzo-j"
FORMAT = 1
RETURN = 0  # the number of a record that takes no step
HEADER = struct.Struct("<8sHHHBB32sI")  # RawHeader
CRC = struct.Struct("<I")
NO_JOURNAL = "name a run's directory"


class RawHeader(NamedTuple):
    """The header's fields as they are packed."""

    magic: bytes
    version: int
    losses: int
    terms: int
    kind: int
    z_format: int
    base: bytes
    crc: int


class Header(NamedTuple):
    """The facts that hold for all records of a journal.

    losses, terms: how many each record has
    kind: of z, a name in noise.KINDS
    base: SHA-256 of the checkpoint that the journal builds on, in hexadecimal
    """

    losses: int
    terms: int
    kind: str
    base: str

    def __str__(self) -> str:
        return f"{self.losses} losses, {self.terms} {self.kind} terms a step, base {self.base[:12]}"

    @property
    def record(self) -> struct.Struct:
        """The layout of a record: u32, f64, f64, its losses f64, its terms (u64, f64), u32."""
        return struct.Struct(f"<Idd{self.losses}d" + "Qd" * self.terms + "I")

    def pack(self) -> bytes:
        """The header as it begins the file."""
        kind = noise.KINDS[self.kind]
        base = bytes.fromhex(self.base)
        raw = RawHeader(MAGIC, FORMAT, self.losses, self.terms, kind, noise.FORMAT, base, crc=0)
        return _seal(HEADER.pack(*raw), crc=0)

    def pack_step(self, number: int, step: Step, crc: int) -> bytes:
        """The record of a step, counted from 1, that follows one with this CRC."""
        terms = chain(*step.terms)
        numbers = (step.decay, step.projected_gradient, *step.losses, *terms)
        return _seal(self.record.pack(number, *numbers, 0), crc)

    def pack_return(self, back: Return, crc: int) -> bytes:
        """The record of a return, which is number 0."""
        zeros = (0.0,) * self.losses + (0, 0.0) * self.terms
        return _seal(self.record.pack(RETURN, back.factor, back.to, *zeros, 0), crc)


class Record(NamedTuple):
    """A record as read: its step is number `number`, counted from 1; 0: it is a return."""

    number: int
    step: Step
    crc: int

    def join(self, history: History) -> bool:
        """Add what the record says to a history, if it can come next; returns whether it can."""
        after = len(history.steps)
        if self.number == after + 1:
            history.steps.append(self.step)
        elif self.number == RETURN and self.step.projected_gradient in range(after + 1):
            to = int(self.step.projected_gradient)
            history.returns.append(Return(after, to, self.step.decay))
        else:
            return False
        return True


class Contents(NamedTuple):
    """A journal as read. crc: of the last whole record."""

    header: Header
    history: History
    crc: int

    @property
    def steps(self) -> list[Step]:
        return self.history.steps


class Journal(AbstractContextManager["Journal"]):
    """An open journal, held by one process at a time: the `history` so far, and what adds to it."""

    def __init__(self, path: Path, header: Header) -> None:
        """Open for appending, made when new; a torn last record is cut off.

        raises: RunError when another process holds it, it belongs to another base, or is corrupt
        """
        self.path = path
        self.header = header
        with ExitStack() as opened:
            with os_errors(RunError, path, "a run must be writable"):
                self._file = opened.enter_context(open(path, "a+b", buffering=0))
            lock(self._file, RunError, f"{path}: another process is at work on this run")
            self._begin()
            there, self.history, self._crc = read_journal(path)
            if there != header:
                why = f"{path}: it records {there}; this run has {header}"
                raise RunError(why, "a journal belongs to the run that wrote it")
            records = len(self.history.steps) + len(self.history.returns)
            self._file.truncate(HEADER.size + records * header.record.size)
            opened.pop_all()

    @property
    def steps(self) -> list[Step]:
        """All that have been taken."""
        return self.history.steps

    @property
    def crc(self) -> int:
        """Of the last record: what base, steps and returns led to it."""
        return self._crc

    def append(self, step: Step) -> None:
        """Write the next step; it survives the death of this process.

        raises: RunError when the disk is full, or another file has the journal's name by now;
            theta then is one step ahead of the journal
        """
        self._append(self.header.pack_step(len(self.steps) + 1, step, self._crc))
        self.steps.append(step)

    def append_return(self, back: Return) -> None:
        """Write that the run goes back now; raises as `append` does."""
        self._append(self.header.pack_return(back, self._crc))
        self.history.returns.append(back)

    def _append(self, record: bytes) -> None:
        if not is_at(self._file, self.path):
            raise RunError(f"{self.path} has been deleted or replaced meanwhile", "begin a new run")
        self._write(record)
        (self._crc,) = CRC.unpack(record[-CRC.size :])

    def _begin(self) -> None:
        """Write the header if the file is new, or was torn in the middle of it."""
        whole = self.header.pack()
        self._file.seek(0)
        found = self._file.read(len(whole))
        if len(found) < len(whole) and whole.startswith(found):
            self._file.truncate(0)
            self._write(whole)

    def _write(self, data: bytes) -> None:
        with os_errors(RunError, self.path, "check the disk, then --resume", "then --resume"):
            if self._file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def read_journal(path: Path) -> Contents:
    """Header, history and the last CRC of a journal; a torn last record is left out.

    raises: RunError when it cannot be read or a record before the last is wrong, by number
    """
    with os_errors(RunError, path, NO_JOURNAL):
        data = path.read_bytes()
    header = _read_header(path, data)
    size = header.record.size
    count = (len(data) - HEADER.size) // size
    history = History()
    crc = zlib.crc32(data[: HEADER.size - CRC.size])  # with its CRC, any header would give the same
    for number in range(1, count + 1):
        end = HEADER.size + number * size
        packed = data[end - size : end]
        record = _unpack(header, packed)
        crc_due = zlib.crc32(packed[: -CRC.size], crc)
        if record.crc == crc_due and record.join(history):
            crc = crc_due
        elif number < count:
            hint = "restore the journal from a copy; the steps before this record are intact"
            raise RunError(f"{path}: record {number} of {count} is corrupt", hint)
    return Contents(header, history, crc)


def record_crc(path: Path, step: int) -> str:
    """The CRC of the record of a step, which says what history led to it."""
    data = path.read_bytes()
    size = _read_header(path, data).record.size
    count = (len(data) - HEADER.size) // size
    records = data[HEADER.size : HEADER.size + count * size]
    numbers = [number for (number,) in struct.iter_unpack(f"<I{size - 4}x", records)]
    if step not in numbers:  # nor is a snapshot of a step beyond the journal any of its own
        return ""
    end = (numbers.index(step) + 1) * size
    return records[end - CRC.size : end].hex()


def _read_header(path: Path, data: bytes) -> Header:
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise RunError(f"{path}: not a journal of tinyzo", NO_JOURNAL)
    raw = RawHeader(*HEADER.unpack_from(data))
    if (raw.version, raw.z_format) != (FORMAT, noise.FORMAT):
        found = f"its header says journal format {raw.version} and z format {raw.z_format}"
        ours = f"this tinyzo reads {FORMAT} and {noise.FORMAT}"
        raise RunError(f"{path}: {found}", f"{ours}; if it wrote this, restore it from a copy")
    kinds = {number: name for name, number in noise.KINDS.items()}
    if raw.crc != zlib.crc32(data[: HEADER.size - CRC.size]) or raw.kind not in kinds:
        raise RunError(f"{path}: its header is corrupt", "restore the journal from a copy")
    return Header(raw.losses, raw.terms, kinds[raw.kind], raw.base.hex())


def _unpack(header: Header, packed: bytes) -> Record:
    number, decay, gradient, *rest, crc = header.record.unpack(packed)
    losses = rest[: header.losses]
    seeds = rest[header.losses :: 2]
    coefficients = rest[header.losses + 1 :: 2]
    terms = tuple(zip(seeds, coefficients, strict=True))
    return Record(number, Step(tuple(losses), gradient, terms, decay), crc)


def _seal(packed: bytes, crc: int) -> bytes:
    """Packed fields, the last of which becomes the CRC-32 of the others, going on from `crc`."""
    body = packed[: -CRC.size]
    return body + CRC.pack(zlib.crc32(body, crc))
