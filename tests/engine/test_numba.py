"""The fast engine by itself: tiles of every shape, threads, compilation."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from broken import starts_another
from tiny import MODELS, examples_for, raw_bytes, toy_task

from tinyzo.dtypes import narrow, widen
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights
from tinyzo.errors import ConfigError
from tinyzo.zo.mezo import mezo_step
from tinyzo.zo.objectives import Objective

numba = pytest.importorskip("numba", reason="the fast engine needs Numba")

from llvmlite import ir  # noqa: E402
from llvmlite.binding import llvm_version_info  # noqa: E402
from numba import njit, types  # noqa: E402
from numba.extending import intrinsic  # noqa: E402

from tinyzo.engine.numba import engine as numba_engine  # noqa: E402
from tinyzo.engine.numba import files, layers, objects, products, tensors  # noqa: E402
from tinyzo.engine.numba import kernels as kernels_of_numba  # noqa: E402
from tinyzo.engine.numba import matmul as matmuls  # noqa: E402
from tinyzo.engine.numba.engine import DEPTH, MOST_TURNS, NumbaEngine  # noqa: E402
from tinyzo.engine.numba.sizes import (  # noqa: E402
    COUNTERS,
    DONE,
    FEW,
    LEAVE,
    THREADS,
    TURNS,
    block_rows,
)
from tinyzo.engine.numba.vectors import (  # noqa: E402
    TILE,
    Tile,
    choose_tile,
    square_transpose,
    tile_multiplier,
)

ROOT = Path(__file__).resolve().parents[2]
PAIR = [Probe(5, 1e-2), Probe(5, -1e-2)]
X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"


# -- register tiles ------------------------------------------------------------------------------

old_llvm = pytest.mark.skipif(
    llvm_version_info[0] < 20, reason="LLVM is older than 20: no avx512bf16"
)


@pytest.mark.parametrize(
    ("features", "triple", "tile"),
    [
        pytest.param(
            *({"avx2", "fma", "avx512f", "avx512bf16"}, X86, Tile(16, 8, 3, "avx512bf16")),
            marks=old_llvm,
        ),
        ({"avx2", "fma", "avx512f"}, X86, Tile(16, 8, 3, "")),
        ({"avx2", "fma"}, X86, Tile(8, 6, 2, "")),
        ({"avx2"}, X86, Tile(4, 4, 2, "")),
        (set(), X86, Tile(4, 4, 2, "")),
        ({"neon"}, ARM, Tile(4, 8, 2, "")),
        ({"neon", "bf16"}, "arm64-apple-darwin", Tile(4, 8, 2, "bfdot", "bfmmla")),
    ],
)
def test_the_tile_follows_from_the_cpu(features, triple, tile):
    assert choose_tile(features, triple) == tile
    registers = 32 if tile.lanes == 16 or triple != X86 else 16
    assert tile.rows * tile.vectors + tile.vectors + 1 <= registers
    assert tile.width == tile.lanes * tile.vectors


# LLVM splits vectors that are too long for this CPU, so every tile can be tried on any.
OTHERS = [Tile(16, 8, 3, ""), Tile(8, 6, 2, ""), Tile(4, 8, 2, ""), Tile(4, 4, 2, "")]
TILES = [TILE, *(pytest.param(t, marks=pytest.mark.exhaustive) for t in OTHERS if t != TILE)]


# The most that one operation of a sum errs by, of what it gives. FMA, dpbf16ps (two FMAs a word, to
# nearest) and the widening by shifts: half a unit in the last place of float32. bfdot (Arm ARM,
# BFDotAdd: sums of two exact products, rounded to odd): a whole one.
HALF = 2.0**-24 * (1 + 2.0**-10)  # and the errors of errors
ROUNDING = {False: HALF, True: 2 * HALF if TILE.bf16 == "bfdot" else HALF}  # bf16: its errors
MATRICES = {"amx": HALF, "bfmmla": 2 * HALF}  # AMX: FMAs, then sums; bfmmla: two of BFDotAdd


def matmul(x: np.ndarray, w: np.ndarray, rounding: float) -> tuple[np.ndarray, np.ndarray]:
    """x w^T in float64, and how far a float32 sum, term by term, may be from it.

    x: f32[M, K]; w: f32[N, K]; returns f64[M, N] twice. Each partial sum is rounded when it is
    made, and so are a product (where there is no FMA) or two that are neighbours (bfdot): so the
    error is at most `rounding` times all of their sizes (Higham 2002, section 4.2). DEPTH words are
    summed before they are added to the sum of those before, which rounds once more.
    """
    products = x[:, None].astype(np.float64) * w.astype(np.float64)
    sums = np.cumsum(products, axis=-1)
    sizes = np.abs(sums).sum(-1) + 2 * np.abs(products).sum(-1)
    for start in range(DEPTH, x.shape[-1], DEPTH):  # of a block alone, not of all before
        sizes += np.abs(sums[..., start:] - sums[..., start - 1, None]).sum(-1)
    return sums[..., -1], rounding * sizes


def matmul_in_any_order(
    x: np.ndarray, w: np.ndarray, rounding: float = HALF
) -> tuple[np.ndarray, np.ndarray]:
    """The same in an order that is not ours: no partial sum is larger than all products' sizes."""
    sizes = np.abs(x).astype(np.float64) @ np.abs(w).T.astype(np.float64)
    return matmul(x, w, rounding)[0], rounding * (x.shape[-1] + 1) * sizes


def random_floats(random: np.random.RandomState, *shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


def to_bfloat(values: np.ndarray) -> np.ndarray:
    """The nearest bfloat16 of each, as float32."""
    return widen(narrow(values, np.dtype("<u2"), None))


def in_words(values: np.ndarray) -> np.ndarray:
    """Pairs of bfloat16, neighbours in k, as words: f32[N, 2 K] to f32[N, K]."""
    return narrow(values, np.dtype("<u2"), None).view(np.float32)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_a_tile_is_a_small_matmul(tile, bf16):
    random, steps = np.random.RandomState(0), 7
    for vectors in range(1, tile.vectors + 1):
        width, multiply = tile.lanes * vectors, tile_multiplier(tile)
        x = random_floats(random, tile.rows, steps * (1 + bf16))
        w = random_floats(random, width, steps * (1 + bf16))
        if bf16:
            w, x = to_bfloat(w), to_bfloat(x)
        once, tolerance = matmul(x, w, ROUNDING[bf16])
        if bf16:
            w, x = in_words(w), in_words(x)
        w, x = (np.concatenate([[0.0], each.ravel()], dtype=np.float32) for each in (w.T, x))
        stride = width + 5
        c = np.zeros(9 + tile.rows * stride, np.float32)

        @numba.njit
        def twice(w, x, c, width, steps, stride, multiply=multiply):
            multiply(bf16, width, x, 1, steps, w, 1, c, 9, stride, steps, True)
            multiply(bf16, width, x, 1, steps, w, 1, c, 9, stride, steps, False)

        twice(w, x, c, width, steps, stride)
        found = c[9:].reshape(tile.rows, stride)
        error = np.abs(found[:, :width] - 2 * once)
        tolerance = 2 * (tolerance + HALF * np.abs(once))
        assert (error <= tolerance).all(), f"{(error / tolerance).max():.0%}"
        assert not c[:9].any() and not found[:, width:].any()


CROSS = """
import numba
from numba import boolean as b, float32, int64 as i
from tinyzo.engine.numba.vectors import TILE, tile_multiplier
f, width = float32[::1], TILE.width
for bf16 in (False, True):
    multiply = tile_multiplier(TILE)
    @numba.njit((f, i, i, f, i, f, i, i, i, b))
    def run(x, x_at, x_stride, w, w_at, c, c_at, c_stride, steps, first):
        multiply(bf16, width, x, x_at, x_stride, w, w_at, c, c_at, c_stride, steps, first)
    (assembly,) = run.inspect_asm().values()
    lines = assembly.splitlines()
    inner = [n for n, line in enumerate(lines) if "vdpbf16ps" in line or "vfmadd231ps" in line]
    loop = lines[inner[0] : inner[-1] + 1]
    print(len(inner) % 24, all("zmm" in lines[n] for n in inner),
          sum("%rsp" in line for line in loop))
"""


@old_llvm
@pytest.mark.skipif(platform.machine() != "x86_64", reason="LLVM here compiles for x86 only")
def test_the_inner_loop_for_avx512_is_24_multiply_adds_and_no_spill():
    """Compiled, not run: of each loop, whether all are on 512 bits, and its uses of the stack."""
    features = "+avx2,+fma,+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx512bf16"
    environment = {"NUMBA_CPU_NAME": "sapphirerapids", "NUMBA_CPU_FEATURES": features}
    found = subprocess.run(
        [sys.executable, "-c", CROSS], env=os.environ | environment, capture_output=True, text=True
    )
    assert found.stdout == 2 * "0 True 0\n", found.stderr


@pytest.mark.parametrize("scale", [0.0, 0.5])
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_a_square_is_transposed(lanes, scale):
    transpose, scale = square_transpose(lanes), np.float32(scale)
    a, z = np.arange(2 * (3 + lanes * 20), dtype=np.float32).reshape(2, -1)
    z = z if scale else z[:0]
    b = np.zeros(5 + lanes * 30, np.float32)

    @numba.njit
    def run(a, z, scale, b):
        transpose(a, 3, 20, z, 2, scale, b, 5, 30)

    run(a, z, scale, b)
    square = a[3:].reshape(lanes, 20)[:, :lanes]
    if scale:
        square = square + scale * z[2:-1].reshape(lanes, 20)[:, :lanes]
    assert np.array_equal(b[5:].reshape(lanes, 30)[:, :lanes], square.T)
    assert not b[5:].reshape(lanes, 30)[:, lanes:].any()


# -- linear: every edge ----------------------------------------------------------------------------


def random_weights(rows: int, inner: int, engine, dtype: str = "<f4") -> Weights:
    random = np.random.RandomState(rows + inner)
    values = {"w.weight": random.standard_normal((rows, inner)), "w.bias": random.randn(rows)}
    tensors = {n: narrow(v.astype("f4"), np.dtype(dtype), None) for n, v in values.items()}
    return Weights(tensors, engine)


SIZES = [1, 3, TILE.lanes, TILE.width - 1, TILE.width, TILE.width + 1, 2 * TILE.width + TILE.lanes]


WAYS = ("float32", "shifts", "dpbf16ps", "amx", "bfdot", "bfmmla")


def engine_of(way: str) -> NumbaEngine:
    """An engine that multiplies bfloat16 in a way; a skip, with the reason, where it has it not."""
    try:
        return NumbaEngine(2, bf16=way)
    except ConfigError as error:
        pytest.skip(f"{error.message}: {error.hint}")


THREE = [Probe(0, 0.0), Probe(3, 0.1), Probe(5, 0.1)]


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize(("rows", "inner"), [(1, 1), (5, 3), (131, 17), (40, DEPTH + 9)])
@pytest.mark.parametrize(("dtype", "way"), [("<f4", "float32"), *(("<u2", way) for way in WAYS)])
def test_linear_of_any_size_is_a_sum_of_products(count, rows, inner, dtype, way):
    """In bfloat16, of operands that are rounded to nearest; a decoder's rows always in float32, and
    so are few tokens."""
    weights = random_weights(rows, inner, engine_of(way), dtype)
    bf16 = dtype == "<u2" and way != products.WIDENED and count > FEW
    exactly = functools.partial(matmul, rounding=ROUNDING[bf16])
    if count <= FEW:
        exactly = matmul_in_any_order
    if bf16 and way in MATRICES:
        exactly = functools.partial(matmul_in_any_order, rounding=MATRICES[way])
    used = 0.0
    for probes, shared in itertools.product([[Probe(0, 0.0)], PAIR, THREE], [True, False]):
        x = random_floats(np.random.RandomState(0), 1 if shared else len(probes), count, inner)
        residual = np.ones((len(probes), count, rows), np.float32)
        theta = NumpyEngine().view(weights, probes)
        w, bias = (np.broadcast_to(a, (len(probes), *a.shape[1:])) for a in
                   (theta.whole("w.weight"), theta.whole("w.bias")))  # fmt: skip
        found = weights.view(probes).linear("w", x, residual)
        picked = np.array([rows - 1, 0, rows // 2, 0])
        scores = weights.view(probes).scores("w.weight", x, picked, "w.bias")
        assert found.shape == residual.shape and scores.shape == (*residual.shape[:2], 4)
        for p in range(len(probes)):
            xp = x[0 if shared else p]
            operands = (to_bfloat(xp), to_bfloat(w[p])) if bf16 else (xp, w[p])
            used = max(
                used,
                share(found[p], *exactly(*operands), bias[p], residual[p]),
                share(scores[p], *matmul_in_any_order(xp, w[p][picked]), bias[p][picked]),
            )
    print(f"used {used:.0%}")
    assert used <= 1


def share(found: np.ndarray, exact: np.ndarray, tolerance: np.ndarray, *more: np.ndarray) -> float:
    """The used share of a tolerance, after more has been added, with a rounding each."""
    for each in more:
        exact = exact + each
        tolerance = tolerance + HALF * np.abs(exact)
    return float((np.abs(found - exact) / tolerance).max())


def test_a_task_has_rows_for_the_cache():
    """A quarter of the second level, in whole pairs of vectors; at most 128."""
    assert [block_rows(kb << 10, 32) for kb in (64, 256, 400, 512, 2048)] == [32, 32, 32, 64, 128]
    assert [block_rows(kb << 10, 16) for kb in (64, 256, 400, 512, 2048)] == [16, 32, 48, 64, 128]


# -- threads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_the_number_of_threads_changes_no_bit(name, dtype):
    results = set()
    for threads in (1, 2, 5):
        model = MODELS[name](dtype, NumbaEngine(threads))
        objective = Objective(model, toy_task(model.family))
        steps = [
            mezo_step(model.weights, objective, examples_for(model.family), seed, 1e-2, 1e-2)
            for seed in range(3)
        ]
        results.add((tuple(steps), *sorted(raw_bytes(model.weights).items())))
    assert len(results) == 1


def test_what_a_thread_meets_reaches_the_caller():
    def fails(scratch, counters):
        if scratch.size == 3:
            raise MemoryError("no room")

    engine = NumbaEngine(2)
    engine._scratch[1] = np.empty(3, np.float32)
    with pytest.raises(MemoryError, match="no room"):
        engine.run(fails)
    engine.run(lambda scratch, counters: None)  # and the threads go on


@pytest.mark.parametrize("count", [0, 1])
def test_a_pass_has_the_same_bits_with_the_threads_that_can_be_had(monkeypatch, count):
    start, left = threading.Thread.start, iter(range(count))

    def starting(thread: threading.Thread) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    model = MODELS["roberta"]("bf16", NumbaEngine(3))
    with monkeypatch.context() as few:
        few.setattr(threading.Thread, "start", starting)
        found = [model.logits([[0, 5, 7], [3]]) for _ in range(2)]
    model.weights.engine = NumbaEngine(3)
    expected = model.logits([[0, 5, 7], [3]])
    for scores in found:
        assert all(map(np.array_equal, scores, expected))


def test_a_thread_that_an_interrupt_left_in_a_kernel_is_waited_for(monkeypatch):
    """It has the same scratch memory as the next kernel's."""
    engine, order, go_on, interrupts = NumbaEngine(2), [], threading.Event(), [1]

    def slow(scratch, counters):
        if threading.current_thread() is not threading.main_thread():
            assert go_on.wait(60)
            order.append("the first is done")

    def interrupted(running):
        if running and interrupts:
            interrupts.pop()
            raise KeyboardInterrupt
        go_on.set()
        return waiting(running)

    waiting = numba_engine.wait
    monkeypatch.setattr(numba_engine, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.run(slow)
    engine.run(lambda scratch, counters: order.append("the second"))
    assert order == ["the first is done", "the second", "the second"]


def test_a_kernel_may_be_called_within_another_on_the_same_thread():
    """As a signal's handler does, whose pass must not take the tasks of the one under way."""
    engine, found = NumbaEngine(1), []

    def outer(scratch, counters):
        engine.run(lambda scratch, counters: counters.fill(7))
        found.append(counters.tolist())

    engine.run(outer)
    assert len(found) == 1 and not any(found[0])


def test_a_kernel_within_another_of_several_threads_leaves_its_counters():
    """Not only the first one: what ends within a kernel does not end it."""
    engine, found = NumbaEngine(2), []

    def outer(scratch, counters):
        if threading.current_thread() is threading.main_thread():
            before = counters.tolist()
            for _ in range(2):
                engine.run(lambda scratch, counters: counters.fill(7))
            found.append(counters.tolist() == before)

    engine.run(outer)
    assert found == [True]


# -- threads at rest


@njit(nogil=True)
def resting(counters):
    kernels_of_numba.rest(counters)


def counters_of(threads: int, turns: int) -> np.ndarray:
    counters = np.zeros(COUNTERS, np.int64)
    counters[[THREADS, TURNS]] = threads, turns
    return counters


FOR_EVER = 1 << 62


def test_the_caller_rests_until_all_threads_are_done():
    counters = counters_of(2, FOR_EVER)
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(resting, counters)
        while not counters[DONE]:
            time.sleep(1e-3)
        assert not rest.done()
        counters[DONE] += 1
        rest.result(60)


def test_another_thread_rests_until_the_next_kernel_begins():
    counters = counters_of(2, FOR_EVER)
    counters[0] = 5  # tasks that are done
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(resting, counters[:-1])
        while not counters[DONE]:
            time.sleep(1e-3)
        counters[0] = 0
        time.sleep(1e-2)
        assert not rest.done()
        counters[0] = 1
        rest.result(60)


def test_a_rest_ends_by_itself_or_when_it_is_told():
    counters = counters_of(2, 100)
    resting(counters)
    resting(counters_of(2, 100)[:-1])
    counters[[TURNS, LEAVE]] = FOR_EVER, 1
    resting(counters[:-1])
    assert counters[DONE] == 2


def test_patience_ends_where_waits_are_in_vain(monkeypatch):
    engine = NumbaEngine(2)
    engine._cpus, engine._turns = {0}, 8
    monkeypatch.setattr(numba_engine, "pinned", lambda cpus: contextlib.nullcontext())
    engine.run(lambda scratch, counters: None)  # which never rests
    assert engine._turns == 4
    engine._learn_patience(True)
    assert 4 < engine._turns <= MOST_TURNS


CPUS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


@pytest.mark.skipif(len(CPUS) < 2, reason="a thread can be on one CPU only")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_are_on_fast_cpus_unless_they_do_not_fit(monkeypatch, threads):
    """The caller's is there during a kernel only: what it starts later may go anywhere."""
    fast = set(sorted(CPUS)[:2])
    monkeypatch.setattr(numba_engine, "fast_cpus", lambda: {min(fast)} if threads == 1 else fast)
    engine, seen = NumbaEngine(threads), []
    assert os.sched_getaffinity(0) == CPUS
    engine.run(lambda scratch, counters: seen.append(os.sched_getaffinity(0)))
    assert seen == [{1: {min(fast)}, 2: fast, 3: CPUS}[threads]] * threads
    assert os.sched_getaffinity(0) == CPUS


@pytest.mark.skipif(len(CPUS) < 2, reason="a thread can be on one CPU only")
def test_every_thread_of_an_engine_is_kept_on_the_fast_cpus(monkeypatch):
    fast = set(sorted(CPUS)[1:])
    monkeypatch.setattr(numba_engine, "fast_cpus", lambda: fast)
    engine, seen = NumbaEngine(len(fast)), []
    engine.threads = 2
    engine._scratch.append(engine._scratch[0])
    engine.run(lambda scratch, counters: seen.append(os.sched_getaffinity(0)))
    assert seen == [fast] * 2 and os.sched_getaffinity(0) == CPUS


# -- storage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<u2", "<f2"])
@pytest.mark.parametrize("coefficient", [0.0, 1e-7, 1e-3, 1e4])
def test_every_16_bit_number_is_folded_as_by_numpy(dtype, coefficient):
    """All 65,536 patterns, subnormal and infinite ones among them; a NaN only stays one."""
    folded = []
    for engine in (NumpyEngine(), NumbaEngine(2)):
        weights = Weights({"w": np.arange(1 << 16, dtype=np.uint16).view(dtype)}, engine)
        with np.errstate(all="ignore"):
            weights.add([(9, coefficient), (8, coefficient)], decay=0.25)
        folded.append(weights)
    values = [weights.read("w") for weights in folded]
    number = ~np.isnan(values[0])
    assert np.array_equal(number, ~np.isnan(values[1]))
    stored = [weights.stored("w").view(np.uint16)[number] for weights in folded]
    assert np.array_equal(*stored) and number.sum() > 60_000


# -- compilation ---------------------------------------------------------------------------------


@intrinsic
def load_mxcsr(context, value):
    """Set the rounding, exceptions and subnormals of this thread's float arithmetic, on x86."""

    def generate(context, builder, signature, arguments):
        place = builder.alloca(ir.IntType(32))
        builder.store(arguments[0], place)
        address = ir.IntType(8).as_pointer()
        load = ir.Function(
            builder.module, ir.FunctionType(ir.VoidType(), [address]), "llvm.x86.sse.ldmxcsr"
        )
        builder.call(load, [builder.bitcast(place, address)])
        return context.get_dummy_value()

    return types.void(types.uint32), generate


@pytest.fixture
def flushed_subnormals() -> Iterator[None]:
    """As when a library is loaded that GCC made with -ffast-math: subnormal numbers are 0."""
    set_mode = numba.njit(lambda mode: load_mxcsr(np.uint32(mode)))
    set_mode(0x9FC0)
    yield
    set_mode(0x1F80)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="it is x86's MXCSR")
@pytest.mark.parametrize("dtype", ["<u2", "<f2"])
def test_no_subnormal_float32_is_needed_for_16_bit_weights(request, dtype):
    """float16 has its smallest numbers, which a float32 holds as normal ones."""
    every = np.arange(65536, dtype=np.uint16).view(dtype).reshape(-1, 256)
    x = np.eye(256, dtype=np.float32)[None]
    results = []
    for _ in range(2):
        tensors = {"w.weight": every.copy()}
        weights = Weights(tensors, NumbaEngine(1))
        weights.add([(3, 1e-6)])
        tensors["w.weight"][~np.isfinite(widen(tensors["w.weight"]))] = 0
        results.append((tensors["w.weight"].tobytes(), weights.view().linear("w", x).tobytes()))
        request.getfixturevalue("flushed_subnormals")
    assert np.float32(1e-40) * np.ones(1, np.float32) == 0, "they are flushed"
    assert results[0][0] == results[1][0]
    if dtype == "<f2":
        assert results[0][1] == results[1][1]


def kernels() -> dict[str, int]:
    every = vars(tensors) | vars(matmuls) | vars(layers)
    found = {n: k for n, k in every.items() if hasattr(k, "nopython_signatures")}
    return {name: len(kernel.nopython_signatures) for name, kernel in found.items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("by_numba", [False, True])
def test_every_kernel_is_compiled_once_and_for_all(name, by_numba, monkeypatch):
    """compile_kernels leaves nothing to compile, whatever the model, storage, probes and rows.

    Nor does an object leave anything to Numba.
    """
    if by_numba:
        monkeypatch.setattr(objects, "known", {name: {} for name in files.KERNELS})
    elif not objects.why_numba():
        monkeypatch.setattr(objects.Kernel, "by_numba", None)  # which cannot be called
    numba_engine.compile_kernels()
    compiled = kernels()
    assert {"linear", "attention", "gelu", "fold"} <= compiled.keys()
    for dtype in ("f32", "bf16", "f16"):
        model = MODELS[name](dtype, NumbaEngine(2, bf16=True))
        for loss in ("classification", "lm") if name != "roberta" else ("classification",):
            objective = Objective(model, toy_task(model.family, loss))
            mezo_step(model.weights, objective, examples_for(model.family), 3, 1e-2, 1e-2)
            model.weights.add([(4, 1e-3)], 0.1, fold=False)
            objective(model.weights.view(), examples_for(model.family))
        model.logits([[2, 3, 4]])
    assert kernels() == compiled


@starts_another
def test_a_child_compiles_every_kernel():
    """None is left to the process that asked for it, whose memory would then grow by 80 MB."""
    program = """if True:
        from tinyzo.engine.numba import files, layers, matmul, objects, tensors
        from tinyzo.engine.numba.engine import compile_kernels
        objects.known.update({name: {} for name in files.KERNELS})
        compile_kernels()
        called = [k for k in (vars(layers) | vars(matmul) | vars(tensors)).values()
                  if hasattr(k, "py_func") and "counters" in k.py_func.__code__.co_varnames]
        print(len(called) > 3, {len(k.nopython_signatures) for k in called})"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "True {1}\n"


ATTENTION = """
import hashlib, os, numpy as np, pathlib
from tinyzo.engine.numba import files, objects
files.OWN = pathlib.Path(os.environ["NUMBA_CACHE_DIR"])  # or kernels that are there would be taken
objects.known.update({name: {} for name in files.KERNELS})  # nor are objects
from tinyzo.engine.numba import layers
from tinyzo.engine.numba.engine import NumbaEngine
from tinyzo.engine.weights import Weights
from tinyzo.text.packing import pack_sequences
q, k, v = np.random.RandomState(0).standard_normal((3, 1, 128, 2, 32)).astype(np.float32)
view = Weights({"w": np.ones((1, 1), np.float32)}, NumbaEngine(1)).view()
out = view.attention("", q, k, v, pack_sequences([[1] * 64, [1] * 64]), causal=False)
print(hashlib.sha256(out).hexdigest(), len(layers.attention.stats.cache_hits))
"""


@pytest.mark.exhaustive  # it compiles the attention kernel, in a cache of its own
@starts_another
def test_the_process_that_compiles_computes_the_same_bits(tmp_path):
    """A softmax may be summed in any order, but in one: else a run goes on with other losses."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    outputs = [
        subprocess.check_output([sys.executable, "-c", ATTENTION], env=environment, text=True)
        for _ in range(2)
    ]
    (compiled, missed), (loaded, hit) = (output.split() for output in outputs)
    assert (missed, hit) == ("0", "1") and compiled == loaded


def test_all_threads_take_part():
    engine, threads = NumbaEngine(5), []
    engine.run(lambda scratch, counters: threads.append(threading.get_ident()))
    assert len(threads) == 5
    engine.run(lambda scratch, counters: threads.append(threading.get_ident()), tasks=3)
    assert len(threads) == 5 + 3


@starts_another
def test_numba_is_not_imported_before_an_engine_is_asked_for():
    program = "import sys, tinyzo, tinyzo.cli; print({'numba', 'llvmlite'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"
