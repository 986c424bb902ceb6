"""Do rates that were tuned on few forward passes hold for many? Schedules and the guard compared.

    python bench/budgets.py --data DIR --out FILE.jsonl --threads 1 --minutes 60
    python bench/budgets.py --out FILE.jsonl --table            # of what is there

Budgets are 384, four times, and sixteen times as many forward passes of --batch-size examples, on
the tasks of bench/convergence.py. The learning rate of each (task, method) is the one that
bench/convergence.py found for 384 passes at a constant rate (seed 100); it is looked up in --rates.
No schedule is tuned for itself: what is asked is what becomes of a rate that was tuned on little.

    constant          the rate stays
    sqrt, guard       --schedule sqrt --guard 2
    constant, guard   --guard 2
    linear            to 0 over the budget: a run of its own for each budget

The first three do not depend on the budget, so one run has all three of them. Dev is evaluated
about every 192 passes. Seeds 0, 1, 2 are of z; the rows are those of data seed 42.

FILE.jsonl has a line a run, written when it is done; runs found there are not run again, so it can
be stopped at any time. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import json
import math
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import common
from convergence import EVERY, SEEDS, Method, Task, fine_tuned, tasks
from figures import BUDGETS, NEW, OLD, RESULTS, budgets, finals, last_losses, reported_scores

SHORT = BUDGETS[0]
SETTINGS: dict[str, dict[str, Any]] = {
    "constant": {},
    "sqrt, guard": {"schedule": "sqrt", "lr_passes": SHORT, "guard": 2},
    "constant, guard": {"guard": 2},
    "linear": {"schedule": "linear"},
}
METHODS = ("mezo", "fzoo")
TASKS = ("topics", "OPT topics", "SST-2 k=16", "OPT SST2 k=16", "SST-2 5000", "TREC k=16")
KEY = ("task", "method", "course", "seed", "budget")


def wanted() -> list[dict[str, Any]]:
    """The runs, by what matters most first: all tasks of one seed, before the next seed."""
    long = BUDGETS[-1:]
    sets = (("constant", "sqrt, guard"), long), (("constant, guard",), long), (("linear",), BUDGETS)
    return [
        {"task": task, "method": method, "course": course, "seed": seed, "budget": budget}
        for courses, budgets in sets
        for seed, task, method, course, budget in product(SEEDS, TASKS, METHODS, courses, budgets)
    ]


def rates(paths: list[Path]) -> dict[tuple[str, str], float]:
    """The rates that were tuned on the shortest budget, by task and method."""
    found = finals([line for path in paths for line in common.on_record(path)])
    return {key: runs[0]["lr"] for key, runs in found.items() if runs[0]["budget"] == SHORT}


def run(task: Task, how: Method, settings: dict[str, Any], budget: int) -> dict[str, Any]:
    """Fine-tune over a budget, and what came of it.

    The shorter budgets end at an evaluation, so all are whole numbers of the steps between two.
    """
    every = SHORT // 2 // how.forwards
    steps = every * 2 * budget // SHORT
    settings = task.settings | how.settings | settings | {"steps": steps, "eval_every": every}
    return fine_tuned(settings, how)


def measure(options: Any) -> None:
    """Make the runs that are not on record, until the time is over."""
    deadline = time.monotonic() + 60 * options.minutes
    done = [tuple(line[name] for name in KEY) for line in common.on_record(options.out)]
    known, tuned = tasks(options.data), rates(options.rates)
    methods = {method.name: method for method in EVERY}
    for asked in wanted():
        key = asked["task"], asked["method"]
        if tuple(asked.values()) in done or asked["task"] not in known:
            continue
        if options.tasks and asked["task"] not in options.tasks:
            continue
        if options.courses and asked["course"] not in options.courses:
            continue
        if key not in tuned:
            print(*key, "no rate was tuned", sep="  ", file=sys.stderr)
            continue
        if time.monotonic() > deadline:
            return
        same = {"threads": options.threads, "batch_size": options.batch_size, "data_seed": 42}
        settings = same | SETTINGS[asked["course"]] | {"seed": asked["seed"], "lr": tuned[key]}
        made = run(known[asked["task"]], methods[asked["method"]], settings, asked["budget"])
        line = asked | {"lr": tuned[key]} | made | {"commit": common.commit()}
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        ends = [round(loss, 3) for *_, loss in made["dev"]]
        print(*asked.values(), ends, made["returns"], sep="  ", file=sys.stderr, flush=True)


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--data", type=Path, help="folder with glue/SST-2, trec; without: topics")
    parser.add_argument("--out", type=Path, required=True, help="runs, a line each")
    parser.add_argument(
        "--rates",
        type=Path,
        nargs="+",
        default=[RESULTS / f"{machine}-convergence.jsonl" for machine in (OLD, NEW)],
        help="runs of bench/convergence.py, for their rates",
    )
    parser.add_argument("--batch-size", type=int, default=16, help="examples a step")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after")
    parser.add_argument("--tasks", nargs="*", help="only these")
    parser.add_argument("--courses", nargs="*", choices=tuple(SETTINGS), help="only these")
    parser.add_argument("--table", action="store_true", help="only say what is on record")
    options = parser.parse_args()
    if not options.table:
        measure(options)
    lines = common.on_record(options.out)
    for cell in (last_losses, reported_scores) if lines else ():
        print(budgets(lines, cell, cell.__name__.replace("_", " ")))
    common.finish(runs=len(lines), broken=sum("error" in line for line in lines))


if __name__ == "__main__":
    main()
