"""finetune: from settings to a run that is done, or that can be gone on with."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyzo import __version__
from tinyzo.checkpoints.directory import fingerprint
from tinyzo.engine.engines import why_no_numba
from tinyzo.engine.noise import step_seed
from tinyzo.errors import ConfigError, NumericError, RunError, UsageError
from tinyzo.models.model import Model, load
from tinyzo.runs import memory, report
from tinyzo.runs.data import Data, bind_task, load_data
from tinyzo.runs.evaluate import Evaluation, evaluate
from tinyzo.runs.journal import Header, Journal
from tinyzo.runs.run import Run, read_lines
from tinyzo.runs.settings import Settings, settings_from
from tinyzo.text.batches import batch_rows, packed_size
from tinyzo.text.tasks import Example
from tinyzo.zo.mezo import Step, mezo_step
from tinyzo.zo.objectives import Objective
from tinyzo.zo.updates import learning_rate


@dataclasses.dataclass(frozen=True)
class Method:
    """A step, and how many losses and terms it records."""

    step: Callable[..., Step]
    losses: int
    terms: int


METHODS = {"mezo": Method(mezo_step, losses=2, terms=1)}


def finetune(
    output: str | Path | None = None, resume: str | Path | None = None, **choices: Any
) -> Run:
    """Tune a model by forward passes; what `tinyzo finetune` calls.

    output: the run's new directory, by default runs/<task>-<model>-<n>. resume: go on with this
    run instead; then only `steps` may be chosen anew. choices: the fields of Settings.
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
    if resume is None:
        run.create()  # not before: a mistake in what was asked for leaves no directory behind
    objective = Objective(model, bound, run.settings.micro_batch_tokens)
    method = METHODS[run.settings.method]
    header = Header(method.losses, method.terms, model.weights.kind, run.about["base"])
    with Journal(run.journal_path, header) as journal:
        if (steps := run.settings.steps) < (done := len(journal.steps)):
            raise UsageError(f"--steps {steps}: the run has done {done}", "none can be taken back")
        run.save()
        Training(run, objective, data, journal, method).go()
    return run


def _begin(output: str | Path | None, settings: Settings) -> tuple[Run, Model]:
    if (settings.model_path / "run.toml").is_file():
        raise UsageError(f"{settings.model} is a run", "--resume it, or tune what replay writes")
    model = load(
        settings.model_path, settings.engine, settings.residency, settings.dtype, settings.threads
    )
    settings = settings.complete(model.family)
    if settings.method not in METHODS:
        known = ", ".join(METHODS)
        raise ConfigError(f"method {settings.method!r} is not built", f"one of {known}")
    learning_rate(0, 1, 0.0, settings.schedule)  # refuses an unknown one
    path = settings.model_path
    model_name = path.name if settings.is_shipped_model else str(path.resolve())
    settings = dataclasses.replace(settings, model=model_name)
    if settings.data:
        settings = dataclasses.replace(settings, data=str(settings.data_path.resolve()))
    about = {
        "format": 1, "tinyzo": __version__, "family": model.family,
        "base": fingerprint(settings.model_path),
    }  # fmt: skip
    return Run(Path(output) if output else _free_name(settings), settings, about), model


def _reopen(path: Path, choices: dict[str, Any]) -> tuple[Run, Model]:
    run = Run.open(path)
    if others := choices.keys() - {"steps"}:
        raise UsageError(
            f"--resume keeps the run's settings; {', '.join(sorted(others))} cannot change",
            "only --steps may be given with --resume",
        )
    steps, settings = settings_from(choices, "--resume").steps, run.settings
    if steps not in (None, settings.steps):
        if settings.schedule != "constant":
            why = f"the {settings.schedule} schedule runs over {settings.steps}"
            raise UsageError(f"--steps {steps}: {why}", "only a constant lr can go on")
        run.settings = dataclasses.replace(settings, steps=steps)
        run.settings.check()
    return run, run.base_model()


def _check_digest(run: Run, digest: str) -> None:
    if run.about.setdefault("data", digest) != digest:
        raise RunError(
            f"{run.settings.data_path}: the data have changed since the run began",
            "restore them, or begin a new run",
        )


def _free_name(settings: Settings) -> Path:
    stem = f"{settings.task or 'custom'}-{settings.model_path.name}".lower()
    names = (Path("runs") / f"{stem}-{n}" for n in range(1, 1_000_000))
    return next(path for path in names if not path.exists())


@dataclasses.dataclass
class Training:
    """The loop, from wherever the journal ends to the last step, and the report."""

    run: Run
    objective: Objective
    data: Data
    journal: Journal
    method: Method
    accuracy: float | None = None  # the newest on dev, for the line of progress

    def go(self) -> None:
        """Redo the steps that are done, take the others, and make each evaluation not yet made."""
        self._catch_up()
        self._plan()
        done, s = list(self.journal.steps), self.run.settings
        try:
            self._evaluate(0, "test", self.data.test)
            self._evaluate(0, "dev", self.data.dev)
            with report.progress(len(done), s.steps) as bar:
                for number in range(s.steps):
                    if number < len(done):
                        step = done[number]
                        self.objective.model.weights.add(step.terms, step.decay)
                    else:
                        report.show(bar, self._step(number), self.accuracy)
                    if (number + 1) % s.eval_every == 0 or number + 1 == s.steps:
                        self.journal.sync()
                        self._evaluate(number + 1, "dev", self.data.dev)
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

    def _plan(self) -> None:
        """Say what the largest of a step and the evaluations will hold."""
        data, s, plans = self.data, self.run.settings, []
        for examples, rows, probes in (
            (data.train, s.batch_size, 2), (data.dev, None, 1), (data.test, None, 1)
        ):  # fmt: skip
            sizes = sorted(map(packed_size, examples), reverse=True)[:rows] or [0]
            tokens = max(sizes[0], min(s.micro_batch_tokens, sum(sizes)))
            plans.append(memory.plan(self.objective.model, tokens, sizes[0], probes))
        parts = max(plans, key=lambda plan: sum(plan.values()))
        parts["total"] = sum(parts.values())
        listing = ", ".join(f"{k} {v / report.MEGABYTE:.0f} MB" for k, v in parts.items())
        engine = self.objective.model.engine
        slow = s.engine == "auto" and engine == "numpy"
        why = f", the slow one ({why_no_numba()})" if slow else ""
        report.say(f"run {self.run.path}, engine {engine}{why}\nmemory plan: {listing}")

    def _step(self, number: int) -> dict[str, Any]:
        """One step: batch, losses, update, journal, metrics."""
        s, start = self.run.settings, time.perf_counter()
        rows = batch_rows(number, len(self.data.train), s.batch_size, s.data_seed)
        batch = [self.data.train[row] for row in rows]
        step = self.method.step(
            self.objective.model.weights, self.objective, batch, step_seed(s.seed, number),
            s.eps, self._lr(number), s.weight_decay,
        )  # fmt: skip
        self.journal.append(step)
        return self._record(number, step, time.perf_counter() - start)

    def _lr(self, number: int) -> float:
        s = self.run.settings
        return learning_rate(number, s.steps, s.lr, s.schedule, s.warmup)

    def _record(self, number: int, step: Step, seconds: float | None) -> dict[str, Any]:
        line = {
            "step": number + 1, "loss": step.loss,
            "loss_plus": step.losses[0], "loss_minus": step.losses[-1],
            "projected_gradient": step.projected_gradient,
            "lr": self._lr(number), "eps": self.run.settings.eps, "seed": step.terms[0][0],
            "seconds": seconds, "forwards": len(step.losses), "peak_bytes": memory.peak_bytes(),
        }  # fmt: skip
        self.run.record("metrics.jsonl", line)
        return line

    def _evaluate(self, step: int, split: str, examples: list[Example]) -> Evaluation | None:
        """Evaluate and log; once only for a step and a split, which resuming counts on."""
        known = self.run.evaluations(split).get(step)
        if known:
            result = Evaluation(known["examples"], known["accuracy"], known["loss"])
        elif examples:
            result = evaluate(self.objective, examples)
            event = {"event": "evaluation", "step": step, "split": split}
            self.run.record("events.jsonl", event | dataclasses.asdict(result))
        else:
            return None
        if split == "dev":
            self.accuracy = result.accuracy
        return result

    def _finish(self) -> None:
        """Report the best step on the test split, against the model as it came."""
        best, done = self.run.best_step(), len(self.journal.steps)
        if best != done:
            model = self.objective.model
            model.weights = None  # given back first: two sets of weights may not fit in memory
            model.weights = self.run.model(best).weights
        final = self._evaluate(best, "test", self.data.test)
        zero = self.run.evaluations("test")[0]
        lines = read_lines(self.run.path / "metrics.jsonl")
        timed = [line["seconds"] for line in lines if line["seconds"] is not None]
        result = {
            "run": str(self.run.path), "model": self.run.settings.model,
            "task": self.run.settings.task or "custom", "steps": done, "best_step": best,
            "forwards": sum(line["forwards"] for line in lines),
            "accuracy_zero_shot": zero["accuracy"], "accuracy": final.accuracy,
            "loss_zero_shot": zero["loss"], "loss": final.loss,
            "split": self.data.reported, "examples": final.examples,
            "seconds": sum(timed), "seconds_per_step": sum(timed) / max(1, len(timed)),
            "peak_bytes": memory.peak_bytes(),
        }  # fmt: skip
        self.run.write("result.json", json.dumps(result) + "\n")
        report.say(report.plot(self.run.path))
