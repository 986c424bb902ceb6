"""What ranks under mpiexec exchange, wait and gain: --share, on one machine.

    python bench/mpi.py --out results.jsonl --model roberta-tiny --task topics
    python bench/mpi.py --out results.jsonl --model DIR --batch-size 16 --steps 6

Each line is a run of MeZO: one process of two threads, one of one, and two ranks of one thread each
that share queries or rows. Seconds are medians over the steps but the first two: by the clock, and
of the CPU on the rank that took the most, which say more where others use the machine. Bytes are
counted where they are given to MPI, by each rank, from one step's beginning to the next one's; what
else goes over a wire (TCP's heads, what MPI says for itself) is not in them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import common

MARK = "OF-A-STEP"  # begins a line by which a rank says what it counted
FIRST = 2  # steps that are not counted
CELLS = (  # ranks, threads of each, --share
    (1, 2, None),
    (1, 1, None),
    (2, 1, "queries"),
    (2, 1, "rows"),
)


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--out", type=Path, help="file of results, to which lines are added")
    parser.add_argument("--model", default="roberta-tiny")
    parser.add_argument("--task", default="topics")
    parser.add_argument("--data")
    parser.add_argument("--method", default="mezo")
    parser.add_argument("--queries", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--micro-batch-tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--as-rank", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_rank:
        sys.exit(count(options.as_rank))
    common.row("ranks x threads", "share", "s a step", "CPU s", "waited s", "bytes")
    cells = []
    for ranks, threads, share in CELLS:
        cells.append(measure(options, ranks, threads, share))
        line = {"model": Path(options.model).name, "machine": common.machine("mpi4py", "mpich")}
        line |= cells[-1]
        common.row(
            f"{ranks} x {threads}", *(line[k] for k in ("share", "step", "cpu", "waited", "bytes"))
        )
        if options.out:
            with open(options.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    common.finish("mpi4py", "mpich", model=Path(options.model).name, cells=cells)


def measure(options: argparse.Namespace, ranks: int, threads: int, share: str | None) -> dict:
    """A run, and what its metrics say."""
    names = ("model", "task", "method", "queries", "batch_size", "micro_batch_tokens", "steps")
    settings = {name: getattr(options, name) for name in names}
    words = [w for name, v in settings.items() for w in (f"--{name.replace('_', '-')}", str(v))]
    words += ["--data", options.data] if options.data else []
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words += ["--eval-every", "10000", "--limit", "8", "--train-rows", "200"]
        words += ["--threads", str(threads), "--output", str(run)]
        command = [sys.executable, __file__, "--as-rank", "finetune", *words]
        if share:
            mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.defpath}")
            command = [str(mpiexec), "-n", str(ranks), *command, "--share", share]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        lines = common.on_record(run / "metrics.jsonl")[FIRST:]
    said = [line.split() for line in done.stderr.splitlines() if line.startswith(MARK)]
    return {
        **{name: value for name, value in settings.items() if name != "model"},
        "ranks": ranks,
        "threads": threads,
        "share": share,
        "step": statistics.median(line["seconds"] for line in lines),
        "waited": statistics.median(line.get("waited_seconds", 0.0) for line in lines),
        "cpu": max(float(cpu) for _, _, cpu in said),
        "bytes": max(int(given) for _, given, _ in said),
    }


def count(arguments: list[str]) -> int:
    """The command on this rank, which then says its bytes and its CPU seconds of a step."""
    from tinyzo.cli import main as tinyzo
    from tinyzo.runs.ranks import Alone, Mpi, Ranks

    gather = Mpi.gather
    given = [0]
    begun: list[tuple[int, float]] = []

    def counted(wire: Mpi, data: bytes) -> list[bytes]:
        given[0] += len(data)
        return gather(wire, data)

    def noting(begin: Callable[[Alone, int], None]) -> Callable[[Alone, int], None]:
        def noted(ranks: Alone, mark: int) -> None:
            begun.append((given[0], time.process_time()))
            begin(ranks, mark)

        return noted

    Mpi.gather = counted  # type: ignore[method-assign]
    for kind in (Alone, Ranks):
        kind.begin_step = noting(kind.begin_step)  # type: ignore[method-assign]
    code = tinyzo(arguments)
    steps = list(pairwise(begun))[FIRST:]
    bytes_of = statistics.mode(after[0] - before[0] for before, after in steps)
    cpu = statistics.median(after[1] - before[1] for before, after in steps)
    print(MARK, bytes_of, cpu, file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    main()
