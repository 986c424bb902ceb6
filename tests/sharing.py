"""Threads that begin together, and forked children. Neither can hang a test."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any

LONGEST = 60  # seconds, after which it is a hang


def together(*works: Callable[[], Any]) -> list[Any]:
    """What each work returns, done by a thread of its own; an exception of any is raised."""
    start = threading.Barrier(len(works))
    found: list[Any] = [None] * len(works)
    failed: list[BaseException] = []

    def do(i: int, work: Callable[[], Any]) -> None:
        try:
            start.wait(LONGEST)
            found[i] = work()
        except BaseException as error:
            failed.append(error)

    threads = [
        threading.Thread(target=do, args=each, daemon=True)  # so that one that hangs ends with us
        for each in enumerate(works)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST)
    for error in failed:
        raise error
    assert not any(thread.is_alive() for thread in threads)
    return found


def in_a_child(work: Callable[[], bool]) -> bool:
    """Whether a forked child finds that a work is true; one that hangs is killed."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LONGEST)
        try:
            os._exit(0 if work() else 1)
        except BaseException:
            traceback.print_exc()
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0
