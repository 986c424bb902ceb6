"""A fleet against central training: accuracy, bytes, liars, and clients that drop out.

    python bench/fleet.py --out FILE.jsonl --threads 1 [--data DIR] [--only PART ..]
    python bench/fleet.py --out FILE.jsonl --table

The shipped topics, and glue/SST-2 (k = 16) of the folder --data, are divided among simulated
clients by Dirichlet(alpha). The server and the clients are tinyzo.fleet's own; what carries their
messages is a list in this process (InProcess), since Flower's simulation takes most of its time to
start and to hand on. Bytes are those of the messages as Flower packs them. `flwr run
examples/fleet` is the same with Flower's simulation.

A liar says in place of its losses NaN, or random numbers, or them in reverse order, which turns
the sign round, or that ten times as large. A client that drops out says nothing in that step.

FILE.jsonl gets a line a cell; those that are there are not made again. The last line of stdout is
one JSON document.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np
from flwr.app import Context, RecordDict

from tinyzo.errors import TinyzoError
from tinyzo.fleet import client, server
from tinyzo.runs.run import Run
from tinyzo.runs.settings import Settings
from tinyzo.runs.train import tune

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from in_process import InProcess, simulated

STEPS = 48
RATE = 1e-4  # of central and fleet alike: so few steps need twice the default
LARGE = 355_412_057 * 4  # bytes of RoBERTa-large in float32


class Cell(NamedTuple):
    """A run. clients: 0: central; asked: the share of them that a step asks"""

    task: str
    clients: int = 10
    alpha: float = 1.0
    asked: float = 1.0
    liars: str = ""
    is_robust: bool = True
    dropouts: float = 0.0


LIES: dict[str, Callable[[list[float], np.random.RandomState], list[float]]] = {
    "nan": lambda losses, random: [float("nan")] * len(losses),
    "random": lambda losses, random: random.uniform(0, 2, len(losses)).tolist(),
    "sign": lambda losses, random: losses[::-1],
    "sign x 10": lambda losses, random: (
        np.mean(losses) - 10 * (np.array(losses) - np.mean(losses))
    ).tolist(),
}
ALPHAS = (0.1, 1.0, 100.0)
CELLS = (  # what matters most first, since the time may not last for all
    *(Cell(task, 0) for task in ("topics", "SST-2 k=16")),
    *(Cell("topics", 10, alpha) for alpha in ALPHAS),
    *(Cell("topics", liars=lie) for lie in LIES),
    *(Cell("topics", liars=lie, is_robust=False) for lie in ("nan", "random", "sign x 10")),
    Cell("topics", dropouts=0.3),
    *(Cell("SST-2 k=16", 10, alpha) for alpha in (0.1, 100.0)),
    *(Cell("topics", 100, alpha, 0.1) for alpha in (0.1, 100.0, 1.0)),
    Cell("SST-2 k=16"),
)


def measure(cell: Cell, data: Path | None, folder: Path) -> dict[str, Any]:
    """The outcome of a cell."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    client.CACHE = folder / "clients"
    config = {"task": "topics", "steps": STEPS, "eval-every": STEPS // 4, "threads": 1}
    config |= {"lr": RATE}
    if cell.task != "topics":
        config |= {"task": "SST-2", "data": str(data / "glue" / "SST-2"), "k-shot": 16}
        config |= {"limit": 500}
    config |= {"model": "roberta-tiny", "output": str(folder / "run")}
    start = time.perf_counter()
    outcome: dict[str, Any] = {}
    grid = simulated(cell.clients, config)
    try:
        if cell.clients:
            fleet(cell, config, grid)
        else:
            del config["output"]
            tune(Settings.from_mapping(config, "bench"), folder / "run")
    except TinyzoError as error:
        outcome["error"] = error.message
    run = Run.open(folder / "run")
    dev = run.evaluations("dev")
    last = dev[max(dev)]
    outcome |= {"dev_accuracy": last["accuracy"], "dev_loss": last["loss"], "step": last["step"]}
    with suppress(TinyzoError):
        outcome |= {name: run.result[name] for name in ("accuracy", "accuracy_zero_shot", "loss")}
    if cell.clients:
        outcome |= {"messages": grid.messages, "bytes_up": grid.up, "bytes_down": grid.down}
    lines = (run.path / "events.jsonl").read_text().splitlines()
    outcome["dropped"] = sum(json.loads(line)["event"] == "dropped" for line in lines)
    outcome["dropped_honest"] = sum(
        (found := json.loads(line))["event"] == "dropped" and int(found["node"]) not in liars(cell)
        for line in lines
    )
    return outcome | {"seconds": time.perf_counter() - start}


def liars(cell: Cell) -> range:
    """The nodes that lie: a tenth."""
    return range(1, 1 + (cell.clients // 10 if cell.liars else 0))


def fleet(cell: Cell, config: dict[str, Any], grid: InProcess) -> None:
    """Take the steps of a cell."""
    config |= {"alpha": cell.alpha, "asked": cell.asked}
    random = np.random.RandomState(0)
    if cell.liars:
        lie = LIES[cell.liars]
        grid.lies = lambda node, found: lie(found, random) if node in liars(cell) else found
    grid.is_there = lambda node, message: random.uniform() >= cell.dropouts
    kept = server.outliers
    if not cell.is_robust:
        server.outliers = lambda answers, points: {}
    try:
        server.app(grid, Context(1, 0, {}, RecordDict(), config))
    finally:
        server.outliers = kept


HEAD = (
    "| task | clients | alpha | what else | dev accuracy | dev loss | test accuracy | left out "
    "| bytes a client and step, down + up |\n|---|---|---|---|---|---|---|---|---|"
)


def table(lines: list[dict[str, Any]]) -> str:
    """What is on record, as Markdown."""
    return "\n".join([HEAD, *map(row, lines)])


def row(line: dict[str, Any]) -> str:
    """A cell as a row of the table."""
    cell = Cell(**line["cell"])
    what = [f"a tenth lie: {cell.liars}"] if cell.liars else []
    what += [] if cell.is_robust else ["plain mean"]
    what += [f"{cell.dropouts:.0%} drop out"] if cell.dropouts else []
    what += [f"{cell.asked:.0%} asked"] if cell.asked < 1 else []
    test = f"{line['accuracy']:.3f}" if "accuracy" in line else f"stopped at step {line['step']}"
    fields = [cell.task, "central", "", "", f"{line['dev_accuracy']:.3f}"]
    fields += [f"{line['dev_loss']:.3f}", test, "", ""]
    if cell.clients:
        each = max(1, line["messages"])
        fields[1:4] = [str(cell.clients), f"{cell.alpha:g}", ", ".join(what)]
        fields[7] = f"{line['dropped']}, {line['dropped_honest']} of them honest"
        fields[8] = f"{line['bytes_down'] / each:.0f} + {line['bytes_up'] / each:.0f}"
    return f"| {' | '.join(fields)} |"


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--data", type=Path, help="folder with glue/SST-2; without: topics")
    parser.add_argument("--out", type=Path, required=True, help="cells, a line each")
    parser.add_argument("--only", nargs="*", default=[""], help="cells that have any of these")
    parser.add_argument("--table", action="store_true", help="only say what is on record")
    options = parser.parse_args()
    lines = []
    if options.out.exists():
        lines = [json.loads(line) for line in options.out.read_text().splitlines()]
    for cell in () if options.table else CELLS:
        known = any(line["cell"] == cell._asdict() for line in lines)
        if (
            known
            or not any(part in str(cell) for part in options.only)
            or (cell.task != "topics" and not options.data)
        ):
            continue
        with tempfile.TemporaryDirectory() as folder:
            line = {"cell": cell._asdict(), **measure(cell, options.data, Path(folder))}
        lines.append(line)
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
    print(table(lines))
    print(json.dumps({"cells": len(lines), "roberta_large_bytes": LARGE}))


if __name__ == "__main__":
    main()
