"""`tune`: from a user's settings to a finished run, or to one that can be resumed.

It opens a run, new or old, with its model and data; plans its memory; takes its steps, of which
the journal may have some; and reports on the best one.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyzo import __version__
from tinyzo.checkpoints import peft
from tinyzo.checkpoints.directory import fingerprint
from tinyzo.checkpoints.hub import name_of
from tinyzo.engine.select import engine_here
from tinyzo.engine.stores.overlay import Overlay
from tinyzo.errors import NumericError, RunError, UsageError
from tinyzo.machine.memory import peak_bytes, resident_bytes
from tinyzo.models.model import Model, open_model
from tinyzo.models.trainable import adapters_of
from tinyzo.parsing import JsonObject
from tinyzo.runs import answers, memory, report
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.course import Course
from tinyzo.runs.data import Data, bind_task, load_data
from tinyzo.runs.evaluate import evaluate
from tinyzo.runs.history import Return, rest_of
from tinyzo.runs.journal import Header, Journal
from tinyzo.runs.lines import read_lines
from tinyzo.runs.loads import loads_of
from tinyzo.runs.methods import RunMethod, method_of
from tinyzo.runs.named import split
from tinyzo.runs.places import lasting
from tinyzo.runs.ranks import ALONE, Alone
from tinyzo.runs.run import Run, is_run, prepare, settle_method
from tinyzo.runs.settings import RunSettings, Settings
from tinyzo.runs.shared import Place, agree, idle, placed, same_start, same_weights, shared
from tinyzo.runs.snapshots import Snapshots, tuned_model
from tinyzo.runs.start import LED, as_it_came, make_start, passes_before
from tinyzo.system import claim_directory
from tinyzo.text.packing import batch_rows
from tinyzo.text.tasks import Example
from tinyzo.zo.mezo import Step
from tinyzo.zo.objectives import Objective
from tinyzo.zo.updates import ANY_TIME

# Settings that may change when a run is resumed: what a step computes stays the same, but for the
# rounding of another engine.
FREE = (
    "steps",
    "patience",
    "guard",
    "engine",
    "fold_every",
    "residency",
    "threads",
    "memory_budget",
)
DIVERGED = 100  # a loss this many times 1 + the first one does not come back


def tune(
    settings: Settings,
    output: Path | None = None,
    resume: Path | None = None,
    ranks: Alone = ALONE,
    training: Callable[..., Training] | None = None,
) -> Run:
    """Tune a model: the work of `tinyzo.finetune` and of `tinyzo finetune`.

    output: the run's new directory; None: runs/<task>-<model>-<n>
    resume: go on with this run instead; then only FREE may be chosen anew
    ranks:  those that share it
    training: makes the loop over the steps, if not `Training`
    returns: the finished run, on each rank that of rank 0
    raises: TinyzoError; KeyboardInterrupt leaves a run that can be resumed
    """
    with placed(ranks, Place(settings, output, resume)) as place:
        run = _tune(*place, ranks, training or Training)
    run.path = Path(ranks.from_first(str(run.path)))
    return run


def _tune(
    settings: Settings,
    output: Path | None,
    resume: Path | None,
    ranks: Alone,
    training: Callable[..., Training],
) -> Run:
    """The same, with all files where this rank has its own."""
    is_new = resume is None
    run, model = _open(settings, output, resume)
    ranks.share_cpus(run.settings.threads)
    bound = bind_task(model, run.settings)
    data = load_data(bound, run.settings)
    _check_dev(run.settings, data)
    report.say_all(data.left_out + data.oddities)
    _check_digest(run, data.digest())
    method = method_of(run.settings)
    objective = Objective(model, bound, run.settings.objective)
    loads = loads_of(objective, data, run.settings.batch_size, method)
    plan = _plan(run, model, method, loads, is_new, ranks.here)
    agree(ranks, run, method)
    bounded = BoundedLoss(objective, run.settings.micro_batch_tokens)
    loss = shared(bounded, ranks)
    if is_new:  # made only now, so that a mistake in the settings leaves no directory behind
        if run.settings.train in LED:
            same_start(ranks, model.weights, lambda: make_start(bounded, data, run.settings))
        _settle(run, model, plan)
        _make_directory(run, output)
    header = Header(*method.journal_shape, model.weights.direction.kind, run.about["base"])
    passes = math.ceil(loads[0].tokens / plan.micro_batch_tokens)
    snapshots = Snapshots(run, method, run.settings.fold_every, passes)
    with report.resumable(run.path), Journal(run.journal_path, header) as journal, snapshots:
        done = len(journal.steps)
        if is_new:
            run.create(done, model.engine.name, model.weights)
        else:
            _check_steps(run.settings.steps, done)
            run.save()
        run.keep_lines("events.jsonl")
        report.say_all([f"run {run.path}", *idle(ranks, method.probes, passes)])
        way = journal.history.way(_first_unevaluated(run, data, done))
        start = snapshots.restore(model, way)
        if not is_new:
            _settle(run, model, plan)
            run.note_engine(model.engine.name, done)
        loop = training(run, method, loss, data, journal, snapshots, plan, ranks)
        loop.take_steps(start)
        loop.finish()
        ranks.tell_slowest()
    return run


def _open(given: Settings, output: Path | None, resume: Path | None) -> tuple[Run, Model]:
    """A new run or an old one, and its model, still in its file."""
    if resume is None:
        return _begin(given, output)
    if output is None:
        return _reopen(given, resume)
    raise UsageError("--resume with --output", "a run goes on in its own directory")


def _begin(given: Settings, output: Path | None) -> tuple[Run, Model]:
    """A new run, whose directory is not made yet, and its model, still in its file."""
    if is_run(given.model_path):
        raise UsageError(f"{given.model} is a run", "--resume it, or tune what replay writes")
    if given.model and split(given.model).files:
        raise UsageError(f"{given.model} is a fine-tune", "tune what tinyzo replay writes of it")
    model = open_model(given.model_path, given.dtype, given.base_dtype)
    if given.method == "auto":
        given = settle_method(given, model)
        report.say(f"--method auto: {given.method}")
    settings = given.resolve(model.family)
    given.check_used(settings)
    if (given.lora_rank or given.lora_alpha) and adapters_of(model.weights):
        found = "--lora-rank and --lora-alpha are of a new adapter, and the model has one"
        raise UsageError(found, "leave them out: --train lora goes on with it as it is")
    path = settings.model_path
    data = str(settings.data_path.resolve()) if settings.data else None
    settings = settings.replace(model=lasting(settings.model), data=data)
    about = {
        "format": 1,
        "tinyzo": __version__,
        "family": model.family,
        "base": fingerprint(*peft.parts(path)),
    }
    name = f"{settings.task or 'custom'}-{name_of(path)}".lower()
    run = Run(output or Path("runs") / name, settings, about)
    return run, prepare(model, settings)


def _reopen(given: Settings, path: Path) -> tuple[Run, Model]:
    """An old run, with what may be chosen anew, and its model, still in its file."""
    run = Run.open(path, given.model, given.data)
    run.check_data()
    choices = given.replace(model=None, data=None).given()
    others = sorted(choices.keys() - set(FREE))
    if others:
        found = f"--resume keeps the run's settings; {', '.join(others)} cannot change"
        hint = f"only {', '.join(FREE)} may be given with --resume, and where model and data are"
        raise UsageError(found, hint)
    before = run.settings
    run.settings = before.replace(**choices)
    run.settings.check()
    if run.settings.steps != before.steps and before.schedule not in ANY_TIME:
        found = f"the {before.schedule} schedule runs over {before.steps}"
        hint = f"only {' and '.join(ANY_TIME)} can go on"
        raise UsageError(f"--steps {run.settings.steps}: {found}", hint)
    return run, run.base_model()


def _make_directory(run: Run, output: Path | None) -> None:
    """Make the directory of a new run; without an output, of the first number that is free.

    raises: RunError when there is something in it already, or it cannot be made
    """
    if output:
        run.make_directory()
        return
    numbered = (run.path.with_name(f"{run.path.name}-{n}") for n in itertools.count(1))
    run.path = next(path for path in numbered if claim_directory(path, RunError))


def _check_digest(run: Run, digest: str) -> None:
    """raises: RunError for data that are not those that the run began with"""
    if run.about.setdefault("data", digest) != digest:
        found = f"{run.settings.data_path}: the data have changed since the run began"
        raise RunError(found, "restore them, or begin a new run")


def _check_dev(settings: RunSettings, data: Data) -> None:
    """raises: UsageError for settings that go by losses on dev, where there are none"""
    for name in ("guard", "patience"):
        if getattr(settings, name) and not data.dev:
            found = f"--{name} goes by the losses on dev, and there are no rows of dev"
            raise UsageError(found, f"add a file of them, or leave out --{name}")


def _check_steps(steps: int, done: int) -> None:
    """raises: UsageError for fewer steps than have been taken"""
    if steps < done:
        raise UsageError(f"--steps {steps}: the run has done {done}", "none can be taken back")


def _plan(
    run: Run,
    model: Model,
    method: RunMethod,
    loads: list[memory.Load],
    is_new: bool,
    processes: int,
) -> memory.Plan:
    """Choose how to hold the run in memory; a new run settles on what its budget leads to.

    processes: that do so at the same time
    """
    if method.keeps_gradients and run.settings.train == "full":  # a step changes them in place
        run.settings = run.settings.replace(residency="resident")
    plan = memory.choose(model, run.settings, loads, not is_new, processes)
    if plan.engine == "onnx":
        _check_onnx(model, method, plan)
    if plan.engine != "numpy" and engine_here(run.settings.engine) == "numpy":  # Numba is broken
        settings = run.settings.replace(engine="numpy")
        plan = memory.choose(model, settings, loads, not is_new, processes)
    if is_new and run.settings.memory_budget:
        run.settings = run.settings.replace(
            engine=plan.engine,
            residency=plan.residency,
            micro_batch_tokens=plan.micro_batch_tokens,
        )
    return plan


def _check_onnx(model: Model, method: RunMethod, plan: memory.Plan) -> None:
    """raises: UsageError for what ONNX Runtime cannot train"""
    if method.differentiates:
        found = "--engine onnx runs forward passes, and this method takes derivatives"
        raise UsageError(found, "leave out --engine, or give --engine auto: NumPy takes them")
    if plan.residency == "streamed" and not isinstance(model.weights.store, Overlay):
        found = "--engine onnx maps weights in their file, and cannot train them there"
        hint = "--residency resident, or train what lies beside them, as --train lora-fa"
        raise UsageError(found, hint)


def _settle(run: Run, model: Model, plan: memory.Plan) -> None:
    """Log the plan, and make the model ready by it."""
    report.say(f"memory plan: {plan}")
    _hold(run, model, plan)
    if plan.engine == "numba":
        _say_products(model)


def _hold(run: Run, model: Model, plan: memory.Plan) -> None:
    """Make a model ready by a plan."""
    engine = "numpy" if plan.engine == "numpy" else run.settings.engine
    model.settle(engine, plan.residency, run.settings.threads, plan.tiles)


def _say_products(model: Model) -> None:
    """Log how bfloat16 weights are multiplied, which is not the same on all machines."""
    from tinyzo.engine.numba.engine import NumbaEngine

    engine = model.weights.engine
    if isinstance(engine, NumbaEngine) and memory.holds_bfloat(model):
        report.say(f"products of bfloat16: by {engine.way}")


def _first_unevaluated(run: Run, data: Data, done: int) -> int:
    """The first step whose evaluation is due and not on record; the last one done, if all are."""
    if 0 not in run.evaluations("test"):
        return 0
    if not data.dev:
        return done
    known = run.evaluations("dev")
    due = range(0, done, run.settings.eval_every)
    return next((step for step in due if step not in known), done)


@dataclass
class Training:
    """The loop over the steps of a run, and the report at its end.

    accuracy: the newest on dev, for the line of progress
    """

    run: Run
    method: RunMethod
    loss: BoundedLoss
    data: Data
    journal: Journal
    snapshots: Snapshots
    plan: memory.Plan
    ranks: Alone = ALONE
    accuracy: float | None = None

    @property
    def model(self) -> Model:
        return self.loss.objective.model

    def take_steps(self, start: int) -> None:
        """Redo what is done, take the other steps, and make each evaluation not yet made.

        start: how many steps the weights have in them
        raises: NumericError when the run diverges, which is recorded in events.jsonl first
        """
        self._catch_up()
        done = len(self.journal.steps)
        steps = self.run.settings.steps
        try:
            with as_it_came(self.model):
                self._evaluate(0, "test", self.data.test)
                self._evaluate(0, "dev", self.data.dev)
            with report.progress(done, steps) as bar:
                for number in range(start, steps):
                    if number >= done and not self._goes_on(number):
                        break
                    self._follow_return(number)
                    if number < done:
                        self._redo(number)
                    else:
                        report.show(bar, self._new_step(number), self.accuracy)
                    self._end_step(number + 1, done)
            self.snapshots.wait()
        except NumericError as error:
            event = {"event": "error", "step": len(self.journal.steps), "message": error.message}
            self.run.record("events.jsonl", event)
            raise

    def _catch_up(self) -> None:
        """Mend what a kill leaves: torn lines, and a metrics.jsonl shorter than the journal."""
        steps = self.journal.steps
        kept = self.run.keep_lines("metrics.jsonl", len(steps))
        for number in range(kept, len(steps)):
            self._record(number, steps[number], seconds=None)

    def _redo(self, number: int) -> None:
        """Take a step that the journal has already, by what it says."""
        step = self.journal.steps[number]
        self.method.redo(self.model.weights, step, lambda: self._step_from_batch(number))

    def _goes_on(self, number: int) -> bool:
        """Whether a step is to be taken; before it, the run may have to go back."""
        s = self.run.settings
        if number % s.eval_every or not (s.guard or s.patience):
            return True
        course = Course(self.run, self.journal.history, number)
        if course.has_broken_down:
            self._go_back(course.back())
        if course.is_over:
            report.say(f"stopped: no better loss on dev than that of step {course.best}")
            self._note({"event": "stopped", "step": number, "best": course.best})
        return not course.is_over

    def _go_back(self, back: Return | None) -> bool:
        """Record a return, if there is one; `_follow_return` then makes it."""
        if back is None:
            return False
        self.journal.append_return(back)
        there = f"goes on from step {back.to} with {back.factor:g} of the rates"
        report.say(f"step {back.after}: worse than at first, so the run {there}")
        return True

    def _follow_return(self, number: int) -> None:
        """Make the weights those that a step begins with, where the run goes back before it."""
        back = self.journal.history.returned(number)
        if back is None:
            return
        self._note({"event": "returned", "step": number, "to": back.to, "factor": back.factor})
        self.snapshots.wait()
        del self.model.weights  # two models may not fit in memory
        model = self.run.base_model()
        way = self.journal.history.way(back.to)
        start = self.snapshots.restore(model, way)
        _hold(self.run, model, self.plan)
        self.model.weights = model.weights
        for taken in rest_of(way, start):
            self._redo(taken.number)
            self._end_step(taken.number + 1, number)

    def _note(self, event: JsonObject) -> None:
        """Record an event, if it is not on record."""
        if event not in read_lines(self.run.path / "events.jsonl"):
            self.run.record("events.jsonl", event)

    def _new_step(self, number: int) -> JsonObject:
        """Take a step and record it, after a return if it diverges; returns its line of
        metrics.jsonl."""
        while True:
            try:
                return self._try_step(number)
            except NumericError:
                course = Course(self.run, self.journal.history, number)
                if not self._go_back(course.back()):
                    raise
                self._follow_return(number)

    def _try_step(self, number: int) -> JsonObject:
        """Take a step and record it; returns its line of metrics.jsonl."""
        start = time.perf_counter()
        try:
            step = self._step_from_batch(number)
        except NumericError as error:
            raise self._diverged(error.message, number) from None
        first = self.journal.steps[0] if self.journal.steps else step
        if step.loss > DIVERGED * (first.loss + 1):
            found = f"a loss of {step.loss:.4g}, {first.loss:.4g} at its first step"
            raise self._diverged(found, number)
        self.journal.append(step)
        return self._record(number, step, time.perf_counter() - start)

    def _diverged(self, found: str, number: int) -> NumericError:
        """The error of a run whose losses will not come back. found: what they are."""
        s = self.run.settings
        smaller = f"--lr {s.lr / 10:.2g}"
        if number == 0 and not self.method.keeps_gradients:  # the weights are the base's own
            smaller = f"--eps {s.eps / 10:.2g}"
        return NumericError(f"the run has diverged: {found}", f"begin a new run with {smaller}")

    def _step_from_batch(self, number: int) -> Step:
        """Draw the batch of a step and update the weights by it."""
        s = self.run.settings
        weights = self.model.weights
        rows = batch_rows(number, len(self.data.train), s.batch_size, s.data_seed)
        batch = [self.data.train[row] for row in rows]
        weights.fold()
        self.ranks.begin_step(self.journal.crc)
        return self.method.step(number, weights, self.loss, batch, self.journal.history)

    def _end_step(self, steps: int, done: int) -> None:
        """Evaluate and write a snapshot, if they are due after so many steps.

        done: steps that earlier processes took
        """
        s = self.run.settings
        weights = self.model.weights
        if steps % s.eval_every == 0 or steps == s.steps:
            self.run.sync("journal")
            same_weights(self.ranks, weights, steps, steps // s.eval_every)
            self._evaluate(steps, "dev", self.data.dev)
        is_due = self.snapshots.is_due(weights, steps, done)
        if is_due:
            self.run.sync("journal")
            self.run.sync("events.jsonl")  # a resumption evaluates no step before the snapshot
            self.snapshots.take(weights, steps)
        self.method.end_step(weights, steps, is_written=is_due)

    def _record(self, number: int, step: Step, seconds: float | None) -> JsonObject:
        """Append a line to metrics.jsonl, and return it. seconds: None for a step not timed."""
        line = {
            "step": number + 1,
            "loss": step.loss,
            **self.method.metrics(step),
            "lr": self.method.lr(number, self.journal.history),
            "eps": self.run.settings.eps,
            "seed": step.terms[0][0] if step.terms else None,
            "seconds": seconds,
            **self.ranks.waited(),
            "forwards": self.method.forwards,
            "resident_bytes": resident_bytes(),
            "peak_bytes": peak_bytes(),
        }
        self.run.record("metrics.jsonl", line)
        return line

    def _evaluate(self, step: int, split: str, examples: list[Example]) -> JsonObject:
        """The evaluation of a split after a step: the one on record, or made and recorded now."""
        event = self.run.evaluations(split).get(step, {})
        if not event and examples:
            self.model.weights.fold()
            event = {"event": "evaluation", "step": step, "split": split}
            said: list[np.ndarray | str] = []
            # Answers are written only where they are reported, as published: dev needs the loss.
            is_reported = split == "test"
            event |= self.ranks.from_first(
                evaluate(self.loss, examples, is_reported, said).record()
            )
            shown = self.data.shown if is_reported else []
            found = answers.answers(shown, examples, said)
            self.run.record_all("events.jsonl", [*answers.lines(step, split, found), event])
        if split == "dev":
            self.accuracy = event.get("accuracy")
        return event

    def finish(self) -> None:
        """Evaluate the best step on the test split, and write result.json and loss.png."""
        best = self.run.best_step()
        if best != len(self.journal.steps):
            # The last step's weights go before the best step's come: both may not fit in memory.
            del self.model.weights
            self.model.weights = tuned_model(self.run, best).weights
        final = self._evaluate(best, "test", self.data.test)
        if not self.ranks.is_first:
            return
        result = self._summary(best, final)
        self.run.write("result.json", json.dumps(result, allow_nan=False) + "\n")
        report.say(report.plot(self.run.path))

    def _summary(self, best_step: int, final: JsonObject) -> JsonObject:
        """The content of result.json. final: the evaluation of the best step on the test split."""
        zero_shot = self.run.evaluations("test")[0]
        before = passes_before(self.run.settings, len(self.data.train))
        lines = read_lines(self.run.path / "metrics.jsonl")
        seconds = [line["seconds"] for line in lines if line["seconds"] is not None]
        of_answers = {}
        for name in final.keys() & {"f1", "exact_match"}:
            of_answers[f"{name}_zero_shot"] = zero_shot[name]
            of_answers[name] = final[name]
        return {
            "run": str(self.run.path),
            "model": self.run.settings.model,
            "task": self.run.settings.task or "custom",
            "steps": len(self.journal.steps),
            "best_step": best_step,
            "forwards": before + sum(line["forwards"] for line in lines),
            "accuracy_zero_shot": zero_shot["accuracy"],
            "accuracy": final["accuracy"],
            **of_answers,
            "loss_zero_shot": zero_shot["loss"],
            "loss": final["loss"],
            "split": self.data.reported,
            "examples": final["examples"],
            "seconds": sum(seconds),
            "seconds_per_step": sum(seconds) / max(1, len(seconds)),
            "peak_bytes": peak_bytes(),
        }
