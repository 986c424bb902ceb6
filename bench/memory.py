r"""How much memory does a full-parameter MeZO step take, and what does streaming cost?

    python bench/memory.py                             # the suite; --huge: also OPT-6.7B
    python bench/memory.py --model roberta-large --dtype bf16 --residency streamed \
        --batch-size 8 --tokens 64 --steps 4           # one case; lists give all combinations
    python bench/memory.py --model roberta-large --residency streamed --cold
    python bench/memory.py --model roberta-large --batch-size 8 64 --peer

Checkpoints of the real shapes with random weights are made under --folder, which also holds the
run, so the snapshots. Each case is a process of its own (memory_worker.py) that takes steps as a
run does, on random ids, every sequence full, and writes a snapshot whenever one is due and after
the last step. With --tokenizer and --data it holds those, too, as a run does: the published
vocabularies take some 30 MB. Megabytes are 2^20 bytes.

    peak     VmHWM; its parts by the kernel's count at the end: anon, file (mapped libraries)
    plan     what the run's memory plan says before the weights are opened for good
    s/step   the median, without the first, of steps as they come; with --cold, from an empty cache
    long run the estimate for many steps with a snapshot every K: s/step with the noise of the mean
             number of pending terms, (K - 1) / 2, and a K-th of the time that a snapshot takes
    read     by calls in a step, mostly from the system's cache; `disk` is what it really fetched
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import numpy as np
from memory_worker import drop_cache
from ours import random_batch
from step import SHAPES, Child, model_setup

from tinyzo.dtypes import DTYPES
from tinyzo.machine.memory import free_bytes
from tinyzo.models.model import MODELS

HERE = Path(__file__).parent
GOALS = {  # MB of streamed weights, by model, engine, batch size; for 64 tokens
    ("roberta-large", "numba", 8): 256, ("roberta-large", "numba", 64): 288,
    ("roberta-large", "numpy", 8): 160, ("opt-1.3b", "numba", 8): 384,
    ("opt-1.3b", "numpy", 8): 300, ("opt-6.7b", "numba", 8): 768,
}  # fmt: skip
RESIDENT_GOALS = {("roberta-large", "bf16"): 1024}
RATIO_GOAL = 1.25  # streamed over resident
MEMORY = ("peak", "goal", "plan", "beyond", "numpy", "imports", "ready", "stepped", "anon", "file")
TIMES = ("s/step", "long run", "K", "snapshot s", "to disk s", "read MB", "disk MB", "snapshot MB")
READ, DISK = 4 << 20, 4 << 30  # bytes of a read, and of all, that measure the disk


@dataclass(frozen=True)
class Case:
    """What is held in memory, and how."""

    model: str
    dtype: str
    engine: str
    residency: str
    batch_size: int

    def __str__(self) -> str:
        return " ".join(str(part) for part in vars(self).values() if part)

    def goal(self, tokens: int) -> int | None:
        """MB that the peak shall not pass."""
        if tokens != 64 or (self.residency == "resident" and self.engine != "numba"):
            return None
        if self.residency == "resident":
            return RESIDENT_GOALS.get((self.model, self.dtype))
        return GOALS.get((self.model, self.engine, self.batch_size))


def suite(is_huge: bool) -> Iterator[Case]:
    """The cases that are measured when none is named."""
    for dtype, batch_size in itertools.product(("bf16", "f32"), (8, 64)):
        for residency in ("resident", "streamed"):
            yield Case("roberta-large", dtype, "numba", residency, batch_size)
    yield Case("roberta-large", "bf16", "numpy", "streamed", 8)
    yield Case("opt-1.3b", "bf16", "numba", "streamed", 8)
    yield Case("opt-1.3b", "bf16", "numpy", "streamed", 8)
    if is_huge:
        yield Case("opt-6.7b", "f16", "numba", "streamed", 8)


def cases(options: argparse.Namespace) -> list[Case]:
    """All combinations of what was named, or the suite."""
    if not options.model:
        return list(suite(options.huge))
    named = (options.model, options.dtype, options.engine, options.residency, options.batch_size)
    return list(itertools.starmap(Case, itertools.product(*named)))


# -- one case ----------------------------------------------------------------------------------


def checkpoint(folder: Path, case: Case) -> Path:
    """The case's model folder, made when it is not there, by a process of its own."""
    place = folder / f"{case.model}-{case.dtype}"
    which = ["--model", case.model, "--dtype", case.dtype, str(place)]
    subprocess.run([sys.executable, str(HERE / "checkpoint.py"), *which], check=True)
    return place


def batch(case: Case, tokens: int) -> dict[str, Any]:
    """The examples and their words, the same for ours and for the peer."""
    setup = model_setup(case.model) | {"batch_size": case.batch_size, "tokens": tokens}
    bound, examples = random_batch(setup, MODELS[setup["family"]].Config(**setup["config"]))
    return {"examples": [asdict(e) for e in examples], "words": bound.label_word_ids}


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """The worker's findings, and what follows from them."""
    place = checkpoint(options.folder, case)
    settings = {
        "model": str(place), "engine": case.engine, "residency": case.residency,
        "batch_size": case.batch_size, "fold_every": options.fold_every,
        "threads": options.threads,
        "steps": options.steps if case.model != "opt-6.7b" or options.model else 1,
    }  # fmt: skip
    if options.micro_batch_tokens:
        settings["micro_batch_tokens"] = options.micro_batch_tokens
    with ExitStack() as stack:
        run, tokenizer = (
            stack.enter_context(TemporaryDirectory(dir=options.folder)) for _ in range(2)
        )
        setup = {"settings": settings, "run": run, "cold": options.cold, "data": options.data}
        setup["tokenizer"] = options.tokenizer and copied(options.tokenizer, case, Path(tokenizer))
        found = work(setup | batch(case, options.tokens))
    steps = found["steps"][1:] or found["steps"]
    medians = {name: statistics.median(s[name] for s in steps) for name in steps[0]}
    found |= {f"{name}_per_step": value for name, value in medians.items()}
    goal = case.goal(options.tokens)
    return asdict(case) | found | {"goal_mb": goal, "long_run_seconds_per_step": long_run(found)}


def copied(tokenizers: str, case: Case, place: Path) -> str:
    """The tokenizer of a case's family, in a folder that names the family."""
    setup = model_setup(case.model)
    for file in Path(tokenizers, setup["family"]).iterdir():
        shutil.copyfile(file, place / file.name)
    config = {"model_type": setup["family"], **setup["config"]}
    (place / "config.json").write_text(json.dumps(config))
    return str(place)


def work(setup: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "memory_worker.py")]
    done = subprocess.run(command, input=json.dumps(setup), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"the worker ended with exit code {done.returncode}")
    return json.loads(done.stdout)


def long_run(found: dict[str, Any]) -> float:
    """Seconds of a step among many, K to a snapshot."""
    seconds, every = found["seconds_per_step"], found["fold_every"]
    if not found["snapshot"]:
        return seconds
    pending = (every - 1) / 2 - found["pending_per_step"]
    return seconds + pending * found["term_seconds"] + found["snapshot"]["seconds"] / every


def numpy_bytes() -> int:
    """What Python holds once it has imported NumPy: the least that any case can take."""
    code = "import numpy; print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    line = next(x for x in done.stdout.splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


# -- the peer, and the disk --------------------------------------------------------------------


def measure_peer(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """PyTorch's step on the same batch where it fits, or why it is not measured."""
    place = checkpoint(options.folder, case) / "model.safetensors"
    need = 2 * place.stat().st_size + (2 << 30)  # it walks copies, a tensor at a time
    about = {"model": case.model, "dtype": case.dtype, "batch_size": case.batch_size}
    if case.dtype == "f16":
        return about | {"reason": "no float16 on a CPU"}
    if not common.has("torch", "transformers"):
        return about | {"reason": "no torch or no transformers"}
    if need > free_bytes():
        return about | {"reason": f"it may need {need >> 20} MB of memory"}
    setup = {"threads": options.threads, "task": None, "tokens": options.tokens}
    child = Child("peer", model_setup(case.model) | setup | about | batch(case, options.tokens))
    for seed in range(1, max(2, options.steps)):
        child.step(seed)
    return about | child.close()


def disk_rate(path: Path) -> float:
    """Bytes a second of a file read from its start on, from an empty cache."""
    drop_cache(path)
    buffer, size = np.empty(READ, np.uint8), min(DISK, path.stat().st_size)
    with open(path, "rb", buffering=0) as file:
        starts = range(0, size, READ)
        seconds = common.timed(lambda: [os.preadv(file.fileno(), [buffer], at) for at in starts])
    return size / seconds


# -- what is said ------------------------------------------------------------------------------


def say(name: object, *cells: Any) -> None:
    common.row(f"{name!s:<40}", *cells)


def megabytes(*sizes: float) -> list[int]:
    return [round(size / common.MEGABYTE) for size in sizes]


def say_memory(case: Case, found: dict[str, Any], base: int) -> None:
    """What was held, beside what was planned, and when it came."""
    points, peak, plan = found["points"], found["peak_bytes"], found["plan_bytes"]
    held = [base, *(points[point]["VmRSS"] for point in ("imports", "ready", "stepped"))]
    held += [points["end"][part] for part in ("RssAnon", "RssFile")]
    say(case, *megabytes(peak), found["goal_mb"], *megabytes(plan, peak - plan, *held))


def say_times(case: Case, found: dict[str, Any]) -> None:
    """What a step and a snapshot take, and how much is read and written."""
    snapshot = found["snapshot"] or {}
    seconds = [found["seconds_per_step"], found["long_run_seconds_per_step"]]
    waits = [snapshot.get(name) for name in ("seconds", "seconds_until_safe")]
    moved = [found["rchar_per_step"], found["read_bytes_per_step"], snapshot.get("wchar", 0)]
    say(case, *seconds, found["fold_every"], *waits, *megabytes(*moved))


def say_ratios(found: dict[Case, dict[str, Any]]) -> list[dict[str, Any]]:
    """Streamed over resident seconds, where both were measured."""
    names, ratios = ("seconds_per_step", "long_run_seconds_per_step"), []
    for case in (case for case in found if case.residency == "streamed"):
        if resident := found.get(replace(case, residency="resident")):
            each = {name: found[case][name] / resident[name] for name in names}
            ratios.append(asdict(case) | each | {"goal": RATIO_GOAL})
            say(case, *each.values(), RATIO_GOAL)
    return ratios


def say_peers(found: dict[Case, dict[str, Any]], options: argparse.Namespace) -> list[dict]:
    """The peer's steps on the same batches."""
    say("\npeer", "peak", "s/step")
    peers = []
    for case in dict.fromkeys(replace(case, engine="", residency="") for case in found):
        peers.append(peer := measure_peer(case, options))
        peak = megabytes(peer["peak_bytes"]) if "peak_bytes" in peer else [peer["reason"]]
        say(case, *peak, peer.get("seconds_per_step"))
    return peers


def parse() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    parser.add_argument("--folder", type=Path, help="of checkpoints and runs; default: temporary")
    parser.add_argument("--huge", action="store_true", help="OPT-6.7B too: 40 GB of disk")
    parser.add_argument("--model", choices=SHAPES, nargs="+", help="instead of the suite")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=["bf16"])
    parser.add_argument("--engine", choices=("numba", "numpy"), nargs="+", default=["numba"])
    residencies = ("resident", "streamed")
    parser.add_argument("--residency", choices=residencies, nargs="+", default=residencies)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[8])
    parser.add_argument("--tokens", type=int, default=64, help="of each sequence")
    parser.add_argument("--micro-batch-tokens", type=int, help="default: a run's")
    parser.add_argument("--fold-every", type=int, help="K; default: as a run finds it")
    parser.add_argument("--steps", type=int, default=4, help="of each case; the first is not timed")
    parser.add_argument("--tokenizer", help="folder with a folder for each family, as roberta")
    parser.add_argument("--data", help="SST-2's folder, with a train.tsv; needs --tokenizer")
    parser.add_argument("--cold", action="store_true", help="the cache is dropped before each step")
    parser.add_argument("--peer", action="store_true", help="PyTorch's step too, where it fits")
    options = parser.parse_args()
    if bool(options.tokenizer) != bool(options.data):
        parser.error("--tokenizer and --data go together")
    return options


def measure_all(options: argparse.Namespace) -> dict[str, Any]:
    """Every table; returns what is found."""
    base, found = numpy_bytes(), {}
    say("MB", *MEMORY)
    for case in cases(options):
        found[case] = measure(case, options)
        say_memory(case, found[case], base)
    say("\n", *TIMES)
    for case, each in found.items():
        say_times(case, each)
    say("\nstreamed / resident", *TIMES[:2], "goal")
    results = {"numpy_bytes": base, "cases": list(found.values()), "ratios": say_ratios(found)}
    if options.peer:
        results["peers"] = say_peers(found, options)
    if options.cold:
        files = {checkpoint(options.folder, case) / "model.safetensors" for case in found}
        results["disk"] = {file.parent.name: disk_rate(file) for file in sorted(files)}
        say("\ndisk", "MB/s")
        for name, rate in results["disk"].items():
            say(name, *megabytes(rate))
    return results


def main() -> None:
    options = parse()
    with ExitStack() as stack:
        if not options.folder:
            options.folder = Path(stack.enter_context(TemporaryDirectory()))
        options.folder.mkdir(parents=True, exist_ok=True)
        results = measure_all(options)
    common.finish("torch", "transformers", tokens=options.tokens, cold=options.cold, **results)


if __name__ == "__main__":
    main()
