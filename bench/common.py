"""The common parts of the benchmarks: a fair BLAS, timings in turns, a table, one JSON document.

Imported before NumPy: a script whose environment would slow NumPy's BLAS, or give it another
number of threads than --threads says, is started anew in a better one.

A BLAS waits for its threads by spinning and suffers most on a busy machine: `load` in the JSON is
the load average before the benchmark, and minima are given beside medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SLOWER = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # kernels or blocks of another CPU
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
MEGABYTE = 1 << 20  # as tinyzo reports it
FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "neon", "asimd", "bf16", "i8mm")


def restart_with_fair_blas() -> None:
    """Replace the process unless the environment is as a fair comparison needs it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--threads")
    threads = parser.parse_known_args()[0].threads
    wanted = {name: value for name, value in os.environ.items() if name not in SLOWER}
    wanted |= dict.fromkeys(THREADS, threads) if threads else {}
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)


restart_with_fair_blas()
LOAD = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # before we add to it


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options of all benchmarks; doc: the script's docstring."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=formatter)
    parser.add_argument("--threads", type=int, help="of ours and of the rival; default: all cores")
    return parser


# -- timing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """Seconds of one call."""

    median: float
    min: float

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        return cls(statistics.median(seconds), min(seconds))


@dataclass(frozen=True)
class Effort:
    """Each call has so many turns, and more until it has taken so many seconds."""

    turns: int
    seconds: float


FULL, QUICK = Effort(5, 0.3), Effort(2, 0.05)


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alternate(calls: Mapping[str, Callable[[], object]], effort: Effort) -> dict[str, Timing]:
    """Time the calls in turns, A B C A B C ..., so that a slow minute of the machine is shared.

    A turn waits, awake, until the last one's threads have gone to sleep (a BLAS's keep a core busy
    for some 30 ms after its call), calls once untimed, and three times timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    while any(len(s) < 3 * effort.turns or sum(s) < effort.seconds for s in seconds.values()):
        for name, call in calls.items():
            until = time.perf_counter() + 0.05
            while time.perf_counter() < until:
                pass
            call()
            seconds[name] += [timed(call) for _ in range(3)]
    return {name: Timing.of(s) for name, s in seconds.items()}


# -- what is said --------------------------------------------------------------------------------


def row(name: str, *cells: Any) -> None:
    """Print a line of a table: a name, and cells of three significant digits."""
    texts = ["-" if c is None else f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells]
    print(f"{name:<24}" + "".join(f"{text:>13}" for text in texts), flush=True)


def finish(*packages: str, **results: Any) -> None:
    """Print the JSON document. packages: versions to name besides NumPy's and Numba's."""
    root = f"{Path(__file__).parent.parent}/"  # a command names files as they lie in the project
    command = shlex.join(["python", *(word.replace(root, "") for word in sys.orig_argv[1:])])
    about = {"benchmark": Path(sys.argv[0]).stem, "command": command}
    document = about | {"machine": machine(*packages)} | results
    print(json.dumps(document, default=asdict))  # of the dataclasses


def has(*packages: str) -> bool:
    """Whether the packages are installed; they are not imported."""
    return all(map(find_spec, packages))


def on_record(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; the rest of one, of a process that died, is taken off."""
    if not path.exists():
        return []
    whole, end, torn = path.read_text().rpartition("\n")
    if torn:
        path.write_text(whole + end)
    return [json.loads(line) for line in whole.splitlines()]


# -- where it ran ------------------------------------------------------------------------------


def machine(*packages: str) -> dict[str, Any]:
    """CPU, cores, versions and commit."""
    cpu, flags = cpu_facts()
    versions = {name: _version(name) for name in ("numpy", "numba", "tinyzo", *packages)}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python = platform.python_version()
    return {"cpu": cpu, "flags": flags, "cores": cores, "load": LOAD, "python": python,
            **versions, "commit": commit()}  # fmt: skip


def cpu_facts(path: Path = Path("/proc/cpuinfo")) -> tuple[str, list[str]]:
    """The CPU's name, and those of FLAGS that it has."""
    lines = path.read_text().splitlines() if path.exists() else []
    facts = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    name = facts.get("model name") or facts.get("Hardware") or platform.processor()
    return name or platform.machine(), [flag for flag in FLAGS if flag in flags]


def commit() -> str | None:
    """The repository's commit, "-dirty" with changes that are not in it; None without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
