"""Locks and threads that a fork finds at rest, and work that no signal cuts in two.

A fork copies the calling thread alone. In the child, a lock that another thread holds would stay
held for ever, and a pool would have no threads. So a fork waits for every lock, until no pass and
no change is under way, and for the threads of every pool to end. They start again when they are
needed, in both processes.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from types import FrameType
from typing import Any, Generic, TypeVar, cast
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


class Task(Generic[T]):
    """A call that a pool's thread makes: a Future that takes half the time to hand it over."""

    def __init__(self, function: Callable[..., T], arguments: Sequence[object]) -> None:
        self._call: Callable[[], T] = partial(function, *arguments)
        self._returned: T | None = None
        self._error: BaseException | None = None
        self._running = _thread.allocate_lock()
        self._running.acquire()

    def run(self) -> None:
        try:
            self._returned = self._call()
        except BaseException as error:
            self._error = error
        finally:
            del self._call  # and what it was given
            self._running.release()

    def done(self) -> bool:
        return not self._running.locked()

    def wait(self) -> None:
        """Return when it is done."""
        with self._running:
            pass

    def result(self) -> T:
        """What it returns, or raises, when it is done."""
        self.wait()
        if self._error:
            try:
                raise self._error
            finally:
                del self  # the error's traceback would keep it
        return cast(T, self._returned)


class Pool(Unique):
    """Threads that start when they are needed.

    size:    how many there are at most
    prepare: what each does first
    """

    def __init__(self, size: int, prepare: Callable[[], None] | None = None) -> None:
        self._size = size
        self._prepare = prepare
        self._lock = threading.RLock()
        self._threads: list[threading.Thread] = []
        self._tasks: SimpleQueue[Task[Any] | None] = SimpleQueue()  # None: a thread ends
        POOLS.append(ref(self, POOLS.remove))

    def submit(self, function: Callable[..., T], *arguments: object) -> Task[T]:
        """Let a thread make a call, after those that were there before.

        Where the system gives no thread, the caller makes it, before this returns.
        """
        task = Task(function, arguments)
        with self._lock:
            if len(self._threads) < self._size:
                self._start()
            if self._threads:
                self._tasks.put(task)
                return task
        task.run()
        return task

    def _start(self) -> None:
        """One more thread, if the system gives one. It does not keep the pool."""
        thread = threading.Thread(target=_work, args=(self._tasks, self._prepare), daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            say_once(f"fewer threads than wanted ({error}): slower, with the same results")
        else:
            self._threads.append(thread)

    def stop(self) -> None:
        """Wait until all calls are made, and end the threads."""
        with self._lock:
            self._end()
            for thread in self._threads:
                thread.join()
            self._threads.clear()

    def _end(self) -> None:
        for _ in self._threads:
            self._tasks.put(None)

    def __del__(self) -> None:
        self._end()

    def acquire(self) -> None:
        """Stop, and start no thread before `release`."""
        self._lock.acquire()
        self.stop()

    def release(self) -> None:
        self._lock.release()


def _work(tasks: SimpleQueue[Task[Any] | None], prepare: Callable[[], None] | None) -> None:
    """A pool's thread."""
    if prepare:
        prepare()
    while task := tasks.get():
        task.run()
        del task  # what it returned is its caller's


@atexit.register
def _finish() -> None:
    """Before the end of the process: what pools were given is done, as the writing of a file."""
    for made in list(POOLS):
        if pool := made():
            pool.stop()


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
