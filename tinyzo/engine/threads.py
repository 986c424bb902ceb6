"""Locks and threads that a fork finds at rest, and work that no signal cuts in two.

A fork copies the calling thread alone. In the child, a lock that another thread holds would stay
held for ever, and a pool would have no threads. So a fork waits for every lock, until no pass and
no change is under way, and for the threads of every pool to end. They start again when they are
needed, in both processes.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, TypeVar
from weakref import ref

from tinyzo.packages import say_once
from tinyzo.unique import Unique

T = TypeVar("T")
Lock = Any  # an _RLock or a Pool

# What a fork takes. A thread that has one may wait for one of a later kind only.
WEIGHTS: list[ref[Lock]] = []
ENGINES: list[ref[Lock]] = []
POOLS: list[ref[Lock]] = []

# Those that a program may turn into an exception, as Python does with SIGINT.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGBREAK")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]

_forking = threading.RLock()
_held: list[Lock] = []  # by the thread that forks


class _RLock(Unique, _thread.RLock):  # type: ignore[misc]  # final to mypy, not to Python
    """An RLock, taken by one instruction, that says that it is not pickled."""


def new_lock(kind: list[ref[Lock]]) -> Lock:
    """A lock, which its holder may take again, of WEIGHTS or ENGINES."""
    lock = _RLock()
    kind.append(ref(lock, kind.remove))
    return lock


class Pool(Unique):
    """Threads that start when they are needed.

    size:    how many there are at most
    prepare: what each does first
    """

    def __init__(self, size: int, prepare: Callable[[], None] | None = None) -> None:
        self._size = size
        self._prepare = prepare
        self._lock = threading.RLock()
        self._executor: ThreadPoolExecutor | None = None
        POOLS.append(ref(self, POOLS.remove))

    def submit(self, task: Callable[..., T], *arguments: object) -> Future[T]:
        """Let a thread do a task, after those that were there before.

        Where the system gives no thread, the caller does it, before this returns.
        """
        future: Future[T] = Future()
        work = partial(_settle, future, task, arguments)
        with self._lock:
            try:
                if self._executor is None:
                    self._executor = ThreadPoolExecutor(self._size, initializer=self._prepare)
                self._executor.submit(work)
            except RuntimeError as error:
                say_once(f"fewer threads than wanted ({error}): slower, with the same results")
                self.stop()  # the task is queued though, and done if there is any thread
                if not future.done():
                    work()
        return future

    def stop(self) -> None:
        """Wait until all tasks are done, and end the threads."""
        with self._lock:
            if self._executor is not None:
                self._executor.shutdown()
            self._executor = None

    def acquire(self) -> None:
        """Stop, and start no thread before `release`."""
        self._lock.acquire()
        self.stop()

    def release(self) -> None:
        self._lock.release()


def _settle(future: Future[T], task: Callable[..., T], arguments: Sequence[object]) -> None:
    """Do a task; the future gets what it returns or raises."""
    try:
        future.set_result(task(*arguments))
    except BaseException as error:
        future.set_exception(error)


@contextmanager
def pinned(cpus: Set[int]) -> Iterator[None]:
    """The calling thread on those of these CPUs that it may use, if any, and then as before."""
    allowed = os.sched_getaffinity(0) if cpus else set()
    chosen = allowed & cpus
    if not chosen or chosen == allowed:
        yield
        return
    try:
        pin(chosen)
        yield
    finally:
        pin(allowed)


def pin(cpus: Set[int]) -> None:
    """Keep the calling thread on these CPUs, if there are any; the system may refuse it."""
    if cpus:
        with suppress(OSError):
            os.sched_setaffinity(0, cpus)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let what is inside come to its end: a signal that comes meanwhile is handled after it.

    Else a KeyboardInterrupt, or what another handler raises, would leave half of a change.
    """
    heeded: dict[int, Callable[[int, FrameType | None], Any]] = {}
    waiting: list[tuple[int, FrameType | None]] = []
    if threading.current_thread() is threading.main_thread():  # where Python calls them
        found = {number: signal.getsignal(number) for number in SIGNALS}
        heeded = {number: handler for number, handler in found.items() if callable(handler)}
    try:
        for number in heeded:
            signal.signal(number, lambda *arrived: waiting.append(arrived))
        yield
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)
        for number, frame in waiting:
            heeded[number](number, frame)


def _rest() -> None:
    """Before a fork: wait until no other thread computes, and none of ours is left."""
    _take(_forking)
    for kind in (WEIGHTS, ENGINES, POOLS):
        while others := {made() for made in list(kind)} - {None, *_held}:  # new ones come meanwhile
            _take(others.pop())


def _take(lock: Lock) -> None:
    lock.acquire()
    _held.append(lock)


def _go_on() -> None:
    """After a fork, in both processes."""
    while _held:
        _held.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_rest, after_in_parent=_go_on, after_in_child=_go_on)
