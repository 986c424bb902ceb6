"""Which method learns most from so many forward passes? Dev loss and accuracy, tuned alike.

    python bench/convergence.py --data DIR --out FILE.jsonl --threads 1 --minutes 60
    python bench/convergence.py --out FILE.jsonl --table            # of what is there
    python bench/convergence.py --data DIR --out FILE.jsonl --find-lr      # against the grid's best

On the shipped models and the shipped topics, and glue/SST-2 and trec of the folder --data. Every
run has the same budget of forward passes, --forwards, of --batch-size examples, whatever a step
costs (MeZO 2, n-SPSA 2 q, FZOO q + 1; forward-gradient 1 + 2 q, as a derivative counts as two
passes; a gradient by backpropagation as four in all, since layers are computed twice).

The learning rate of each (task, method) is searched for alike: three of the ladder 1, 3, 10, 30 ..
around a first guess, and on towards the better end while the best lies at an end, up to six; runs
of --tune-forwards with a seed of their own (100), by the mean dev loss of the later half of their
evaluations, since a single one is chance. A run that breaks down (NumericError) counts as
infinitely bad, and is on record as `error`. eps is the papers'. To tune with fewer passes than
--forwards is cheaper and favours rates that are too large for the whole budget.
The best lr then runs with seeds 0, 1, 2 (of z; the rows are those of data seed 42).

`forwards to` are those from which the mean curve stays at least as good as MeZO's mean at its end,
linearly between evaluations (a first touch would be luck: MeZO's own curves touch it early and
leave again); behind it, how many seeds end there. Test accuracy is that of the step which is best
on dev, as a run reports it. `s` is steps times their median time. The rest is the mean over seeds,
standard deviation in brackets.

FILE.jsonl has a line a run, written when it is done; runs found there are not run again (one file
is for one batch size), so it can be stopped at any time. The last line of stdout is one JSON
document.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import common
from figures import TUNING_SEED, curve_of, finals, reach

import tinyzo
from tinyzo.errors import NumericError, UsageError
from tinyzo.runs.find_lr import find_lr
from tinyzo.runs.lines import read_lines
from tinyzo.runs.methods import FirstOrder
from tinyzo.runs.settings import Settings
from tinyzo.zo.estimators import ESTIMATORS
from tinyzo.zo.methods import METHODS

SEEDS = (0, 1, 2)
MOST_RATES = 6  # of learning rates tried


@dataclass(frozen=True)
class Task:
    """settings: of a run; evaluations: how many a run has on dev, which may be large."""

    name: str
    settings: dict[str, Any]
    evaluations: int = 8


@dataclass(frozen=True)
class Method:
    """settings: of a run; rate: the learning rate to begin the search with."""

    name: str
    rate: float
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def is_first_order(self) -> bool:
        return bool(METHODS[self.settings["method"]].gradient)

    @property
    def before(self) -> int:
        """The passes of 16 rows before the first step, which are of the budget: those that make A.

        lora-act has one, lora-fit and head-fit two over 128 rows, or all of a task that has fewer.
        """
        trained = self.settings.get("train", METHODS[self.settings["method"]].train)
        return {"lora-act": 1, "lora-fit": 16, "head-fit": 16}.get(trained, 0)

    @property
    def forwards(self) -> int:
        """What a step costs."""
        if self.is_first_order:
            return FirstOrder.forwards
        chosen = asdict(METHODS[self.settings["method"]]) | self.settings
        return ESTIMATORS[chosen["estimator"]].forwards(chosen["queries"])


def method(name: str, rate: float, base: str | None = None, **settings: Any) -> Method:
    """A method of tinyzo's by its name, or one that is called otherwise and built on `base`."""
    return Method(name, rate, {"method": base or name, **settings})


def tasks(data: Path | None) -> dict[str, Task]:
    """What is learnt, by name; only what ships without a folder of data."""
    topics = Task("topics", {"model": "roberta-tiny", "task": "topics"})
    shipped = topics, Task("OPT topics", {"model": "opt-tiny", "task": "topics"})
    if not data:
        return {task.name: task for task in shipped}
    sst2, trec = str(data / "glue" / "SST-2"), str(data / "trec")
    found = (
        Task("TREC k=16", {"model": "roberta-tiny", "task": "TREC", "data": trec, "k_shot": 16}),
        Task("SST-2 k=512", {"model": "roberta-tiny", "task": "SST-2", "data": sst2,
                             "k_shot": 512}, evaluations=4),
        Task("SST-2 k=16", {"model": "roberta-tiny", "task": "SST-2", "data": sst2, "k_shot": 16}),
        Task("SST-2 5000", {"model": "roberta-tiny", "task": "SST-2", "data": sst2,
                            "train_rows": 5000}, evaluations=4),
        Task("OPT SST2 k=16", {"model": "opt-tiny", "task": "SST2", "data": sst2, "k_shot": 16}),
    )  # fmt: skip
    return {task.name: task for task in (*shipped, *found)}


CORE = (
    method("mezo", 1e-4),
    method("adamezo", 1e-5),
    method("momentum", 3e-5),
    method("n-spsa", 3e-4, queries=4),
    method("fzoo", 3e-3),
    method("lozo", 3e-5),
    method("sparse-mezo", 3e-4),
    method("forward-gradient", 1e-4),
)  # fmt: skip
ASKED = (
    method("adam", 1e-4),
    method("lora-adam", 3e-3),
    method("mezo, lora-fa", 1e-3, "mezo", train="lora-fa", eps=1e-2),
    method("p-rge", 3e-3, queries=4, eps=1e-2),
    method("mezo, prefix", 1e-2, "mezo", train="prefix", eps=1e-1),
    method("mezo, label-words", 1e-2, "mezo", train="label-words", eps=1e-2),
    method("n-spsa, q=16", 1e-3, "n-spsa", queries=16),
)  # fmt: skip
MORE = (
    method("adamezo, q=4", 1e-5, "adamezo", queries=4),
    method("adamezo, lora-fa", 1e-3, "adamezo", train="lora-fa", eps=1e-2),
    method("mezo, linear", 3e-4, "mezo", schedule="linear"),
    method("momentum, q=4", 1e-4, "momentum", queries=4),
    method("fzoo, momentum", 1e-3, "fzoo", update="momentum"),
    method("sign", 3e-4, "mezo", update="sign"),
    method("leave-one-out", 3e-4),
    method("mezo, cosine", 3e-4, "mezo", schedule="cosine"),
)  # fmt: skip
LED = (
    method("zo-fit", 3e-3),
    method("fzoo, lora-fit", 1e-2, "fzoo", train="lora-fit", eps=1e-2),
    method("adamezo, lora-fit", 1e-4, "adamezo", train="lora-fit", eps=1e-2),
    method("zo-act", 3e-4),
    method("fzoo, lora-act", 1e-2, "fzoo", train="lora-act"),
    method("zo-head", 1e-3),
    method("fzoo, head-fit", 3e-3, "fzoo", train="head-fit", eps=1e-2),
    method("adamezo, head-fit", 3e-5, "adamezo", train="head-fit", eps=1e-2),
)
EVERY = (*CORE, *ASKED, *MORE, *LED)
NAMES = [m.name for m in EVERY]
RACE = ("topics", "SST-2 5000", "OPT topics", "SST-2 k=512", "TREC k=16", "SST-2 k=16")

# What is asked first is what matters most, since the time may not last for all.
ORDER = (
    *((name, LED[:2]) for name in RACE),
    ("topics", CORE), ("SST-2 k=16", CORE), ("OPT topics", CORE), ("SST-2 k=512", CORE),
    ("topics", ASKED), ("SST-2 k=16", ASKED), ("OPT topics", ASKED), ("SST-2 5000", CORE),
    ("TREC k=16", CORE), ("SST-2 k=512", ASKED), ("OPT SST2 k=16", CORE),
    *((name, MORE) for name in ("topics", "SST-2 k=16", "OPT topics", "SST-2 k=512")),
    *((name, ASKED) for name in ("SST-2 5000", "TREC k=16", "OPT SST2 k=16")),
    *((name, LED[2:]) for name in RACE),
)  # fmt: skip


def rate(k: int) -> float:
    """The k-th of the ladder .. 1e-4 (k = -8), 3e-4, 1e-3 (k = -6) .."""
    return float(f"{10 ** (k / 2):.1g}")


class TimeOver(Exception):  # noqa: N818 - no error
    """No run may begin."""


class Runs:
    """The runs on record in a file, and those that are made and put on record."""

    def __init__(self, path: Path, common_settings: dict[str, Any], deadline: float) -> None:
        self.path, self.common_settings, self.deadline = path, common_settings, deadline
        self.done = {self.key(line): line for line in common.on_record(path)}

    @staticmethod
    def key(line: dict[str, Any]) -> tuple:
        return tuple(line[n] for n in ("task", "method", "lr", "seed", "budget"))

    def get(self, task: Task, how: Method, lr: float, seed: int, budget: int) -> dict[str, Any]:
        """The record of a run, which is made unless it is there; raises TimeOver."""
        asked = {"task": task.name, "method": how.name, "lr": lr, "seed": seed, "budget": budget}
        if (key := self.key(asked)) not in self.done:
            if time.monotonic() > self.deadline:
                raise TimeOver
            line = asked | self.run(task, how, lr, seed, budget) | {"commit": common.commit()}
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            self.done[key] = line
            last = line["dev"][-1] if line["dev"] else None
            said = line.get("error") or f"{last}, {line['cpu_seconds']:.0f} s"
            print(*asked.values(), said, sep="  ", file=sys.stderr, flush=True)
        return self.done[key]

    def run(self, task: Task, how: Method, lr: float, seed: int, budget: int) -> dict[str, Any]:
        """Fine-tune with the settings that are asked for, and what came of it."""
        steps, is_trial = (budget - how.before) // how.forwards, seed == TUNING_SEED
        settings = {
            **self.common_settings, **task.settings, **how.settings, "lr": lr, "seed": seed,
            "steps": steps, "data_seed": 42, "limit": 1 if is_trial else None,
            "eval_every": -(-steps // task.evaluations),
        }  # fmt: skip
        return fine_tuned(settings, how)


def fine_tuned(settings: dict[str, Any], how: Method) -> dict[str, Any]:
    """Fine-tune in a directory that is deleted, and what came of it."""
    said = {name: value for name, value in settings.items() if name != "data"}  # a path of here
    found: dict[str, Any] = {"settings": said, "forwards_per_step": how.forwards}
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                tinyzo.finetune(path, **settings)
        except NumericError as broken:
            found["error"] = broken.message
        seconds = round(time.process_time() - start, 2)
        return found | summary(path, how) | {"cpu_seconds": seconds}


def summary(path: Path, how: Method) -> dict[str, Any]:
    """What a run's directory says: [forwards, accuracy, loss] on dev and of the test rows, where it
    went back, seconds."""
    events, steps = read_lines(path / "events.jsonl"), read_lines(path / "metrics.jsonl")
    at = [e for e in events if e["event"] == "evaluation"]

    def curve(split: str) -> list[list[float]]:
        found = [e for e in at if e["split"] == split]
        passes = [how.before * (e["step"] > 0) + e["step"] * how.forwards for e in found]
        return [[n, e["accuracy"], e["loss"]] for n, e in zip(passes, found, strict=True)]

    backs = [[e["step"], e["to"], e["factor"]] for e in events if e["event"] == "returned"]
    took = [line["seconds"] for line in steps]
    return {"dev": curve("dev"), "test": curve("test"), "returns": backs, "steps": len(steps),
            "seconds": round(sum(took), 2),
            "median_step_seconds": statistics.median(took) if took else None}  # fmt: skip


# -- what is asked ------------------------------------------------------------------------------


def late_loss(line: dict[str, Any]) -> float:
    """The mean dev loss of the later half of the evaluations; infinite if it broke down."""
    if "error" in line:
        return math.inf
    after = line["dev"][1:]
    return statistics.mean(loss for *_, loss in after[len(after) // 2 :])


def best_rate(runs: Runs, task: Task, how: Method, budget: int) -> float:
    """Search the ladder, as the docstring above says."""
    found: dict[int, float] = {}

    def tried(k: int) -> None:
        found[k] = late_loss(runs.get(task, how, rate(k), TUNING_SEED, budget))

    middle = round(2 * math.log10(how.rate))
    for k in (middle, middle - 1, middle + 1):
        tried(k)
    while len(found) < MOST_RATES:
        best = min(found, key=lambda k: found[k])
        beyond = {min(found): best - 1, max(found): best + 1}
        if best not in beyond:
            break
        tried(beyond[best])
    return rate(min(found, key=lambda k: found[k]))


def is_missing(how: Method, task: Task, runs: Runs) -> bool:
    """Whether tinyzo has not the method: it is refused, or its first step is MeZO's own."""
    if not how.is_first_order:
        return False
    try:
        ours = runs.run(task, how, 1e-3, TUNING_SEED, how.forwards)
    except UsageError as refused:
        print(f"{how.name}: skipped, {refused.message}", file=sys.stderr)
        return True
    theirs = runs.run(task, CORE[0], 1e-3, TUNING_SEED, 2)
    if same := ours["dev"][-1][1:] == theirs["dev"][-1][1:]:
        print(f"{how.name}: skipped, finetune takes MeZO's step", file=sys.stderr)
    return same


def measure(options: Any) -> None:
    """Make the runs that are not on record, until the time is over."""
    deadline = time.monotonic() + 60 * options.minutes
    same = {"threads": options.threads, "batch_size": options.batch_size}
    runs, known = Runs(options.out, same, deadline), tasks(options.data)
    wanted = [(known[n], how) for n, methods in ORDER if n in known for how in methods]
    for task, how in wanted:
        if options.tasks and task.name not in options.tasks:
            continue
        if options.methods and how.name not in options.methods:
            continue
        if is_missing(how, task, runs):
            continue
        try:
            lr = best_rate(runs, task, how, options.tune_forwards)
            for seed in SEEDS:
                runs.get(task, how, lr, seed, options.forwards)
        except TimeOver:
            return
        except UsageError as refused:
            print(f"{how.name}: skipped, {refused.message}", file=sys.stderr)


# -- what is said -------------------------------------------------------------------------------


def reached(curves: list[list[list[float]]], column: int, target: float) -> str:
    """From how many forwards on the mean of the curves has the target, and how many end there."""
    found = reach(curves, column, target)
    since = "-" if found.since is None else f"{found.since:.0f}"
    return f"{since} ({found.ends} of {found.curves})"


def mean(values: list[float], digits: int = 3) -> str:
    """Mean (standard deviation)."""
    spread = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}" if values else "-"


COLUMNS = ("method", "lr", "forwards a step", "dev accuracy", "best", "dev loss", "best", "test",
           "forwards to MeZO's accuracy", "to MeZO's loss", "s")  # fmt: skip


def line_of(runs: list[dict[str, Any]], mezo: list[dict[str, Any]]) -> list[str]:
    """The cells of a method: its runs against MeZO's."""
    first, whole = runs[0], [r for r in runs if "error" not in r]
    ends = [r["dev"][-1] for r in whole]
    tops = [max(a for _, a, _ in r["dev"]) for r in whole]
    lows = [min(loss for *_, loss in r["dev"]) for r in whole]
    goals = [statistics.mean(r["dev"][-1][c] for r in mezo) if mezo else math.nan for c in (1, 2)]
    passes = [reached(list(map(curve_of, whole)), c, goals[c - 1]) for c in (1, 2)]
    broken = f" ({len(runs) - len(whole)} broke down)" if len(whole) < len(runs) else ""
    return [
        first["method"] + broken, f"{first['lr']:.0e}", str(first["forwards_per_step"]),
        mean([e[1] for e in ends]), mean(tops), mean([e[2] for e in ends]), mean(lows),
        mean([r["test"][-1][1] for r in whole]), *passes,
        mean([r["steps"] * r["median_step_seconds"] for r in whole], 0),
    ]  # fmt: skip


def compare_find_lr(options: Any) -> list[dict[str, Any]]:
    """What --find-lr takes, next to the rate that the search on record chose: a row for each."""
    known, found = tasks(options.data), []
    asked = known.keys() & (options.tasks or known), options.methods or ("mezo", "adamezo")
    common.row(f"{'find-lr':<30}", "takes", "grid's best", "ratio")
    for (name, how), runs in finals(common.on_record(options.out)).items():
        if name not in asked[0] or how not in asked[1]:
            continue
        given = {"threads": options.threads, "batch_size": options.batch_size, "data_seed": 42}
        given |= next(m.settings for m in EVERY if m.name == how)
        with contextlib.redirect_stderr(io.StringIO()):
            taken = find_lr(Settings(**known[name].settings, **given)).lr
        best = runs[0]["lr"]
        found.append({"task": name, "method": how, "find_lr": taken, "grid": best})
        common.row(f"{name + ', ' + how:<30}", f"{taken:.1e}", f"{best:.0e}", taken / best)
    return found


def table(lines: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Print a Markdown table for each task; returns the cells."""
    found, cells = finals(lines), []
    for task in dict.fromkeys(name for name, _ in found):
        mezo = [r for r in found.get((task, "mezo"), []) if "error" not in r]
        starts = [r["dev"][0] for r in mezo]
        print(f"\n**{task}**", end="")
        if starts:
            tests = statistics.mean(r["test"][0][1] for r in mezo)
            print(f", before: dev accuracy {starts[0][1]:.3f}, loss {starts[0][2]:.3f}, "
                  f"test {tests:.3f}; {mezo[0]['budget']} forward passes", end="")  # fmt: skip
        print("\n\n| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
        for name in sorted({m for t, m in found if t == task}, key=NAMES.index):
            row = line_of(found[task, name], mezo)
            print("| " + " | ".join(row) + " |")
            cells.append({"task": task, "cells": row})
    return cells


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Dev loss against forward passes and against seconds, the mean over seeds, for each task."""
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure

    found, colours, curves = finals(lines), colormaps["tab20"], {}
    names = list(dict.fromkeys(task for task, _ in found))
    figure = Figure(figsize=(5 * len(names), 8), layout="constrained")
    panels = figure.subplots(2, len(names), squeeze=False)
    for (task, name), runs in found.items():
        whole = [r for r in runs if "error" not in r]
        points = [(at[0][0], statistics.mean(a[2] for a in at))
                  for at in zip(*(r["dev"] for r in whole), strict=False)]  # fmt: skip
        paces = [r["median_step_seconds"] / r["forwards_per_step"] for r in whole]
        for row, scale in enumerate((1.0, statistics.mean(paces or [0.0]))):
            x, y = [n * scale for n, _ in points], [loss for _, loss in points]
            panel, colour = panels[row][names.index(task)], colours(NAMES.index(name) % 20)
            (curves[name],) = panel.plot(x, y, ".-", label=name, color=colour)
    for row, what in zip(panels, ("forward passes", "seconds"), strict=True):
        for panel, task in zip(row, names, strict=True):
            panel.set(title=task, xlabel=what, ylabel="dev loss")
    figure.legend(handles=list(curves.values()), loc="outside right")
    with rc_context({"svg.hashsalt": "tinyzo"}):
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--data", type=Path, help="folder with glue/SST-2, trec; without: topics")
    parser.add_argument("--out", type=Path, required=True, help="runs, a line each")
    parser.add_argument("--forwards", type=int, default=1152, help="budget of a run")
    parser.add_argument("--batch-size", type=int, default=16, help="examples a step")
    parser.add_argument("--tune-forwards", type=int, help="of one that tunes; default: --forwards")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after")
    parser.add_argument("--tasks", nargs="*", help="only these")
    parser.add_argument("--methods", nargs="*", help="only these")
    parser.add_argument("--table", action="store_true", help="only say what is on record")
    parser.add_argument("--find-lr", action="store_true", help="only compare it with the grid")
    parser.add_argument("--plot", type=Path, help="draw the losses to this .svg, with matplotlib")
    options = parser.parse_args()
    options.tune_forwards = options.tune_forwards or options.forwards
    if options.find_lr:
        common.finish(find_lr=compare_find_lr(options))
        return
    if not options.table:
        measure(options)
    lines = common.on_record(options.out)
    cells = table(lines)
    if options.plot and common.has("matplotlib"):
        plot(lines, options.plot)
    broken = sum("error" in line for line in lines)
    common.finish(runs=len(lines), broken=broken, columns=COLUMNS, methods=cells)


if __name__ == "__main__":
    main()
