"""The fast engine: the verbs of numpy_engine.py by fused kernels, on several threads.

A weight tile is read once, its z made once, and all probes multiplied while it is in cache; no
perturbed copy of a tensor exists. The threads are ours, since kernels that hold no lock need no
threading layer; BLAS is never called from more than one. Only the files numba_* import Numba.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from tinyzo.engine import noise
from tinyzo.engine import numba_kernels as kernels
from tinyzo.engine.numba_kernels import DEPTH, LANES, ROWS, Terms
from tinyzo.engine.numba_vectors import TILE
from tinyzo.engine.numpy_engine import QUERIES, NumpyView
from tinyzo.engine.weights import Factor, Probe, Weights
from tinyzo.text.batches import Batch, pack_sequences

BLOCK = 128  # rows of W that a thread takes at once, at most
CODE = 8 << 20  # bytes of the kernels that a first step loads, measured
SPINS = 20_000  # looks at a counter before a thread goes to sleep: some 0.1 ms
VOCABULARY = 4096  # rows of the decoder whose scores exist at once
NOTHING = {n: np.zeros((0,) * n, np.float32) for n in (2, 3)}


def fast_cpus(root: Path = Path("/sys/devices/system/cpu")) -> set[int]:
    """The CPUs this process may use, on big.LITTLE only those of the highest frequency."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    allowed = allowed or set(range(os.cpu_count() or 1))
    speed = {}
    for cpu in allowed:
        try:
            speed[cpu] = int((root / f"cpu{cpu}/cpufreq/cpuinfo_max_freq").read_text())
        except (OSError, ValueError):
            return allowed
    return {cpu for cpu in allowed if speed[cpu] == max(speed.values())}


class NumbaEngine:
    """Threads with their scratch memory; called, it makes a view."""

    def __init__(self, threads: int | None = None, bf16: bool = bool(TILE.bf16)) -> None:
        """threads: None for one on each fast CPU. bf16: multiply bfloat16 weights as bfloat16."""
        cpus = fast_cpus()
        self.threads, self.bf16 = threads or len(cpus), bf16
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cpus)  # of this thread and those that it starts
        self._todo: SimpleQueue = SimpleQueue()
        self._scratch = [np.empty(0, np.float32)] * (self.threads + 1)  # the last one is shared
        self._counters, self._lock = np.zeros(5, np.int64), threading.Lock()
        kernels.is_done(self._counters)  # loads LLVM's 45 MB now, so that a memory plan sees them
        for _ in range(self.threads - 1):
            threading.Thread(target=self._work, daemon=True).start()

    def __call__(self, weights: Weights, probes: list[Probe]) -> NumbaView:
        return NumbaView(weights, probes, self)

    def _work(self) -> None:
        number = 0
        while True:
            kernels.spin_for_work(self._counters, number, SPINS)
            number, kernel, arguments, done = self._todo.get()
            error = None
            try:
                kernel(*arguments)
            except BaseException as met:  # such as MemoryError; the caller raises it
                error = met
            done.put(error)
            kernels.is_done(self._counters)

    def _room(self, i: int, size: int) -> np.ndarray:
        """Scratch memory, which grows to what was once needed."""
        if self._scratch[i].size < size:
            self._scratch[i] = np.empty(0, np.float32)  # given back before more is asked for
            self._scratch[i] = np.empty(size, np.float32)
        return self._scratch[i]

    def run(
        self, kernel: Callable, *arguments: Any, scratch: int = 0, shared: int = 0, tasks: int = 2
    ) -> None:
        """A kernel on all threads, or on as many as it has tasks.

        scratch: floats for each thread; shared: floats for all of them, an argument before that
        """
        with self._lock:
            if shared:
                arguments = *arguments, self._room(-1, shared)
            threads = min(self.threads, tasks)
            number = self._counters[3] + 1
            self._counters[:] = 0, 0, 0, number, 0
            first, *others = ((*arguments, self._room(i, scratch), self._counters)
                              for i in range(threads))  # fmt: skip
            done: SimpleQueue = SimpleQueue()
            for each in others:
                self._todo.put((number, kernel, each, done))
            try:
                kernel(*first)
                kernels.spin_for_others(self._counters, len(others), SPINS)
            finally:  # whatever happens, no thread is left behind in this run
                errors = [done.get() for _ in others]
            for error in filter(None, errors):
                raise error

    def plan(
        self, probes: int, tokens: int, width: int, wide: int, heads: int, longest: int
    ) -> dict[str, int]:
        """NumpyView.plan. tiles: of W for each probe, their product, and x packed for them."""
        linear = probes * BLOCK * (DEPTH + padded(tokens, LANES)) + 4 * DEPTH
        keys = longest * (3 * width // heads + QUERIES)
        return {
            "tiles": 4 * (self.threads * max(linear, keys) + probes * tokens * wide),
            "activations": 4 * probes * tokens * max(3 * width + wide, 7 * width),
            "code": CODE,
        }

    def fold(self, weights: Weights, name: str, factors: Sequence[Factor], salt: int) -> None:
        """NumpyView.fold, to the same bytes."""
        raw, kind = as_bytes(weights, name)
        key = map(np.uint32, noise.key(salt, name, "rounding"))
        terms, tasks = make_terms(name, factors, (), weights.kind), raw.size // kernels.CHUNK + 1
        self.run(kernels.fold, raw.reshape(1, -1), kind, terms, *key, scratch=2048, tasks=tasks)


STORAGE = {"float32": kernels.F32, "uint16": kernels.BF16, "float16": kernels.F16}


def as_bytes(weights: Weights, name: str) -> tuple[np.ndarray, int]:
    """A tensor as the kernels know it, a vector being one row: u8[rows, bytes], and its type."""
    stored = weights.stored(name)
    return stored.reshape(-1, stored.shape[-1]).view(np.uint8), STORAGE[stored.dtype.name]


def make_terms(name: str, past: Sequence[Factor], probes: Sequence[Probe], kind: str) -> Terms:
    """What is added to a tensor as it is read; probes: () for the tensor itself."""
    seeds = list(dict.fromkeys(p.seed for p in probes if p.scale))
    keys = [noise.key(seed, name, kind) for seed in (*(f[0] for f in past), *seeds)]
    places = [len(past) + seeds.index(p.seed) if p.scale else -1 for p in probes]
    return Terms(
        np.array(keys, np.uint32).reshape(-1, 2),
        np.array([f[1] for f in past], np.float32), np.array([f[2] for f in past], np.float32),
        np.array(places or [-1], np.int64), np.array([p.scale for p in probes] or [0], np.float32),
        kind == "rademacher",
    )  # fmt: skip


NO_TERMS = make_terms("", (), (), "")


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
    shapes = {"w.weight": (8, 8), "w.bias": (8,)}
    tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    weights = Weights(tensors, NumbaEngine(2))
    theta, batch = weights.view([Probe(1, 1e-3), Probe(1, -1e-3)]), pack_sequences([[0, 1]])
    x = theta.embed("w.weight", batch.ids)
    x = theta.gelu(theta.linear("w", theta.norm("w", x, 1e-5), residual=x))
    q = x[:, :, None]
    theta.attention(q, q, q, batch, causal=True)
    theta.nll("w.weight", x, np.zeros(1, np.int64), np.zeros(1, np.int64), "w.bias")
    weights.add([(1, 0.0)])


def padded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


class NumbaView(NumpyView):
    """The verbs of NumpyView, fused."""

    def __init__(self, weights: Weights, probes: list[Probe], engine: NumbaEngine) -> None:
        super().__init__(weights, probes)
        self._engine, self._blocks = engine, (None, None, ())

    def _terms(self, name: str) -> Terms:
        if not (self.perturbed or self.weights.pending):
            return NO_TERMS
        past = self.weights.factors(name, self.weights.pending)
        return make_terms(name, past, self.probes if self.perturbed else (), self.weights.kind)

    def _rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Rows of a table as each probe has them, a vector being one row: f32[P, R, D]."""
        terms, width = self._terms(name), self.weights.shape(name)[-1]
        out = np.empty((len(terms.seeds), len(rows), width), np.float32)
        self._engine.run(
            kernels.perturbed_rows, *as_bytes(self.weights, name), rows, terms, out,
            scratch=2 * width, tasks=out.size // kernels.CHUNK + 1,
        )  # fmt: skip
        return out

    def vector(self, name: str) -> np.ndarray:
        return self._rows(name, np.zeros(1, np.int64))

    def embed(self, name: str, ids: np.ndarray) -> np.ndarray:
        rows, back = np.unique(ids, return_inverse=True)
        return self._rows(name, rows)[:, back]

    def multiply_rows(self, name: str, x: np.ndarray, rows: np.ndarray | None = None,
                      bias: np.ndarray = NOTHING[2], residual: np.ndarray = NOTHING[3]
                      ) -> np.ndarray:  # fmt: skip
        """x W^T + bias + residual of the given rows of W: f32[P, N, R]. bias: f32[P, R].

        Rows, so a decoder's, are multiplied in float32 whatever the storage: products in bfloat16
        there cost more of the projected gradient than in all layers below (docs/decisions.md).
        """
        terms, engine, (height, width) = self._terms(name), self._engine, self.weights.shape(name)
        bf16 = engine.bf16 and rows is None and self.weights.dtype(name) == np.uint16
        rows = np.arange(height) if rows is None else rows
        self.check_width(name, x)
        out = self.empty(x, len(rows))
        copies, count, columns = out.shape
        block = min(BLOCK, max(2 * LANES, padded(columns // (4 * engine.threads), 2 * LANES)))
        tokens, words = padded(count, LANES), -(-width // (2 if bf16 else 1))
        tiles = len(terms.seeds) * block * DEPTH
        engine.run(
            kernels.linear, np.ascontiguousarray(x), *as_bytes(self.weights, name), rows, terms,
            bias, residual, out, bf16, block, shared=len(x) * tokens * words,
            scratch=max(tiles + 4 * DEPTH + copies * tokens * block, LANES * words),
        )  # fmt: skip
        return out

    def linear(self, name: str, x: np.ndarray, residual: np.ndarray | None = None) -> np.ndarray:
        given = f"{name}.bias" in self.weights
        bias = self.vector(f"{name}.bias")[:, 0] if given else NOTHING[2]
        residual = NOTHING[3] if residual is None else np.ascontiguousarray(residual)
        return self.multiply_rows(f"{name}.weight", x, None, bias, residual)

    def scores(self, name: str, h: np.ndarray, rows=None, bias=None) -> np.ndarray:
        rows = np.arange(self.weights.shape(name)[0]) if rows is None else rows
        b = NOTHING[2] if bias is None else np.ascontiguousarray(self.vector(bias)[:, 0, rows])
        return self.multiply_rows(name, h, rows, b)

    def project(self, name: str, x: np.ndarray, out=None) -> Iterator[tuple[int, int, np.ndarray]]:
        count = self.weights.shape(name)[0]
        for start in range(0, count, VOCABULARY):
            stop = min(start + VOCABULARY, count)
            yield start, stop, self.multiply_rows(name, x, np.arange(start, stop))

    def norm(self, name: str, x: np.ndarray, ln_eps: float) -> np.ndarray:
        gain = bias = NOTHING[2]
        if f"{name}.weight" in self.weights:
            gain, bias = (self.vector(f"{name}.{part}")[:, 0] for part in ("weight", "bias"))
        out = np.empty((max(len(x), len(gain)), *x.shape[1:]), np.float32)
        ln_eps = np.float32(ln_eps)
        self._engine.run(kernels.norm, np.ascontiguousarray(x), gain, bias, ln_eps, out)
        return out

    def attention(self, q, k, v, batch: Batch, causal: bool, rows=None) -> np.ndarray:
        if self._blocks[0] is not batch or self._blocks[1] is not rows:
            self._blocks = batch, rows, attention_layout(batch, rows)
        blocks, keys, places, longest = self._blocks[2]
        out = np.empty((max(len(q), len(k), len(v)), *q.shape[1:]), np.float32)
        size, most = q.shape[-1], padded(min(QUERIES, len(places)), ROWS)
        wide, long = padded(size, LANES), padded(longest, LANES)
        q, k, v = map(np.ascontiguousarray, (q, k, v))
        self._engine.run(
            kernels.attention, q, k, v, blocks, keys, places, causal, out,
            scratch=2 * long * size + long * wide + most * (size + long + wide),
        )  # fmt: skip
        return out

    def log_sum_exp(self, y: np.ndarray, top: np.ndarray, total: np.ndarray) -> None:
        self._engine.run(kernels.log_sum_exp, y, top, total)

    def gelu(self, x: np.ndarray, is_gelu: bool = True) -> np.ndarray:
        x = np.ascontiguousarray(x)
        self._engine.run(kernels.activate, x.reshape(-1), is_gelu)
        return x

    def relu(self, x: np.ndarray) -> np.ndarray:
        return self.gelu(x, is_gelu=False)


def attention_layout(batch: Batch, rows: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """The blocks of queries, the keys of all of them, each query's place, the most keys."""
    blocks, every, places, at = [], [], [], 0
    tokens = np.arange(len(batch.ids))
    for queries, keys, place in batch.attention_blocks(rows, QUERIES):
        every.append(tokens[keys])
        places.append(place)
        blocks.append((queries.start, queries.stop, at, at := at + len(every[-1])))
    return np.array(blocks), np.concatenate(every), np.concatenate(places), max(map(len, every))


if __name__ == "__main__":
    compile_kernels()
