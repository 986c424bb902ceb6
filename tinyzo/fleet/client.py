"""The client: it catches up with the run, and says what the losses are on its own rows.

Its folder is a run, too, which `tinyzo predict` opens: the server's journal, and its own model and
rows. Losing it costs time alone. `flower-supernode --node-config` says

    data      its rows, as --data has them; or partition-id and num-partitions, of a simulation
    folder    where the run is kept from one process to the next, with the weights now and then
    model     where its checkpoint is, if not where the server's is
    engine, residency, threads
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from tinyzo.errors import RunError, TinyzoError, UsageError
from tinyzo.fleet import terms_of
from tinyzo.fleet.rows import split
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.data import bind_task, load_data
from tinyzo.runs.evaluate import evaluate
from tinyzo.runs.history import rest_of
from tinyzo.runs.journal import record_crc
from tinyzo.runs.methods import method_of, no_batch
from tinyzo.runs.run import RUN_TOML, Run
from tinyzo.runs.snapshots import Snapshots, tuned_model
from tinyzo.system import os_errors, write_file
from tinyzo.text.packing import batch_rows
from tinyzo.text.tasks import Example
from tinyzo.zo.objectives import Objective

OWN = ("engine", "residency", "threads")  # settings that are the node's business
SNAPSHOT_EVERY = 100  # steps, of a node that has a folder
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tinyzo" / "fleet"
FOLDER = "--node-config folder names one that can be written"
app = ClientApp()


class Held:
    """What a process holds of a run, for all its nodes: after a step they have the same weights."""

    def __init__(self, run: Run, steps: int) -> None:
        model = tuned_model(run, steps)
        bound = bind_task(model, run.settings)
        objective = Objective(model, bound, run.settings.objective)
        self.loss = BoundedLoss(objective, run.settings.micro_batch_tokens)
        self.weights = model.weights
        self.data = load_data(bound, run.settings)
        self.step = steps
        self.crc = record_crc(run.journal_path, steps)

    def go_on(self, run: Run, steps: int) -> bool:
        """Take the steps that are left; returns whether what is held is on their way."""
        way = run.way(steps)
        passed = {0, *(number + 1 for number, _ in way)}
        if self.step not in passed or self.crc != record_crc(run.journal_path, self.step):
            return False
        method = method_of(run.settings)
        for number, taken in rest_of(way, self.step):
            method.redo(self.weights, taken, no_batch(f"step {number}"))
            method.end_step(self.weights, number + 1, is_written=False)
        self.weights.fold()
        self.step = steps
        self.crc = record_crc(run.journal_path, steps)
        return True


held: dict[str, Held] = {}


@app.train()
def train(message: Message, context: Context) -> Message:
    """The losses at the points of a step, on a batch of the client's rows."""
    return reply(message, context, losses)


@app.evaluate()
def score(message: Message, context: Context) -> Message:
    """Loss and accuracy on the rows that the client holds back."""
    return reply(message, context, scores)


def reply(message: Message, context: Context, answer: Callable[..., dict[str, Any]]) -> Message:
    """Answer a question; or say that the client is behind, or why it refuses."""
    question: Any = message.content["question"]
    try:
        run = catch_up(question, context)
        own = hold(run, question["steps"])
        if "folder" in context.node_config:
            keep(run, own)
        found = {"number": question["number"], **answer(own, run, question, context)}
    except TinyzoError as error:
        found = {"refused": str(error).partition("\n")[0]}
        if question["offset"] and isinstance(error, RunError):
            found = {"behind": True}  # asked again with all there is, it says what is wrong
    return Message(RecordDict({"answer": ConfigRecord(found)}), reply_to=message)


def losses(own: Held, run: Run, question: Any, context: Context) -> dict[str, Any]:
    s = run.settings
    method = terms_of(s)
    mine = own_rows(own.data.train, run, context)
    rows = batch_rows(question["number"], len(mine), question["rows"], s.data_seed)
    points = method.estimator.points(method.seeds(question["number"]), s.eps)
    found = own.loss(own.weights.view(points), [mine[row] for row in rows])
    return {"losses": found.tolist(), "rows": len(rows)}


def scores(own: Held, run: Run, question: Any, context: Context) -> dict[str, Any]:
    found = evaluate(own.loss, own_rows(getattr(own.data, question["split"]), run, context))
    return {"losses": [found.loss, found.accuracy], "rows": found.examples}


def own_rows(examples: Sequence[Example], run: Run, context: Context) -> Sequence[Example]:
    """A client's rows: all that it has, or in a simulation its part of all there are."""
    node = context.node_config
    if "data" in node:
        return examples
    labels = [example.label for example in examples]
    alpha = float(context.run_config.get("alpha", 1.0))
    parts = split(labels, int(node["num-partitions"]), alpha, run.settings.data_seed)
    return [examples[row] for row in parts[int(node["partition-id"])]]


def catch_up(question: Any, context: Context) -> Run:
    """Bring the node's folder to where the server's journal is.

    A folder that has less than the server thinks gets a journal with a hole, which nobody reads.
    raises: RunError for a folder without a run; UsageError for a node without rows
    """
    node = context.node_config
    folder = Path(str(node.get("folder", CACHE / f"{context.run_id}" / f"{context.node_id}")))
    if not ("data" in node or "partition-id" in node):
        raise UsageError("a node without rows", "--node-config 'data=\"FOLDER\"' names them")
    is_new = question["offset"] == 0
    with os_errors(RunError, folder, FOLDER):
        if is_new:
            folder.mkdir(parents=True, exist_ok=True)
            write_file(folder / RUN_TOML, question["run"])
        own = {key: str(node[key]) if key in node else None for key in ("model", "data")}
        run = Run.open(folder, own["model"], own["data"])
        run.settings = run.settings.replace(**{key: node[key] for key in OWN if key in node})
        if is_new:
            run.save()
        with open(run.journal_path, "a+b") as journal:
            journal.truncate(question["offset"])
            journal.write(question["journal"])
    return run


def hold(run: Run, steps: int) -> Held:
    """The weights after so many steps: what this process holds, or else what the folder makes."""
    key = f"{run.about['base']} {run.settings}"
    own = held.pop(key, None)
    if own is None or not own.go_on(run, steps):
        own = Held(run, steps)
    held[key] = own
    return own


def keep(run: Run, own: Held) -> None:
    """Write the weights to the node's folder, if it has none of the last steps."""
    files = run.path.glob("weights-*.safetensors")
    newest = max((int(file.stem.removeprefix("weights-")) for file in files), default=0)
    with Snapshots(run, method_of(run.settings), newest + SNAPSHOT_EVERY) as snapshots:
        if snapshots.is_due(own.weights, own.step, done=0):
            snapshots.take(own.weights, own.step)
