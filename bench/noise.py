"""What does an element of z cost, made and added to a weight?

    python bench/noise.py --threads 2             # a minute; --quick: some seconds

theta += c z(seed) on one tensor, by `weights.add`: the engine makes z, reads, adds, rounds and
writes. The peer is what the published code does, p += c * torch.normal(...) in the same type.

Then the same from cache, by the kernel alone on one thread, which is what computing costs. Goals:
float32 within 0.45 ns (signs 0.2) with AVX-512, 0.7 (0.35) with AVX2. 16-bit weights take another
random word and its rounding, half as much work again as z, but half the memory: a whole tensor is
to cost at most 1.3 times float32's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import common
import numba
import numpy as np

from tinyzo.engine.numba import tensors
from tinyzo.engine.numba.arguments import as_bytes, make_terms
from tinyzo.engine.numba.engine import NumbaEngine
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.protocols import Engine
from tinyzo.engine.terms import Direction, Update
from tinyzo.engine.weights import Weights

KINDS = ("gaussian", "rademacher")
STORAGE = {"f32": ("<f4", "float32"), "bf16": ("<u2", "bfloat16"), "f16": ("<f2", "float16")}
C = 1e-6
CACHED = 1 << 16  # elements of a tensor that a core has near
FOLDS = 8  # in one timing: a call costs some microseconds by itself


def peer_call(torch_type: str, side: int, threads: int) -> Callable[[], object] | None:
    """The published update of a [side, side] tensor; None without PyTorch."""
    if not common.has("torch"):
        return None
    import torch

    torch.set_num_threads(threads)
    p = torch.zeros(side, side, dtype=getattr(torch, torch_type))

    def update() -> None:
        p.add_(C * torch.normal(mean=0, std=1, size=p.size(), dtype=p.dtype))

    return update


def measure(
    name: str, engine: Engine, storage: str, side: int, threads: int, effort: common.Effort
) -> list[dict]:
    """A line for each kind of z."""
    dtype, torch_type = STORAGE[storage]
    tensors = {"w": np.zeros((side, side), dtype)}
    weights = {kind: Weights(tensors, engine) for kind in KINDS}
    for kind, owner in weights.items():
        owner.direction = Direction(kind)
    calls = {kind: lambda w=w: w.add([(7, C)]) for kind, w in weights.items()}
    if peer := peer_call(torch_type, side, threads):
        calls["peer"] = peer
    times = common.alternate(calls, effort)
    return [line(name, storage, kind, side * side, times) for kind in KINDS]


def line(
    name: str, storage: str, kind: str, elements: int, times: dict[str, common.Timing]
) -> dict:
    """Print and return one line; ratio: how many times faster than the peer."""
    ours, peer = times[kind], times.get("peer")
    theirs = peer and 1e9 * peer.median / elements
    found = {
        "engine": name, "storage": storage, "kind": kind, "elements": elements,
        "ns": 1e9 * ours.median / elements, "min_ns": 1e9 * ours.min / elements,
        "peer_ns": theirs, "ratio": peer and peer.median / ours.median,
    }  # fmt: skip
    common.row(f"{name} {storage} {kind}", *list(found.values())[3:])
    return found


@numba.njit
def fold_again(raw, storage, terms, scratch, counters):
    """The kernel on one thread, several times."""
    for _ in range(FOLDS):
        counters[:] = 0
        tensors.fold(raw, storage, terms, 0, scratch, counters)


def cached_call(storage: str, kind: str) -> Callable[[], object]:
    """Folds of a small tensor."""
    dtype, _ = STORAGE[storage]
    weights = Weights({"w": np.ones((1, CACHED), dtype)}, NumpyEngine(), Direction(kind))
    weights.pending = [Update([(7, C)])]
    raw, terms = as_bytes(weights.stored("w")), make_terms(weights, "w", ())
    arguments = (*raw, terms, np.zeros(0, np.float32), np.zeros(3, np.int64))
    return lambda: fold_again(*arguments)


def cached_times(effort: common.Effort) -> dict[tuple[str, str], float]:
    """Nanoseconds an element of each type and kind: minima, since a slice of time is long."""
    calls = {(s, kind): cached_call(s, kind) for kind in KINDS for s in STORAGE}
    least = dict.fromkeys(calls, math.inf)
    until = 0.0
    while until == 0 or time.perf_counter() < until:
        for case, call in calls.items():
            least[case] = min(least[case], common.timed(call))
        until = until or time.perf_counter() + 20 * effort.seconds  # after what compiles
    return {case: 1e9 * seconds / FOLDS / CACHED for case, seconds in least.items()}


def compare(rows: list[dict], effort: common.Effort) -> list[dict]:
    """A line for each type and kind: from cache, and what it costs beside float32."""
    whole = {(r["storage"], r["kind"]): r["min_ns"] for r in rows if r["engine"] == "numba"}
    cached = cached_times(effort)
    common.row("one thread, from cache", "min ns", "of f32", "whole tensor")
    found = []
    for (storage, kind), ns in cached.items():
        shares = [times[storage, kind] / times["f32", kind] for times in (cached, whole)]
        common.row(f"{storage} {kind}", ns, *shares)
        found.append({"storage": storage, "kind": kind, "elements": CACHED, "min_ns": ns,
                      "of_f32": shares[0], "whole_of_f32": shares[1]})  # fmt: skip
    return found


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats of smaller tensors")
    options = parser.parse_args()
    effort, side = (common.QUICK, 2048) if options.quick else (common.FULL, 8192)
    engine = NumbaEngine(options.threads)
    cases = [("numba", engine, storage, side) for storage in STORAGE]
    cases.append(("numpy", NumpyEngine(), "f32", side // 4))
    common.row("engine, storage, z", "elements", "ns", "min ns", "peer ns", "ratio")
    rows = [found for case in cases for found in measure(*case, engine.threads, effort)]
    cached = compare(rows, effort)
    common.finish("torch", threads=engine.threads, rows=rows, cached=cached)


if __name__ == "__main__":
    main()
