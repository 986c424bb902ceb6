"""The command line: results on stdout, progress and logs on stderr.

Exit codes: 0 done, 1 failed with a reason and a hint, 2 wrong usage, 130 after Ctrl-C.
"""

import argparse
import dataclasses
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyzo.checkpoints.files import read_toml
from tinyzo.engine.noise import FORMAT
from tinyzo.errors import DataError, TinyzoError, UsageError
from tinyzo.models.model import DTYPES, Model, load, open_model
from tinyzo.runs import doctor, evaluate, export, memory, train
from tinyzo.runs.data import bind_task, load_data, load_evaluation
from tinyzo.runs.journal import read_journal
from tinyzo.runs.run import Run
from tinyzo.runs.settings import Settings, settings_from
from tinyzo.runs.snapshots import MOST, TAGS, tuned_model
from tinyzo.text.datasets import Row
from tinyzo.text.tasks import BoundTask
from tinyzo.zo.methods import METHODS
from tinyzo.zo.objectives import Objective
from tinyzo.zo.updates import SCHEDULES

HELP = dict(re.findall(r"^    (\w+): (.+)$", Settings.__doc__ or "", re.MULTILINE))
CHOICES = train.CHOICES | {"method": tuple(METHODS), "schedule": tuple(SCHEDULES),
                           "dtype": ("auto", *DTYPES)}  # fmt: skip
ABOUT_TASK = {"task": None, "template": None, "label_words": None}
ABOUT_DATA = {"data": None, "label_field": Settings.label_field}


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options; those of finetune are the fields of Settings."""
    parser = argparse.ArgumentParser(
        prog="tinyzo", description="Fine-tune RoBERTa and OPT with forward passes only."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(run: Any, fields: Iterable[str] = (), path: str | None = None) -> Any:
        """A command: a function, whose name and docstring it has, and the settings it takes."""
        what = (run.__doc__ or "").partition("\n")[0].rstrip(".")
        sub = commands.add_parser(run.__name__.rstrip("_"), help=what, description=what)
        for field in fields:
            _add_setting(sub, field)
        if path:  # of a model, where there may be none
            default = {"nargs": "?", "default": Settings.model} if "[" in path else {}
            sub.add_argument("path", metavar=path.strip("[]"), **default)
        sub.add_argument("--json", action="store_true", help="one JSON document, the last line")
        sub.set_defaults(run=run)
        return sub

    sub = command(finetune, [f.name for f in dataclasses.fields(Settings)])
    sub.add_argument("--output", metavar="RUN", help="the run's new directory")
    sub.add_argument("--resume", metavar="RUN", help="go on with a run (alone, or with --steps)")
    sub.add_argument("--config", metavar="FILE.toml", help="settings; options override them")
    sub = command(evaluate_, ("model", *ABOUT_TASK, *ABOUT_DATA, "data_seed", "limit", "dtype"))
    sub.add_argument("--zero-shot", action="store_true", help="of a run: its base, not the result")
    sub = command(predict, ("model", *ABOUT_TASK, "dtype"))
    sub.add_argument("texts", nargs="*", metavar="TEXT", help="a text, or a JSON object of columns")
    sub = command(replay, path="RUN")
    sub.add_argument("--output", required=True, metavar="DIR")
    sub.add_argument("--step", type=_count, help="after so many steps; default: best on dev")
    command(convert, path="DIR|FILE.bin").add_argument("--output", required=True, metavar="DIR")
    sub = command(inspect, ("memory_budget",), path="[DIR|RUN]")
    sub.add_argument("--batch-size", type=_count, default=8, help="for the memory plan")
    sub.add_argument("--tokens", type=_count, default=64, help="a sequence, for the memory plan")
    sub.add_argument("--plan", action="store_true", help="every way to hold it in memory")
    command(doctor_, path="[DIR]")
    return parser


def _add_setting(parser: argparse.ArgumentParser, name: str) -> None:
    (kind,) = (f.type for f in dataclasses.fields(Settings) if f.name == name)
    kind = kind.removesuffix(" | None")
    parsers = {"float": float, "int": int, "str": str, "list[str]": lambda text: text.split(",")}
    choices = CHOICES.get(name)
    parser.add_argument(_option(name), type=parsers[kind], choices=choices, help=HELP.get(name))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return int(text)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(Settings)}
    return {k: v for k, v in vars(options).items() if k in names and v is not None}


def finetune(options: argparse.Namespace) -> dict[str, Any]:
    """Tune a model on a task; without arguments: the shipped model on the shipped task."""
    given = _given(options)
    if options.config:
        given = read_toml(Path(options.config)) | given
    run = train.finetune(options.output, options.resume, **given)
    result = run.result
    _say(options, (
        f"accuracy on {result['examples']} {result['split']} rows: "
        f"{result['accuracy_zero_shot']:.3f} zero-shot, {result['accuracy']:.3f} after "
        f"{result['best_step']} steps (best of {result['steps']} on dev)\n"
        f"{result['forwards']} forward passes, {result['seconds']:.1f} s, "
        f"{result['seconds_per_step']:.3f} s a step, peak {result['peak_bytes'] / 1e6:.0f} MB\n"
        f"the fine-tune is {run.journal_path} ({run.journal_path.stat().st_size} bytes); "
        f"tinyzo replay {run.path} --output DIR writes the model"
    ))  # fmt: skip
    return result


def _open(options: argparse.Namespace, needs_data: bool = True) -> tuple[Model, Settings, bool]:
    """A model, the settings of its task, and whether task and data are those it was tuned on.

    From a folder, a shipped name, or a run, whose own task and data are what is not given.
    """
    given = _given(options)
    path = Path(given.get("model", Settings.model))
    if not (path / "run.toml").is_file():
        settings = settings_from(given, "the command")
        model = load(settings.model_path, dtype=settings.dtype)
        return model, settings.complete(model.family, needs_data), False
    run = Run.open(path)
    for name in ("dtype", "data_seed"):
        if given.pop(name, known := getattr(run.settings, name)) != known:
            raise UsageError(f"the run's {name} is {known}", f"leave out {_option(name)}")
    task = run.settings.task or ""
    same = given.get("task", task).lower() == task.lower() and "template" not in given
    changes = given if same else ABOUT_TASK | ABOUT_DATA | given
    settings = dataclasses.replace(run.settings, **changes | {"model": run.settings.model})
    model = tuned_model(run, 0 if getattr(options, "zero_shot", False) else None)
    return model, settings.complete(model.family, needs_data), same and "data" not in given


def evaluate_(options: argparse.Namespace) -> dict[str, Any]:
    """Accuracy and loss of a model or a run on a task."""
    model, settings, own = _open(options)
    bound = bind_task(model, settings)
    data = (load_data if own else load_evaluation)(bound, settings)
    objective = Objective(model, bound, settings.micro_batch_tokens)
    result = evaluate.evaluate(objective, data.test)
    _say(options, f"accuracy {result.accuracy:.4f}, loss {result.loss:.4f} "
                  f"on {result.examples} {data.reported} rows")  # fmt: skip
    return {"model": options.model or settings.model, "task": settings.task or "custom",
            "examples": result.examples, "accuracy": result.accuracy, "loss": result.loss,
            "split": data.reported, "peak_bytes": memory.peak_bytes()}  # fmt: skip


def predict(options: argparse.Namespace) -> None:
    """Label texts (arguments, or lines of stdin).

    One JSON object a line with --json, else the label, its probability and the text. A label is
    its word; of a task whose words are columns (COPA), what its files call it.
    """
    model, settings, _ = _open(options, needs_data=False)
    bound = bind_task(model, settings)
    task, objective = bound.task, Objective(model, bound)
    labels = task.labels if "{" in "".join(task.words) else [w.strip() for w in task.words]
    for text in _texts(options):
        example = bound.encode(_row(bound, text), labelled=False)
        (odds,) = evaluate.predict(objective, [example])
        label = labels[odds.argmax()]
        if options.json:
            scores = dict(zip(labels, odds.tolist(), strict=True))
            print(json.dumps({"text": text, "label": label, "scores": scores}), flush=True)
        else:
            print(f"{label}\t{odds.max():.3f}\t{text}", flush=True)


def _texts(options: argparse.Namespace) -> Iterator[str]:
    try:
        for text in options.texts or sys.stdin or ():
            text.encode()
            yield text.removesuffix("\n")
    except UnicodeError:
        raise DataError("a text that is not UTF-8", "save the texts as UTF-8") from None


def _row(bound: BoundTask, text: str) -> Row:
    if len(bound.fields) == 1:
        return Row({bound.fields[0]: text})
    try:
        return Row(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        raise DataError(f"{text[:40]!r}: the task reads {', '.join(bound.fields)}",
                        "give each text as a JSON object of these columns") from None  # fmt: skip


def replay(options: argparse.Namespace) -> dict[str, Any]:
    """Write a run's tuned model as a Hugging Face directory."""
    run = Run.open(Path(options.path))
    output = export.replay(run, Path(options.output), options.step)
    _say(options, f"tuned model written to {output}")
    return {"run": str(run.path), "output": str(output)}


def convert(options: argparse.Namespace) -> dict[str, Any]:
    """Rewrite pytorch_model.bin as safetensors, without PyTorch."""
    output = export.convert(Path(options.path), Path(options.output))
    _say(options, f"converted to {output / 'model.safetensors'}")
    return {"output": str(output), "peak_bytes": memory.peak_bytes()}


def inspect(options: argparse.Namespace) -> dict[str, Any]:
    """Parameters, types and memory plan of a model or a run."""
    path = Path(options.path)
    result: dict[str, Any] = {}
    settings = Settings(model=options.path)
    if (path / "run.toml").is_file():
        run = Run.open(path)
        header, steps, _ = read_journal(run.journal_path)
        settings = run.settings
        result = {"run": str(path), "steps": len(steps), "best_step": run.best_step(),
                  "base": header.base, "noise_format": FORMAT}  # fmt: skip
    settings = dataclasses.replace(settings, memory_budget=options.memory_budget)
    model = open_model(settings.model_path, settings.dtype)
    weights = model.weights
    parameters = sum(math.prod(weights.shape(name)) for name in weights.names())
    loads = [memory.Load(options.batch_size * options.tokens, options.tokens, probes=2)]
    plan = memory.choose(model, settings, loads)
    every = list(memory.plans(model, settings, loads)) if options.plan else [plan]
    result |= {"model": str(settings.model_path), "family": model.family, "parameters": parameters,
               "trainable": parameters, "tensors": len(weights.names()),
               "types": dict(Counter(TAGS[weights.dtype(name).name] for name in weights.names())),
               "bytes": weights.nbytes(), "plan": plan.parts, "plan_bytes": plan.total,
               "written": _written(weights.nbytes()), "plans": list(map(dataclasses.asdict, every))}
    shown = {k: v for k, v in result.items() if k not in ("plan", "plans")}
    lines = [f"{name:14} {value}" for name, value in shown.items()]
    _say(options, "\n".join(lines + [f"{'plan':14} {each}" for each in every]))
    return result


def _written(size: int) -> str:
    """What a run writes, and what that means for flash."""
    return (f"56 bytes a step, and the weights every {MOST} steps, or if streamed every K as "
            f"measured (--fold-every K; 0: never): {size * 2e4 / 1e9:.0f} / K GB in 20,000 steps")


def doctor_(options: argparse.Namespace) -> dict[str, Any]:
    """Environment, speed, and whether a model computes what it should."""
    checks = []
    for check in doctor.examine(Settings(model=options.path).model_path):
        checks.append(check)
        hint = f"\n{'':17}hint: {check['hint']}" if check["hint"] else ""
        _say(options, f"{'ok' if check['ok'] else 'BAD':4}{check['name']:13}{check['value']}{hint}")
    return {"ok": all(check["ok"] for check in checks), "checks": checks}


def _say(options: argparse.Namespace, text: str) -> None:
    if not options.json:
        print(text)


@np.errstate(over="ignore", invalid="ignore")  # a loss that is not finite is an error of its own
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    if sys.stderr is None:  # closed, as by `2>&-`: else the journal would become file 2
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the end)
    options = build_parser().parse_args(arguments)
    try:
        result = options.run(options)
        if options.json and result is not None:
            print(json.dumps(result))
        print(end="", flush=True)
        return 0 if (result or {}).get("ok", True) else 1  # the doctor's
    except TinyzoError as error:
        return _fail(error, error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted; a run goes on with --resume RUN", 130)
    except (OSError, MemoryError, UnicodeError) as error:
        if getattr(error, "filename", "") is None:  # stdout: its flush at exit would fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has seen enough, as `| head -1`
            return 1
        hint = "check the path and its permissions, and room on the disk and in memory"
        return _fail(f"{error or type(error).__name__}\n  hint: {hint}", 1)


def _fail(why: object, code: int) -> int:
    print(f"tinyzo: {why}", file=sys.stderr)
    return code
