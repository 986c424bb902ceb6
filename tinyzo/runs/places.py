"""Where a run's model and data are, though the run has moved.

run.toml has paths relative to the run's directory, and that directory as it was when it was
written. So a run is whole after it moved with them, without them, and to another machine.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from tinyzo.runs.settings import is_shipped_model, model_path


def relative(path: str, directory: Path) -> str:
    """A path as run.toml has it; a name, and a path on another drive or system, as they are.

    directory: the run's, resolved
    returns: it begins with a dot, and has slashes, where it is relative
    """
    if not Path(path).is_absolute():
        return path
    try:
        found = Path(os.path.relpath(path, directory)).as_posix()
    except ValueError:  # another drive
        return path
    return found if found.partition("/")[0] == ".." else f"./{found}"


def places(stored: str, *directories: Path) -> list[Path]:
    """The paths that something of run.toml may have, the likeliest first.

    stored:      a path, or the name of a model
    directories: that the run is in, and was in
    """
    if _is_absolute(stored):
        return [Path(stored)]
    if is_name(stored):
        return [model_path(stored)]
    found = (Path(os.path.normpath(directory / stored)) for directory in directories)
    return list(dict.fromkeys(found))


def is_name(stored: str) -> bool:
    """Whether this stands in run.toml for a model of that name, and is no path."""
    return not _is_absolute(stored) and stored.partition("/")[0] not in (".", "..")


def first_there(paths: Sequence[Path]) -> Path:
    """The first path at which there is something; the first of all, if there is none."""
    return next((path for path in paths if os.path.exists(path)), paths[0])


def lasting(model: str) -> str:
    """A model as a run keeps it: the absolute path of a folder, or a name that is no path."""
    path = model_path(model)
    if is_shipped_model(path):
        return path.name
    return str(path.resolve()) if os.path.isdir(model) else model


def _is_absolute(path: str) -> bool:
    """Whether it is a path from a root, on this system or on another."""
    return PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()
