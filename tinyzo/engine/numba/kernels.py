"""The kernels of the fast engine, in Numba: each is the twin of a verb of numpy_engine.py.

A kernel is serial and holds no lock; as many threads as there are call it at once with the same
arguments and a scratch array of their own, and share its tasks by a counter. What a task computes
does not depend on who takes it, so results do not depend on the number of threads.

z and what is folded with it are bit by bit those of noise.py and numpy_engine.py: no fast-math
there. The sums of a norm may be reordered by the compiler.

In all kernels, unless it is said:

    terms     Terms, what is added to a tensor as it is read
    raw       u8[R, bytes], rows of a tensor as they are stored; storage: i64, as F32, BF16 or F16
    first     i64, the number of raw's first element in its tensor; index: u32, of any element
    scratch   f32[.], this thread's own
    counters  i64[3 or more], all threads': the next task, how many of the first kind are done, and
              the next of the second kind; then what `rest` reads
    x_at, ..  i64, where something begins in a flat array; x_stride: words from row to row
    word      32 bits of such an array: one float32, or two bfloat16 that are neighbours in k

Of what is computed in registers (noise.py, storage.py):

    w, z      WIDE elements of a tensor (wide.py); index: the number of the first; count: how many
              there are, of which those after WIDE are left out
"""

import numpy as np
from numba import njit

from tinyzo.engine.numba.sizes import COUNTERS, DONE, LEAVE, TASKS, THREADS, TURNS
from tinyzo.engine.numba.vectors import fetch_add, look

F, I, U = np.float32, np.int32, np.uint32  # noqa: E741
OPTIONS = {"nogil": True, "error_model": "numpy"}  # x / 0 is infinite, no exception
kernel = njit(**OPTIONS)
# Inlined in any case: a copy of its own may be compiled to another order, and would be called in
# the process that compiles, but not in those that load what was compiled.
contracted = njit(**OPTIONS, forceinline=True, fastmath={"contract"})  # a b + c is rounded once
ordered_freely = njit(**OPTIONS, forceinline=True, fastmath={"reassoc", "contract", "nsz", "arcp"})


@njit
def rest(shared):
    """Be done with all tasks; then wait without sleep, since to be woken takes longer than many a
    kernel. No lock is held, so that who goes on finds Python's own free.

    The caller waits for the others, and they until its next kernel begins: on the same counters,
    which are set to 0 and count again. Both for so many turns at most; LEAVE ends it, too.
    """
    if shared.size == TASKS:
        return
    fetch_add(shared, DONE, 1)
    left = shared[TURNS]
    if shared.size == COUNTERS:
        while left > 0 and look(shared, DONE) < shared[THREADS]:
            left -= 1
        return
    while left > 0 and look(shared, LEAVE) == 0 and look(shared, 0) + look(shared, 2) > 0:
        left -= 1
    while left > 0 and look(shared, LEAVE) == 0 and look(shared, 0) + look(shared, 2) == 0:
        left -= 1


@njit
def tasks(shared, which, count, step):
    """Those of the numbers below `count` that this thread takes, `step` at once, by a counter.

    After them it rests: they are the last of its kernel.
    """
    start = fetch_add(shared, which, step)
    while start < count:
        for task in range(start, min(count, start + step)):  # noqa: UP028 (no such in Numba)
            yield task
        start = fetch_add(shared, which, step)
    rest(shared)


@njit(inline="always")
def add_edge(edge, width, rows, columns, out, at, stride, first):
    """Sums of a tile that is not in `out` whole, alone if `first`, or added to what is there.

    edge, out: f32[.]; `rows` by `columns` of them, edge[i width + j] to out[at + i stride + j]
    """
    for i in range(rows):
        for j in range(columns):
            old = F(0) if first else out[at + i * stride + j]
            out[at + i * stride + j] = old + edge[i * width + j]
