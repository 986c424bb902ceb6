"""The fast engine: the verbs of numpy_engine.py by fused kernels, on several threads.

A weight tile is read once, its z made once, and all probes multiplied while it is in cache; no
perturbed copy of a tensor exists. The threads are ours, since kernels that hold no lock need no
threading layer; BLAS is never called from more than one. Only the files numba_* import Numba.
"""

import contextlib
import functools
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyzo.batch import Batch
from tinyzo.engine import noise
from tinyzo.engine.adapters import AdaptedView
from tinyzo.engine.moments import AgedTerm
from tinyzo.engine.numba import kernels
from tinyzo.engine.numba.kernels import LANES, ROWS, Terms
from tinyzo.engine.numba.sizes import BLOCK, DEPTH
from tinyzo.engine.numba.vectors import TILE
from tinyzo.engine.numpy_engine import QUERIES, NumpyView
from tinyzo.engine.terms import Probe, Update
from tinyzo.engine.tiles import Block
from tinyzo.engine.weights import Parameters, Weights
from tinyzo.system import fast_cpus
from tinyzo.text.packing import pack_sequences

VOCABULARY = 4096  # rows of the decoder whose scores exist at once
NOTHING = np.zeros((0, 0, 0), np.float32)


class NumbaEngine:
    """An Engine: threads with their scratch memory."""

    name = "numba"

    def __init__(self, threads: int | None = None, bf16: bool = bool(TILE.bf16)) -> None:
        """threads: None for one on each fast CPU. bf16: multiply bfloat16 weights as bfloat16."""
        cpus = fast_cpus()
        self.threads, self.bf16 = threads or len(cpus), bf16
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cpus)  # of this thread and those that it starts
        self._others = ThreadPoolExecutor(max(1, self.threads - 1))  # started when first needed
        self._scratch = [np.empty(0, np.float32)] * (self.threads + 1)  # the last one is shared
        self._counters, self._lock = np.zeros(3, np.int64), threading.Lock()

    def view(self, weights: Parameters, probes: Sequence[Probe]) -> "NumbaView":
        if weights.adapter_scale is None:
            return NumbaView(weights, probes, self)
        return AdaptedNumbaView(weights, probes, self)

    def _room(self, i: int, size: int) -> np.ndarray:
        """Scratch memory, which grows to what was once needed."""
        if self._scratch[i].size < size:
            self._scratch[i] = np.empty(0, np.float32)  # given back before more is asked for
            self._scratch[i] = np.empty(size, np.float32)
        return self._scratch[i]

    def run(self, kernel: Callable, *arguments: Any, scratch: int = 0, shared: int = 0,
            tasks: int = 2) -> None:  # fmt: skip
        """A kernel on all threads, or on as many as it has tasks.

        scratch: floats for each thread; shared: floats for all of them, an argument before that
        """
        with self._lock:
            if shared:
                arguments = *arguments, self._room(-1, shared)
            threads = min(self.threads, tasks)
            self._counters[:] = 0
            first, *others = ((*arguments, self._room(i, scratch), self._counters)
                              for i in range(threads))  # fmt: skip
            running = [self._others.submit(kernel, *each) for each in others]
            try:
                kernel(*first)
            finally:  # whatever happens, no thread is left behind in this run
                wait(running)
            for each in running:
                each.result()  # raises what a thread met, such as MemoryError

    def fold(self, weights: Parameters, name: str, raw: np.ndarray, start: int) -> None:
        """NumpyEngine.fold, to the same bytes."""
        terms, first = make_terms(weights, name, ()), start * math.prod(raw.shape[1:])
        flat, tasks = as_bytes(raw.reshape(1, -1)), raw.size // kernels.CHUNK + 1
        self.run(kernels.fold, *flat, terms, first, scratch=4096, tasks=tasks)


STORAGE = {"float32": kernels.F32, "uint16": kernels.BF16, "float16": kernels.F16}


def as_bytes(raw: np.ndarray) -> tuple[np.ndarray, int]:
    """Rows as the kernels know them: u8[rows, bytes], and their type."""
    return raw.view(np.uint8), STORAGE[raw.dtype.name]


def make_terms(weights: Parameters, name: str, probes: Sequence[Probe]) -> Terms:
    """What is added to a tensor as it is read; probes: () for the tensor itself."""
    is_matrix, direction = len(weights.shape(name)) > 1, weights.direction
    past: list[PendingTerm] = []
    for update in weights.pending if name in weights.trained else ():
        kept = 1 - update.decay if is_matrix else 1.0
        past += pending_terms(update, kept)
    numbers = np.array([term.numbers for term in past], np.float32).reshape(-1, 5)
    kept, added, rounds, *_ = np.ascontiguousarray(numbers.T)
    is_adam = any(update.moments for update in weights.pending)
    seeds = list(dict.fromkeys(probe.seed for probe in probes if probe.scale))
    keys = [noise.key(seed, name, direction.kind) for seed in (*(t.seed for t in past), *seeds)]
    salts = [noise.key(term.rounding_seed, name, "rounding") for term in past]
    places = [len(past) + seeds.index(p.seed) if p.scale else -1 for p in probes]
    return Terms(
        np.array(keys, np.uint32).reshape(-1, 2),
        kept,
        added,
        rounds > 0,
        np.array(salts, np.uint32).reshape(-1, 2),
        np.array(places or [-1], np.int64),
        np.array([probe.scale for probe in probes] or [0], np.float32),
        direction.kind == "rademacher",
        numbers[:, 3:].copy() if is_adam else np.empty((0, 2), np.float32),
        np.float32(direction.limits.get(name, np.inf)),
    )


class PendingTerm(NamedTuple):
    """A term of a pending update as the kernels take it.

    numbers: kept, added, whether the update ends here, AdaMeZO's square and, at its end, its rate
    """

    seed: int
    rounding_seed: int
    numbers: tuple[float, float, float, float, float]


def pending_terms(update: Update, kept: float) -> list[PendingTerm]:
    """An update, term by term. kept: 1 - decay, which a sum has first and AdaMeZO last."""
    if update.moments:
        aged = update.moments.aged(update.terms)
        rate = update.moments.rate
    else:
        aged = [AgedTerm(seed, c, 0.0) for seed, c in update.terms or [(0, 0.0)]]
        rate = 0.0
    terms = []
    for i, (seed, added, square) in enumerate(aged):
        is_last = i == len(aged) - 1
        decays = is_last if update.moments else i == 0
        numbers = (kept if decays else 1.0, added, float(is_last), square, rate if is_last else 0.0)
        terms.append(PendingTerm(seed, update.rounding_seed, numbers))
    return terms


@functools.cache
def shared_engine(threads: int | None = None) -> NumbaEngine:
    """The engine with so many threads. On a new machine its kernels are compiled first.

    A child process does that, whose memory goes back with it: compiling takes 60 MB more than
    loading what is compiled.
    """
    if not _is_compiled():
        child = [sys.executable, "-m", "tinyzo.engine.numba.engine"]
        here = Path(kernels.__file__).parents[3]  # so that the child imports this very package
        with contextlib.suppress(OSError):  # no child can be had: each is compiled when needed
            subprocess.run(child, stdout=subprocess.DEVNULL, check=False, cwd=here)
    return NumbaEngine(threads)


def _is_compiled() -> bool:
    """Whether this Python's cache has the largest kernel, no older than its source."""
    major, minor = sys.version_info[:2]
    found = Path(kernels.linear.stats.cache_path).glob(f"*.linear-*.py{major}{minor}*.nbi")
    source = Path(kernels.__file__).stat().st_mtime
    return any(index.stat().st_mtime >= source for index in found)


def compile_kernels() -> None:
    """Run every kernel once, which leaves it compiled in Numba's cache."""
    print("tinyzo: compiling kernels, once on this machine", file=sys.stderr, flush=True)
    tensors = {"w.weight": np.ones((8, 8), np.float32), "w.bias": np.ones(8, np.float32)}
    weights = Weights(tensors, NumbaEngine(2))
    theta, batch = weights.view([Probe(1, 1e-3), Probe(1, -1e-3)]), pack_sequences([[0, 1]])
    x = theta.embed("w.weight", batch.ids)
    x = theta.gelu(theta.linear("w", x, residual=x))
    q = x[:, :, None]
    theta.attention("w", q, q, q, batch, causal=True)
    theta.nll("w.weight", x, np.zeros(1, np.int64), np.zeros(1, np.int64), "w.bias")
    weights.add([(1, 0.0)])


def padded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


class NumbaView(NumpyView):
    """The verbs of NumpyView, fused."""

    def __init__(self, weights: Parameters, probes: Sequence[Probe], engine: NumbaEngine) -> None:
        super().__init__(weights, probes)
        self._engine, self._blocks = engine, (None, None, ())

    def multiply_rows(self, name: str, x: np.ndarray, blocks: Iterable[Block], count: int,
                      bias: np.ndarray = NOTHING, residual: np.ndarray = NOTHING,
                      bf16: bool = False) -> np.ndarray:  # fmt: skip
        """x W^T + bias + residual of `count` rows of W: f32[P, N, count]. bias: f32[P, 1, count].

        bf16: in bfloat16 where W is. Not for a decoder's rows: products in bfloat16 there cost more
        of the projected gradient than in all layers below (docs/decisions.md).
        """
        self.check_width(name, x)
        terms = make_terms(self.weights, name, self.probes if name in self.perturbed else ())
        engine, column = self._engine, 0
        bf16 = bf16 and engine.bf16 and self.weights.dtype(name) == np.uint16
        copies = max(self.copy_count(name, x), len(bias), len(residual))
        x, out = np.ascontiguousarray(x), np.empty((copies, x.shape[1], count), np.float32)
        whole = out
        if len(terms.seeds) == 1 and len(bias) < 2 and len(residual) in (0, len(x)):
            # one W for all probes: their tokens side by side, so that panels of X are full
            x, residual, out = (a.reshape(1, -1, a.shape[2]) if len(a) else a
                                for a in (x, residual, out))  # fmt: skip
            copies = 1
        tokens, words = padded(x.shape[1], LANES), -(-x.shape[2] // (1 + bf16))
        for first, raw in blocks:
            part = padded(len(raw) // (4 * engine.threads), 2 * LANES)
            block = min(BLOCK, max(2 * LANES, part))
            tiles = len(terms.seeds) * block * DEPTH
            engine.run(kernels.linear, x, *as_bytes(raw), first, terms, bias, residual, out, column,
                       bf16, block, shared=len(x) * tokens * words,
                       scratch=max(tiles + 8 * DEPTH + copies * tokens * block, LANES * words))
            column += len(raw)
        return whole

    def product(self, name: str, x: np.ndarray, *more: np.ndarray, bf16: bool = False) -> np.ndarray:
        blocks, count = self.weights.store.blocks(name), self.weights.shape(name)[0]
        return self.multiply_rows(name, x, blocks, count, *more, bf16=bf16)

    def linear(self, name: str, x: np.ndarray, residual: np.ndarray | None = None) -> np.ndarray:
        bias = self.vector(f"{name}.bias") if f"{name}.bias" in self.weights else NOTHING
        residual = NOTHING if residual is None else np.ascontiguousarray(residual)
        return self.product(f"{name}.weight", x, bias, residual, bf16=True)

    def project(self, name: str, x: np.ndarray, out=None) -> Iterator[tuple[int, int, np.ndarray]]:
        count = self.weights.shape(name)[0]
        for start in range(0, count, VOCABULARY):
            stop = min(start + VOCABULARY, count)
            blocks = self.weights.store.blocks(name, start, stop)
            yield start, stop, self.multiply_rows(name, x, blocks, stop - start)

    def over(self, probes: Sequence[Probe]) -> "NumbaView":
        return type(self)(self.weights, probes, self._engine)

    def attention(
        self, name, q, k, v, batch: Batch, causal: bool, rows=None, prefix: int = 0
    ) -> np.ndarray:
        if self._blocks[0] is not batch or self._blocks[1] is not rows:
            self._blocks = batch, rows, attention_layout(batch, rows, prefix)
        blocks, keys, places, longest = self._blocks[2]
        out = np.empty((max(len(q), len(k), len(v)), *q.shape[1:]), np.float32)
        size, most = q.shape[-1], padded(min(QUERIES, len(places)), ROWS)
        wide, long = padded(size, LANES), padded(longest, LANES)
        q, k, v = map(np.ascontiguousarray, (q, k, v))
        self._engine.run(kernels.attention, q, k, v, blocks, keys, places, causal, out,
                         scratch=2 * long * size + long * wide + most * (size + long + wide))
        return out

    def gelu(self, x: np.ndarray) -> np.ndarray:
        x = np.ascontiguousarray(x)
        self._engine.run(kernels.gelu, x.reshape(-1))
        return x


class AdaptedNumbaView(AdaptedView, NumbaView):
    """The same, of weights that have adapters."""


def attention_layout(batch: Batch, rows: np.ndarray | None, prefix: int) -> tuple[np.ndarray, ...]:
    """The blocks of queries, the keys of all of them, each query's place, the most keys."""
    blocks, every, places, at = [], [], [], 0
    tokens = np.arange(len(batch.ids) + prefix)
    for queries, keys, place in batch.attention_blocks(rows, QUERIES, prefix):
        every.append(tokens[keys])
        places.append(place)
        blocks.append((queries.start, queries.stop, at, at := at + len(every[-1])))
    return np.array(blocks), np.concatenate(every), np.concatenate(places), max(map(len, every))


if __name__ == "__main__":
    compile_kernels()
