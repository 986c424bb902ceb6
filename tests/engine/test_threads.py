"""Pools and locks that a fork finds at rest, and CPUs that a thread is kept on for a while."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading

import pytest
from sharing import LONGEST, in_a_child, together

from tinyzo.engine import threads
from tinyzo.engine.threads import (
    ENGINES,
    POOLS,
    WEIGHTS,
    Pool,
    new_lock,
    pin,
    pinned,
    uninterrupted,
)
from tinyzo.packages import say_once

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
CPUS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
moves = pytest.mark.skipif(len(CPUS) < 2, reason="a thread can be on one CPU only")


# -- pools


def test_a_pool_does_what_it_is_given_and_starts_again_after_a_stop():
    pool, ready = Pool(1, lambda: prepared.append(threading.get_ident())), threading.Event()
    prepared: list[int] = []
    first = pool.submit(ready.wait, LONGEST)
    second = pool.submit(threading.get_ident)
    ready.set()
    pool.stop()
    pool.stop()
    assert first.done() and second.done() and [second.result()] == prepared
    assert pool.submit(threading.get_ident).result() == prepared[1] != threading.get_ident()


def test_an_error_of_a_task_is_its_result():
    failed = Pool(1).submit(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        failed.result()


def test_what_is_gone_is_forgotten():
    before = [len(kind) for kind in (WEIGHTS, ENGINES, POOLS)]
    kept = [new_lock(WEIGHTS), new_lock(ENGINES), Pool(1)]
    assert [len(kind) for kind in (WEIGHTS, ENGINES, POOLS)] == [n + 1 for n in before]
    del kept
    gc.collect()
    assert [len(kind) for kind in (WEIGHTS, ENGINES, POOLS)] <= before


def test_the_threads_of_a_pool_that_is_gone_end():
    pool, found = Pool(2), []
    pool.submit(lambda: found.append(threading.current_thread())).wait()
    pool.submit(int).wait()
    del pool
    gc.collect()
    found[0].join(LONGEST)
    assert not found[0].is_alive()


AT_THE_END = """
import atexit, threading
from tinyzo.engine.threads import Pool
pool, ending = Pool(1), threading.Event()
pool.submit(ending.wait, 60)
pool.submit(print, "written")
atexit.register(ending.set)
"""


def test_a_process_ends_when_its_pools_are_done():
    done = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, check=True)
    assert done.stdout == b"written\n" and not done.stderr


@pytest.fixture
def no_more_threads(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """As on a system that gives no thread but the first; set once another was asked for."""
    start, refused, given = threading.Thread.start, threading.Event(), []

    def starting(thread: threading.Thread) -> None:
        if given:
            refused.set()
            raise RuntimeError("can't start new thread")
        given.append(thread)
        start(thread)

    say_once.cache_clear()
    monkeypatch.setattr(threading.Thread, "start", starting)
    return refused


def test_the_threads_that_there_are_do_what_others_cannot_be_had_for(no_more_threads, capfd):
    pool, done = Pool(2), []
    first = pool.submit(no_more_threads.wait, LONGEST)
    second = pool.submit(done.append, threading.get_ident())
    assert first.result() and second.result() is None and len(done) == 1
    said = "tinyzo: fewer threads than wanted (can't start new thread): slower, with the same"
    assert capfd.readouterr().err == f"{said} results\n"


def test_the_caller_does_it_where_there_is_no_thread_and_a_later_one_may(monkeypatch):
    pool = Pool(2)
    with monkeypatch.context() as none:
        none.setattr(threading.Thread, "start", refuse)
        here = [pool.submit(threading.get_ident).result() for _ in range(2)]
        failed = pool.submit(int, "x")
    assert here == [threading.get_ident()] * 2
    with pytest.raises(ValueError, match="invalid literal"):
        failed.result()
    assert pool.submit(threading.get_ident).result() not in here


def refuse(_: object) -> None:
    raise RuntimeError("can't start new thread")


# -- signals


def test_a_signal_waits_for_the_end_and_finds_its_handler_as_it_was():
    done: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: done.append("handled"))
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            done.append("work")
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done == ["work", "handled", "handled"]


def test_other_threads_hear_no_signal_and_an_error_within_leaves_the_handlers():
    def work() -> str:
        with uninterrupted():
            return "done"

    assert Pool(1).submit(work).result() == "done"
    with pytest.raises(MemoryError), uninterrupted():
        raise MemoryError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# -- forks


@forks
def test_a_pool_works_in_a_child_in_its_child_and_in_the_parent():
    pool = Pool(2)
    assert pool.submit(int, 3).result() == 3

    def works() -> bool:
        return pool.submit(int, 4).result() == 4

    assert in_a_child(works) and works()
    assert in_a_child(lambda: works() and in_a_child(works)) and works()


@forks
def test_a_fork_waits_for_what_a_pool_was_given(monkeypatch):
    """So that it is done in the child too, whose copy of it nobody would ever do."""
    pool, forking = Pool(1), threading.Event()
    stop = Pool.stop

    def stopping(self: Pool) -> None:
        forking.set()
        stop(self)

    monkeypatch.setattr(Pool, "stop", stopping)
    task = pool.submit(forking.wait, LONGEST)
    assert in_a_child(task.done) and task.result()


@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # ours is, on purpose
@pytest.mark.parametrize("kind", [WEIGHTS, ENGINES], ids=["weights", "engine"])
def test_a_fork_waits_for_a_lock_and_the_child_has_it_free(monkeypatch, kind):
    lock, order = new_lock(kind), []
    held, forking = threading.Event(), threading.Event()
    take = threads._take

    def taking(each: object) -> None:
        if each is lock:
            forking.set()
        take(each)

    def hold() -> None:
        with lock:
            held.set()
            assert forking.wait(LONGEST)
            order.append("given back")

    def is_free() -> bool:
        order.append("forked")
        return all(together(lambda: lock.acquire(timeout=LONGEST)))

    monkeypatch.setattr(threads, "_take", taking)
    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    assert held.wait(LONGEST)
    assert in_a_child(lambda: is_free() and order == ["given back", "forked"])
    assert all(together(lambda: lock.acquire(timeout=LONGEST)))
    holder.join()


@forks
def test_a_thread_may_fork_in_a_pass_of_its_own():
    lock = new_lock(WEIGHTS)
    with lock:
        assert in_a_child(lambda: lock.acquire(blocking=False))
        assert together(lambda: lock.acquire(blocking=False)) == [False]
    assert together(lambda: lock.acquire(blocking=False)) == [True]


@forks
def test_a_lock_that_is_made_while_a_fork_waits_is_taken_too(monkeypatch):
    made, take = [], threads._take

    def taking(lock: object) -> None:
        if not made:
            made.append(new_lock(WEIGHTS))
        take(lock)

    monkeypatch.setattr(threads, "_take", taking)
    threads._rest()
    try:
        assert together(lambda: made[0].acquire(blocking=False)) == [False]
    finally:
        threads._go_on()
    assert together(lambda: made[0].acquire(blocking=False)) == [True]


# -- CPUs


@moves
def test_a_thread_is_kept_on_some_cpus_for_a_while_only():
    one = {min(CPUS)}
    with pinned(one):
        assert os.sched_getaffinity(0) == one
    assert os.sched_getaffinity(0) == CPUS
    with pytest.raises(KeyboardInterrupt), pinned(one):
        raise KeyboardInterrupt
    assert os.sched_getaffinity(0) == CPUS


@moves
@pytest.mark.parametrize("cpus", [set(), CPUS, {max(CPUS, default=0) + 1}])
def test_a_thread_stays_where_it_is_if_there_is_no_choice(monkeypatch, cpus):
    monkeypatch.setattr(threads, "pin", lambda cpus: pytest.fail(f"kept on {cpus}"))
    with pinned(cpus):
        assert os.sched_getaffinity(0) == CPUS


@moves
def test_cpus_that_the_system_refuses_are_no_error():
    pin({10_000})
    assert os.sched_getaffinity(0) == CPUS


def test_no_cpus_are_asked_for_where_the_system_knows_none(monkeypatch):
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    with pinned(set()):
        pin(set())
    assert not hasattr(os, "sched_setaffinity")
