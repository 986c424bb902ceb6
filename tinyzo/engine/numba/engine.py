"""The fast engine: the verbs of numpy_engine.py by fused kernels, on several threads.

A weight tile is read once, its z made once, and all probes multiplied while it is in cache; no
perturbed copy of a tensor exists. The threads are ours, since kernels that hold no lock need no
threading layer; BLAS is never called from more than one.
"""

import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from timeit import timeit

import numpy as np

from tinyzo.batch import Batch
from tinyzo.dtypes import Array, Integers, Rows, widen
from tinyzo.engine.adapters import AdaptedView
from tinyzo.engine.numba import files, objects, products
from tinyzo.engine.numba.arguments import (
    NOTHING,
    AttentionLayout,
    Product,
    as_bytes,
    attention_layout,
    make_terms,
    padded,
)
from tinyzo.engine.numba.sizes import (
    CHUNK,
    COUNTERS,
    DEPTH,
    DONE,
    FEW,
    FLOATS,
    LEAVE,
    MATRIX,
    ROOM,
    THREADS,
    TURNS,
    UNITS,
    block_rows,
    score_rows,
)
from tinyzo.engine.numpy_engine import QUERIES, NumpyView
from tinyzo.engine.terms import Probe
from tinyzo.engine.threads import ENGINES, Pool, Task, new_lock, pin, pinned
from tinyzo.engine.tiles import Block
from tinyzo.engine.weights import Parameters, Weights
from tinyzo.errors import ConfigError
from tinyzo.machine.cpus import cache_bytes, default_threads, fast_cpus
from tinyzo.packages import KILLED, in_a_line, say_once, try_apart
from tinyzo.text.packing import pack_sequences

LINE = 16  # floats of a cache line
MOST_TURNS = 10_000  # of a thread that rests: 0.2 ms here; mostly the next kernel is at 0.05


class NumbaEngine:
    """An Engine: threads with their scratch memory."""

    name = "numba"

    def __init__(self, threads: int | None = None, bf16: bool | str | None = None) -> None:
        """threads: None for one on each fast CPU; those that do not fit there go anywhere.

        bf16: multiply bfloat16 weights as bfloat16, by the fastest instruction there is; False:
        widened to float32; None: as is faster here; or a way of products.py by name
        raises: ConfigError for one that cannot be had here
        """
        cpus = fast_cpus()
        self.threads = threads or default_threads()
        self.build = objects.build()
        self._bf16 = products.WIDENED if bf16 is False else bf16
        if isinstance(self._bf16, str):
            products.kind(self._bf16)
        can_pin = hasattr(os, "sched_setaffinity") and self.threads <= len(cpus)
        self._block = block_rows(cache_bytes(), 2 * self.build.lanes)
        self._cpus = cpus if can_pin else set()
        self._counters = np.zeros(COUNTERS, np.int64)  # on which threads rest
        self._is_counting = False  # a kernel
        self._turns = 0  # of a rest
        self._others = Pool(max(1, self.threads - 1), functools.partial(pin, self._cpus))
        self._running: list[Task[None]] = []
        self._scratch = [np.empty(0, np.float32)] * (self.threads + 1)  # the last one is shared
        self._lock = new_lock(ENGINES)

    @property
    def way(self) -> str:
        """How bfloat16 weights are multiplied, as products.py names it; measured at first need."""
        if not isinstance(self._bf16, str):
            choose = products.choose_rounded if self._bf16 else products.choose
            self._bf16 = choose(product_rates())
        return self._bf16

    @property
    def bf16(self) -> bool:
        """True when bfloat16 weights are multiplied as bfloat16."""
        return self.way != products.WIDENED

    def view(self, weights: Parameters, probes: Sequence[Probe]) -> "NumbaView":
        if weights.adapter_scale is None:
            return NumbaView(weights, probes, self)
        return AdaptedNumbaView(weights, probes, self)

    def fold(self, weights: Parameters, name: str, raw: np.ndarray, start: int) -> None:
        terms = make_terms(weights, name, ())
        first = start * math.prod(raw.shape[1:])
        tasks = raw.size // CHUNK + 1
        flat = as_bytes(raw.reshape(1, -1))
        self.run(objects.fold, *flat, terms, first, tasks=tasks)

    def multiply(self, product: Product, raw: np.ndarray, first: int, column: int) -> None:
        """The products with some rows of W. raw: the rows as stored; first: the first one's number.

        column: where they begin in `out`, and in bias and residual
        """
        x, terms, bias, residual, out, kind = product
        if x.shape[1] <= FEW:
            rows = (x, *as_bytes(raw), first, terms, bias, residual, out, column)
            self.run(objects.linear_of_few, *rows, scratch=12 * x.shape[2])
            return
        build, is_rounded = self.build, kind != FLOATS
        matrix = build.matrix if kind == MATRIX else ""
        words = padded(padded(x.shape[2], 2) // 2, UNITS[matrix])
        block = self._rows_of_a_task(len(raw))
        tiles = len(terms.seeds) * block * DEPTH
        work = (1 + 3 * build.lanes) * (2 * DEPTH if is_rounded else DEPTH)
        self.run(
            objects.linear,
            *(x, *as_bytes(raw), first, terms, bias, residual, out, column, kind, block),
            shared=(x.shape[0] * x.shape[1] + ROOM[matrix]) * words if is_rounded else 0,
            scratch=tiles + work + build.rows * (DEPTH + build.width),
        )

    def _rows_of_a_task(self, rows: int) -> int:
        """So many that each thread has about four tasks, of full register tiles."""
        part = padded(rows // (4 * self.threads), 2 * self.build.lanes)
        return min(self._block, part or 2 * self.build.lanes)

    def run(
        self,
        kernel: Callable[..., None],
        *arguments: object,
        scratch: int = 0,
        shared: int | None = None,
        tasks: int | None = None,
    ) -> None:
        """A kernel on all threads at once; each is given scratch memory, then the counters.

        scratch: floats for each thread
        shared:  floats for all of them, if they need any, an argument before that
        tasks:   how many there are, where they may be fewer than threads
        raises:  what a thread raises, such as MemoryError; no thread is left at work
        """
        threads = self.threads if tasks is None else min(self.threads, tasks)
        with self._lock, pinned(self._cpus):
            wait(self._running)  # there are some, if the last wait was interrupted
            if shared is not None:
                arguments = (*arguments, self._room(-1, shared))
            rooms = [self._room(i, scratch) for i in range(threads)]
            call = objects.bind(kernel, *arguments)
            counters = self._new_counters(threads)
            running = self._running = []
            try:
                for room in rooms[1:]:
                    running.append(self._others.submit(call, room, counters[:-1]))
                call(rooms[0], counters)
            finally:
                self._finish(running, counters)
            self._running = []
            for each in running:
                each.result()

    def _finish(self, running: list[Task[None]], counters: Integers) -> None:
        """Until no thread is at work. Those that are at rest in a kernel are left alone."""
        self._is_counting = self._is_counting and counters is not self._counters
        is_done = bool(counters[DONE] == len(running) + 1)
        self._learn_patience(is_done)
        if is_done:
            running.clear()
        else:
            counters[LEAVE] = 1
            wait(running)

    def _new_counters(self, threads: int) -> Integers:
        """Zeros: for several threads those that they rest on, unless a kernel has them.

        A signal's handler may run one while another is about to begin.
        """
        if threads == 1 or self._is_counting:
            return np.zeros(COUNTERS, np.int64)
        self._is_counting = True
        self._counters[:] = 0
        self._counters[THREADS] = threads
        self._counters[TURNS] = self._turns
        return self._counters

    def _learn_patience(self, is_done: bool) -> None:
        """Let threads rest for less long after a wait in vain: others want the CPUs then."""
        if not is_done:
            self._turns //= 2
        elif self._cpus:
            self._turns = min(MOST_TURNS, self._turns + MOST_TURNS // 64)

    def _room(self, i: int, size: int) -> Array:
        """Scratch memory, which grows to what was once needed."""
        if self._scratch[i].size < size:
            self._scratch[i] = np.empty(0, np.float32)  # given back before more is asked for
            self._scratch[i] = aligned(size)
        return self._scratch[i]


def wait(tasks: Iterable[Task[None]]) -> None:
    """Until all are done."""
    for task in tasks:
        task.wait()


def as_given(array: np.ndarray) -> np.ndarray:
    """An array as the kernels take one."""
    return array if array.flags.carray else np.require(array, None, ["C", "A", "W"])


def aligned(size: int) -> Array:
    """f32[size], whose first element begins a cache line."""
    room = np.empty(size + LINE, np.float32)
    start = -(room.ctypes.data // room.itemsize) % LINE
    return room[start : start + size]


class NumbaView(NumpyView):
    """The verbs of NumpyView, fused."""

    def __init__(self, weights: Parameters, probes: Sequence[Probe], engine: NumbaEngine) -> None:
        super().__init__(weights, probes)
        self._engine = engine
        self._layout: AttentionLayout | None = None

    def over(self, probes: Sequence[Probe]) -> "NumbaView":
        return type(self)(self.weights, probes, self._engine)

    def rows(self, name: str, raw: np.ndarray, numbers: Integers) -> Array:
        """Rows as each probe has them: f32[P or 1, R, D]. raw: [R, ...], as they are stored."""
        terms = make_terms(self.weights, name, self.probes if name in self.perturbed else ())
        width = self.weights.shape(name)[-1]
        out = np.empty((len(terms.seeds), len(raw), width), np.float32)
        arguments = (*as_bytes(raw), terms, numbers, out)
        self._engine.run(objects.gather, *arguments, scratch=2 * width, tasks=len(raw))
        return out

    def whole(self, name: str) -> Array:
        raw = self.weights.stored(name)
        if raw.ndim == 1 and not (self.weights.pending or name in self.perturbed):
            return as_given(widen(raw))[None]  # sooner done than handed over
        rows = raw if raw.ndim > 1 else raw[None]
        return self.rows(name, rows, np.arange(len(rows))).reshape(-1, *self.weights.shape(name))

    def embed(self, name: str, ids: Integers) -> Array:
        rows, back = np.unique(ids, return_inverse=True)
        return self.rows(name, self.weights.store.gather(name, rows), rows)[:, back]

    def linear(self, name: str, x: Array, residual: Array | None = None) -> Array:
        bias = self.vector(f"{name}.bias") if f"{name}.bias" in self.weights else NOTHING
        residual = NOTHING if residual is None else np.ascontiguousarray(residual)
        return self.product(f"{name}.weight", x, bias, residual, bf16=True)

    def product(
        self,
        name: str,
        x: Array,
        bias: Array = NOTHING,
        residual: Array = NOTHING,
        bf16: bool = False,
    ) -> Array:
        blocks = self.weights.store.blocks(name)
        rows = self.weights.shape(name)[0]
        return self.multiply_rows(name, x, blocks, rows, bias, residual, bf16)

    def project(self, name: str, x: Array) -> Iterator[tuple[int, int, Array]]:
        count = self.weights.shape(name)[0]
        step = score_rows(self.copy_count(name, x) * x.shape[1])
        for start in range(0, count, step):
            stop = min(start + step, count)
            blocks = self.weights.store.blocks(name, start, stop)
            yield start, stop, self.multiply_rows(name, x, blocks, stop - start)

    def multiply_rows(
        self,
        name: str,
        x: Array,
        blocks: Iterable[Block],
        count: int,
        bias: Array = NOTHING,
        residual: Array = NOTHING,
        bf16: bool = False,
    ) -> Array:
        """x W^T + bias + residual of `count` rows of W, given as blocks: f32[P, N, count].

        bias: f32[0 or 1 or P, 1, count]; residual: f32[0 or 1 or P, N, count]
        bf16: in bfloat16 where W is. Not for a decoder's rows: products in bfloat16 there cost more
        of the projected gradient than in all layers below (docs/decisions.md).
        """
        self.check_width(name, x)
        terms = make_terms(self.weights, name, self.probes if name in self.perturbed else ())
        copies = max(self.copy_count(name, x), len(bias), len(residual))
        out = np.empty((copies, x.shape[1], count), np.float32)
        kind = FLOATS
        if bf16 and self.weights.dtype(name) == np.uint16 and x.shape[1] > FEW:
            kind = products.kind(self._engine.way)
        product = Product(np.ascontiguousarray(x), terms, bias, residual, out, kind)
        if copies > 1 and product.has_one_w:
            product = product.side_by_side()
        column = 0
        for first, raw in blocks:
            self._engine.multiply(product, raw, first, column)
            column += len(raw)
        return out

    def attention(
        self,
        name: str,
        q: Array,
        k: Array,
        v: Array,
        batch: Batch,
        causal: bool,
        rows: Rows = None,
        prefix: int = 0,
    ) -> Array:
        layout = self.layout(batch, rows, prefix)
        q, k, v = (np.ascontiguousarray(each) for each in (q, k, v))
        out = np.empty((max(len(q), len(k), len(v)), *q.shape[1:]), np.float32)
        size = q.shape[-1]
        build = self._engine.build
        queries = padded(min(QUERIES, len(layout.places)), build.rows)
        keys = padded(layout.longest, build.lanes)
        self._engine.run(
            objects.attention,
            *(q, k, v, layout.blocks, layout.keys, layout.places, causal, out),
            scratch=build.rows * (max(size, keys) + build.width)
            + keys * (size + padded(size, build.lanes))
            + max(queries, size) * keys,
        )
        return out

    def attend(
        self, q: Array, keys: Array, values: Array, starts: Integers, stops: Integers
    ) -> Array:
        """As past.attend, of arrays that are contiguous."""
        out = np.empty((max(len(q), len(keys), len(values)), *q.shape[1:]), np.float32)
        seen = stops - starts
        self._engine.run(
            objects.attend,
            *(np.ascontiguousarray(q), keys, values, starts, stops, out),
            scratch=padded(int(seen.max()), self._engine.build.lanes),
            tasks=int(seen.mean()) * out.size // CHUNK + 1,
        )
        return out

    def layout(self, batch: Batch, rows: Rows, prefix: int) -> AttentionLayout:
        """The keys that each query sees. It is kept, since all layers of a model ask for it."""
        known = self._layout
        if known is None or not known.is_of(batch, rows, prefix):
            known = self._layout = attention_layout(batch, rows, prefix)
        return known

    def norm(self, name: str, x: Array, ln_eps: float) -> Array:
        x = np.ascontiguousarray(x)
        weight = bias = NOTHING
        if f"{name}.weight" in self.weights:
            weight, bias = self.vector(f"{name}.weight"), self.vector(f"{name}.bias")
        out = np.empty((max(len(x), len(weight), len(bias)), *x.shape[1:]), np.float32)
        tasks = out.size // CHUNK + 1
        self._engine.run(objects.norm, x, weight, bias, np.float32(ln_eps), out, tasks=tasks)
        return out

    def gelu(self, x: Array) -> Array:
        x = np.ascontiguousarray(x)
        self._engine.run(objects.gelu, x.reshape(-1), tasks=x.size // CHUNK + 1)
        return x


class AdaptedNumbaView(AdaptedView, NumbaView):
    """The same, of weights that have adapters."""


# -- products in bfloat16 --------------------------------------------------------------------

SAMPLE = (128, 1024, 128)  # tokens, columns and rows of W: half a millisecond or less


@functools.cache
def product_rates() -> products.Rates:
    """Gflop/s a thread of each way to multiply bfloat16 here, kept from the first time."""
    return products.find_rates(measure_products)


def measure_products(ways: Iterable[str]) -> products.Rates:
    """The rates of ways to multiply bfloat16, in turns, the fastest of several: some ms in all."""
    count, inner, rows = SAMPLE
    x = np.ones((1, count, inner), np.float32)
    raw = np.full((rows, inner), 0x3F80, np.uint16)
    views = {way: Weights({"w.weight": raw}, NumbaEngine(1, way)).view() for way in ways}
    calls = {way: functools.partial(view.linear, "w", x) for way, view in views.items()}
    rounds = [{way: timeit(calls[way], number=1) for way in calls} for _ in range(products.TURNS)]
    return {way: 2e-9 * math.prod(SAMPLE) / min(r[way] for r in rounds) for way in calls}


def product_table() -> list[products.Way]:
    """The ways to multiply bfloat16 here, with their rates, the fastest first."""
    return products.table(product_rates())


# -- compilation -----------------------------------------------------------------------------

AGAIN = "begin again, or do without Numba by TINYZO_NO_NUMBA=1"
COMPILE = "import tinyzo.engine.numba.engine as engine; engine.compile_to_keep()"


@functools.cache
def shared_engine(threads: int | None = None) -> NumbaEngine:
    """The engine with so many threads; on a new machine its kernels are compiled first."""
    ensure_compiled()
    return NumbaEngine(threads)


@functools.cache
def ensure_compiled() -> None:
    """Have all kernels, which are kept from an earlier process or compiled now.

    A child process does that, whose memory goes back with it. This one does where no child can be
    had, or what it compiles kept.
    raises: ConfigError where they cannot be compiled
    """
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise ConfigError("NUMBA_DISABLE_JIT is set", "unset it")
    why = files.why_compile()
    if why:
        check_numba()
        say_once(f"compiling kernels, {why}")
        if files.choose_folder()[0] is not None:
            compile_apart()
            objects.forget()
            why = files.why_compile()
    if not why and not objects.why_numba():
        return
    try:
        if why:
            compile_to_keep()
        else:
            compile_kernels()
    except Exception as error:
        found = f"the kernels cannot be compiled ({in_a_line(error)})"
        raise ConfigError(found, "reinstall numba, and report this if that does not help") from None


def check_numba() -> None:
    """Have a child process load Numba, since this one is not to do without need.

    raises: ConfigError where it cannot be loaded
    """
    try:
        failed = try_apart("import numba")
    except OSError:
        return  # this process is going to compile, and will see
    if failed:
        way_out = "pip install --force-reinstall numba, or set TINYZO_NO_NUMBA=1"
        raise ConfigError(f"numba cannot be used ({failed})", way_out)


def compile_apart() -> None:
    """Have a child process compile the kernels, and say so if it fails.

    raises: ConfigError when it is killed, since what kills it would kill this process
    """
    try:
        failed = try_apart(COMPILE)
    except OSError as error:
        failed = in_a_line(error)
    if failed.startswith(KILLED):
        raise ConfigError(f"the process that compiles kernels was {failed}", AGAIN)
    if failed:
        say_once(f"no other process compiles kernels ({failed}): this one does")


def compile_to_keep() -> None:
    """Compile every kernel, and keep it in both ways."""
    from tinyzo.engine.numba.cache import make_objects

    make_objects(compile_kernels)


def compile_kernels() -> list[bytes]:
    """Run every kernel once, which leaves it compiled where it was not, and kept where it can be.

    returns: what they compute, to be compared
    """
    matrix = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
    tensors = {"w.weight": matrix, "w.bias": np.ones(8, np.float32)}
    tensors |= {"norm.weight": matrix[0].copy(), "norm.bias": matrix[1].copy()}
    weights = Weights(tensors, NumbaEngine(2))
    theta = weights.view([Probe(1, 1e-3), Probe(1, -1e-3)])
    batch = pack_sequences([[0, 1]])
    x = theta.embed("w.weight", batch.ids)
    x = theta.norm("norm", theta.gelu(theta.linear("w", x, residual=x)), 1e-5)
    q = x[:, :, None]
    y = theta.attention("w", q, q, q, batch, causal=True)
    theta.nll("w.weight", x, np.zeros(1, np.int64), np.zeros(1, np.int64), "w.bias")
    many = theta.linear("w", np.tile(matrix, (FEW, 1))[None])
    keys, one = np.ones((1, 2, 4, 8), np.float32), np.array([1])
    query = np.ones((1, 1, 2, 8), np.float32)
    seen = NumbaView(weights, [Probe(0, 0.0)], NumbaEngine(2)).attend(
        query, keys, keys, one, one + 2
    )
    weights.add([(1, 0.5)])
    return [each.tobytes() for each in (x, many, y, seen, matrix)]
