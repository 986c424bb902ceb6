"""`tinyzo finetune`: tune a model on a task."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyzo.cli import options as shared
from tinyzo.cli.answers import put_changes
from tinyzo.cli.parser import Parser
from tinyzo.cli.streams import put
from tinyzo.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from tinyzo.runs.ranks import Alone
    from tinyzo.runs.run import Run
    from tinyzo.runs.settings import Settings


def add_arguments(parser: Parser) -> None:
    """The options that people set first, then all others, in groups."""
    parser.usage = "tinyzo finetune [options]"
    parser.description = (
        "Tune a model on a task with forward passes only. Without options: the small RoBERTa "
        "that\nships, on reviews that ship. Ctrl-C loses nothing: --resume RUN goes on."
    )
    parser.epilog = shared.describe_methods()
    first = parser.add_argument_group("what people set first")
    shared.add_model(first)
    shared.add_task(first)
    shared.add_data(first)
    shared.add_output(first)
    shared.add_method(first)
    shared.add_steps(first)
    model = parser.add_argument_group("model: what is trained, and how it is stored")
    shared.add_trained(model)
    shared.add_dtype(model)
    shared.add_base_dtype(model)
    data = parser.add_argument_group("task and data")
    shared.add_own_task(data)
    shared.add_rows(data)
    shared.add_sampling(data)
    shared.add_parts(
        parser.add_argument_group("method: its parts, where they are not the method's")
    )
    run = parser.add_argument_group("run")
    shared.add_rates(run)
    shared.add_course(run)
    run.add_argument(
        "--recipe",
        metavar="NAME",
        help="settings by which others have tuned a model on a task, as roberta-large/SST-2 or "
        "opt-1.3b/RTE/lora; list: print all. Options count before it; default: none",
    )
    machine = parser.add_argument_group("machine")
    shared.add_machine(machine)
    machine.add_argument(
        "--share",
        metavar="WHAT",
        choices=("queries", "rows", "both"),
        help="under mpiexec: what its processes share of a step, queries, rows or both; needs pip "
        "install 'tinyzo[mpi]'; default: each process is alone",
    )
    output = parser.add_argument_group("output")
    shared.add_snapshots(output)
    shared.add_json(output)


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Tune, or go on tuning, and say what came of it; or list the recipes."""
    from tinyzo.runs.ranks import join
    from tinyzo.runs.recipes import listing

    if options.recipe == "list":
        put(listing())
        return None
    ranks = join(options.share)
    with ranks.working():
        return _tune(options, ranks)


def _tune(options: argparse.Namespace, ranks: Alone) -> dict[str, Any] | None:
    """The same on one rank, of which only the first says it."""
    from tinyzo.cli.suggest import check_names, check_run
    from tinyzo.runs.api import as_path
    from tinyzo.runs.find_lr import find_lr
    from tinyzo.runs.recipes import with_recipe
    from tinyzo.runs.train import tune

    given = shared.given_settings(options).given()
    settings = with_recipe(options.recipe, _read_config(options.config).replace(**given))
    check_names(settings.model, settings.task)
    if options.resume is not None:
        check_run(options.resume)
    if options.find_lr:
        if options.resume is not None:
            raise UsageError("--find-lr with --resume", "a run keeps its lr and eps: leave it out")
        if options.share is not None:
            raise UsageError("--find-lr with --share", "find them in one process, then share")
        found = find_lr(settings)
        settings = settings.replace(lr=found.lr, eps=found.eps)
    tuned = tune(settings, as_path(options.output), as_path(options.resume), ranks)
    if not ranks.is_first:
        return None
    result = tuned.result
    if not options.json:
        put(_summary(result, _place(tuned, result["best_step"])))
        put_changes(tuned, result["best_step"])
    return result


def _read_config(path: str | None) -> Settings:
    """The settings of a file; none without one."""
    from tinyzo.parsing import read_toml
    from tinyzo.runs.settings import Settings

    if path is None:
        return Settings()
    if not os.path.isfile(path):
        found = "it is not a file" if os.path.exists(path) else "no such file"
        raise ConfigError(f"{path}: {found}", "--config takes a file of lines such as lr = 1e-6")
    return Settings.from_mapping(read_toml(Path(path)), path)


def _place(tuned: Run, step: int) -> Path:
    """The file that has the fine-tune of a step: weights, where a gradient made it."""
    from tinyzo.zo.methods import METHODS

    weights = tuned.path / f"weights-{step}.safetensors"
    is_gradient = bool(METHODS[tuned.settings.method].gradient)
    return weights if is_gradient and step else tuned.journal_path


def _summary(result: dict[str, Any], place: Path) -> str:
    peak_mb = result["peak_bytes"] / 1e6
    steps = "1 step" if result["best_step"] == 1 else f"{result['best_step']} steps"
    key = "f1" if "f1" in result else "accuracy"
    return (
        f"{key.replace('f1', 'F1')} on {result['examples']} {result['split']} rows: "
        f"{result[f'{key}_zero_shot']:.3f} zero-shot, {result[key]:.3f} after "
        f"{steps} (best of {result['steps']} on dev)\n"
        f"{result['forwards']} forward passes, {result['seconds']:.1f} s, "
        f"{result['seconds_per_step']:.3f} s a step, peak {peak_mb:.0f} MB\n"
        f"the fine-tune is {place} ({place.stat().st_size} bytes); "
        f"tinyzo replay {result['run']} --output DIR writes the model"
    )
