"""Names that were nearly right: what a misspelt one most likely means."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tinyzo.errors import CheckpointError, DataError, RunError, UsageError
from tinyzo.runs.spelling import closest


def check_names(model: str | None, task: str | None) -> None:
    """Find a misspelt model or task before anything is read.

    raises: CheckpointError or DataError for a name that means nothing and is near one that does;
        other names are left to whatever reads them
    """
    if model is not None:
        check_model(model)
    if task is not None:
        check_task(task)


def check_model(model: str) -> None:
    """raises: CheckpointError for no folder and no shipped name, but nearly one"""
    from tinyzo.runs.named import split
    from tinyzo.runs.settings import model_path

    model, files = split(model)
    if files and not model:  # one that its file names
        return
    if not os.path.exists(model_path(model)) and (near := _near(Path(model))):
        hint = f"did you mean {near}? If not, name a folder that is here: nothing is downloaded"
        raise CheckpointError(f"{model}: no such folder", hint)


def check_no_run(path: str, hint: str) -> None:
    """raises: UsageError, with the hint, for a run where only a model's folder will do"""
    from tinyzo.runs.run import is_run

    check_model(path)
    if is_run(Path(path)):
        raise UsageError(f"{path} is a run, not a model's folder", hint)


def check_run(path: str) -> None:
    """raises: RunError for a run's directory that is not there"""
    from tinyzo.runs.named import split

    if os.path.exists(path) or split(path).files:
        return
    hint = "name the --output of finetune"
    if near := _near(Path(path)):
        hint = f"did you mean {near}?"
    raise RunError(f"{path}: no such folder", hint)


def _near(path: Path) -> Path | None:
    """The model or run beside a path that its last name most likely means."""
    near = closest(path.name, _models_in(path.parent))
    return path.parent / near if near else None


def _models_in(folder: Path) -> Iterator[str]:
    """The models and runs of a folder, and where no folder is named, the models that ship."""
    from tinyzo.runs.settings import SHIPPED

    for name in ("config.json", "run.toml"):
        yield from (file.parent.name for file in folder.glob(f"*/{name}"))
    if folder == Path():
        yield from (file.parent.name for file in SHIPPED.glob("*/config.json"))


def check_task(task: str) -> None:
    """raises: DataError for a task that no family has, but nearly the name of one"""
    from tinyzo.text.tasks import TASKS, get_task

    for family in {known.family for known in TASKS}:
        with suppress(DataError):
            get_task(task, family)
            return
    if near := closest(task, (known.name for known in TASKS)):
        raise DataError(f"task {task!r} is not known", f"did you mean {near}?")
