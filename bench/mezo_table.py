"""The comparison tables of MeZO and PocketLLM, of any checkpoint, beside the published figures.

    python bench/mezo_table.py --model roberta-large --data SST-2=glue/SST-2 RTE=glue/RTE \\
        --k-shot 16 --seeds 13 21 42 87 100 --out FILE.jsonl
    python bench/mezo_table.py --model facebook/opt-1.3b --data SST-2=glue/SST-2 --out FILE.jsonl
    python bench/mezo_table.py --out FILE.jsonl --table             # of what is there

Rows: zero-shot; in-context learning with 32 demonstrations and calibration (OPT); a linear probe;
MeZO on all parameters, on LoRA, on a prefix; first order (Adam). A seed draws the rows (training,
dev, demonstrations) and z; k-shot splits that are drawn already are named by it, as in
SNLI=k-shot/SNLI/16-{seed}. Settings of a row are those of tinyzo's recipe for the model (a folder
of another name: --recipes) and the task, where there is one, else the defaults; --steps,
--batch-size and --lr count before them. Reported is the test accuracy of the step that is best on
dev, or F1 where answers are written.

FILE.jsonl has a line for each (model, task, k, row, seed), written when it is done; what is found
there is not done again, so it can be stopped at any time and go on. A run that was stopped halfway
goes on, too, where --runs keeps it. What a task or a model has not is passed over with a reason.
Published: RoBERTa-large, table 18, and OPT-13B, table 1 of Malladi et al. 2023, mean (standard
deviation). The last line of stdout is one JSON document.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
from figures import mezo_table

import tinyzo
from tinyzo.errors import TinyzoError, UsageError
from tinyzo.runs.recipes import find_recipe
from tinyzo.runs.run import is_run
from tinyzo.runs.settings import model_path

DEMONSTRATIONS = 32
STEPS = "steps"
SEED = "{seed}"  # in the name of a folder
EVALUATIONS = 5  # of a run whose --steps are given, as published for OPT


@dataclass(frozen=True)
class Row:
    """recipe: the method of a recipe, of what is tuned; settings: without one; way: of evaluate"""

    recipe: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    way: dict[str, Any] = field(default_factory=dict)


ROWS = {
    "zero-shot": Row(),
    "calibrated": Row(way={"calibrate": True}),
    "ICL": Row(way={"icl": DEMONSTRATIONS}),
    "ICL, calibrated": Row(way={"icl": DEMONSTRATIONS, "calibrate": True}),
    "linear probe": Row(way={"method": "linear-probe"}),
    "MeZO": Row("mezo", {"method": "mezo"}),
    "MeZO, LoRA": Row("lora", {"method": "mezo", "train": "lora"}),
    "MeZO, prefix": Row("prefix", {"method": "mezo", "train": "prefix"}),
    "first order": Row("adam", {"method": "adam", "schedule": "linear", "batch_size": 8}),
}


class Table:
    """What is on record in a file, and what is done and put on record."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self.done = {self.key(line) for line in common.on_record(options.out)}

    @staticmethod
    def key(line: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(line[name] for name in ("model", "task", "k_shot", "row", "seed"))

    def get(self, task: str, data: str, name: str, seed: int) -> None:
        """Do what is not on record."""
        line = {
            "model": Path(self.options.model).name,
            "task": task,
            "k_shot": self.options.k_shot,
            "row": name,
            "seed": seed,
        }
        if self.key(line) in self.done:
            return
        start = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):
            line |= self.scored(task, data, ROWS[name], seed)
        line |= {"seconds": round(time.perf_counter() - start, 1), "commit": common.commit()}
        with self.options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.done.add(self.key(line))
        print(task, name, seed, line["score"], f"{line['seconds']} s", file=sys.stderr, flush=True)

    def scored(self, task: str, data: str, row: Row, seed: int) -> dict[str, Any]:
        """The score of a row, and by what it came; raises UsageError for what there is not."""
        about = {"data_seed": seed, "limit": self.options.limit} | self.rows_of(data)
        data = data.replace(SEED, str(seed))
        if row.recipe:
            settings = self.settings(task, row) | about
            about = {"model": self.options.model, "task": task, "data": data, "seed": seed}
            return self.tuned(row.recipe, settings | about)
        if "method" not in row.way:
            about.pop("k_shot", None)
        model = tinyzo.load(self.options.model, threads=self.options.threads)
        found = tinyzo.evaluate(model, task, data, **about, **row.way)
        score = found.accuracy if found.f1 is None else found.f1
        return {"score": score, "examples": found.examples, "settings": row.way}

    def tuned(self, recipe: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Fine-tune, or go on with a run of the same settings; of the step that is best on dev."""
        asked = json.dumps(settings, sort_keys=True).encode()
        name = f"{settings['task']}-{recipe}-{settings['seed']}-{zlib.crc32(asked):08x}"
        threads = self.options.threads
        with tempfile.TemporaryDirectory() as folder:
            path = (self.options.runs or Path(folder)) / name
            if is_run(path):
                run = tinyzo.finetune(resume=path, threads=threads)
            else:
                run = tinyzo.finetune(path, threads=threads, **settings)
            result = run.result
        kept = ("lr", "eps", STEPS, "batch_size", "method", "train")
        used = {name: getattr(run.settings, name) for name in kept}
        return {
            "score": result.get("f1", result["accuracy"]),
            "examples": result["examples"],
            "settings": used,
            "best_step": result["best_step"],
            "forwards": result["forwards"],
        }

    def rows_of(self, data: str) -> dict[str, Any]:
        """How many rows are drawn to train on; a folder for each seed holds them as they are."""
        k_shot = None if SEED in data else self.options.k_shot
        return {"k_shot": k_shot} if k_shot else {}

    def settings(self, task: str, row: Row) -> dict[str, Any]:
        """Those of the recipe, or of the row; then those of the command."""
        found = dict(row.settings)
        with contextlib.suppress(UsageError):
            model = self.options.recipes or Path(self.options.model).name
            found = find_recipe(f"{model}/{task}/{row.recipe}").settings.given()
        found.pop("k_shot", None)
        if self.options.k_shot:
            found.pop("train_rows", None)
        if self.options.steps:
            found["eval_every"] = max(1, self.options.steps // EVALUATIONS)
            found[STEPS] = self.options.steps
        if self.options.batch_size and row.recipe != "adam":
            found["batch_size"] = self.options.batch_size
        if row.recipe in self.options.lr:
            found["lr"] = self.options.lr[row.recipe]
        return found


def measure(options: Any) -> None:
    """Do all that is not on record, until the time is over: seeds last, so that rows come first."""
    deadline = time.monotonic() + 60 * options.minutes
    table = Table(options)
    missing = set()
    for seed in options.seeds:
        for task, data in options.data.items():
            for name in options.rows:
                if time.monotonic() > deadline:
                    return
                if (task, name) in missing:
                    continue
                try:
                    table.get(task, data, name, seed)
                except TinyzoError as refused:
                    if isinstance(refused, UsageError):  # and would be with each seed
                        missing.add((task, name))
                    print(f"{task}, {name}: passed over, {refused.message}", file=sys.stderr)


def pairs(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--model", help="folder of a model, a shipped name, or one of the hub's")
    known = "TASK=FOLDER of each; with {seed} in it, that of a k-shot split drawn already"
    parser.add_argument("--data", type=pairs, nargs="*", default=[], help=known)
    parser.add_argument("--out", type=Path, required=True, help="what is done, a line each")
    parser.add_argument("--k-shot", type=int, help="rows per label; default: up to 1,000 in all")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="default: 0")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=ROWS, help="only these")
    parser.add_argument(
        "--recipes", help="the model whose recipes count; default: the folder's name"
    )
    parser.add_argument("--steps", type=int, help="of each run; default: the recipe's")
    parser.add_argument("--batch-size", type=int, help="of MeZO's steps; default: the recipe's")
    parser.add_argument("--lr", type=pairs, nargs="*", default=[], help="mezo=1e-6 lora=1e-4 ..")
    parser.add_argument("--limit", type=int, help="most test rows; default: 1,000")
    parser.add_argument("--runs", type=Path, help="keep runs here; default: none is kept")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing after")
    parser.add_argument("--table", action="store_true", help="only say what is on record")
    options = parser.parse_args()
    options.data = dict(options.data)
    options.lr = {name: float(value) for name, value in options.lr}
    if not options.table:
        if not options.model or not model_path(options.model).is_dir():
            parser.error("--model names no folder of a model")
        measure(options)
    lines = common.on_record(options.out)
    found = mezo_table(lines)
    print(found)
    common.finish("scikit-learn", columns=found.head, rows=found.rows)


if __name__ == "__main__":
    main()
