"""How long does the shipped demo take to start, with and without compiled kernels?

    python bench/startup.py

`tinyzo finetune --steps 1` in fresh processes: once with an empty cache of kernels, then, three
times, with a full one. Also by how much the peak exceeds what the run plans and says first.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import common

FINETUNE = ["-m", "tinyzo", "finetune", "--steps", "1", "--engine", "numba", "--json", "--output"]


def finetune(place: Path, name: str, options: list[str]) -> dict:
    """One process: its seconds, its peak and its plan."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(place / "cache")}
    command = [sys.executable, *FINETUNE, str(place / name), *options]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    peak = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
    plan = common.MEGABYTE * int(re.search(r"memory plan: .*total (\d+) MB", done.stderr)[1])
    common.row(name, seconds, *(n / common.MEGABYTE for n in (peak, plan, peak - plan)))
    return {"run": name, "seconds": seconds, "peak_bytes": peak, "peak_minus_plan": peak - plan}


def main() -> None:
    threads = common.arguments(__doc__).parse_args().threads
    options = ["--threads", str(threads)] if threads else []
    common.row("kernels", "seconds", "peak MB", "plan MB", "beyond MB")
    with TemporaryDirectory() as place:
        names = ("cold", "warm-1", "warm-2", "warm-3")
        runs = [finetune(Path(place), name, options) for name in names]
    cold, *warm = (r["seconds"] for r in runs)
    common.finish(runs=runs, cold_seconds=cold, warm=common.Timing.of(warm))


if __name__ == "__main__":
    main()
