"""Names that were nearly right: what a misspelt one most likely means."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from tinyzo.errors import CheckpointError, DataError, UsageError


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelt one most likely means, in any case; None if none is near."""
    by_lower = {each.lower(): each for each in known}
    for match in get_close_matches(name.lower(), by_lower, n=1):
        return by_lower[match]
    return None


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
    from tinyzo.runs.settings import model_path

    if os.path.exists(model_path(model)):
        return
    path = Path(model)
    if near := closest(path.name, _models_in(path.parent)):
        raise CheckpointError(f"{model}: no such folder", f"did you mean {path.parent / near}?")


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


def check_settings(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """raises: UsageError for a name in a file of settings that is no setting, but nearly one"""
    known = set(known)
    unknown = {name for name in names if name.replace("-", "_") not in known}
    for name in unknown:
        if near := closest(name, known):
            message = f"{where}: no setting is called {name!r}"
            raise UsageError(message, f"did you mean {near}?")
