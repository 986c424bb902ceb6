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
from typing import Any

import numpy as np

from tinyzo.engine import noise
from tinyzo.engine import numba_kernels as kernels
from tinyzo.engine.engines import fast_cpus
from tinyzo.engine.moments import adam_terms
from tinyzo.engine.numba_kernels import DEPTH, LANES, ROWS, Terms
from tinyzo.engine.numba_vectors import TILE
from tinyzo.engine.numpy_engine import QUERIES, NumpyView
from tinyzo.engine.weights import Block, Probe, Weights, salt
from tinyzo.text.batches import Batch, pack_sequences

BLOCK = 128  # rows of W that a thread takes at once, at most
VOCABULARY = 4096  # rows of the decoder whose scores exist at once
NOTHING = np.zeros((0, 0, 0), np.float32)


class NumbaEngine:
    """Threads with their scratch memory; called, it makes a view."""

    merge = staticmethod(NumpyView.merge)

    def __init__(self, threads: int | None = None, bf16: bool = bool(TILE.bf16)) -> None:
        """threads: None for one on each fast CPU. bf16: multiply bfloat16 weights as bfloat16."""
        cpus = fast_cpus()
        self.threads, self.bf16 = threads or len(cpus), bf16
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cpus)  # of this thread and those that it starts
        self._others = ThreadPoolExecutor(max(1, self.threads - 1))  # started when first needed
        self._scratch = [np.empty(0, np.float32)] * (self.threads + 1)  # the last one is shared
        self._counters, self._lock = np.zeros(3, np.int64), threading.Lock()

    def __call__(self, weights: Weights, probes: list[Probe]) -> "NumbaView":
        return NumbaView(weights, probes, self)

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

    def fold(self, weights: Weights, name: str, raw: np.ndarray, start: int) -> None:
        """NumpyView.fold, to the same bytes."""
        terms, first = make_terms(weights, name, ()), start * math.prod(raw.shape[1:])
        flat, tasks = as_bytes(raw.reshape(1, -1)), raw.size // kernels.CHUNK + 1
        self.run(kernels.fold, *flat, terms, first, scratch=4096, tasks=tasks)


STORAGE = {"float32": kernels.F32, "uint16": kernels.BF16, "float16": kernels.F16}


def as_bytes(raw: np.ndarray) -> tuple[np.ndarray, int]:
    """Rows as the kernels know them: u8[rows, bytes], and their type."""
    return raw.view(np.uint8), STORAGE[raw.dtype.name]


def make_terms(weights: Weights, name: str, probes: Sequence[Probe]) -> Terms:
    """What is added to a tensor as it is read; probes: () for the tensor itself."""
    is_matrix, kind, adam = len(weights.shape(name)) > 1, weights.kind, weights.adam
    past: list[list] = []  # seed, of rounding; kept, added, rounded then, square, Adam's rate
    for terms, decay in weights.pending if name in weights.trained else ():
        plain = ([(seed, added, 0.0) for seed, added in terms or [(0, 0.0)]], 0.0)
        moments, rate = adam_terms(terms, adam) if adam else plain
        each = [[seed, salt(terms), 1.0, added, 0, square, 0.0] for seed, added, square in moments]
        each[-1 if adam else 0][2] = 1 - decay if is_matrix else 1.0
        each[-1][4], each[-1][6] = 1, rate
        past += each
    numbers = np.array([t[2:] for t in past], np.float32).reshape(-1, 5)
    kept, added, rounds, *_ = np.ascontiguousarray(numbers.T)
    seeds = list(dict.fromkeys(p.seed for p in probes if p.scale))
    keys = [noise.key(seed, name, kind) for seed in (*(t[0] for t in past), *seeds)]
    salts = [noise.key(t[1], name, "rounding") for t in past]
    places = [len(past) + seeds.index(p.seed) if p.scale else -1 for p in probes]
    return Terms(np.array(keys, np.uint32).reshape(-1, 2), kept, added, rounds > 0,
                 np.array(salts, np.uint32).reshape(-1, 2), np.array(places or [-1], np.int64),
                 np.array([p.scale for p in probes] or [0], np.float32), kind == "rademacher",
                 numbers[:, 3:].copy() if adam else np.empty((0, 2), np.float32),
                 np.float32(weights.limits.get(name, np.inf)))


@functools.cache
def shared_engine(threads: int | None = None) -> NumbaEngine:
    """The engine with so many threads. On a new machine its kernels are compiled first.

    A child process does that, whose memory goes back with it: compiling takes 60 MB more than
    loading what is compiled.
    """
    if not _is_compiled():
        child = [sys.executable, "-m", "tinyzo.engine.numba_engine"]
        here = Path(kernels.__file__).parents[2]  # so that the child imports this very package
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

    def __init__(self, weights: Weights, probes: list[Probe], engine: NumbaEngine) -> None:
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
        copies = max(self.count(name, x), len(bias), len(residual))
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

    def full(self, name: str, x: np.ndarray, *more: np.ndarray, bf16: bool = False) -> np.ndarray:
        blocks, count = self.weights.store.blocks(name), self.weights.shape(name)[0]
        return self.multiply_rows(name, x, blocks, count, *more, bf16=bf16)

    def linear(self, name: str, x: np.ndarray, residual: np.ndarray | None = None) -> np.ndarray:
        bias = self.vector(f"{name}.bias") if f"{name}.bias" in self.weights else NOTHING
        residual = NOTHING if residual is None else np.ascontiguousarray(residual)
        y = self.full(f"{name}.weight", x, bias, residual, bf16=True)
        return self.adapt(name, x, y)

    def project(self, name: str, x: np.ndarray, out=None) -> Iterator[tuple[int, int, np.ndarray]]:
        count = self.weights.shape(name)[0]
        for start in range(0, count, VOCABULARY):
            stop = min(start + VOCABULARY, count)
            blocks = self.weights.store.blocks(name, start, stop)
            yield start, stop, self.multiply_rows(name, x, blocks, stop - start)

    def attention(self, name, q, k, v, batch: Batch, causal: bool, rows=None) -> np.ndarray:
        k, v, prefix = self.prefixed(name, k, v)
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
