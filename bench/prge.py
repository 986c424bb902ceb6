r"""What does it gain to take all probes of an estimate in one pass (P-RGE, arXiv 2409.15520)?

    python bench/prge.py                                       # everything: hours
    python bench/prge.py --model roberta-large --dtype f32 --place resident \
        --tokens 8 16 --cell 1x16 4x4 16x1                     # lists give all combinations
    python bench/prge.py --model roberta-large --peaks         # memory instead of time

A cell QxB is a step of Q two-sided queries on a batch of B, with LoRA-FA, on synthetic weights of
the real shapes: estimate and update. Three ways, which differ in nothing but how many probes a pass
over the weights takes, step in turns in one process, from the same seeds at the same theta (lr 0):

    one pass   all 2 Q probes          pair   two, so Q passes          probe   one, so 2 Q passes

Seconds are medians by the clock, and of the process on all cores (`cpu`): where others use the
machine, and above all with --threads 1, the latter say more. `difference` is the largest between
the losses of two ways. Places of the frozen weights:

    resident   in memory
    streamed   in their file, which the system's cache holds
    cold       in their file, which is dropped from the cache before every pass, as where memory is
               smaller than the file; the time that dropping takes is not counted. `disk GB` is what
               the disk then delivered in the step in one pass

The parts of a step, for 4x4: CPU seconds in the frozen matmuls and their rate, in adapters,
attention and other verbs, and waiting for the file. Micro-batches are as large as one pass needs.

--peaks: VmHWM of a process of one step, with a run's micro-batches of 512 tokens and two probes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import common
import numpy as np
from ours import random_batch
from step import SHAPES, model_setup

from tinyzo.dtypes import DTYPES
from tinyzo.engine.numba.engine import AdaptedNumbaView, NumbaView
from tinyzo.engine.stores.streamed import Streamed
from tinyzo.machine.memory import status_bytes
from tinyzo.models.model import open_model
from tinyzo.models.trainable import train_only
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.settings import RunSettings
from tinyzo.zo.estimators import ESTIMATORS, zo_step
from tinyzo.zo.objectives import Objective

CELLS = ("1x16", "2x8", "4x4", "8x2", "16x1")
WAYS = {"one pass": sys.maxsize, "pair": 2, "probe": 1}  # probes in a pass
PLACES = ("resident", "streamed", "cold")
RANK, ALPHA, EPS = 16, 32, 1e-3
GOAL, GAINS = "4x4", {"resident": 2.5, "cold": 4.0}  # probe / one pass, at up to SHORT tokens
SHORT, PEAK_GOAL = 16, 1.25  # and the peak of 16 queries over that of one
PARTS = ("frozen", "adapters", "attention", "norm", "gelu", "reading", "rest")


@dataclass(frozen=True)
class Case:
    """A model, and where its frozen weights are."""

    model: str
    dtype: str
    place: str

    def __str__(self) -> str:
        return f"{self.model} {self.dtype} {self.place}"


def sizes(cell: str) -> tuple[int, int]:
    """Queries and batch of a cell."""
    queries, batch = map(int, cell.split("x"))
    return queries, batch


class Stepper:
    """A model with adapters, ready to step."""

    def __init__(self, case: Case, options: argparse.Namespace) -> None:
        folder = checkpoint(options.folder, case)
        self.file, self.case = folder / "model.safetensors", case
        self.model = open_model(folder)
        train_only(self.model, "lora-fa", 0, RANK, ALPHA)
        residency = "resident" if case.place == "resident" else "streamed"
        self.model.settle("numba", residency, options.threads)
        self.weights, self.dropping = self.model.weights, 0.0
        self.most_tokens = RunSettings.micro_batch_tokens if options.worker else 4096

    def batch(self, count: int, tokens: int) -> None:
        """Take steps on so many sequences of so many random tokens from now on."""
        setup = model_setup(self.case.model) | {"batch_size": count, "tokens": tokens}
        bound, self.examples = random_batch(setup, self.model.config)
        self.objective = BoundedLoss(Objective(self.model, bound), self.most_tokens)

    def losses(self, most: int, theta: Any, examples: Any) -> np.ndarray:
        """The losses of all probes, `most` in a pass."""
        found = []
        for part in theta.parts(most):
            if self.case.place == "cold":
                self.dropping += common.timed(self.drop)
            found.append(self.objective(part, examples))
        return np.concatenate(found)

    def drop(self) -> None:
        """Make the system forget the file."""
        with open(self.file, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def step(self, queries: int, most: int) -> tuple[dict[str, float], tuple[float, ...]]:
        """What a step took, and its losses."""
        seeds, self.dropping = range(1, queries + 1), 0.0
        loss, two_sided = partial(self.losses, most), ESTIMATORS["two-sided"]
        start, cpu, read = time.perf_counter(), time.process_time(), disk_bytes()
        step = zo_step(self.weights, loss, self.examples, seeds, EPS, 0.0, estimator=two_sided)
        took = {"seconds": time.perf_counter() - start - self.dropping,
                "cpu": time.process_time() - cpu, "disk_bytes": disk_bytes() - read}  # fmt: skip
        return took, step.losses


def checkpoint(folder: Path, case: Case) -> Path:
    """The case's model folder, made when it is not there, by a process of its own."""
    place = folder / f"{case.model}-{case.dtype}"
    script = Path(__file__).with_name("checkpoint.py")
    which = ["--model", case.model, "--dtype", case.dtype, str(place)]
    subprocess.run([sys.executable, str(script), *which], check=True)
    return place


def disk_bytes() -> int:
    """What the disk has delivered to this process so far; 0 where the system does not say."""
    path = Path("/proc/self/io")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(x.split()[1]) for x in lines if x.startswith("read_bytes")), 0)


# -- time --------------------------------------------------------------------------------------


def measure(stepper: Stepper, cell: str, tokens: int, turns: int) -> dict[str, Any]:
    """Seconds of a step each way."""
    queries, count = sizes(cell)
    stepper.batch(count, tokens)
    stepper.step(1, 1)  # warm-up
    steps: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    losses: dict[str, tuple[float, ...]] = {}
    for way in list(WAYS) * turns:
        took, losses[way] = stepper.step(queries, WAYS[way])
        steps[way].append(took)
    columns = {
        kind: {way: common.Timing.of([s[kind] for s in each]) for way, each in steps.items()}
        for kind in ("seconds", "cpu", "disk_bytes")
    }
    first = np.array(losses["one pass"])
    return {
        "cell": cell, "queries": queries, "batch": count, "tokens": tokens, "turns": turns,
        **columns, "gain": gain(columns["seconds"]), "cpu_gain": gain(columns["cpu"]),
        "difference": max(float(np.abs(first - other).max()) for other in losses.values()),
    }  # fmt: skip


def gain(seconds: dict[str, common.Timing]) -> dict[str, float]:
    """How many times as long as one pass the others take."""
    return {way: seconds[way].median / seconds["one pass"].median for way in ("pair", "probe")}


class Clock:
    """Seconds and CPU seconds by part of a step, each without what is nested in it."""

    def __init__(self) -> None:
        self.parts = {part: np.zeros(2) for part in PARTS}
        self.flops, self.nested = 0, np.zeros(2)

    def watch(self, method: Callable, part: str | Callable[..., str]) -> Callable:
        """The method, whose time counts for a part, or for what its arguments say."""

        def watched(*arguments: Any, **more: Any) -> Any:
            outer, self.nested, start = self.nested, np.zeros(2), now()
            out = method(*arguments, **more)
            took = now() - start
            name = part if isinstance(part, str) else part(*arguments)
            self.parts[name] += took - self.nested
            self.nested = outer + took
            if name == "frozen":
                self.flops += 2 * out.size * arguments[2].shape[-1]
            return out

        return watched


def now() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def matmul_part(view: NumbaView, name: str, *rest: Any) -> str:
    return "adapters" if ".lora_" in name else "frozen"


def parts(stepper: Stepper, cell: str, tokens: int, way: str) -> dict[str, Any]:
    """Where the seconds of a step go."""
    queries, count = sizes(cell)
    stepper.batch(count, tokens)
    clock = Clock()
    watched = {
        (AdaptedNumbaView, "multiply_rows"): matmul_part,
        (AdaptedNumbaView, "adapt"): "adapters",
        (AdaptedNumbaView, "attention"): "attention",
        (AdaptedNumbaView, "norm"): "norm",
        (AdaptedNumbaView, "gelu"): "gelu",
        (AdaptedNumbaView, "relu"): "gelu",
        (Streamed, "_next"): "reading",
    }
    with ExitStack() as stack:
        for (owner, name), part in watched.items():
            stack.enter_context(patch.object(owner, name, clock.watch(getattr(owner, name), part)))
        took, _ = stepper.step(queries, WAYS[way])
    clock.parts["rest"] += np.array([took["seconds"], took["cpu"]]) - sum(clock.parts.values())
    seconds, cpu = ({p: float(t[i]) for p, t in clock.parts.items()} for i in range(2))
    return {
        "cell": cell, "tokens": tokens, "way": way, **took, "flops": clock.flops,
        "rows": tokens * count * min(WAYS[way], 2 * queries), "parts": seconds, "cpu_parts": cpu,
    }  # fmt: skip


def goal(case: Case, found: dict[str, Any]) -> float | None:
    """What the gain over one probe at a time shall be."""
    is_asked = found["cell"] == GOAL and found["tokens"] <= SHORT
    return GAINS.get(case.place) if is_asked else None


def say_gain(case: Case, found: dict[str, Any]) -> None:
    gain, cpu, disk = found["gain"], found["cpu_gain"], found["disk_bytes"]["one pass"]
    say(f"{case} {found['cell']}, {found['tokens']} tokens",
        *(t.median for t in found["seconds"].values()), gain["pair"], gain["probe"],
        found["cpu"]["one pass"].median, cpu["pair"], cpu["probe"], found["goal"],
        disk.median / 1e9, found["difference"])  # fmt: skip


def times(options: argparse.Namespace) -> dict[str, Any]:
    """Every case's cells."""
    say("s/step", *WAYS, "pair/one", "probe/one", "one: cpu", "pair/one", "probe/one", "goal",
        "disk GB", "difference")  # fmt: skip
    gains, broken = [], []
    for case in cases(options):
        stepper = Stepper(case, options)
        for tokens, cell in itertools.product(options.tokens, options.cell):
            found = measure(stepper, cell, tokens, options.turns)
            gains.append(asdict(case) | found | {"goal": goal(case, found)})
            say_gain(case, gains[-1])
            if cell == GOAL:
                each = (parts(stepper, cell, tokens, way) for way in ("one pass", "probe"))
                broken += [asdict(case) | found for found in each]
        del stepper
    say("\ncpu s/step by parts; reading: by the clock", "rows a pass", *PARTS, "Gflop / cpu s")
    for found in broken:
        name = "{model} {dtype} {place} {cell}, {tokens} tokens, {way}".format(**found)
        cpu = found["cpu_parts"] | {"reading": found["parts"]["reading"]}
        say(name, found["rows"], *cpu.values(), found["flops"] / cpu["frozen"] / 1e9)
    return {"gains": gains, "parts": broken}


# -- memory ------------------------------------------------------------------------------------


def peak(case: Case, cell: str, tokens: int, options: argparse.Namespace) -> int:
    """VmHWM of a process that takes one step in one pass."""
    which = ["--worker", "--folder", str(options.folder), "--cell", cell, "--tokens", str(tokens)]
    which += [f"--{name}={value}" for name, value in asdict(case).items()]
    which += [f"--threads={options.threads}"] if options.threads else []
    command = [sys.executable, __file__, *which]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def worker(options: argparse.Namespace) -> int:
    """One step of the only cell."""
    stepper, (queries, count) = Stepper(next(cases(options)), options), sizes(options.cell[0])
    stepper.batch(count, options.tokens[0])
    stepper.step(queries, WAYS["one pass"])
    return status_bytes("VmHWM")


def peaks(options: argparse.Namespace) -> dict[str, Any]:
    """Every case's cells, against one query on the same product and on the same batch."""
    say("peak MB", "MB", "over 1x16", "goal")
    found = []
    for case, tokens in itertools.product(cases(options), options.tokens):
        checkpoint(options.folder, case)
        least = 0
        for cell in (*options.cell, "16x16"):
            size = peak(case, cell, tokens, options)
            least = least or size
            wanted = PEAK_GOAL if cell.startswith("16x") else None
            found.append(asdict(case) | {"cell": cell, "tokens": tokens, "peak_bytes": size,
                                         "ratio": size / least, "goal": wanted})  # fmt: skip
            name = f"{case} {cell}, {tokens} tokens"
            say(name, round(size / common.MEGABYTE), size / least, wanted)
    return {"peaks": found}


# -- what is said ------------------------------------------------------------------------------


def say(name: object, *cells: Any) -> None:
    common.row(f"{name!s:<56}", *cells)


def cases(options: argparse.Namespace) -> Iterator[Case]:
    named = (options.model, options.dtype, options.place)
    return itertools.starmap(Case, itertools.product(*named))


def parse() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    parser.add_argument("--folder", type=Path, help="of checkpoints; default: temporary")
    models = ["roberta-large", "opt-1.3b"]
    parser.add_argument("--model", choices=SHAPES, nargs="+", default=models)
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=["f32", "bf16"])
    parser.add_argument("--place", choices=PLACES, nargs="+", default=PLACES)
    parser.add_argument("--tokens", type=int, nargs="+", default=[8, 16, 64], help="a sequence's")
    parser.add_argument("--cell", nargs="+", default=CELLS, help="queries x batch")
    parser.add_argument("--turns", type=int, default=3, help="of each way that are timed")
    parser.add_argument("--peaks", action="store_true", help="memory instead of time")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.worker:
        print(worker(options))
        return
    with ExitStack() as stack:
        if not options.folder:
            options.folder = Path(stack.enter_context(TemporaryDirectory()))
        results = peaks(options) if options.peaks else times(options)
    setup = {"rank": RANK, "alpha": ALPHA, "eps": EPS, "threads": options.threads}
    common.finish(shared_machine=True, **setup, **results)


if __name__ == "__main__":
    main()
