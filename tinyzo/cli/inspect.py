"""`tinyzo inspect`: parameters, types and memory plan of a model or a run; what an export takes."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tinyzo.cli import options as shared
from tinyzo.cli.parser import Parser, path
from tinyzo.cli.streams import put
from tinyzo.errors import TinyzoError, shown
from tinyzo.runs.defaults import MODEL

if TYPE_CHECKING:
    from tinyzo.engine.weights import Weights
    from tinyzo.models.model import Model
    from tinyzo.runs.exported import Export
    from tinyzo.runs.fine_tune import FineTune
    from tinyzo.runs.memory import Plan
    from tinyzo.runs.run import Run
    from tinyzo.runs.settings import RunSettings

NEXT = ".next"  # what the names of moved tensors end in, which are as many as what is trained
STEP_BYTES = 56  # a step of MeZO in the journal


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "path",
        type=path,
        nargs="?",
        metavar="DIR|RUN",
        default=MODEL,
        help=f"a model's folder, a run, what export wrote, or a name that ships; default: {MODEL}",
    )
    shared.add_base(parser.add_argument_group("model"))
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
    from tinyzo.runs.exported import is_export
    from tinyzo.runs.named import open_tuned

    check_model(options.path)
    if is_export(Path(options.path)):
        return _inspect_export(options)
    tuned = open_tuned(options.path, options.base)
    seen = _open_tuned(tuned) if tuned else _open_model(options)
    result = {
        **seen.about,
        "model": str(seen.settings.model_path),
        "family": seen.family,
    }
    if seen.model is None:
        printed = _show(result | {"missing": seen.missing}, [], options.json)
        return printed | {"plan": {}, "plans": []}
    return _inspect_model(seen, seen.model, result, options)


def _inspect_model(
    seen: Seen, model: Model, result: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """The same with what its model takes. result: what is known without it"""
    from tinyzo.runs.run import prepare

    names = model.weights.names()  # the model's own: `prepare` may add adapters
    if seen.about:
        prepare(model, seen.settings)
    settings = seen.settings.replace(memory_budget=options.memory_budget)
    chosen, plans = _plans(model, settings, options)
    result |= {**_sizes(model.weights, names), "plan_bytes": chosen.total}
    if "fine_tune" not in seen.about:  # which is no run to go on with
        step_bytes = seen.about.get("step_bytes", STEP_BYTES)
        result["written"] = _written(model.weights, step_bytes)
    printed = _show(result, plans, options.json)
    return printed | {"plan": chosen.parts, "plans": [plan._asdict() for plan in plans]}


# What an app has to know of an export, of the fields of its tinyzo.json.
OF_EXPORT = (
    *("family", "task", "kind", "labels", "words", "mask_id", "pad_id", "max_tokens", "train"),
    *("rank", "scale", "queries", "batch_size", "lr", "eps", "seed", "noise_format", "base"),
)


def _inspect_export(options: argparse.Namespace) -> dict[str, Any]:
    """All that is known of an export, once all of it has been checked."""
    from tinyzo.runs.exported import open_export
    from tinyzo.runs.opened import check_no_base
    from tinyzo.runs.settings import Settings

    check_no_base(Settings(model=options.path), options.base)
    export = open_export(Path(options.path))
    plan = _plan_of_export(export, options)
    shown = _show(_about_export(export) | {"plan_bytes": plan.total}, [plan], options.json)
    return shown | {"plan": plan.parts, "plans": [plan._asdict()]}


def _about_export(export: Export) -> dict[str, Any]:
    """What an app has to know."""
    from tinyzo.runs.exported import SPLITS

    about = export.about
    result: dict[str, Any] = {"export": str(export.path)}
    result |= {name: about[name] for name in OF_EXPORT}
    result |= {f"{split}_rows": len(export.rows(split)) for split in SPLITS}
    result |= {
        "trained": len(export.trained),
        "trainable": export.elements(),
        "bytes": export.size_of_base(),
    }
    for name, signature in about["signatures"].items():
        for side, values in signature.items():
            shown = {each: _shape(values[each]) for each in values if each not in about["trained"]}
            result[f"{name} {side}"] = {k: v for k, v in shown.items() if not k.endswith(NEXT)}
    return result


def _plan_of_export(export: Export, options: argparse.Namespace) -> Plan:
    """The plan of a step, of the sizes that the graph fixes, or else of the options."""
    from tinyzo.models.model import open_model
    from tinyzo.runs import memory
    from tinyzo.runs.settings import Settings

    rows, tokens = export.sizes(options.batch_size, options.tokens)
    model = open_model(export.adapter)
    given = Settings(model=options.path, engine="onnx", memory_budget=options.memory_budget)
    settings = given.replace(micro_batch_tokens=rows * tokens).resolve(model.family)
    load = memory.Load(rows * tokens, tokens, 2 * export.about["queries"])
    return memory.choose(model, settings, [load], is_fixed=True)


def _shape(described: dict[str, Any]) -> str:
    """As int64[rows, tokens]."""
    return f"{described['type']}[{', '.join(map(str, described['shape']))}]"


class Seen(NamedTuple):
    """What there is to inspect.

    model:    None where that of a run is gone, or a fine-tune's is another
    settings: of the run, or the default ones
    about:    what the files of a run or of fine-tunes say; nothing of a model
    missing:  why there is no model
    """

    model: Model | None
    settings: RunSettings
    family: str
    about: dict[str, Any]
    missing: str = ""


def _open_model(options: argparse.Namespace) -> Seen:
    from tinyzo.models.model import open_model
    from tinyzo.runs.opened import check_no_base
    from tinyzo.runs.settings import Settings

    given = Settings(model=options.path)
    check_no_base(given, options.base)
    model = open_model(given.model_path)
    return Seen(model, given.resolve(model.family), model.family, {})


def _open_tuned(tuned: Run | FineTune) -> Seen:
    from tinyzo.models.model import open_model
    from tinyzo.runs.places import first_there
    from tinyzo.runs.run import Run

    is_run = isinstance(tuned, Run)
    about = _about_run(tuned) if isinstance(tuned, Run) else _about_files(tuned)
    seen = Seen(None, tuned.settings, tuned.about["family"], about, tuned.missing_base())
    path = first_there(tuned.models)
    if not os.path.exists(path):
        return seen
    try:
        if not is_run:  # which shows what is there, whatever became of it
            path = tuned.find_base()
        model = open_model(path, tuned.settings.dtype, tuned.settings.base_dtype)
        return seen._replace(model=model)
    except TinyzoError as error:
        return seen._replace(missing=error.message)


def _about_files(tuned: FineTune) -> dict[str, Any]:
    """What the files of a fine-tune say, of a sum those of the first. Their texts may hold
    anything, so they are as a line can show them."""
    s = tuned.settings
    head = tuned.head
    return {
        "fine_tune": shown(str(tuned.path)),
        "weights": [f"{part.path.name}@{part.weight:g}" for part in tuned.parts],
        "file_bytes": sum(os.path.getsize(part.path) for part in tuned.parts),
        "written_by": shown(f"tinyzo {head['tinyzo']}"),
        "base_name": head["name"],
        "base": head["base"],
        "task": shown(s.task or s.template or ""),
        "label_words": s.label_words,
        "method": s.method,
        "train": shown(s.train),
        **_about_terms(tuned),
        **{f"score_{name}": found for name, found in head["scores"].items()},
    }


def _about_terms(tuned: FineTune) -> dict[str, Any]:
    head = tuned.head
    last = [max(part.contents.numbers, default=-1) + 1 for part in tuned.parts]
    seeds = "stored" if head["seeds"] else f"of the run's seed, {tuned.settings.seed}"
    return {
        "steps": sum(len(part.contents.terms) for part in tuned.parts),
        "best_step": last[0],
        "terms": sum(part.contents.terms.size for part in tuned.parts),
        "z": f"{head['z']}, format {head['z_format']}",
        "seeds": seeds,
        "decays": head["decays"],
    }


def _about_run(run: Run) -> dict[str, Any]:
    from tinyzo.engine.noise import FORMAT
    from tinyzo.runs.journal import read_journal

    best_step = run.best_step()  # first, since the journal of a run at work is ahead
    header, history, _ = read_journal(run.journal_path)
    return {
        "run": str(run.path),
        "steps": len(history.steps),
        "best_step": best_step,
        "engines": ", then ".join(f"{name} from step {step}" for step, name in run.engines()),
        "base": header.base,
        "noise_format": FORMAT,
        "step_bytes": header.record.size,
    }


def _sizes(weights: Weights, names: Sequence[str]) -> dict[str, Any]:
    """Counts, types and bytes of parameters. names: the model's own tensors, without adapters."""
    from tinyzo.checkpoints.groups import is_grouped, type_tag

    free = [name for name in weights.trained if not is_grouped(weights.dtype(name))]
    types = Counter(type_tag(weights.dtype(name)) for name in names)
    return {
        "parameters": weights.elements(names),
        "trainable": weights.elements(free),
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


def _show(result: dict[str, Any], plans: list[Plan], is_json: bool) -> dict[str, Any]:
    """Print what was found, if people are to read it; returns it."""
    if is_json:
        return result
    width = max(14, *map(len, result))
    for name, value in result.items():
        put(f"{name:{width}} {value}")
    for plan in plans:
        put(f"{'plan':{width}} {plan}")
    return result
