"""The command line: results on stdout, progress and logs on stderr. Its wording is in cli.toml.

Exit codes: 0 done, 1 failed with a reason and a hint, 2 wrong usage, 130 after Ctrl-C.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyzo.dtypes import weight_type
from tinyzo.engine.noise import FORMAT
from tinyzo.errors import DataError, TinyzoError, UsageError
from tinyzo.models.model import Model, load, open_model, read_config
from tinyzo.parsing import read_toml
from tinyzo.runs import defaults, doctor, evaluate, export, memory, train
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.data import bind_task, load_data, load_evaluation
from tinyzo.runs.find_lr import find_lr
from tinyzo.runs.journal import read_journal
from tinyzo.runs.run import Run, prepare
from tinyzo.runs.settings import CHOICES, FIELDS, RunSettings, Settings
from tinyzo.runs.snapshots import MOST, tuned_model
from tinyzo.system import peak_bytes
from tinyzo.text.tasks import BoundTask
from tinyzo.zo.objectives import Objective

INTERFACE = read_toml(Path(__file__).with_suffix(".toml"))
TYPES = {float: float, int: int, str: str}
OF_TASK = ("task", "template", "label_words", "data", "label_field")


def build_parser() -> argparse.ArgumentParser:
    """The COMMANDS, described by their docstrings' first lines, with the arguments of cli.toml."""
    parser = argparse.ArgumentParser(prog="tinyzo", description=INTERFACE["about"])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, run in COMMANDS.items():
        what = (run.__doc__ or "").partition("\n")[0].rstrip(".")
        sub = commands.add_parser(name, help=what, description=what)
        sub.register("type", "count", _count)
        for field in INTERFACE[name].get("settings", FIELDS):
            sub.add_argument(f"--{field.replace('_', '-')}", type=TYPES.get(FIELDS[field], lambda text: text.split(",")),
                             choices=CHOICES.get(field))  # fmt: skip
        sub.add_argument("--json", action="store_true", help="one JSON document, the last line")
        for argument, how in INTERFACE[name]["arguments"].items():
            sub.add_argument(argument, **how)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return int(text)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    return {k: v for k, v in vars(options).items() if k in FIELDS and v is not None}


def _say(options: argparse.Namespace, result: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The result, after what cli.toml says of it, unless it is to be JSON."""
    if not options.json:
        print(INTERFACE[options.command]["says"].format(**result, **more))
    return result


def finetune(options: argparse.Namespace) -> dict[str, Any]:
    """Tune a model on a task; without arguments: the shipped model on the shipped task."""
    choices = (read_toml(Path(options.config)) if options.config else {}) | _given(options)
    settings = Settings.from_mapping(choices, options.config or "finetune")
    if options.find_lr:
        settings = settings.replace(**find_lr(settings)._asdict())
    output = Path(options.output) if options.output else None
    resume = Path(options.resume) if options.resume else None
    run = train.tune(settings, output, resume)
    size = run.journal_path.stat().st_size
    return _say(options, run.result, peak_mb=run.result["peak_bytes"] / 1e6,
                journal=run.journal_path, journal_bytes=size)  # fmt: skip


def _open(options: argparse.Namespace, needs_data: bool = True) -> tuple[Model, RunSettings, bool]:
    """A model, the settings of its task, and whether task and data are those it was tuned on.

    From a folder, a shipped name, or a run, whose own task and data are what is not given.
    """
    given = _given(options)
    path = Path(given.get("model", defaults.MODEL))
    if not (path / "run.toml").is_file():
        settings = Settings.from_mapping(given, "the command")
        model = load(settings.model_path, dtype=settings.dtype)
        return model, settings.resolve(model.family, needs_data), False
    run = Run.open(path)
    for name, option in (("dtype", "--dtype"), ("data_seed", "--data-seed")):
        if given.pop(name, known := getattr(run.settings, name)) != known:
            raise UsageError(f"the run's {name} is {known}", f"leave out {option}")
    task = run.settings.task or ""
    same = given.get("task", task).lower() == task.lower() and "template" not in given
    own = Settings(**vars(run.settings))
    changes = given if same else dict.fromkeys(OF_TASK) | given
    settings = own.replace(**changes | {"model": run.settings.model})
    model = tuned_model(run, 0 if getattr(options, "zero_shot", False) else None)
    return model, settings.resolve(model.family, needs_data), same and "data" not in given


def evaluate_(options: argparse.Namespace) -> dict[str, Any]:
    """Accuracy and loss of a model or a run on a task."""
    model, settings, own = _open(options)
    bound = bind_task(model, settings)
    data = (load_data if own else load_evaluation)(bound, settings)
    result = evaluate.evaluate(BoundedLoss(Objective(model, bound), settings.micro_batch_tokens), data.test)
    about = {"model": options.model or settings.model, "task": settings.task or "custom"}
    result = about | result._asdict() | {"split": data.reported}
    return _say(options, result | {"peak_bytes": peak_bytes()})


def predict(options: argparse.Namespace) -> None:
    """Label texts (arguments, or lines of stdin).

    One JSON object a line with --json, else the label, its probability and the text. A label is
    its word; of a task whose words are columns (COPA), what its files call it.
    """
    model, settings, _ = _open(options, needs_data=False)
    bound = bind_task(model, settings)
    task, objective = bound.task, BoundedLoss(Objective(model, bound), 4096)
    labels = [word.strip() for word in task.fixed_words] or task.labels
    for text in _texts(options):
        (odds,) = evaluate.predict(objective, [bound.encode(_row(bound, text), labelled=False)])
        label = labels[odds.argmax()]
        scores = dict(zip(labels, odds.tolist(), strict=True))
        result = json.dumps({"text": text, "label": label, "scores": scores})
        print(result if options.json else f"{label}\t{odds.max():.3f}\t{text}", flush=True)


def _texts(options: argparse.Namespace) -> Iterator[str]:
    try:
        for text in options.texts or sys.stdin or ():
            text.encode()
            yield text.removesuffix("\n")
    except UnicodeError:
        raise DataError("a text that is not UTF-8", "save the texts as UTF-8") from None


def _row(bound: BoundTask, text: str) -> dict[str, Any]:
    if len(bound.fields) == 1:
        return {bound.fields[0]: text}
    try:
        return {**json.loads(text)}
    except (ValueError, TypeError, RecursionError):
        raise DataError(f"{text[:40]!r}: the task reads {', '.join(bound.fields)}",
                        "give each text as a JSON object of these columns") from None  # fmt: skip


def replay(options: argparse.Namespace) -> dict[str, Any]:
    """Write a run's tuned model as a Hugging Face directory, LoRA as a PEFT one."""
    run = Run.open(Path(options.path))
    output = export.replay(run, Path(options.output), options.step, options.merge)
    return _say(options, {"run": str(run.path), "output": str(output)})


def convert(options: argparse.Namespace) -> dict[str, Any]:
    """Rewrite pytorch_model.bin as safetensors, without PyTorch."""
    output = export.convert(Path(options.path), Path(options.output))
    result = {"output": str(output), "peak_bytes": peak_bytes()}
    return _say(options, result, file=output / "model.safetensors")


def inspect(options: argparse.Namespace) -> dict[str, Any]:
    """Parameters, types and memory plan of a model or a run."""
    path, settings, result = Path(options.path), None, {}
    if (path / "run.toml").is_file():
        run = Run.open(path)
        settings, (header, steps, _) = run.settings, read_journal(run.journal_path)
        result = {"run": str(path), "steps": len(steps), "best_step": run.best_step(),
                  "base": header.base, "noise_format": FORMAT, "step_bytes": header.record.size}
    given = Settings(model=options.path)
    if settings is None:
        settings = given.resolve(read_config(given.model_path)[0])
    settings = settings.replace(memory_budget=options.memory_budget)
    model = open_model(settings.model_path, settings.dtype)
    weights, names = model.weights, model.weights.names()
    if result:
        prepare(model, settings)
    parameters, trainable = map(weights.elements, (names, weights.trained))
    loads = [memory.Load(options.batch_size * options.tokens, options.tokens, probes=2)]
    plan = memory.choose(model, settings, loads)
    every = list(memory.plans(model, settings, loads)) if options.plan else [plan]
    sizes = {"step": result.get("step_bytes", 56), "most": MOST, "gb": weights.nbytes() / 5e4}
    result |= {"model": str(settings.model_path), "family": model.family, "parameters": parameters,
               "trainable": trainable, "tensors": len(names),
               "types": dict(Counter(weight_type(weights.dtype(name)).tag for name in names)),
               "bytes": weights.nbytes(), "plan": plan.parts, "plan_bytes": plan.total,
               "written": INTERFACE["inspect"]["written"].format(**sizes),
               "plans": [plan._asdict() for plan in every]}  # fmt: skip
    if not options.json:
        shown = [(k, v) for k, v in result.items() if k not in ("plan", "plans")]
        print(*(f"{k:14} {v}" for k, v in shown + [("plan", each) for each in every]), sep="\n")
    return result


def doctor_(options: argparse.Namespace) -> dict[str, Any]:
    """Environment, speed, and whether a model computes what it should."""
    checks = []
    for check in doctor.examine(Settings(model=options.path).model_path):
        checks.append(check)
        if not options.json:
            hint = f"\n{'':17}hint: {check['hint']}" if check["hint"] else ""
            print(f"{'ok' if check['ok'] else 'BAD':4}{check['name']:13}{check['value']}{hint}")
    return {"ok": all(check["ok"] for check in checks), "checks": checks}


COMMANDS = {"finetune": finetune, "evaluate": evaluate_, "predict": predict, "replay": replay,
            "convert": convert, "inspect": inspect, "doctor": doctor_}  # fmt: skip


@np.errstate(over="ignore", invalid="ignore")  # a loss that is not finite is an error of its own
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    if sys.stderr is None:  # closed, as by `2>&-`: else the journal would become file 2
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the end)
    options = build_parser().parse_args(arguments)
    try:
        result = COMMANDS[options.command](options)
        if options.json and result is not None:
            print(json.dumps(result))
        print(end="", flush=True)
        return 0 if (result or {}).get("ok", True) else 1  # the doctor's
    except TinyzoError as error:
        why, code = str(error), error.exit_code
    except KeyboardInterrupt:
        why, code = "interrupted; a run goes on with --resume RUN", 130
    except (OSError, MemoryError, UnicodeError) as error:
        if getattr(error, "filename", "") is None:  # stdout: its flush at exit would fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has seen enough, as `| head -1`
            return 1
        hint = "check the path and its permissions, and room on the disk and in memory"
        why, code = f"{error or type(error).__name__}\n  hint: {hint}", 1
    print(f"tinyzo: {why}", file=sys.stderr)
    return code
