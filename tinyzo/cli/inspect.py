"""`tinyzo inspect`: parameters, types and memory plan of a model or a run."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyzo.cli import options as shared
from tinyzo.cli.parser import Parser, path
from tinyzo.cli.streams import put
from tinyzo.runs.defaults import MODEL

if TYPE_CHECKING:
    from tinyzo.engine.weights import Weights
    from tinyzo.models.model import Model
    from tinyzo.runs.memory import Plan
    from tinyzo.runs.run import Run
    from tinyzo.runs.settings import RunSettings

STEP_BYTES = 56  # a step of MeZO in the journal


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "path",
        type=path,
        nargs="?",
        metavar="DIR|RUN",
        default=MODEL,
        help=f"a model's folder, a run, or a name that ships; default: {MODEL}",
    )
    plan = parser.add_argument_group("memory plan")
    shared.add_plan_sizes(plan)
    shared.add_memory_budget(plan)
    plan.add_argument(
        "--plan",
        action="store_true",
        help="every way to hold it in memory; default: the one that a run takes",
    )
    shared.add_json(parser.add_argument_group("output"))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All that is known of a model before it computes anything."""
    from tinyzo.cli.suggest import check_model
    from tinyzo.runs.run import prepare

    check_model(options.path)
    model, settings, about_run = _open(options.path)
    names = model.weights.names()  # the model's own: `prepare` may add adapters
    if about_run:
        prepare(model, settings)
    settings = settings.replace(memory_budget=options.memory_budget)
    chosen, plans = _plans(model, settings, options)
    result = {
        **about_run,
        "model": str(settings.model_path),
        "family": model.family,
        **_sizes(model.weights, names),
        "plan_bytes": chosen.total,
        "written": _written(model.weights, about_run.get("step_bytes", STEP_BYTES)),
    }
    if not options.json:
        _show(result, plans)
    return result | {"plan": chosen.parts, "plans": [plan._asdict() for plan in plans]}


def _open(path: str) -> tuple[Model, RunSettings, dict[str, Any]]:
    """A model, the settings of its run or the default ones, and what a run's files say."""
    from tinyzo.models.model import open_model
    from tinyzo.runs.run import Run, is_run
    from tinyzo.runs.settings import Settings

    if is_run(Path(path)):
        run = Run.open(Path(path))
        model = open_model(run.settings.model_path, run.settings.dtype)
        return model, run.settings, _about_run(run)
    given = Settings(model=path)
    model = open_model(given.model_path)
    return model, given.resolve(model.family), {}


def _about_run(run: Run) -> dict[str, Any]:
    from tinyzo.engine.noise import FORMAT
    from tinyzo.runs.journal import read_journal

    header, steps, _ = read_journal(run.journal_path)
    return {
        "run": str(run.path),
        "steps": len(steps),
        "best_step": run.best_step(),
        "base": header.base,
        "noise_format": FORMAT,
        "step_bytes": header.record.size,
    }


def _sizes(weights: Weights, names: Sequence[str]) -> dict[str, Any]:
    """Counts, types and bytes of parameters. names: the model's own tensors, without adapters."""
    from tinyzo.dtypes import weight_type

    types = Counter(weight_type(weights.dtype(name)).tag for name in names)
    return {
        "parameters": weights.elements(names),
        "trainable": weights.elements(weights.trained),
        "tensors": len(names),
        "types": dict(types),
        "bytes": weights.nbytes(),
    }


def _plans(
    model: Model, settings: RunSettings, options: argparse.Namespace
) -> tuple[Plan, list[Plan]]:
    """The plan of a step of two probes, and the plans to show: that one, or with --plan all."""
    from tinyzo.runs import memory
    from tinyzo.runs.methods import method_of

    tokens = options.batch_size * options.tokens
    keeps_gradients = method_of(settings).keeps_gradients
    loads = [memory.Load(tokens, options.tokens, 2, keeps_gradients)]
    chosen = memory.choose(model, settings, loads)
    if not options.plan:
        return chosen, [chosen]
    return chosen, list(memory.plans(model, settings, loads))


def _written(weights: Weights, step_bytes: int) -> str:
    """A sentence on what a run of this model writes to the disk."""
    from tinyzo.runs.snapshots import MOST

    gigabytes = 20_000 * weights.nbytes() / 1e9
    return (
        f"{step_bytes} bytes a step, and the weights every {MOST} steps, or if streamed every K "
        f"as measured (--fold-every K; 0: never): {gigabytes:.0f} / K GB in 20,000 steps"
    )


def _show(result: dict[str, Any], plans: list[Plan]) -> None:
    for name, value in result.items():
        put(f"{name:14} {value}")
    for plan in plans:
        put(f"{'plan':14} {plan}")
