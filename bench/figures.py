"""The figures and tables of README.md and docs/, made from what the benchmarks have on record.

    python bench/figures.py            # write the tables into docs/*.md, draw docs/figures/*.svg
    python bench/figures.py --check    # exit code 1 when a page's tables are not those of today

A table stands in a page between `<!-- table NAME -->` and `<!-- end -->`. Tables need no package;
figures need matplotlib.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCS, DRAWN = ROOT / "bench" / "results", ROOT / "docs", ROOT / "docs" / "figures"
OLD, NEW = "avx2-2-cores", "avx512-2-cores"  # machines: see docs/speed.md
MARKED = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
TUNING_SEED = 100  # of the runs that searched for a learning rate
NAMES = {"roberta-large": "RoBERTa-large", "opt-1.3b": "OPT-1.3B", "opt-6.7b": "OPT-6.7B"}
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "int8": "int8", "int4": "int4"}

Record = dict[str, Any]
Curve = Sequence[Sequence[float]]  # (forward passes, accuracy, loss) of each evaluation


def records(kind: str = "", machine: str = OLD) -> list[Record]:
    """The lines of a file of results: of the general one, or of one benchmark's own."""
    path = RESULTS / f"{machine}{kind and '-' + kind}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# -- tables ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A Markdown table: the cells of its head and of its rows."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def gigabytes(count: int) -> str:
    return f"{count / 2**30:.2f}" if count < 2**30 else f"{count / 2**30:.1f}"


def megabytes(count: int) -> str:
    return f"{count / 2**20:,.0f}"


def seconds(value: float) -> str:
    """Three digits where they say something, two decimals at most."""
    if value < 9.95:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.5 else f"{value:.0f}"


def cost() -> Table:
    """MeZO beside Adam, by tinyzo and by PyTorch."""
    head = ["model", "batch", "method", "peak GB", "s a step", "CPU s a step", "steps timed"]
    rows = []
    for cell in cost_cells():
        about = [NAMES[cell["model"]], str(cell["batch_size"]), way(cell)]
        if "reason" in cell:
            rows.append([*about, cell["reason"].removesuffix(" GB"), "", "", ""])
            continue
        first = "" if cell["has_warm_up"] else ", the first"
        took = seconds(cell["seconds_per_step"]), seconds(cell["cpu_per_step"])
        timed = f"{cell['timed_steps']}{first}"
        rows.append([*about, gigabytes(cell["peak_bytes"]), *took, timed])
    return Table(head, rows)


def cost_cells() -> list[Record]:
    return [cell for record in records("pocketllm") for cell in record.get("cells", [])]


WAYS = {
    ("mezo", "streamed"): "MeZO, streamed",
    ("mezo", "ours"): "MeZO, in memory",
    ("mezo", "pytorch"): "MeZO, PyTorch",
    ("adam", "ours"): "Adam, tinyzo",
    ("adam", "streamed"): "Adam, streamed",
    ("adam", "pytorch"): "Adam, PyTorch",
}


def way(cell: Record) -> str:
    return WAYS[cell["method"], cell["side"]]


TRAINED = {"full": "all", "lora": "LoRA"}


def lora() -> Table:
    """Adam on LoRA beside MeZO, by where the weights are and how they are stored."""
    head = ["model", "weights", "step", "trained", "peak MB", "s a step", "CPU s a step"]
    cells = [cell for record in records("lora", NEW) for cell in record["cells"]]
    rows = [
        [
            f"{NAMES[cell['model']]}, {DTYPES[cell['dtype']]}",
            "in their file" if cell["side"] == "streamed" else "in memory",
            way(cell).split(",")[0] + (", PyTorch" if cell["side"] == "pytorch" else ""),
            TRAINED[cell["train"]],
            megabytes(cell["peak_bytes"]),
            seconds(cell["seconds_per_step"]),
            seconds(cell["cpu_per_step"]),
        ]
        for cell in cells
    ]
    return Table(head, rows)


def memory(machine: str) -> Table:
    """Peaks of full-parameter MeZO steps."""
    head = ["model", "engine", "weights", "batch", "peak MB", "s a step", "with snapshots", "K"]
    rows = []
    for record in records("memory", machine):
        for case in record["cases"]:
            streamed = case["residency"] == "streamed"
            where = "in their file, cold" if record["cold"] else "in their file"
            long_run = seconds(case["long_run_seconds_per_step"])
            rows.append(
                [
                    f"{NAMES[case['model']]}, {DTYPES[case['dtype']]}",
                    case["engine"],
                    where if streamed else "in memory",
                    str(case["batch_size"]),
                    megabytes(case["peak_bytes"]),
                    seconds(case["seconds_per_step"]),
                    long_run if streamed else "",
                    str(case["fold_every"]) if streamed else "",
                ]
            )
    return Table(head, rows)


def steps(machine: str) -> list[Record]:
    """The newest step of each kind on record, beside PyTorch's."""
    newest = {}
    for record in records(machine=machine):
        if record["benchmark"] == "step" and record["peer"]:
            kind = tuple(record[name] for name in ("model", "dtype", "batch_size", "task"))
            newest[kind] = record
    return list(newest.values())


def step(machine: str) -> Table:
    """Seconds of a MeZO step beside the published one in PyTorch."""
    head = ["step", "tinyzo s", "PyTorch s", "ratio", "step / its matmuls"]
    head += ["peak GB: tinyzo", "PyTorch"]
    rows = []
    for record in steps(machine):
        what = f"{record['batch_size']} x {record['tokens']} tokens"
        if record["task"]:
            what = f"{record['batch_size']} {record['task']} sentences"
        peer = record["peer"]
        rows.append(
            [
                f"{NAMES[record['model']]}, {DTYPES[record['dtype']]}, {what}",
                seconds(record["seconds_per_step"]),
                seconds(peer["seconds_per_step"]),
                f"{record['ratio']:.1f}",
                f"{record['floor_ratio']:.2f}",
                gigabytes(record["peak_bytes"]),
                gigabytes(peer["peak_bytes"]),
            ]
        )
    return Table(head, rows)


def noise(machine: str) -> Table:
    """Nanoseconds to make z and add it."""
    head = ["engine", "storage", "z", "ns an element", "least", "PyTorch"]
    rows = []
    for record in records(machine=machine):
        for row in record["rows"] if record["benchmark"] == "noise" else []:
            about = [row["engine"], DTYPES[row["storage"]], row["kind"]]
            times = [row["ns"], row["min_ns"], row["peer_ns"]]
            rows.append([*about, *map(seconds, times)])
    return Table(head, rows)


def generation() -> Table:
    """Tokens a second beside PyTorch's, median (best), newest of each kind."""
    cells = {(r["batch_size"], r["dtype"]): r for r in records("", NEW) if is_generation(r)}
    rows = []
    for (prompts, dtype), ours in sorted(cells.items()):
        sides = [
            f"{side['tokens_per_second']:.3g} ({side['best_tokens_per_second']:.3g})"
            for side in (ours, ours["peer"])
        ]
        ratio = f"{ours['ratios']['tokens_per_second']:.2f}"
        peaks = [megabytes(side["peak_bytes"]) for side in (ours, ours["peer"])]
        rows.append([str(prompts), DTYPES[dtype], *sides, ratio, " / ".join(peaks)])
    head = ["prompts", "weights", "tinyzo", "PyTorch", "tinyzo / PyTorch", "peak MB of both"]
    return Table(head, rows)


def is_generation(record: Record) -> bool:
    return record["benchmark"] == "generate"


def prge(machine: str) -> Table:
    """A step of several queries on LoRA-FA: all probes in one pass, or fewer at a time."""
    head = ["model", "weights", "tokens", "(q, batch)"]
    head += ["one pass s", "a pair at a time s", "a probe at a time s", "gain", "in CPU time"]
    places = {"resident": "in memory", "streamed": "in their file", "cold": "in their file, cold"}
    rows = []
    for record in records("prge", machine):
        for gain in record.get("gains", []):
            took = [gain["seconds"][name]["median"] for name in ("one pass", "pair", "probe")]
            rows.append(
                [
                    f"{NAMES[gain['model']]}, {DTYPES[gain['dtype']]}",
                    places[gain["place"]],
                    str(gain["tokens"]),
                    f"({gain['queries']}, {gain['batch']})",
                    *map(seconds, took),
                    f"{gain['gain']['probe']:.1f}",
                    f"{gain['cpu_gain']['probe']:.1f}",
                ]
            )
    return Table(head, sorted(rows, key=lambda row: (row[0], row[1], int(row[2]))))


def prge_peaks() -> Table:
    """Peak memory of a step of several queries, streamed."""
    peaks = [peak for record in records("prge") for peak in record.get("peaks", [])]
    shown = [(cell_of(peak["cell"]), megabytes(peak["peak_bytes"])) for peak in peaks]
    ratios = [f"{peak['ratio']:.2f}" for peak in peaks]
    rows = [[*row, ratio] for row, ratio in zip(shown, ratios, strict=True)]
    return Table(["(q, batch)", "peak MB", "of one query"], rows)


def cell_of(name: str) -> str:
    return "({}, {})".format(*name.split("x"))


SIDES = {
    "graph": "`step.onnx`",
    "onnx": "engine `onnx`",
    "numba": "engine `numba`, in memory",
    "numba-streamed": "engine `numba`, in their file",
    "numpy": "engine `numpy`, in their file",
}


def onnx_cells() -> list[dict[str, Record]]:
    """The sides of each cell of the inference engine's benchmark, as it was measured last."""
    found: dict[tuple[Any, ...], dict[str, Record]] = {}
    order = list(DTYPES)
    for record in records("onnx", NEW):
        for side in record.get("sides", []):
            key = (side["model"], side["dtype"], side["tokens"], side["queries"])
            found.setdefault(key, {})[side["side"]] = side
    return [found[key] for key in sorted(found, key=lambda key: (order.index(key[1]), *key))]


def onnx_about(cell: Record) -> list[str]:
    name = f"{NAMES[cell['model']]}, {DTYPES[cell['dtype']]}"
    return [name, str(cell["tokens"]), f"({cell['queries']}, {cell['batch']})"]


def onnx_seconds() -> Table:
    """Seconds of a step by ONNX Runtime and by our engines."""
    head = ["model", "tokens", "(q, batch)", *(f"{name} s" for name in SIDES.values())]
    rows = []
    for sides in onnx_cells():
        about = onnx_about(next(iter(sides.values())))
        rows.append([*about, *(step_seconds(sides.get(name)) for name in SIDES)])
    return Table(head, rows)


def step_seconds(side: Record | None) -> str:
    """The least seconds, and how many times Numba's that is of the runtime's; "" if not run."""
    if side is None:
        return ""
    if "reason" in side:
        return "refused"
    least = seconds(side["seconds"]["min"])
    if side["side"] in ("graph", "onnx") and "ratio" in side:
        return f"{least} (x {side['ratio']:.2f})"
    return least


def onnx_memory() -> Table:
    """The most that a process holds, of all cells: of its own, and pages of files."""
    head = ["model", "tokens", "by", "anonymous MB", "pages of files MB", "peak MB"]
    held: dict[tuple[str, ...], list[list[int]]] = {}
    for sides in onnx_cells():
        for name in SIDES:
            side = sides.get(name)
            if side and "reason" not in side:
                model, tokens, _ = onnx_about(side)
                sizes = [side[f"{kind}_bytes"] for kind in ("anon", "file", "peak")]
                held.setdefault((model, tokens, SIDES[name]), []).append(sizes)
    rows = [[*about, *map(megabytes, map(max, *each, [0] * 3))] for about, each in held.items()]
    return Table(head, rows)


def onnx_graphs() -> Table:
    """What a graph file is, and how long it takes to write and to open."""
    head = ["model", "queries", "`step.onnx` kB", "`eval.onnx` kB", "written in s", "opened in s"]
    found = {}
    for side in (sides["graph"] for sides in onnx_cells() if "graph" in sides):
        if "reason" not in side:
            found[side["model"], side["dtype"], side["queries"]] = side
    rows = []
    for side in found.values():
        sizes = [f"{side['graph_bytes'][f'{name}.onnx'] / 1000:.0f}" for name in ("step", "eval")]
        times = [seconds(side[f"{name}_seconds"]) for name in ("export", "load")]
        name, *_ = onnx_about(side)
        rows.append([name, str(side["queries"]), *sizes, *times])
    return Table(head, rows)


def onnx_probes() -> Table:
    """A step on the inference engine: all probes in one pass, or fewer at a time."""
    head = ["model", "tokens", "(q, batch)"]
    head += ["one pass s", "a pair at a time s", "a probe at a time s", "gain"]
    found = {}
    for record in records("onnx", NEW):
        for cell in record.get("probes", []):
            if "reason" not in cell:
                key = (cell["model"], cell["dtype"], cell["tokens"], cell["queries"])
                found[key] = cell
    rows = []
    for cell in (found[key] for key in sorted(found)):
        took = [cell["seconds"][name]["min"] for name in ("one pass", "pair", "probe")]
        rows.append([*onnx_about(cell), *map(seconds, took), f"{cell['gain']['probe']:.1f}"])
    return Table(head, rows)


def onnx_losses() -> Table:
    """How far losses are from NumPy's."""
    found = [row for record in records("onnx", NEW) for row in record.get("losses", [])]
    newest = {(row["model"], row["queries"]): row for row in found}
    rows = [
        [model, str(queries), str(row["batches"]), f"{row['difference']:.1e}"]
        for (model, queries), row in newest.items()
    ]
    return Table(["model", "queries", "batches", "largest difference"], rows)


def onnx_runs() -> Table:
    """What runs on both engines end at."""
    found = [row for record in records("onnx", NEW) for row in record.get("runs", [])]
    newest = {(row["model"], row["engine"]): row for row in found}
    rows = [
        [
            model,
            f"`{engine}`",
            f"{row['accuracy_zero_shot']:.3f}",
            f"{row['accuracy']:.3f}",
            f"{row['loss']:.4f}",
        ]
        for (model, engine), row in newest.items()
    ]
    return Table(["model", "engine", "accuracy before", "after", "loss after"], rows)


def find_lr() -> Table:
    """What --find-lr takes beside the best rate of the search on record."""
    found = [row for record in records("find-lr") for row in record["find_lr"]]
    rows = [
        [row["task"], f"`{row['method']}`", rate(row["find_lr"]), rate(row["grid"])]
        for row in found
    ]
    return Table(["task", "method", "`--find-lr` takes", "the grid's best"], rows)


def rate(value: float) -> str:
    return f"{value:.1e}"


def vectors() -> Table:
    """The first elements of some z."""
    path = ROOT / "tests" / "engine" / "vectors_v1.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for kind, key in (("gaussian", "f32"), ("rademacher", "f32"), ("rounding", "u32")):
        for row in known[kind]:
            if row["start"] == 0 and isinstance(row["tensor"], str):
                about = [kind, str(row["seed"]), f"`{row['tensor']}`"]
                rows.append([*about, " ".join(row[key][:4])])
    return Table(["kind", "seed", "tensor", "elements 0 to 3, hexadecimal"], rows)


# -- convergence -------------------------------------------------------------------------------


def finals(lines: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """The runs with the seeds that are reported, by task and method.

    Of several rates or budgets on record, those that were run last: a table must not mix them.
    """
    found: dict[tuple[str, str], list[Record]] = {}
    for line in lines:
        if line["seed"] != TUNING_SEED:
            runs = found.setdefault((line["task"], line["method"]), [])
            if runs and any(runs[0][n] != line[n] for n in ("lr", "budget")):
                runs.clear()
            runs.append(line)
    return found


@dataclass(frozen=True)
class Reach:
    """From how many passes on a mean curve stays at a target, and how many curves end there."""

    since: float | None
    ends: int
    curves: int


def curve_of(run: Record) -> Curve:
    """A run's evaluations on dev. Until its first step the model is as it came, also after the
    passes that some methods make before it."""
    first, *others = run["dev"]
    if not others or "settings" not in run:  # of records that are older than such methods
        return run["dev"]
    before = others[0][0] - run["settings"]["eval_every"] * run["forwards_per_step"]
    return [first, [before, *first[1:]], *others] if before > 0 else run["dev"]


def reach(curves: Sequence[Curve], column: int, target: float) -> Reach:
    """When the mean of the curves has the target for good, linearly between evaluations.

    column: 1, accuracy, which rises, or 2, loss, which falls
    """
    sign, since = (1, -1)[column - 1], None
    lead = [[sign * (at[column] - target) for at in curve] for curve in curves]
    points = [(at[0][0], sum(y)) for at, y in zip(zip(*curves), zip(*lead))]  # noqa: B905
    if points and abs(points[-1][1]) < 1e-9:  # MeZO's own
        points[-1] = points[-1][0], 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if y1 < 0:
            since = None
        elif since is None:
            since = x0 if y0 >= 0 else x0 + (x1 - x0) * y0 / (y0 - y1)
    return Reach(since, sum(y[-1] >= 0 for y in lead), len(curves))


Runs = dict[tuple[str, str], list[Record]]
TASKS = ("topics", "OPT topics", "SST-2 k=16", "SST-2 k=512", "SST-2 5000", "TREC k=16")


def races() -> Runs:
    """What both machines have on record: their losses differ in the last digits only."""
    return finals([*records("convergence", OLD), *records("convergence", NEW)])


def mean_end(runs: Sequence[Record], column: int) -> float:
    return float(statistics.mean(run["dev"][-1][column] for run in runs))


def convergence(
    cell: Callable[[list[Record], list[Record]], str], head: str
) -> Iterator[list[str]]:
    """The head, and a row for each method with a cell for each task; empty where not run."""
    found = races()
    yield [head, *TASKS]
    for method in dict.fromkeys(name for _, name in found):
        pairs = [(found.get((task, method)), found[task, "mezo"]) for task in TASKS]
        yield [f"`{method}`", *(cell(runs, mezo) if runs else "" for runs, mezo in pairs)]


def final() -> Table:
    """Dev accuracy and loss when the budget is spent."""

    def cell(runs: list[Record], mezo: list[Record]) -> str:
        return f"{mean_end(runs, 1):.3f}, {mean_end(runs, 2):.3f}"

    found = races()
    starts = [found[task, "mezo"][0]["dev"][0] for task in TASKS]
    before = ["before", *(f"{accuracy:.3f}, {loss:.3f}" for _, accuracy, loss in starts)]
    head, *rows = convergence(cell, "dev accuracy, loss")
    return Table(head, [before, *rows])


def passes() -> Table:
    """From how many passes on the mean stays at MeZO's final accuracy, and at its final loss."""

    def cell(runs: list[Record], mezo: list[Record]) -> str:
        curves = list(map(curve_of, runs))
        both = (reach(curves, column, mean_end(mezo, column)) for column in (1, 2))
        return " / ".join(map(said, both))

    def said(found: Reach) -> str:
        if found.since is None:
            return "-"
        return f"{found.since:.0f}" + ("*" if found.ends < found.curves else "")

    head, *rows = convergence(cell, "passes to MeZO's accuracy / loss")
    return Table(head, rows)


# -- budgets -----------------------------------------------------------------------------------

BUDGETS = (384, 1536, 6144)  # forward passes
COURSES = ("constant", "linear", "sqrt, guard", "constant, guard")


def within(run: Record, budget: int) -> Curve:
    """The evaluations of a run up to a budget, which is met to 2 % since steps are whole."""
    return [at for at in run["dev"] if at[0] <= budget]


def reported(run: Record, budget: int) -> Sequence[float]:
    """The evaluation whose step a run of that budget reports: `Run.best_step`."""
    is_opt = run["settings"]["model"].startswith("opt")
    return min(within(run, budget), key=lambda at: (0 if is_opt else -at[1], at[2]))


def runs_of(lines: Sequence[Record], budget: int) -> dict[tuple[str, ...], list[Record]]:
    """The runs that say what a budget comes to, by task, method and course."""
    found: dict[tuple[str, ...], list[Record]] = {}
    for line in lines:
        if line["budget"] == (budget if line["course"] == "linear" else BUDGETS[-1]):
            found.setdefault((line["task"], line["method"], line["course"]), []).append(line)
    return found


def lasts(run: Record, budget: int) -> bool:
    """Whether a run got so far; else it diverged before."""
    return "error" not in run or bool(run["dev"][-1][0] > 0.97 * budget)


def last_losses(runs: Sequence[Record], budget: int) -> str:
    """The mean loss at the last step, and how many of the runs end worse than they began."""
    ends = [within(run, budget)[-1][2] for run in runs]
    worse = sum(end > run["dev"][0][2] for end, run in zip(ends, runs))  # noqa: B905
    return f"{statistics.mean(ends):.3f}" + (f" ({worse} worse)" if worse else "")


def reported_scores(runs: Sequence[Record], budget: int) -> str:
    """The mean accuracy and loss at the step that a run reports."""
    _, accuracy, loss = (statistics.mean(x) for x in zip(*(reported(r, budget) for r in runs)))  # noqa: B905
    return f"{accuracy:.3f}, {loss:.3f}"


def filled_cell(
    runs: Sequence[Record], budget: int, cell: Callable[[Sequence[Record], int], str]
) -> str:
    """A cell of the runs that got so far, how many did not, and how many there are, if not 3."""
    whole = [run for run in runs if lasts(run, budget)]
    said = [cell(whole, budget)] if whole else []
    if len(whole) < len(runs):
        said.append(f"({len(runs) - len(whole)} diverged)")
    if len(runs) not in (0, 3):
        said.append(f"[{len(runs)}]")
    return " ".join(said)


def budgets(
    lines: Sequence[Record], cell: Callable[[Sequence[Record], int], str], what: str
) -> Table:
    """A row for each method, course and budget; how many seeds, where there are not three."""
    by_budget = {budget: runs_of(lines, budget) for budget in BUDGETS}
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    rows = []
    for method in dict.fromkeys(line["method"] for line in lines):
        for course in COURSES:
            for budget, found in by_budget.items():
                of_tasks = [found.get((task, method, course), []) for task in tasks]
                cells = [filled_cell(runs, budget, cell) for runs in of_tasks]
                if any(cells):
                    rows.append([f"`{method}`, {course}", f"{budget:,}", *cells])
    starts = [next(line["dev"][0] for line in lines if line["task"] == task) for task in tasks]
    before = [f"{accuracy:.3f}, {loss:.3f}" for _, accuracy, loss in starts]
    return Table([what, "passes", *tasks], [["before: accuracy, loss", "0", *before], *rows])


def budgets_last() -> Table:
    return budgets(records("budgets", NEW), last_losses, "dev loss at the last step")


def budgets_reported() -> Table:
    return budgets(
        records("budgets", NEW), reported_scores, "dev accuracy, loss at the reported step"
    )


def rival() -> Table:
    """Adam on LoRA beside MeZO and FZOO, of the same passes."""
    head = ["task", "method", "lr", "dev accuracy", "dev loss", "passes to MeZO's loss"]
    found = finals(records("lora-adam", NEW))
    rows = []
    order = ("mezo", "fzoo", "lora-adam")
    for task, name in sorted(found, key=lambda key: (TASKS.index(key[0]), order.index(key[1]))):
        runs = found[task, name]
        mezo = found.get((task, "mezo"), [])
        at = reach(list(map(curve_of, runs)), 2, mean_end(mezo, 2)) if mezo else None
        since = f"{at.since:.0f}" if at and at.since is not None else "-"
        ends = [f"{mean_end(runs, 1):.3f}", f"{mean_end(runs, 2):.3f}"]
        rows.append([task, f"`{name}`", f"{runs[0]['lr']:.0e}", *ends, since])
    return Table(head, rows)


def cosines() -> Table:
    """The cosine of a step with the gradient, and what a step may gain, of each shipped model."""
    rows = records("cosine", NEW)
    tasks = dict.fromkeys(row["task"] for row in rows)
    found = {(row["method"], row["task"]): row for row in rows}
    head = ["method", "passes"]
    for task in tasks:
        head += [f"{task}: a step", f"mean of {rows[0]['steps']}", "gain"]
    cells = []
    for method in dict.fromkeys(row["method"] for row in rows):
        line = [f"`{method}`", str(found[method, next(iter(tasks))]["passes"])]
        for task in tasks:
            row = found[method, task]
            gain = "" if row["gain"] is None else f"{row['gain']:.3f}"
            one = f"{row['cosine']:.4f} ({row['cosine_sd']:.4f})"
            line += [one, f"{row['cosine_of_mean']:.4f}", gain]
        cells.append(line)
    return Table(head, cells)


# -- MeZO's own tables -------------------------------------------------------------------------

ROWS_OF_MEZO = (
    "zero-shot",
    "calibrated",
    "ICL",
    "ICL, calibrated",
    "linear probe",
    "MeZO",
    "MeZO, LoRA",
    "MeZO, prefix",
    "first order",
)


def mezo_table(lines: Sequence[Record]) -> Table:
    """A column for each model, task and number of rows; each cell ours / the published figure."""
    cells: dict[tuple[Any, ...], list[float]] = {}
    for line in lines:
        column = (line["model"], line["task"], line["k_shot"])
        cells.setdefault((column, line["row"]), []).append(100 * line["score"])
    columns = list(dict.fromkeys(column for column, _ in cells))
    head = [f"{model}, {task}, {rows_of(k)}" for model, task, k in columns]
    rows = []
    for row in ROWS_OF_MEZO:
        found = [percents(cells.get((column, row), [])) for column in columns]
        theirs = [published(*column, row) for column in columns]
        texts = [
            ours if known is None else f"{ours} / {known}"
            for ours, known in zip(found, theirs, strict=True)
        ]
        if any(found):
            rows.append([row, *texts])
    return Table(["ours / published", *head], rows)


def rows_of(k_shot: int | None) -> str:
    return f"k={k_shot}" if k_shot else "all rows"


def published(model: str, task: str, k_shot: int | None, row: str) -> str | None:
    """What RoBERTa-large or OPT-13B, as the model is one of these, has in a row; or None."""
    path = ROOT / "bench" / "published.json"
    every = json.loads(path.read_text(encoding="utf-8"))
    known = every.get(model.partition("-")[0], {})
    values = known.get(row) or known.get(f"{rows_of(k_shot)}, {row}")
    if values and task in known["tasks"]:
        return str(values[known["tasks"].index(task)])
    return None


def nodes_cells() -> list[Record]:
    lines = (RESULTS / "nodes.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if "nodes" in line]


def nodes() -> Table:
    """Modelled seconds of a step of many nodes, on paper / simulated."""
    cells = {(c["network"], c["nodes"], c["share"], c["waits_for"]): c for c in nodes_cells()}
    head = ["network", "nodes", "queries, all", "queries, fastest 90 %", "rows, all", "gradients"]
    ways = [("queries", "all"), ("queries", "fastest 90 %"), ("rows", "all")]
    rows = []
    for network, count in dict.fromkeys(key[:2] for key in cells):
        found = [cells[(network, count, *way)] for way in ways]
        times = [f"{c['paper']:.3g} / {c['simulated']:.3g}" if c["paper"] else "-" for c in found]
        rows.append([network, f"{count:,}", *times, seconds(found[0]["gradients"])])
    return Table(head, rows)


def percents(values: Sequence[float]) -> str:
    """Mean (standard deviation), where there are several."""
    if not values:
        return ""
    spread = f" ({statistics.stdev(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def mezo_of(family: str) -> Table:
    """The table of the shipped model of a family."""
    lines = records("mezo-table", NEW)
    return mezo_table([line for line in lines if line["model"].startswith(family)])


def ranks() -> Table:
    """A step of one process and of two ranks, and what they exchange."""
    head = ["model", "method", "ranks x threads", "`--share`", "s a step", "CPU s"]
    head += ["waited", "bytes a rank"]
    rows = [
        [
            line["model"],
            f"{line['method']}, q = {line['queries']}",
            f"{line['ranks']} x {line['threads']}",
            line["share"] or "",
            f"{line['step']:.3f}",
            f"{line['cpu']:.3f}",
            f"{line['waited']:.3f}" if line["share"] else "",
            str(line["bytes"]) if line["share"] else "",
        ]
        for line in records("mpi", NEW)
    ]
    return Table(head, rows)


TABLES: dict[str, Callable[[], Table]] = {
    "mpi": ranks,
    "cost": cost,
    "lora": lora,
    "rival": rival,
    "memory": partial(memory, NEW),
    "memory-avx2": partial(memory, OLD),
    "step": partial(step, NEW),
    "step-avx2": partial(step, OLD),
    "noise": partial(noise, NEW),
    "generation": generation,
    "noise-avx2": partial(noise, OLD),
    "prge": partial(prge, NEW),
    "prge-avx2": partial(prge, OLD),
    "prge-peaks": prge_peaks,
    "onnx-seconds": onnx_seconds,
    "onnx-memory": onnx_memory,
    "onnx-graphs": onnx_graphs,
    "onnx-probes": onnx_probes,
    "onnx-losses": onnx_losses,
    "onnx-runs": onnx_runs,
    "find-lr": find_lr,
    "vectors": vectors,
    "final": final,
    "passes": passes,
    "budgets-last": budgets_last,
    "budgets-reported": budgets_reported,
    "cosines": cosines,
    "nodes": nodes,
    "mezo-roberta": partial(mezo_of, "roberta"),
    "mezo-opt": partial(mezo_of, "opt"),
}


def filled(text: str) -> str:
    """A page with its tables as the results say."""
    return MARKED.sub(lambda found: found[1] + str(TABLES[found[2]]()) + found[3], text)


# -- figures -----------------------------------------------------------------------------------

GROUPS = (("roberta-large", 8), ("roberta-large", 64), ("opt-1.3b", 8))
COLOURS = {
    "MeZO, streamed": "#1b7f5c",
    "MeZO, in memory": "#5fb894",
    "MeZO, PyTorch": "#c4e3d5",
    "Adam, tinyzo": "#c9622a",
    "Adam, PyTorch": "#f0bf9c",
}
INK = "#222222"
BLUE = "#2a6fb0"
PALE = "#e8f0f8"
NETWORK_COLOURS = ("#1b7f5c", "#2a6fb0", "#c9622a", "#7a4ea3")


def draw_cost(path: Path) -> None:
    """Memory and time of a step, MeZO beside Adam, tinyzo beside PyTorch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.2), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    bars(left, "peak_bytes", 2**30, "peak memory of the process, GB", "{:.2f}")
    bars(right, "seconds_per_step", 1, "seconds a step", "{:.0f}")
    right.set_yticklabels([])
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    save(figure, path)


def bars(panel: Axes, what: str, unit: float, title: str, form: str) -> None:
    """A group of bars for each model and batch, a bar for each way."""
    known = {(c["model"], c["batch_size"], way(c)): c for c in cost_cells()}
    middles, height = [], 0.8
    for number, name in enumerate(COLOURS):
        for group, (model, batch) in enumerate(GROUPS):
            y = group * (len(COLOURS) + 1) * height + number * height
            cell = known.get((model, batch, name), {})
            value = cell.get(what, 0) / unit
            label = name if group == 0 else None
            panel.barh(y, value, height * 0.9, color=COLOURS[name], label=label)
            text = form.format(value) if value else "not measured"
            if "reason" in cell and value:
                text = cell["reason"] + ", stopped"
            panel.annotate(
                text, (value, y), (3, 0), textcoords="offset points", va="center", size=8
            )
    for group in range(len(GROUPS)):
        middles.append((group * (len(COLOURS) + 1) + (len(COLOURS) - 1) / 2) * height)
    panel.set_yticks(middles, [f"{NAMES[model]}\nbatch {batch}" for model, batch in GROUPS])
    panel.invert_yaxis()
    panel.set_title(title, size=11)
    panel.margins(x=0.28)
    panel.spines[["top", "right"]].set_visible(False)


@dataclass(frozen=True)
class Box:
    """A labelled box of the drawing, about its middle."""

    x: float
    y: float
    width: float
    height: float
    text: str
    colour: str = "white"

    @property
    def right(self) -> float:
        return self.x + self.width / 2

    def draw(self, panel: Axes) -> None:
        from matplotlib.patches import FancyBboxPatch

        corner = self.x - self.width / 2, self.y - self.height / 2
        style = "round,pad=0.02,rounding_size=0.08"
        patch = FancyBboxPatch(corner, self.width, self.height, style, fc=self.colour, ec=INK, lw=1)
        panel.add_patch(patch)
        panel.text(self.x, self.y, self.text, ha="center", va="center", size=10, color=INK)


BOXES = {
    "theta": Box(1.2, 2.0, 1.9, 0.9, "weights θ\nstay as they are", PALE),
    "seed": Box(1.2, 0.5, 1.9, 0.7, "seed of the step", PALE),
    "plus": Box(4.3, 2.75, 2.3, 0.8, "forward pass\nat θ + eps z"),
    "minus": Box(4.3, 1.25, 2.3, 0.8, "forward pass\nat θ - eps z"),
    "g": Box(7.75, 2.0, 2.6, 1.0, "projected gradient\ng = (L₊ - L₋) / (2 eps)"),
    "update": Box(11.1, 2.0, 2.3, 1.0, "θ ← θ - lr g z\nz made again"),
    "journal": Box(11.1, 0.45, 2.3, 0.7, "journal: (seed, -lr g)", PALE),
}
ARROWS = (
    ("theta", "plus", ""),
    ("theta", "minus", ""),
    ("seed", "plus", ""),
    ("seed", "minus", "makes z"),
    ("plus", "g", "L₊"),
    ("minus", "g", "L₋"),
    ("g", "update", ""),
    ("update", "journal", "56 bytes"),
)


def draw_step(path: Path) -> None:
    """One step of MeZO as boxes and arrows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), facecolor="white")
    panel = figure.add_axes((0, 0, 1, 1))
    panel.set(xlim=(0, 12.5), ylim=(-0.1, 3.5))
    panel.axis("off")
    for start, end, text in ARROWS:
        arrow(panel, BOXES[start], BOXES[end], text)
    for box in BOXES.values():
        box.draw(panel)
    save(figure, path)


def arrow(panel: Axes, start: Box, end: Box, text: str) -> None:
    """From the side of one box that faces another; downwards where they share a column."""
    if start.x == end.x:
        ends = (start.x, start.y - start.height / 2), (end.x, end.y + end.height / 2)
    else:
        ends = (start.x + start.width / 2, start.y), (end.x - end.width / 2, end.y)
    style = {"arrowstyle": "-|>", "color": BLUE, "lw": 1.4, "shrinkA": 3, "shrinkB": 4}
    panel.annotate("", ends[1], ends[0], arrowprops=style)
    middle = (ends[0][0] + ends[1][0]) / 2, (ends[0][1] + ends[1][1]) / 2
    beside = (6, 0) if start.x == end.x else (8, math.copysign(13, start.y - 2))
    place = "left" if start.x == end.x else "center"
    panel.annotate(
        text, middle, beside, textcoords="offset points", ha=place, va="center", size=9, color=BLUE
    )


GREEN = "#e3f3ea"
GRAPH = {
    "rows": Box(1.6, 5.4, 2.2, 0.8, "input_ids, labels,\nattention_mask", PALE),
    "files": Box(1.6, 4.1, 2.2, 0.8, "W and A, mapped\nfrom their files", PALE),
    "b": Box(1.6, 2.8, 2.2, 0.8, "each B", PALE),
    "seeds": Box(1.6, 1.5, 2.2, 0.8, "q seeds, eps", PALE),
    "lr": Box(1.6, 0.4, 2.2, 0.6, "lr", PALE),
    "pack": Box(4.8, 5.4, 2.2, 0.8, "real tokens,\npacked"),
    "z": Box(4.8, 1.5, 2.2, 0.8, "q z of each B,\nby integers"),
    "model": Box(
        8.2, 4.1, 2.9, 3.4, "the model's layers\n\nx̂ = s x Aᵀ\n\ny = x Wᵀ + x̂ Bᵀ\n± eps x̂ zᵀ\n\n"
        "so 2q copies of y\nand none of B"
    ),
    "loss": Box(11.6, 5.4, 2.2, 0.8, "L₊, L₋\nof each seed"),
    "g": Box(11.6, 3.4, 2.2, 0.8, "g = (L₊ - L₋)\n/ (2 eps)"),
    "update": Box(11.6, 1.5, 2.2, 0.8, "B - lr Σ g z / q"),
    "losses": Box(14.8, 5.4, 2.7, 0.7, "losses", GREEN),
    "gradients": Box(14.8, 3.4, 2.7, 0.7, "projected_gradients", GREEN),
    "next": Box(14.8, 1.5, 2.7, 0.7, "each B.next", GREEN),
}  # fmt: skip
EDGES = (
    ("rows", "pack"), ("pack", "model"), ("files", "model"), ("b", "model"), ("seeds", "z"),
    ("z", "model"), ("z", "update"), ("model", "loss"), ("loss", "g"), ("g", "update"),
    ("loss", "losses"), ("g", "gradients"), ("update", "next"),
)  # fmt: skip


def draw_graph(path: Path) -> None:
    """A zeroth-order step as a graph of an inference engine: what goes in, and what comes out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.9), facecolor="white")
    panel = figure.add_axes((0, 0, 1, 1))
    panel.set(xlim=(-0.1, 16.35), ylim=(-0.4, 6.0))
    panel.axis("off")
    for start, end in EDGES:
        edge(panel, GRAPH[start], GRAPH[end])
    update, lr = GRAPH["update"], GRAPH["lr"]
    bent(panel, [(lr.right, lr.y), (update.x, lr.y), (update.x, update.y - update.height / 2)])
    b, after = GRAPH["b"], GRAPH["next"]
    left, low, under = 0.1, -0.2, 2.2
    down = [(b.right, b.y - 0.2), (3.1, b.y - 0.2), (3.1, under), (10.2, under), (10.2, 1.7)]
    bent(panel, [*down, (update.x - update.width / 2, 1.7)])
    loop = [(after.x, after.y - after.height / 2), (after.x, low), (left, low), (left, b.y)]
    bent(panel, [*loop, (b.x - b.width / 2, b.y)], "dashed")
    panel.text(8.2, low + 0.1, "the next step's B", ha="center", size=8, color=BLUE)
    for box in GRAPH.values():
        box.draw(panel)
    save(figure, path)


def edge(panel: Axes, start: Box, end: Box) -> None:
    """An arrow to the side that faces; it enters at the start's height where that is possible."""
    if start.x == end.x:
        bent(panel, [(start.x, start.y - start.height / 2), (end.x, end.y + end.height / 2)])
        return
    half = end.height / 2 - 0.3
    at = min(max(start.y, end.y - half), end.y + half)
    leave = start.y
    if start.height > end.height:
        leave = at = end.y
    bent(panel, [(start.right, leave), (end.x - end.width / 2, at)])


def bent(panel: Axes, points: Sequence[tuple[float, float]], style: str = "solid") -> None:
    """A line through points that ends in an arrow."""
    xs, ys = zip(*points, strict=True)
    panel.plot(xs[:-1], ys[:-1], color=BLUE, lw=1.4, ls=style)
    shape = {"arrowstyle": "-|>", "color": BLUE, "lw": 1.4, "ls": style, "shrinkA": 0, "shrinkB": 2}
    panel.annotate("", points[-1], points[-2], arrowprops=shape)


def draw_nodes(path: Path) -> None:
    """Modelled speed-up by nodes that share queries, and seconds of a step beside gradients."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    cells = [c for c in nodes_cells() if c["share"] == "queries"]
    for name, colour in zip(
        dict.fromkeys(c["network"] for c in cells), NETWORK_COLOURS, strict=True
    ):
        for policy, style in (("all", "-"), ("fastest 90 %", "--")):
            line = [c for c in cells if (c["network"], c["waits_for"]) == (name, policy)]
            done = [c for c in line if c["paper"]]
            xs = [c["nodes"] for c in done]
            left.plot(xs, [c["speedup"] for c in done], style, color=colour, marker="o", ms=3)
            if policy == "all":
                right.plot(
                    xs, [c["paper"] for c in done], color=colour, marker="o", ms=3, label=name
                )
                gradients = [c["gradients"] for c in line]
                right.plot([c["nodes"] for c in line], gradients, ":", color=colour)
    left.set_title("times as fast as one node (dashed: fastest 90 %)", fontsize=9)
    right.set_title("seconds a step, all awaited (dotted: gradients)", fontsize=9)
    for panel in (left, right):
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xlabel("nodes")
        panel.set_xticks([4, 16, 64, 256, 1024], ["4", "16", "64", "256", "1,024"])
    left.set_yticks([2, 5, 10, 20], ["2", "5", "10", "20"])
    left.minorticks_off()
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    save(figure, path)
    pyplot.close(figure)


def save(figure: Any, path: Path) -> None:
    """The same bytes from the same figure, whenever it is drawn."""
    from matplotlib import rc_context

    path.parent.mkdir(exist_ok=True)
    with rc_context({"svg.hashsalt": "tinyzo"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


DRAWINGS = {"cost": draw_cost, "step": draw_step, "graph": draw_graph, "nodes": draw_nodes}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--kind", default="svg", help="of the figures' files (svg)")
    options = parser.parse_args()
    pages = {page: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}
    stale = {page: new for page, text in pages.items() if (new := filled(text)) != text}
    if options.check:
        for page in stale:
            print(f"{page.relative_to(ROOT)}: its tables are old; run bench/figures.py")
        return int(bool(stale))
    for page, text in stale.items():
        page.write_text(text, encoding="utf-8")
    for name, draw in DRAWINGS.items():
        draw(DRAWN / f"{name}.{options.kind}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
