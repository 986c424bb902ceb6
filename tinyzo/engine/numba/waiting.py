"""Waits that are no sleep, in Numba: to wake a thread takes longer than many a kernel.

A thread that is done with a kernel watches for the next to begin, and the caller for the threads to
be done. Each gives up after some turns, and sleeps. Nobody depends on what is seen here, which may
be late: who waited then asks the locks of Python. No lock of Python is held meanwhile, so that
whoever goes on takes it without a wait.
"""

from tinyzo.engine.numba.cache import kept
from tinyzo.engine.numba.kernels import kernel
from tinyzo.engine.numba.sizes import DONE
from tinyzo.engine.numba.vectors import fetch_add, look


@kept
@kernel
def watch(counters, turns):
    """Be done with a kernel, and wait until another one has begun on the same counters.

    They are still those of the kernel that is done, are set to 0, and count again.
    turns: i64[1]
    """
    fetch_add(counters, DONE, 1)
    left = turns[0]
    while left > 0 and look(counters, 0) + look(counters, 2) > 0:
        left -= 1
    while left > 0 and look(counters, 0) + look(counters, 2) == 0:
        left -= 1


@kept
@kernel
def until_done(counters, turns, threads):
    """Wait until so many threads are done. turns: i64[1]"""
    left = turns[0]
    while left > 0 and look(counters, DONE) < threads:
        left -= 1
