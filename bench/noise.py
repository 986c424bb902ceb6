"""What does an element of z cost, made and added to a weight?

    python bench/noise.py --threads 2             # a minute; --quick: some seconds

theta += c z(seed) on one tensor, by `weights.add`: the engine makes z, reads, adds, rounds and
writes. The peer is what the published code does, p += c * torch.normal(...) in the same type.
"""

from __future__ import annotations

from collections.abc import Callable

import common
import numpy as np

from tinyzo.engine.numba.engine import NumbaEngine
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.protocols import Engine
from tinyzo.engine.terms import Direction
from tinyzo.engine.weights import Weights

KINDS = ("gaussian", "rademacher")
STORAGE = {"f32": ("<f4", "float32"), "bf16": ("<u2", "bfloat16"), "f16": ("<f2", "float16")}
C = 1e-6


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
    common.finish("torch", threads=engine.threads, rows=rows)


if __name__ == "__main__":
    main()
