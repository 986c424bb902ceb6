"""finetune: from settings to a run that is done, or that can be gone on with."""

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tinyzo import __version__
from tinyzo.checkpoints import peft
from tinyzo.checkpoints.directory import fingerprint
from tinyzo.engine.noise import step_seed
from tinyzo.engine.select import why_no_numba
from tinyzo.errors import NumericError, RunError, UsageError, check_choice
from tinyzo.models.model import Model, open_model
from tinyzo.runs import memory, report
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.data import Data, bind_task, load_data
from tinyzo.runs.evaluate import evaluate
from tinyzo.runs.journal import Header, Journal
from tinyzo.runs.run import Run, prepare, read_lines
from tinyzo.runs.settings import CHOICES, Settings, settings_from
from tinyzo.runs.snapshots import Snapshots, end_window, tuned_model
from tinyzo.text.packing import batch_rows, packed_size
from tinyzo.text.tasks import Example
from tinyzo.zo.estimators import ESTIMATORS, zo_step
from tinyzo.zo.methods import FIRST_ORDER
from tinyzo.zo.mezo import Step, mezo_step
from tinyzo.zo.objectives import Objective
from tinyzo.zo.updates import Past, UpdateRule, learning_rate

# What does not change what a run computes, and may be chosen anew when it is resumed.
FREE = ("steps", "fold_every", "residency", "threads", "memory_budget")


def finetune(output: str | Path | None = None, resume: str | Path | None = None,
             **choices: Any) -> Run:  # fmt: skip
    """Tune a model by forward passes; what `tinyzo finetune` calls.

    output: the run's new directory, by default runs/<task>-<model>-<n>. resume: go on with this
    run instead; then only FREE may be chosen anew. choices: the fields of Settings.
    returns: the finished run
    raises: TinyzoError; KeyboardInterrupt leaves a run that can be resumed
    """
    if resume is None:
        run, model = _begin(output, settings_from(choices, "finetune"))
    elif output is None:
        run, model = _reopen(Path(resume), choices)
    else:
        raise UsageError("--resume with --output", "a run goes on in its own directory")
    bound = bind_task(model, run.settings)
    data = load_data(bound, run.settings)
    _check_digest(run, data.digest())
    loads = list(_loads(data, run.settings))
    plan = _prepare(run, model, loads, is_new=resume is None)
    s, passes = run.settings, -(-loads[0].tokens // plan.micro_batch_tokens)
    update = UpdateRule(s.update, s.window, math.inf if s.clip is None else s.clip)
    counts = ESTIMATORS[s.estimator].count(s.queries), update.count(s.queries)
    counts = (1, 0) if s.method in FIRST_ORDER else counts
    header = Header(*counts, model.weights.direction.kind, run.about["base"])
    snapshots = Snapshots(run, s.fold_every, passes)
    with Journal(run.journal_path, header) as journal, snapshots:
        if (steps := run.settings.steps) < (done := len(journal.steps)):
            raise UsageError(f"--steps {steps}: the run has done {done}", "none can be taken back")
        run.save()
        start = snapshots.restore(model, _first_missing(run, data, done))
        if resume is not None:
            _settle(run, model, plan)
        objective = Objective(model, bound, s.objective)
        loss = BoundedLoss(objective, run.settings.micro_batch_tokens)
        Training(run, loss, data, journal, update, snapshots).go(start)
    return run


def _prepare(run: Run, model: Model, loads: list[memory.Load], is_new: bool) -> memory.Plan:
    """Choose how to hold it in memory; a new run's model is made ready, and its directory made."""
    if run.settings.method in FIRST_ORDER:
        run.settings = dataclasses.replace(run.settings, residency="resident")
    plan = memory.choose(model, run.settings, loads, is_fixed=not is_new)
    if is_new:
        if run.settings.memory_budget:
            chosen = {n: getattr(plan, n) for n in ("engine", "residency", "micro_batch_tokens")}
            run.settings = dataclasses.replace(run.settings, **chosen)
        _settle(run, model, plan)
        run.create()  # not before: a mistake in what was asked for leaves no directory behind
    return plan


def _first_missing(run: Run, data: Data, done: int) -> int:
    """The first step of those done whose evaluation is not on record, else the last one done."""
    if 0 not in run.evaluations("test"):
        return 0
    due, known = range(0, done, run.settings.eval_every), run.evaluations("dev")
    return next((n for n in due if data.dev and n not in known), done)


def _settle(run: Run, model: Model, plan: memory.Plan) -> None:
    """Make the model ready as planned, having said how."""
    s, asked = run.settings, "numpy" if plan.engine == "numpy" else run.settings.engine
    report.say(f"run {run.path}\nmemory plan: {plan}")
    model.settle(asked, plan.residency, s.threads, plan.tiles)
    if model.weights.engine.name != plan.engine:
        report.say(f"engine numpy, the slow one ({why_no_numba()})")


def _loads(data: Data, settings: Settings) -> Iterator[memory.Load]:
    """What a step and the evaluations compute at once, at most."""
    points = ESTIMATORS[settings.estimator].count(settings.queries)
    for examples, rows, probes in ((data.train, settings.batch_size, points),
                                   (data.dev, None, 1), (data.test, None, 1)):  # fmt: skip
        sizes = sorted(map(packed_size, examples), reverse=True)[:rows] or [0]
        yield memory.Load(sum(sizes), sizes[0], probes)


def _begin(output: str | Path | None, settings: Settings) -> tuple[Run, Model]:
    if (settings.model_path / "run.toml").is_file():
        raise UsageError(f"{settings.model} is a run", "--resume it, or tune what replay writes")
    model = open_model(settings.model_path, settings.dtype)
    settings = settings.complete(model.family)
    for name, choices in CHOICES.items():
        check_choice(name, getattr(settings, name), choices)
    path = settings.model_path
    name = path.name if settings.is_shipped_model else str(path.resolve())
    data = settings.data and str(settings.data_path.resolve())
    settings = dataclasses.replace(settings, model=name, data=data)
    base = fingerprint(*peft.parts(path))
    about = {"format": 1, "tinyzo": __version__, "family": model.family, "base": base}
    run = Run(Path(output) if output else _free_name(settings), settings, about)
    return run, prepare(model, settings)


def _reopen(path: Path, choices: dict[str, Any]) -> tuple[Run, Model]:
    run = Run.open(path)
    if others := ", ".join(sorted(choices.keys() - FREE)):
        why = f"--resume keeps the run's settings; {others} cannot change"
        raise UsageError(why, f"only {', '.join(FREE)} may be given with --resume")
    asked, before = settings_from(choices, "--resume"), run.settings.steps
    run.settings = dataclasses.replace(run.settings, **{n: getattr(asked, n) for n in choices})
    run.settings.check()
    if run.settings.steps != before and run.settings.schedule != "constant":
        why = f"the {run.settings.schedule} schedule runs over {before}"
        raise UsageError(f"--steps {run.settings.steps}: {why}", "only a constant lr can go on")
    return run, run.base_model()


def _check_digest(run: Run, digest: str) -> None:
    if run.about.setdefault("data", digest) != digest:
        raise RunError(f"{run.settings.data_path}: the data have changed since the run began",
                       "restore them, or begin a new run")  # fmt: skip


def _free_name(settings: Settings) -> Path:
    stem = f"{settings.task or 'custom'}-{settings.model_path.name}".lower()
    names = (Path("runs") / f"{stem}-{n}" for n in range(1, 1_000_000))
    return next(path for path in names if not path.exists())


@dataclasses.dataclass
class Training:
    """The loop, from wherever the journal ends to the last step, and the report."""

    run: Run
    loss: BoundedLoss
    data: Data
    journal: Journal
    rule: UpdateRule
    snapshots: Snapshots
    accuracy: float | None = None  # the newest on dev, for the line of progress

    def go(self, start: int) -> None:
        """Redo the steps that are done, take the others, and make each evaluation not yet made.

        start: how many steps the weights have in them
        """
        self._catch_up()
        done, s, weights = list(self.journal.steps), self.run.settings, self.loss.objective.model.weights
        try:
            self._evaluate(0, "test", self.data.test)
            self._evaluate(0, "dev", self.data.dev)
            with report.progress(len(done), s.steps) as bar:
                for number in range(start, s.steps):
                    if number < len(done) and s.method in FIRST_ORDER:
                        self._take(number)
                    elif number < len(done):
                        update = self.rule.from_journal(done[number].terms, done[number].decay)
                        weights.apply(update, fold=False)
                    else:
                        report.show(bar, self._step(number), self.accuracy)
                    if (number + 1) % s.eval_every == 0 or number + 1 == s.steps:
                        self.run.sync("journal")
                        self._evaluate(number + 1, "dev", self.data.dev)
                    if due := self.snapshots.is_due(weights, number + 1, len(done)):
                        self.run.sync("journal")
                        self.run.sync("events.jsonl")  # of steps that will not be redone
                        self.snapshots.take(weights, number + 1)
                    end_window(weights, s, number + 1, due)
            self.snapshots.wait()
            self._finish()
        except NumericError as error:
            what = {"event": "error", "step": len(self.journal.steps), "message": error.message}
            self.run.record("events.jsonl", what)
            raise

    def _catch_up(self) -> None:
        """Bring metrics.jsonl to the journal's length: a kill may come between the two."""
        steps = self.journal.steps
        kept = self.run.keep_lines("metrics.jsonl", len(steps))
        self.run.keep_lines("events.jsonl", len(read_lines(self.run.path / "events.jsonl")))
        for number in range(kept, len(steps)):
            self._record(number, steps[number], seconds=None)

    def _step(self, number: int) -> dict[str, Any]:
        """One step more: update, journal, metrics."""
        start, step = time.perf_counter(), self._take(number)
        self.journal.append(step)
        return self._record(number, step, time.perf_counter() - start)

    def _take(self, number: int) -> Step:
        """One step: batch, losses, update."""
        s = self.run.settings
        rows = batch_rows(number, len(self.data.train), s.batch_size, s.data_seed)
        batch, weights = [self.data.train[row] for row in rows], self.loss.objective.model.weights
        weights.fold()
        how = s.eps, self._lr(number), s.weight_decay
        if s.method in FIRST_ORDER:
            from tinyzo.autodiff.adam import RULES, step_number  # only to compare with

            return step_number(number, RULES[s.method], weights, self.loss, batch, *how[1:])
        if s.is_plain:
            return mezo_step(weights, self.loss, batch, step_seed(s.seed, number), *how)
        return zo_step(weights, self.loss, batch, self._seeds(number), *how,
                       ESTIMATORS[s.estimator], self.rule, self._past(number))  # fmt: skip

    def _seeds(self, number: int) -> list[int]:
        s = self.run.settings
        return [step_seed(s.seed, number * s.queries + i) for i in range(s.queries)]

    def _past(self, number: int) -> Past:
        """What the update looks back on, from the journal, the newest first."""
        s, steps = self.run.settings, range(number - 1, max(-1, number - self.rule.memory), -1)
        gradients, done = ESTIMATORS[s.estimator].gradients, self.journal.steps
        return [(self._seeds(n), gradients(np.array(done[n].losses), s.eps)) for n in steps]

    def _lr(self, number: int) -> float:
        s = self.run.settings
        return learning_rate(number, s.steps, s.lr, s.schedule, s.warmup)

    def _record(self, number: int, step: Step, seconds: float | None) -> dict[str, Any]:
        s = self.run.settings
        # backwards is two
        passes = 3 if s.method in FIRST_ORDER else ESTIMATORS[s.estimator].forwards(s.queries)
        line = {"step": number + 1, "loss": step.loss, "loss_plus": step.losses[0],
                "loss_minus": step.losses[-1], "projected_gradient": step.projected_gradient,
                "lr": self._lr(number), "eps": s.eps, "seed": next(iter(step.terms), [None])[0],
                "seconds": seconds, "forwards": passes, "peak_bytes": memory.peak_bytes()}
        self.run.record("metrics.jsonl", line)
        return line

    def _evaluate(self, step: int, split: str, examples: list[Example]) -> dict[str, Any]:
        """Evaluate and log; once only for a step and a split, which resuming counts on."""
        event = self.run.evaluations(split).get(step, {})
        if not event and examples:
            self.loss.objective.model.weights.fold()
            event = {"event": "evaluation", "step": step, "split": split}
            event |= evaluate(self.loss, examples)._asdict()
            self.run.record("events.jsonl", event)
        if split == "dev":
            self.accuracy = event.get("accuracy")
        return event

    def _finish(self) -> None:
        """Report the best step on the test split, against the model as it came."""
        best, done = self.run.best_step(), len(self.journal.steps)
        if best != done:
            model = self.loss.objective.model
            model.weights = None  # given back first: two sets of weights may not fit in memory
            model.weights = tuned_model(self.run, best).weights
        final = self._evaluate(best, "test", self.data.test)
        zero = self.run.evaluations("test")[0]
        lines = read_lines(self.run.path / "metrics.jsonl")
        timed = [line["seconds"] for line in lines if line["seconds"] is not None]
        result = {"run": str(self.run.path), "model": self.run.settings.model,
                  "task": self.run.settings.task or "custom", "steps": done, "best_step": best,
                  "forwards": sum(line["forwards"] for line in lines),
                  "accuracy_zero_shot": zero["accuracy"], "accuracy": final["accuracy"],
                  "loss_zero_shot": zero["loss"], "loss": final["loss"],
                  "split": self.data.reported, "examples": final["examples"],
                  "seconds": sum(timed), "seconds_per_step": sum(timed) / max(1, len(timed)),
                  "peak_bytes": memory.peak_bytes()}  # fmt: skip
        self.run.write("result.json", json.dumps(result) + "\n")
        report.say(report.plot(self.run.path))
