"""One case of memory.py: MeZO steps as a run takes them, and what they hold, read and write.

In a process of its own, which imports no more than a run does, so not common.py. Like a run it
plans its memory, keeps a journal, and writes snapshots; it has a tokenizer and data where they are
given.
A JSON object in, one out.
"""

from __future__ import annotations

import json
import os
import sys
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tinyzo.engine.noise import step_seed
from tinyzo.machine.memory import status_bytes
from tinyzo.models.model import Model, open_model
from tinyzo.runs import memory
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.journal import Header, Journal
from tinyzo.runs.methods import method_of
from tinyzo.runs.run import Run
from tinyzo.runs.settings import Settings
from tinyzo.runs.snapshots import MOST, Snapshots, seconds_a_term
from tinyzo.text.packing import micro_batches, packed_size
from tinyzo.text.tasks import BoundTask, Example, Task
from tinyzo.zo.mezo import mezo_step
from tinyzo.zo.objectives import Objective

EPS, LR = 1e-3, 1e-6
SIZES = ("VmHWM", "VmRSS", "RssAnon", "RssFile")
COUNTERS = ("rchar", "wchar", "read_bytes", "write_bytes")  # of /proc/self/io
BASE = "00" * 32  # in place of the checkpoint's hash, which is no part of a step


def sizes() -> dict[str, int]:
    return {field: status_bytes(field) for field in SIZES}


def counters() -> dict[str, float]:
    """The time and the bytes read and written so far, by calls and from and to the disk."""
    lines = (line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    found = {name: float(value) for name, value in lines if name in COUNTERS}
    return {"seconds": time.perf_counter(), **found}


def since(before: dict[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in counters().items()}


def drop_cache(*files: Path) -> None:
    """Make the system forget all that it caches, or where that is not permitted those files."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        for path in files:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Trial:
    """A run of some steps on one batch."""

    def __init__(self, setup: dict[str, Any], stack: ExitStack) -> None:
        self.points = {"imports": sizes()}
        self.is_cold = setup["cold"]
        asked = Settings(**setup["settings"])
        model = open_model(asked.model_path)
        self.settings = s = asked.resolve(model.family, needs_data=False)
        self.examples = [
            Example(tuple(e["prompt"]), tuple(map(tuple, e["candidates"])), e["mask_at"],
                    e["label"], "") for e in setup["examples"]
        ]  # fmt: skip
        self.beside = self.held(setup, model.family)
        self.plan = self.settle(model)
        self.points["ready"] = sizes()
        task = Task("random", model.family, "", ("a", "b"), ("a", "b"))
        bound = BoundTask(task, None, [], setup["words"], model.config.max_length, 0)
        self.objective = BoundedLoss(Objective(model, bound), s.micro_batch_tokens)
        self.passes = len(list(micro_batches(self.examples, s.micro_batch_tokens)))
        run = Run(Path(setup["run"]), s, {"base": BASE})
        run.create(0, model.engine.name, model.weights)
        header = Header(2, 1, model.weights.direction.kind, BASE)
        self.journal = stack.enter_context(Journal(run.journal_path, header))
        self.snapshots = stack.enter_context(
            Snapshots(run, method_of(s), s.fold_every, self.passes)
        )
        self.run, self.weights = run, model.weights

    def held(self, setup: dict[str, Any], family: str) -> tuple[Any, ...]:
        """What a run holds besides: the tokenizer of a folder, and the rows of SST-2."""
        if not setup["tokenizer"]:
            return ()
        from tinyzo.text.datasets import load_splits
        from tinyzo.text.tasks import get_task
        from tinyzo.text.tokenizer import load_tokenizer

        splits = load_splits(get_task("SST-2", family), Path(setup["data"]))
        return load_tokenizer(Path(setup["tokenizer"])), splits

    def settle(self, model: Model) -> memory.Plan:
        """Plan the memory and make the model ready, as a run does."""
        tokens = list(map(packed_size, self.examples))
        plan = memory.choose(model, self.settings, [memory.Load(sum(tokens), max(tokens), 2)])
        model.settle(plan.engine, plan.residency, self.settings.threads, plan.tiles)
        return plan

    def steps(self) -> Iterator[dict[str, float]]:
        """What each step took, without the snapshot that may follow it."""
        s = self.settings
        for number in range(s.steps):
            if self.is_cold:
                self.snapshots.wait()
                drop_cache(s.model_path / "model.safetensors", *self.run.path.glob("weights-*"))
            pending, before = len(self.weights.pending), counters()
            step = mezo_step(
                self.weights, self.objective, self.examples, step_seed(0, number), EPS, LR
            )
            self.journal.append(step)
            is_due = self.snapshots.is_due(self.weights, number + 1, 0)
            yield {"loss": step.loss, "pending": pending, **since(before)}
            if is_due and number + 1 < s.steps:
                self.snapshots.take(self.weights, number + 1)

    def last_snapshot(self) -> dict[str, float] | None:
        """Streamed weights are written after the last step, whether or not that is due."""
        if self.weights.store.is_resident or self.settings.fold_every == 0:
            return None
        before = counters()
        self.snapshots.take(self.weights, self.settings.steps)
        found = since(before)
        self.snapshots.wait()
        return found | {"seconds_until_safe": since(before)["seconds"]}

    def interval(self) -> int:
        """The steps from one snapshot to the next, by what the last one took; 0: none."""
        if self.settings.fold_every is not None:
            return self.settings.fold_every
        last = 0 if self.weights.store.is_resident else self.settings.steps

        def is_due(steps: int) -> bool:
            return self.snapshots.is_due(self.weights, last + steps, 0)

        return bisect_left(range(1, MOST), True, key=is_due) + 1

    def go(self) -> dict[str, Any]:
        steps = list(self.steps())
        self.points["stepped"] = sizes()
        snapshot = self.last_snapshot()
        self.points["end"] = sizes()
        return {
            "peak_bytes": self.points["end"]["VmHWM"], "plan_bytes": self.plan.total,
            "plan": self.plan._asdict(), "points": self.points, "passes": self.passes,
            "steps": steps, "snapshot": snapshot, "fold_every": self.interval(),
            "term_seconds": seconds_a_term(self.weights) * self.passes,
            "weight_bytes": self.weights.nbytes(),
        }  # fmt: skip


def main() -> None:
    with ExitStack() as stack:
        print(json.dumps(Trial(json.load(sys.stdin), stack).go()))


if __name__ == "__main__":
    main()
