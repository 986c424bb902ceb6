"""How fast is the engine's matmul against a BLAS, and what does a perturbed pair cost?

    python bench/matmul.py --threads 2            # some minutes; --quick: some seconds

Each line is one matmul x W^T, x of M tokens and W [N, K], by three kinds of weights:

    f32             against NumPy's BLAS
    bf16 storage    against NumPy's BLAS on float32; products in float32
    bf16 WAY        against PyTorch's bfloat16 linear; in the way that is chosen on this machine,
                    and in bfloat16 by the fastest instruction, where there is one

`ratio` is our speed over the rival's, by the medians and by the minima. `pair / 2` is the time of
both probes, theta + eps z and theta - eps z, over that of two plain matmuls: what z costs. `error`
is the largest difference from NumPy's result, plain or perturbed, where results are about 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import common
import numpy as np

import tinyzo
from tinyzo.dtypes import narrow, widen
from tinyzo.engine.numba.engine import NumbaEngine
from tinyzo.engine.numba.products import EMULATED
from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights

ROBERTA_LARGE = ((1024, 1024), (1024, 4096), (4096, 1024))  # (K, N)
OPT_1_3B = ((2048, 2048), (2048, 8192), (8192, 2048))
TOKENS = (64, 512, 4096)
BFLOAT = np.dtype("<u2")
EPS, SEED = 1e-3, 5
PAIR = [Probe(SEED, EPS), Probe(SEED, -EPS)]
ENDS = np.r_[0:32, -32:0]  # the tokens whose results are checked


@dataclass(frozen=True)
class Kind:
    """How weights are stored and multiplied."""

    name: str
    dtype: np.dtype
    engine: NumbaEngine
    rival: str = "numpy"


def kinds(threads: int | None) -> list[Kind]:
    """What this CPU can do."""
    engine = NumbaEngine(threads, bf16=False)
    found = [Kind("f32", np.dtype("<f4"), engine), Kind("bf16 storage", BFLOAT, engine)]
    engines = {engine.way: engine for engine in (NumbaEngine(threads), NumbaEngine(threads, True))}
    engines.pop(EMULATED, None)
    found += [Kind(f"bf16 {way}", BFLOAT, engine, "torch") for way, engine in engines.items()]
    return found


def rival_call(kind: Kind, x: np.ndarray, w: np.ndarray) -> Callable[[], object] | None:
    """The same matmul by the rival. x: f32[M, K], w: as stored [N, K]."""
    if kind.rival == "numpy":
        wide, out = widen(w), np.empty((len(x), len(w)), np.float32)
        return lambda: np.matmul(x, wide.T, out=out)
    if not common.has("torch"):
        return None
    import torch

    torch.set_num_threads(kind.engine.threads)
    x, w = torch.from_numpy(x).bfloat16(), torch.from_numpy(w).view(torch.bfloat16)
    return lambda: torch.nn.functional.linear(x, w)


def reference(kind: Kind, x: np.ndarray, w: np.ndarray, scale: float) -> np.ndarray:
    """x (W + scale z)^T by NumPy, rounded where the engine rounds."""
    wide = widen(w)
    if scale:
        wide = wide + np.float32(scale) * tinyzo.noise(SEED, "w.weight", w.shape)
    if kind.engine.bf16:
        x, wide = (widen(narrow(a, BFLOAT, None)) for a in (x, wide))
    return x @ wide.T


def largest_error(kind: Kind, x: np.ndarray, w: np.ndarray, weights: Weights) -> float:
    """The engine against NumPy, plain and perturbed, at the first and the last tokens."""
    plain, pair = (weights.view(probes).linear("w", x) for probes in ([Probe(0, 0.0)], PAIR))
    cases = ((0.0, plain[0], x[0]), (EPS, pair[0], x[0]), (-EPS, pair[1], x[1]))
    return max(
        float(np.abs(y[ENDS] - reference(kind, here[ENDS], w, scale)).max())
        for scale, y, here in cases
    )


def measure(kind: Kind, m: int, k: int, n: int, effort: common.Effort) -> dict:
    """One line of the table."""
    random = np.random.default_rng(0)
    x = random.standard_normal((2, m, k), np.float32)
    w = narrow(random.standard_normal((n, k), np.float32) / np.float32(k**0.5), kind.dtype, None)
    weights = Weights({"w.weight": w}, kind.engine)
    calls = {"ours": lambda: weights.view().linear("w", x[:1])}
    if rival := rival_call(kind, x[0], w):
        calls["rival"] = rival
    calls["pair"] = lambda: weights.view(PAIR).linear("w", x)
    seconds = common.alternate(calls, effort)
    ours, theirs, gigaflop = seconds["ours"], seconds.get("rival"), 2e-9 * m * k * n
    found = {
        "kind": kind.name, "m": m, "k": k, "n": n, "gigaflops": gigaflop / ours.median,
        "rival_gigaflops": theirs and gigaflop / theirs.median,
        "ratio": theirs and theirs.median / ours.median,
        "ratio_of_minima": theirs and theirs.min / ours.min,
        "pair_over_two": seconds["pair"].median / (2 * ours.median),
        "error": largest_error(kind, x, w, weights), "seconds": seconds,
    }  # fmt: skip
    common.row(kind.name, *list(found.values())[1:-1])
    return found


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats, only smaller shapes")
    options = parser.parse_args()
    effort = common.QUICK if options.quick else common.FULL
    shapes = ROBERTA_LARGE if options.quick else ROBERTA_LARGE + OPT_1_3B
    tokens = TOKENS[:2] if options.quick else TOKENS
    common.row("weights", "M", "K", "N", "GF/s ours", "GF/s rival", "ratio", "of minima",
               "pair / 2", "error")  # fmt: skip
    rows = [
        measure(kind, m, k, n, effort)
        for kind in kinds(options.threads) for m in tokens for k, n in shapes
    ]  # fmt: skip
    minima: dict[str, float] = {}
    for r in (r for r in rows if r["ratio"]):
        minima[r["kind"]] = min(r["ratio"], minima.get(r["kind"], r["ratio"]))
    pair = max(r["pair_over_two"] for r in rows)
    common.finish("torch", rows=rows, minimum_ratios=minima, maximum_pair_over_two=pair)


if __name__ == "__main__":
    main()
