"""What this machine can do at most: multiply-adds without memory, and memory without arithmetic.

A kernel is as fast as the lower of the two lets it be (Williams et al. 2009, the roofline model).
What is here is compiled when it is asked for, which takes a second, and is not kept.
"""

from collections.abc import Callable
from timeit import timeit
from typing import NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyzo.dtypes import DTYPES
from tinyzo.engine.numba import products
from tinyzo.engine.numba.engine import NumbaEngine, NumbaView
from tinyzo.engine.numba.kernels import F, kernel, tasks
from tinyzo.engine.numba.layers import total
from tinyzo.engine.numba.sizes import CHUNK, FLOATS, PAIRS
from tinyzo.engine.numba.vectors import I64, TILE, _Code
from tinyzo.engine.weights import ITSELF, Weights

STEPS = 200_000  # of a tile of multiply-adds: about 1 ms
ELEMENTS = 1 << 23  # of each array that goes through memory: 32 MB
TURNS = 20  # the best of them counts
TOKENS, WIDTH = 256, 1024  # of the product that is measured: [256, 1024] by [1024, 1024]
UNKNOWN = (0.0, 0.0)  # the peaks of what has no loop here
BILLION = 1e9


class Way(NamedTuple):
    """A way to multiply, in billions of operations a second on all threads.

    one:       its instruction's peak, on one thread; 0 of one that is not measured, a matrix's
    peak:      the same on all
    reached:   by `linear`
    is_chosen: the engine multiplies such weights so
    """

    name: str
    one: float
    peak: float
    reached: float
    is_chosen: bool


class Bandwidth(NamedTuple):
    """Billions of bytes a second on all threads; what is copied is read and written."""

    read: float
    copy: float


def ways(threads: int | None = None) -> list[Way]:
    """Every way to multiply that our kernels have here. threads: as NumbaEngine's."""
    engine = NumbaEngine(threads)
    peaks = {FLOATS: instruction(engine, bf16=False)}
    if PAIRS in products.ways().values():
        peaks[PAIRS] = instruction(engine, bf16=True)
    found = [Way("f32 fma", *peaks[FLOATS], product(engine, "f32"), True)]
    for way, kind in products.ways().items():
        reached = product(NumbaEngine(threads, way), "bf16")
        found.append(Way(f"bf16 {way}", *peaks.get(kind, UNKNOWN), reached, way == engine.way))
    return found


def instruction(engine: NumbaEngine, bf16: bool) -> tuple[float, float]:
    """An instruction's peak on one thread, and on all."""
    sums = TILE.rows * TILE.vectors
    operations = 2 * STEPS * sums * TILE.lanes * (2 if bf16 else 1)

    def rate(threads: int) -> float:
        room = (2 + sums) * TILE.lanes
        seconds = best(lambda: engine.run(multiplying, STEPS, bf16, scratch=room, tasks=threads))
        return threads * operations / seconds / BILLION

    return rate(1), rate(engine.threads)


def product(engine: NumbaEngine, dtype: str) -> float:
    """The rate of `linear` with plain weights of a storage type."""
    w = np.zeros((WIDTH, WIDTH), DTYPES[dtype])
    view = NumbaView(Weights({"w.weight": w}, engine), ITSELF, engine)
    x = np.ones((1, TOKENS, WIDTH), np.float32)
    return 2 * x.size * WIDTH / best(lambda: view.linear("w", x)) / BILLION


def bandwidth(engine: NumbaEngine) -> Bandwidth:
    """The rates of memory, of arrays that most caches do not hold."""
    source, target = np.ones((2, ELEMENTS), np.float32)
    sums = np.zeros(ELEMENTS // CHUNK, np.float32)
    reading = best(lambda: engine.run(adding, source, sums))
    copying = best(lambda: engine.run(moving, source, target))
    return Bandwidth(source.nbytes / reading / BILLION, 2 * source.nbytes / copying / BILLION)


def fold(engine: NumbaEngine) -> float:
    """The rate of a fold, by the bytes that it reads and writes."""
    tensors = {"w": np.zeros(ELEMENTS // 8, np.float32)}
    weights = Weights(tensors, engine)
    return 2 * tensors["w"].nbytes / best(lambda: weights.add([(1, 1e-6)])) / BILLION


def best(task: Callable[[], object]) -> float:
    """Seconds of a task: the best of TURNS, after one that may compile it."""
    task()
    return min(timeit(task, number=1) for _ in range(TURNS))


# -- kernels -------------------------------------------------------------------------------------


@intrinsic
def multiply_registers(_, bf16, x, steps):
    """In each step a product is added to each of the sums that a tile has, which stay in registers.

    x: f32[.], vectors: two factors, then the sums; steps: i64
    """

    def generate(context, builder, signature, arguments):
        bf16, x, steps = arguments
        code = _Code(context, builder, TILE.lanes)
        x, lanes = code.pointer(signature.args[1], x, I64(0)), I64(TILE.lanes)
        for pairs, multiply_add in enumerate((code.multiply_add, code.multiply_add_pairs)):
            with builder.if_then(builder.icmp_signed("==", bf16, bf16.type(pairs))):
                a, b, *sums = (code.load(x, i, lanes) for i in range(2 + TILE.rows * TILE.vectors))
                places = [cgutils.alloca_once_value(builder, value) for value in sums]
                with cgutils.for_range(builder, steps):
                    for place in places:
                        total = multiply_add(TILE, a, b, builder.load(place))
                        builder.store(total, place)
                for i, place in enumerate(places):
                    code.store(builder.load(place), x, 2 + i, lanes)
        return context.get_dummy_value()

    return types.void(types.boolean, x, types.int64), generate


@kernel
def multiplying(steps, bf16, scratch, counters):
    """Nothing but multiply-adds. steps: i64; bf16: bool, of pairs of bfloat16"""
    scratch[:] = F(0)
    multiply_registers(bf16, scratch, steps)


@kernel
def adding(x, sums, scratch, counters):
    """The sum of each CHUNK of x: f32[n], n a multiple of it. sums: f32[n / CHUNK], written"""
    for task in tasks(counters, 0, sums.size, 1):
        sums[task] = total(x[task * CHUNK : (task + 1) * CHUNK])


@kernel
def moving(source, target, scratch, counters):
    """target <- source, both f32[n], n a multiple of CHUNK."""
    for task in tasks(counters, 0, source.size // CHUNK, 1):
        target[task * CHUNK : (task + 1) * CHUNK] = source[task * CHUNK : (task + 1) * CHUNK]
