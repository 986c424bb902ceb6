"""How long does the shipped demo take to start, with and without compiled kernels?

    python bench/startup.py

`tinyzo finetune --steps 1` in fresh processes: once with an empty cache of kernels, then, three
times, with a full one. Also by how much the peak exceeds what the run plans and says first. Then
shorter ones, three times each: `import tinyzo`, `tinyzo --help`, and `tinyzo predict` of one text,
with the share that Python and NumPy take alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import common

import tinyzo

SHORT = {
    "numpy": ["-c", "import numpy"],
    "import": ["-c", "import tinyzo"],
    "help": ["-m", "tinyzo", "--help"],
    "predict": ["-m", "tinyzo", "predict", "a good film"],
}
FINETUNE = ["-m", "tinyzo", "finetune", "--steps", "1", "--engine", "numba", "--json", "--output"]


def apart(place: Path) -> dict[str, str]:
    """The environment of processes that have the package, and keep kernels, in a place."""
    kept = str(place / "cache")
    return os.environ | {"PYTHONPATH": str(place), "NUMBA_CACHE_DIR": kept, "XDG_CACHE_HOME": kept}


def copy_package(place: Path) -> None:
    """tinyzo and its models, without what was compiled before."""
    root = Path(tinyzo.__file__).parents[1]
    for part in ("tinyzo", "weights"):
        without = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / part, place / part, ignore=without)


def finetune(place: Path, name: str, options: list[str]) -> dict:
    """One process: its seconds, its peak and its plan."""
    environment = apart(place)
    command = [sys.executable, *FINETUNE, str(place / name), *options]
    start = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=place, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    peak = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
    plan = common.MEGABYTE * int(re.search(r"memory plan: .*total (\d+) MB", done.stderr)[1])
    common.row(name, seconds, *(n / common.MEGABYTE for n in (peak, plan, peak - plan)))
    return {"run": name, "seconds": seconds, "peak_bytes": peak, "peak_minus_plan": peak - plan}


def short(name: str, place: Path) -> common.Timing:
    """Three processes of a command: their seconds."""
    environment = apart(place)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, *SHORT[name]],
            capture_output=True,
            env=environment,
            cwd=place,
            check=True,
        )
        seconds.append(time.perf_counter() - start)
    common.row(name, min(seconds))
    return common.Timing.of(seconds)


def main() -> None:
    threads = common.arguments(__doc__).parse_args().threads
    options = ["--threads", str(threads)] if threads else []
    common.row("kernels", "seconds", "peak MB", "plan MB", "beyond MB")
    with TemporaryDirectory() as place:
        copy_package(Path(place))
        names = ("cold", "warm-1", "warm-2", "warm-3")
        runs = [finetune(Path(place), name, options) for name in names]
        shorts = {name: short(name, Path(place)) for name in SHORT}
    cold, *warm = (r["seconds"] for r in runs)
    common.finish(runs=runs, cold_seconds=cold, warm=common.Timing.of(warm), **shorts)


if __name__ == "__main__":
    main()
