"""Ranks: processes under mpiexec that tune one model together, and the bytes that they exchange.

    Wire     carries bytes from each rank to all; mpi4py's is made here and nowhere else
    Alone    a run of one process that shares nothing: what nearly all runs are
    Ranks    the ranks of a shared run, as one of them sees it

Every rank has the whole model, takes the same steps, and adds the same terms. What is shared is the
work of a loss: shared.py. Rank 0 has the run's directory; each other keeps a copy in a temporary
folder, so that it knows what rank 0 knows, and decides as it does.
"""

from __future__ import annotations

import atexit
import io
import json
import math
import os
import signal
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any, NamedTuple, Protocol

import numpy as np

from tinyzo.errors import ConfigError, RunError, TinyzoError, check_choice, shown
from tinyzo.machine.cpus import fast_cpus
from tinyzo.packages import in_a_line
from tinyzo.runs import report

SHARES = ("queries", "rows", "both")
# What tells a process how many were started together: of MPICH and its kin, of Open MPI.
STARTED = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
GRACE = 1.0  # seconds that rank 0 has to say what all ranks found wrong
LONGEST_NAP = 1e-3  # seconds between two looks at what is under way
CHUNK = 64 << 20  # bytes of a file that are sent at once
SIZE = struct.Struct("<Q")
HEAD = struct.Struct("<If4I")  # Head


class Head(NamedTuple):
    """What a rank says before its numbers.

    mark:    the CRC of the steps that it has taken: theta follows from them
    seconds: that it worked on these numbers; 0: it had nothing to do
    shape:   of the numbers, f64; with zeros at its end
    """

    mark: int
    seconds: float
    shape: tuple[int, ...]

    def pack(self) -> bytes:
        dims = (*self.shape, 0, 0, 0, 0)[:4]
        return HEAD.pack(self.mark, self.seconds, *dims)

    @classmethod
    def unpack(cls, data: bytes) -> Head:
        mark, seconds, *dims = HEAD.unpack(data)
        return cls(mark, seconds, tuple(filter(None, dims)) or (0,))


class Wire(Protocol):
    """What carries bytes between processes. number: of this one, from 0; count: of all."""

    number: int
    count: int
    host: str

    def gather(self, data: bytes) -> list[bytes]:
        """What each rank gives, in their order. All give equally many bytes."""

    def send(self, data: bytes) -> bytes:
        """What rank 0 gives. All give equally many bytes."""

    def abort(self, code: int) -> None:
        """End all processes at once."""


class Mpi:
    """A Wire by mpi4py: all processes that one mpiexec began.

    It asks now and then whether an exchange is done, and sleeps between: so Ctrl-C is heard, and a
    rank that waits takes no CPU from one that works.
    """

    def __init__(self) -> None:
        """raises: ConfigError where mpi4py or its MPI cannot be had, or is not that of mpiexec"""
        os.environ.setdefault("MPIR_CVAR_SUPPRESS_ABORT_MESSAGE", "1")  # tinyzo says why itself
        try:
            from mpi4py import MPI
        except Exception as error:
            found = f"--share needs mpi4py, which cannot be used ({in_a_line(error)})"
            raise ConfigError(found, "pip install 'tinyzo[mpi]'") from None
        self._byte = MPI.BYTE
        self._comm = MPI.COMM_WORLD
        self.number = self._comm.rank
        self.count = self._comm.size
        self.host = MPI.Get_processor_name()
        started = max(int(os.environ.get(name, "1")) for name in STARTED)
        if self.count == 1 < started:
            found = f"mpiexec began {started} processes, and each sees only itself"
            raise ConfigError(found, "take the mpiexec of the MPI that mpi4py is installed with")

    def gather(self, data: bytes) -> list[bytes]:
        found = bytearray(len(data) * self.count)
        self._wait(self._comm.Iallgather([data, self._byte], [found, self._byte]))
        starts = range(0, len(found), max(1, len(data)))
        return [bytes(found[start : start + len(data)]) for start in starts] or [b""] * self.count

    def send(self, data: bytes) -> bytes:
        sent = bytearray(data)
        self._wait(self._comm.Ibcast([sent, self._byte]))
        return bytes(sent)

    def _wait(self, request: Any) -> None:
        nap = 0.0
        while not request.Test():
            time.sleep(nap)
            nap = min(LONGEST_NAP, 2 * nap + 1e-5)

    def abort(self, code: int) -> None:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        self._comm.Abort(code)


class Grid(NamedTuple):
    """How ranks share a loss: each column has some of its probes, each row some of its rows."""

    columns: int
    rows: int

    def most(self, probes: int, parts: int) -> int:
        """The most probes times micro-batches that a rank computes."""
        return math.ceil(probes / self.columns) * math.ceil(parts / self.rows)


class Alone:
    """A run that is not shared.

    number: of this rank; count: of all
    here:   ranks that share the memory of this machine
    """

    number = 0
    count = 1
    here = 1

    @property
    def is_first(self) -> bool:
        return self.number == 0

    @contextmanager
    def working(self) -> Iterator[None]:
        """What a rank does, until it is done or all have to end."""
        yield

    def share_cpus(self, threads: int | None) -> None:
        """Take a part of this machine's CPUs, unless the user says how many threads there are."""

    def from_first(self, value: Any) -> Any:
        """What rank 0 gives, on every rank: anything that JSON has."""
        return value

    def begin_step(self, mark: int) -> None:
        """mark: the CRC of the journal"""

    def waited(self) -> dict[str, float]:
        """A field of metrics.jsonl: seconds of the step in which the quickest rank waited."""
        return {}

    def tell_slowest(self) -> None:
        """Say for whom the ranks have waited."""


ALONE = Alone()


class Ranks(Alone):
    """The ranks of a shared run.

    share: what each has a part of: "queries", "rows" or "both"
    """

    def __init__(self, share: str, wire: Wire) -> None:
        """raises: ConfigError for another share"""
        check_choice("share", share, SHARES)
        self.share = share
        self.wire = wire
        self.number = wire.number
        self.count = wire.count
        self._mark = 0
        self._waited = 0.0  # in this step
        self._waited_for = [0.0] * wire.count
        cpus = json.dumps([wire.host, sorted(fast_cpus())])
        places = self.texts(cpus)
        self.hosts = [json.loads(place)[0] for place in places]
        self.here = self.hosts.count(wire.host)
        self._alike = [number for number, place in enumerate(places) if place == cpus]

    def name(self, number: int) -> str:
        return f"rank {number} on {self.hosts[number]}"

    def grid(self, probes: int, parts: int) -> Grid:
        """How the ranks share a loss of so many probes and micro-batches.

        A loss of one probe has only its rows to share. "both" takes the grid in which nobody has
        much to do, and of those the one with the most columns, in which the fewest z are made.
        """
        columns = {"queries": self.count, "rows": 1}.get(self.share, 0)
        if probes == 1:
            columns = 1
        if columns:
            return Grid(columns, self.count // columns)
        widths = [width for width in range(1, self.count + 1) if self.count % width == 0]
        grids = [Grid(width, self.count // width) for width in reversed(widths)]
        return min(grids, key=lambda grid: grid.most(probes, parts))

    @contextmanager
    def working(self) -> Iterator[None]:
        """Rank 0 alone says what there is to say; what ends one rank ends all.

        An error that all have found is said by rank 0, which has a second for it. Then the rank
        that raised it says it, and its process ends all others when it ends itself.
        """
        heard = sys.stderr if self.is_first else io.StringIO()
        try:
            with redirect_stderr(heard):
                yield
        except BaseException as error:
            if not self.is_first:
                self._wait_for_first(error)
            atexit.register(self.wire.abort, exit_code_of(error))
            raise

    def _wait_for_first(self, error: BaseException) -> None:
        """Let rank 0 say what it has found, too; else it is said whose error this is."""
        time.sleep(GRACE)
        if isinstance(error, TinyzoError):
            error.message = shown(f"{self.name(self.number)}: {error.message}")

    def share_cpus(self, threads: int | None) -> None:
        cpus = sorted(fast_cpus())
        if threads or not hasattr(os, "sched_setaffinity") or len(self._alike) == 1:
            return
        place = self._alike.index(self.number)
        first, end = (number * len(cpus) // len(self._alike) for number in (place, place + 1))
        os.sched_setaffinity(0, cpus[first : max(first + 1, end)])

    # -- exchanges: every rank comes to each of them, in the same order

    def texts(self, text: str) -> list[str]:
        """What each rank says."""
        data = text.encode()
        sizes = [size for (size,) in map(SIZE.unpack, self.wire.gather(SIZE.pack(len(data))))]
        found = self.wire.gather(data.ljust(max(sizes), b"\0"))
        return [each[:size].decode() for each, size in zip(found, sizes, strict=True)]

    def send(self, data: bytes) -> bytes:
        """What rank 0 gives."""
        (size,) = SIZE.unpack(self.wire.send(SIZE.pack(len(data))))
        return self.wire.send(data if self.is_first else bytes(size))

    def from_first(self, value: Any) -> Any:
        return json.loads(self.send(json.dumps(value).encode()))

    def least(self, number: int) -> int:
        """The least that any rank gives."""
        return min(map(int, self.texts(str(number))))

    def exchange(self, values: np.ndarray, seconds: float) -> list[np.ndarray]:
        """The numbers of each rank, f64 of up to four dimensions.

        seconds: that this rank worked on its own; 0: it had nothing to do
        raises: RunError when a rank has taken other steps than rank 0
        """
        own = Head(self._mark, seconds, values.shape if values.size else ())
        heads = [Head.unpack(data) for data in self.wire.gather(own.pack())]
        self._check_marks(heads)
        self._note_seconds([head.seconds for head in heads])
        sizes = [8 * math.prod(head.shape) for head in heads]
        found = self.wire.gather(values.tobytes().ljust(max(sizes), b"\0"))
        return [
            np.frombuffer(data[:size], np.float64).reshape(head.shape)
            for data, size, head in zip(found, sizes, heads, strict=True)
        ]

    def _check_marks(self, heads: Sequence[Head]) -> None:
        others = [self.name(n) for n, head in enumerate(heads) if head.mark != heads[0].mark]
        if others:
            found = f"{', '.join(others)}: other steps than those of {self.name(0)}"
            raise RunError(found, "its arithmetic is another: leave it out, then --resume")

    def check_theta(self, crc: int, step: int) -> None:
        """raises: RunError for a rank whose weights differ from rank 0's, which it names"""
        found = self.texts(str(crc))
        others = [self.name(number) for number, each in enumerate(found) if each != found[0]]
        if others:
            what = f"{', '.join(others)}: other weights after step {step} than {self.name(0)}"
            hint = "check its memory, or leave it out; --resume goes on, and makes them anew"
            raise RunError(what, hint)

    def check_same(self, facts: Mapping[str, str]) -> None:
        """raises: RunError for a rank that begins with other facts than rank 0, which it names"""
        every = [json.loads(text) for text in self.texts(json.dumps(dict(facts)))]
        for number, theirs in enumerate(every):
            for name, first in every[0].items():
                if theirs[name] != first:
                    found = f"{self.name(number)} has another {name} than {self.name(0)}"
                    what = f"{theirs[name]:.60} there, {first:.60} here"
                    raise RunError(f"{found}: {what}", "all ranks need the same")

    # -- who waits for whom

    def begin_step(self, mark: int) -> None:
        self._mark = mark
        self._waited = 0.0

    def _note_seconds(self, seconds: Sequence[float]) -> None:
        """Of ranks that had something to do, the first one waited for the last one."""
        at_work = [each for each in seconds if each > 0]
        if len(at_work) < 2:
            return
        slowest = max(at_work)
        waited = slowest - min(at_work)
        self._waited += waited
        self._waited_for[seconds.index(slowest)] += waited

    def waited(self) -> dict[str, float]:
        return {"waited_seconds": self._waited}

    def tell_slowest(self) -> None:
        if self.count == 1:
            return
        most = max(self._waited_for)
        slowest = self.name(self._waited_for.index(most))
        total = sum(self._waited_for)
        report.say(f"ranks waited {total:.1f} s for each other, {most:.1f} s of it for {slowest}")


def exit_code_of(error: BaseException) -> int:
    """What a process ends with that this has stopped: 128 and the signal, or as an error says."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + int((*error.args, signal.SIGINT)[0])
    return error.exit_code if isinstance(error, TinyzoError) else 1


def join(share: str | None) -> Alone:
    """The ranks that this process is one of; without a share, it is alone.

    raises: ConfigError for another share, or where mpi4py cannot be had
    """
    return ALONE if share is None else Ranks(share, Mpi())
