"""What evaluate and predict work on: a model, or a run's, and the settings of its task."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from tinyzo.cli.options import MODEL
from tinyzo.cli.suggest import check_names
from tinyzo.errors import UsageError
from tinyzo.models.model import Model, load
from tinyzo.runs.run import Run
from tinyzo.runs.settings import Settings, settings_from
from tinyzo.runs.snapshots import tuned_model

OF_TASK = ("task", "template", "label_words", "data", "label_field")
OF_RUN = ("dtype", "data_seed")  # what a run has chosen once and for all


class Opened(NamedTuple):
    """is_own: whether task and data are those that the model was tuned on"""

    model: Model
    settings: Settings
    is_own: bool


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings among a command's options that the user gave."""
    names = [field.name for field in dataclasses.fields(Settings)]
    values = {name: getattr(options, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def open_model(options: argparse.Namespace, needs_data: bool, zero_shot: bool = False) -> Opened:
    """Open the folder, shipped name or run of --model; of a run, what is not given is its own.

    needs_data: whether rows will be read; zero_shot: of a run, the model as it came
    raises: TinyzoError
    """
    given = given_settings(options)
    check_names(given.get("model"), given.get("task"))
    path = Path(given.get("model", MODEL))
    if (path / "run.toml").is_file():
        return _open_run(Run.open(path), given, needs_data, zero_shot)
    settings = settings_from(given, "the command")
    model = load(settings.model_path, dtype=settings.dtype)
    return Opened(model, settings.complete(model.family, needs_data), False)


def _open_run(run: Run, given: dict[str, Any], needs_data: bool, zero_shot: bool) -> Opened:
    for name in OF_RUN:
        known = getattr(run.settings, name)
        if given.pop(name, known) != known:
            option = name.replace("_", "-")
            raise UsageError(f"the run's {name} is {known}", f"leave out --{option}")
    is_same_task = _is_same_task(run.settings.task or "", given)
    is_own = is_same_task and "data" not in given
    given["model"] = run.settings.model
    if not is_same_task:
        none_of_them = {name: getattr(Settings, name) for name in OF_TASK}
        given = none_of_them | given
    settings = dataclasses.replace(run.settings, **given)
    step = 0 if zero_shot else None
    model = tuned_model(run, step)
    return Opened(model, settings.complete(model.family, needs_data), is_own)


def _is_same_task(task: str, given: dict[str, Any]) -> bool:
    if "template" in given:
        return False
    asked = given.get("task", task)
    return bool(asked.lower() == task.lower())
