r"""A zeroth-order step by an inference engine, ONNX Runtime, beside our engines.

    python bench/onnx.py                                       # everything in float32
    python bench/onnx.py --part steps --model opt-1.3b --dtype bf16 int4 --cell 4x4 --tokens 8
    python bench/onnx.py --quick                               # does it run at all? a minute

A cell QxB is a step of Q two-sided queries on a batch of B with LoRA-FA, estimate and update, on
synthetic weights of the real shapes and random ids, always from the same theta (lr 0).

steps: each side is a process of its own; they step in turns, after a step on one short row.

    graph           step.onnx of `tinyzo export` in ONNX Runtime, as an app runs it, without tinyzo
    onnx            the same runtime as a run's engine, weights mapped from their file
    numba           weights in memory; numba-streamed: in their file
    numpy           weights in their file

`min s` is the least of the turns, which `x numba` compares. `peak` is VmHWM, `anon` and `file` the
most that RssAnon and RssFile were, looked at every 20 ms: what the process holds itself, and the
pages of files that it has mapped, which the system may drop. MB are 2^20 bytes. A run's own
micro-batches are taken, of 512 tokens; a graph takes what it is given at once.

probes: the same step on this engine with all probes, a pair or one of them in a pass, as in
prge.py. shipped: losses of the shipped models beside NumPy's at the same theta, and what a run
ends at.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import numpy as np
from ours import random_batch
from step import SHAPES, model_setup

HERE = Path(__file__).parent
RANK, ALPHA = 16, 32
HELD = {"peak_bytes": "VmHWM", "anon_bytes": "RssAnon", "file_bytes": "RssFile"}
SIDES = {  # engine, residency
    "graph": ("graph", ""),
    "onnx": ("onnx", "streamed"),
    "numba": ("numba", "resident"),
    "numba-streamed": ("numba", "streamed"),
    "numpy": ("numpy", "streamed"),
}
RIVAL, RATIO_GOAL = "numba", 1.3  # onnx over numba in float32, at most
ANON_GOAL = {"opt-1.3b": 300}  # MB
GRAPH_GOAL = {"roberta-large": 1_000_000}  # bytes of step.onnx
WAYS = {"one pass": sys.maxsize, "pair": 2, "probe": 1}  # probes in a pass
TYPES = ("f32", "bf16", "f16", "int8", "int4")
ALL_TOKENS = 4096  # of a micro-batch where all probes shall share a pass
WARM_TOKENS = 4  # of the row that a side begins with
PARTS = ("steps", "probes", "shipped")
QUICK = {"model": ["roberta-base"], "tokens": [8], "cell": ["1x2", "2x1"], "turns": 1, "steps": 4}
QUICK_CELLS = ["2x1"]


@dataclass(frozen=True)
class Cell:
    """A step of a model."""

    model: str
    dtype: str
    queries: int
    batch: int
    tokens: int

    def __str__(self) -> str:
        size = f"({self.queries}, {self.batch})"
        return f"{self.model} {self.dtype} {size}, {self.tokens} tokens"


def cells(options: argparse.Namespace, named: Sequence[str]) -> Iterator[Cell]:
    """All that was asked for."""
    for model, dtype in itertools.product(options.model, options.dtype):
        for tokens, cell in itertools.product(options.tokens, named):
            queries, batch = map(int, cell.split("x"))
            yield Cell(model, dtype, queries, batch, tokens)


# -- folders -------------------------------------------------------------------------------------


def checkpoint(folder: Path, model: str, dtype: str) -> Path:
    """The model's folder, with a tokenizer; made when it is not there, by other processes."""
    place = folder / f"{model}-{dtype}"
    if dtype in ("int4", "int8"):
        if not place.exists():
            source = checkpoint(folder, model, "f32")
            which = ["convert", str(source), "--dtype", dtype, "--output", str(place)]
            subprocess.run([sys.executable, "-m", "tinyzo", *which], check=True)
        return place
    which = ["--model", model, "--dtype", dtype, str(place)]
    subprocess.run([sys.executable, str(HERE / "checkpoint.py"), *which], check=True)
    shipped = HERE.parent / "weights" / f"{SHAPES[model][0]}-tiny"
    for file in shipped.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            shutil.copyfile(file, place / file.name)
    return place


def export(model: Path, queries: int, output: Path) -> dict[str, Any]:
    """Write the folder that an app opens; the seconds, or why it cannot be had."""
    which = ["--format", "onnx", "--model", str(model), "--train", "lora-fa", "--task", "topics"]
    which += ["--queries", str(queries), "--lora-rank", str(RANK), "--lora-alpha", str(ALPHA)]
    command = [sys.executable, "-m", "tinyzo", "export", *which, "--output", str(output)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        return {"reason": done.stderr.strip().partition("\n")[0]}
    return {"export_seconds": seconds}


def examples(model: str, batch: int, tokens: int) -> list[dict[str, Any]]:
    """Rows of random ids."""
    from tinyzo.models.model import MODELS

    setup = model_setup(model) | {"batch_size": batch, "tokens": tokens}
    _, rows = random_batch(setup, MODELS[setup["family"]].Config(**setup["config"]))
    return [asdict(row) for row in rows]


# -- processes -----------------------------------------------------------------------------------


class Process:
    """A stepper of onnx_worker.py, and the most that it has held."""

    def __init__(self, setup: dict[str, Any]) -> None:
        command, pipe = [sys.executable, str(HERE / "onnx_worker.py")], subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.status = Path(f"/proc/{self.process.pid}/status")
        self.held: dict[str, int] = {}
        self.steps: list[dict[str, Any]] = []
        watch = threading.Thread(target=self.watch, daemon=True)
        watch.start()
        self.about = self.ask(setup)

    def watch(self) -> None:
        while self.process.poll() is None:
            self.look()
            time.sleep(0.02)

    def look(self) -> None:
        try:
            lines = self.status.read_text().splitlines()
        except OSError:
            return
        for name, _, value in (line.partition(":") for line in lines):
            if name in HELD.values():
                size = int(value.split()[0]) << 10
                self.held[name] = max(self.held.get(name, 0), size)

    def ask(self, what: Any) -> dict[str, Any]:
        """Its answer, or why there is none."""
        with suppress(BrokenPipeError):  # it has ended: then nothing is read, either
            print(json.dumps(what), file=self.process.stdin, flush=True)
        if line := self.process.stdout.readline():
            return json.loads(line)
        return {"reason": f"ended with exit code {self.process.wait()}"}

    def step(self, rows: list[dict[str, Any]], queries: int, most: int = sys.maxsize) -> Any:
        if "reason" not in self.about:
            self.about |= self.ask({"examples": rows, "queries": queries, "most": most})
        return self.about

    def close(self) -> None:
        self.look()
        self.process.communicate()


def open_side(
    side: str, cell: Cell, folder: Path, options: argparse.Namespace, most_tokens: int
) -> Process:
    """A side's process. folder: a model's, or of `graph` an app's."""
    from tinyzo.runs.settings import RunSettings

    engine, residency = SIDES[side]
    return Process(
        {
            "folder": str(folder), "engine": engine, "residency": residency, "words": [100, 200],
            "threads": options.threads, "rank": RANK, "alpha": ALPHA,
            "micro_batch_tokens": most_tokens or RunSettings.micro_batch_tokens,
        }
    )  # fmt: skip


# -- steps ---------------------------------------------------------------------------------------


def all_steps(options: argparse.Namespace) -> dict[str, Any]:
    """Every cell, each side in turns."""
    say("", "min s", "median s", "cpu s", f"x {RIVAL}", "goal", "peak MB", "anon", "goal", "file",
        "open s", "graph kB")  # fmt: skip
    found = []
    for cell in cells(options, options.cell):
        each = measure(cell, options)
        found += each
        for side in each:
            say_side(cell, side)
    return {"sides": found}


def measure(cell: Cell, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What each side takes for a cell's step."""
    place = checkpoint(options.folder, cell.model, cell.dtype)
    with TemporaryDirectory(dir=options.folder) as temporary:
        app, sides = Path(temporary) / "app", list(options.side)
        exported = export(place, cell.queries, app) if "graph" in sides else {}
        if "reason" in exported:
            sides.remove("graph")
        folders = {side: app if side == "graph" else place for side in sides}
        processes = {s: open_side(s, cell, folder, options, 0) for s, folder in folders.items()}
        take_turns(cell, processes, options)
        for process in processes.values():
            process.close()
    sizes = {"graph": exported} if exported else {}
    found = sizes | {side: sizes.get(side, {}) | facts(p) for side, p in processes.items()}
    return compared([asdict(cell) | {"side": side} | each for side, each in found.items()])


def take_turns(cell: Cell, processes: dict[str, Process], options: argparse.Namespace) -> None:
    """One side steps after the other, until all had their turns or the seconds are over."""
    warm = examples(cell.model, 1, WARM_TOKENS)
    rows = examples(cell.model, cell.batch, cell.tokens)
    for process in processes.values():
        process.about["first"] = dict(process.step(warm, cell.queries))
    start = time.monotonic()
    for turn in range(options.turns):
        if turn and time.monotonic() - start > options.seconds:
            return
        for process in processes.values():
            process.steps.append(dict(process.step(rows, cell.queries)))


def facts(process: Process) -> dict[str, Any]:
    """What was found of a side."""
    if "reason" in process.about:
        return {"reason": process.about["reason"]}
    about = {n: v for n, v in process.about.items() if n not in ("first", "seconds", "cpu")}
    held = {name: process.held.get(key) for name, key in HELD.items()}
    times = {
        kind: common.Timing.of([s[kind] for s in process.steps]) for kind in ("seconds", "cpu")
    }
    return about | held | times | {
        "turns": len(process.steps), "first_seconds": process.about["first"]["seconds"],
    }  # fmt: skip


def compared(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with ratios and goals."""
    rival = next((each for each in found if each["side"] == RIVAL and "seconds" in each), None)
    for each in found:
        is_runtime = each["side"] in ("graph", "onnx")
        is_asked = is_runtime and each["dtype"] == "f32"
        each["ratio_goal"] = RATIO_GOAL if is_asked else None
        each["anon_goal_mb"] = ANON_GOAL.get(each["model"]) if is_runtime else None
        if each["side"] == "graph":
            each["graph_goal_bytes"] = GRAPH_GOAL.get(each["model"])
        if rival and "seconds" in each:
            each["ratio"] = each["seconds"].min / rival["seconds"].min
    return found


def say_side(cell: Cell, found: dict[str, Any]) -> None:
    name = f"{cell}, {found['side']}"
    if "reason" in found:
        say(name, found["reason"])
        return
    seconds, goal = found["seconds"], found["anon_goal_mb"]
    peak, anon, file = (found[f"{kind}_bytes"] for kind in ("peak", "anon", "file"))
    graph = found.get("graph_bytes", {}).get("step.onnx")
    say(name, seconds.min, seconds.median, found["cpu"].min, found.get("ratio"),
        found["ratio_goal"], megabytes(peak), megabytes(anon), goal, megabytes(file),
        found["open_seconds"], graph and round(graph / 1000))  # fmt: skip


def megabytes(size: int | None) -> int | None:
    return size and round(size / common.MEGABYTE)


# -- probes --------------------------------------------------------------------------------------


def all_probes(options: argparse.Namespace) -> dict[str, Any]:
    """All probes in one pass, or fewer at a time, on this engine."""
    say("s/step", *WAYS, "pair/one", "probe/one", "difference")
    found = []
    for cell in cells(options, options.probe_cell):
        found.append(asdict(cell) | probes(cell, options))
        if "reason" in found[-1]:
            say(cell, found[-1]["reason"])
            continue
        seconds, gain = found[-1]["seconds"], found[-1]["gain"]
        say(cell, *(t.min for t in seconds.values()), *gain.values(), found[-1]["difference"])
    return {"probes": found}


def probes(cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step each way."""
    place = checkpoint(options.folder, cell.model, cell.dtype)
    process = open_side("onnx", cell, place, options, ALL_TOKENS)
    warm = examples(cell.model, 1, WARM_TOKENS)
    rows = examples(cell.model, cell.batch, cell.tokens)
    for most in WAYS.values():
        process.step(warm, cell.queries, most)
    steps: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    start = time.monotonic()
    for turn in range(options.turns):
        if turn == 0 or time.monotonic() - start < options.seconds:
            for way, most in WAYS.items():
                steps[way].append(dict(process.step(rows, cell.queries, most)))
    process.close()
    if "reason" in process.about:
        return {"reason": process.about["reason"]}
    seconds = {way: common.Timing.of([s["seconds"] for s in each]) for way, each in steps.items()}
    gain = {way: seconds[way].min / seconds["one pass"].min for way in ("pair", "probe")}
    losses = [np.array(each[-1]["losses"]) for each in steps.values()]
    difference = max(float(np.abs(losses[0] - other).max()) for other in losses)
    turns = len(steps["probe"])
    return {"seconds": seconds, "gain": gain, "difference": difference, "turns": turns}


# -- the shipped models --------------------------------------------------------------------------


def all_shipped(options: argparse.Namespace) -> dict[str, Any]:
    """Losses beside NumPy's, and what runs end at."""
    models = ("roberta-tiny", "opt-tiny")
    say("largest difference of losses", "batches", "difference", "goal")
    losses = [losses_beside(model, q, options) for model in models for q in (1, 2, 4)]
    say("\na run of lora-fa, 4 queries", "accuracy", "loss", "s/step")
    runs = [run(model, engine, options) for model in models for engine in ("numpy", "onnx")]
    return {"losses": losses, "runs": runs}


def losses_beside(model: str, queries: int, options: argparse.Namespace) -> dict[str, Any]:
    """The largest difference between the losses of two engines while NumPy's tunes the model."""
    import tinyzo
    from tinyzo.engine.select import choose_engine
    from tinyzo.models.trainable import train_only
    from tinyzo.runs.bounded import BoundedLoss
    from tinyzo.text.datasets import load_splits
    from tinyzo.text.packing import batch_rows
    from tinyzo.text.tasks import get_task
    from tinyzo.zo.estimators import ESTIMATORS, zo_step
    from tinyzo.zo.objectives import Objective

    opened = tinyzo.load(model, engine="numpy")
    train_only(opened, "lora-fa", 0, RANK, ALPHA)
    task = get_task("topics", opened.family)
    bound = task.bind(opened.tokenizer, opened.config.max_length)
    rows = [bound.encode(row) for row in load_splits(task, HERE.parent / "weights/reviews").train]
    loss, weights = BoundedLoss(Objective(opened, bound), ALL_TOKENS), opened.weights
    engines = [choose_engine(name, options.threads) for name in ("numpy", "onnx")]
    worst, batches = 0.0, min(options.steps, 20)
    for number in range(batches):
        batch = [rows[i] for i in batch_rows(number, len(rows), 16, data_seed=0)]
        seeds = range(number * queries, (number + 1) * queries)
        found = []
        for engine in reversed(engines):  # NumPy's is the last, and steps
            weights.engine = engine
            found.append(loss(weights.view(ESTIMATORS["two-sided"].points(seeds, 1e-2)), batch))
        worst = max(worst, float(np.abs(found[0] - found[1]).max()))
        zo_step(weights, loss, batch, seeds, 1e-2, 5e-3)
    say(f"{model}, {queries} queries", batches, worst, 1e-5)
    return {"model": model, "queries": queries, "batches": batches, "difference": worst}


def run(model: str, engine: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a run ends at."""
    import tinyzo

    with TemporaryDirectory() as place:
        done = tinyzo.finetune(
            Path(place) / "run", model=model, method="p-rge", engine=engine, batch_size=16,
            steps=options.steps, eval_every=options.steps, threads=options.threads,
        )  # fmt: skip
        result = done.result
    kept = ("steps", "best_step", "accuracy_zero_shot", "accuracy", "loss", "seconds_per_step")
    found = {"model": model, "engine": engine} | {name: result[name] for name in kept}
    say(f"{model}, {engine}, {options.steps} steps", *(found[name] for name in kept[3:]))
    return found


# -- what is said --------------------------------------------------------------------------------


def say(name: object, *found: Any) -> None:
    common.row(f"{name!s:<56}", *found)


def parse() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    parser.add_argument("--folder", type=Path, help="of checkpoints; default: temporary")
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS)
    models = ["roberta-large", "opt-1.3b"]
    parser.add_argument("--model", choices=SHAPES, nargs="+", default=models)
    parser.add_argument("--dtype", choices=TYPES, nargs="+", default=["f32"])
    parser.add_argument("--side", choices=SIDES, nargs="+", default=list(SIDES))
    parser.add_argument("--tokens", type=int, nargs="+", default=[8, 64], help="a sequence's")
    parser.add_argument("--cell", nargs="+", default=["1x16", "4x4"], help="queries x batch")
    cells_of_probes = ["1x16", "2x8", "4x4", "8x2", "16x1"]
    parser.add_argument("--probe-cell", nargs="+", default=cells_of_probes, help="of probes")
    parser.add_argument("--turns", type=int, default=3, help="of each side, at most")
    parser.add_argument("--seconds", type=float, default=30, help="after which no turn begins")
    parser.add_argument("--steps", type=int, default=200, help="of a shipped model's run")
    parser.add_argument("--quick", action="store_true", help="small, for a test of the script")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK, probe_cell=QUICK_CELLS)
    return options


def main() -> None:
    options = parse()
    with ExitStack() as stack:
        if not options.folder:
            options.folder = Path(stack.enter_context(TemporaryDirectory()))
        options.folder.mkdir(parents=True, exist_ok=True)
        measures = {"steps": all_steps, "probes": all_probes, "shipped": all_shipped}
        results = {part: measures[part](options) for part in options.part}
    setup = {"rank": RANK, "alpha": ALPHA, "threads": options.threads, "quick": options.quick}
    common.finish(
        "onnxruntime", **setup, **dict(itertools.chain(*map(dict.items, results.values())))
    )


if __name__ == "__main__":
    main()
