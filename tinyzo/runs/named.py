"""What `--model` names: a model's folder, a run, or a base and the fine-tunes that go onto it.

    base+a.tinyzo               the base with a's terms: to the bit what replay makes of the run
    base+a.tinyzo@0.5           base + 0.5 (a - base)
    base+a.tinyzo+b.tinyzo@-1   base + (a - base) - (b - base)
    a.tinyzo                    where its base ships, or is in the hub's cache

A folder or a file whose name has a `+` in it counts before what its pieces mean. `@` and not `*`,
which shells expand.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from tinyzo.errors import RunError, UsageError
from tinyzo.runs.defaults import MODEL
from tinyzo.runs.fine_tune import FineTune
from tinyzo.runs.fine_tune_file import MAGIC
from tinyzo.runs.run import Run, is_run
from tinyzo.runs.settings import model_path
from tinyzo.runs.sums import open_sum
from tinyzo.system import os_errors

SUFFIX = ".tinyzo"
WEIGHTED = re.compile(r"(.+)@(-?[0-9]{1,6}(?:\.[0-9]{1,12})?)", re.DOTALL)


class Addend(NamedTuple):
    """A file, and its weight."""

    path: Path
    weight: float


class Named(NamedTuple):
    """The pieces of a name. base: "" where there is none; files: none of a model or a run."""

    base: str
    files: list[Addend]


def open_tuned(model: str | None, base: str | None = None) -> Run | FineTune | None:
    """The run, or the fine-tunes with their base, that `--model` names; None: a model.

    model: None: the one that ships
    base:  where the model that it began with is now; None: where the name or the run says
    raises: RunError; UsageError for a base that is named twice, or that is a run
    """
    model = model or MODEL
    named = split(model)
    if not named.files:
        path = model_path(model)
        return Run.open(path, base) if is_run(path) else None
    if named.base and base:
        found = f"--base {base}, and {named.base} before the fine-tune"
        raise UsageError(found, "give one of them")
    if named.base and is_run(model_path(named.base)):
        hint = "name the model that it began with; tinyzo share makes a file of the run"
        raise UsageError(f"{named.base} is a run", hint)
    return open_sum(model, named.files, named.base or base)


def open_one(tuned: str, base: str | None = None) -> Run | FineTune:
    """The same of what is no model; raises RunError for one, too."""
    return open_tuned(tuned, base) or Run.open(Path(tuned), base)


def split(model: str) -> Named:
    """The pieces of what `--model` names."""
    files: list[Addend] = []
    rest = model
    while rest and not os.path.isdir(model_path(rest)):
        starts = [0, *(place.end() for place in re.finditer(r"\+", rest))]
        start = next((s for s in starts if is_fine_tune(addend(rest[s:]).path)), None)
        if start is None and addend(rest[starts[-1] :]).path.suffix == SUFFIX:
            start = starts[-1]  # a file that is not there, which reading it says
        if start is None:
            break
        files.insert(0, addend(rest[start:]))
        rest = rest[: max(start - 1, 0)]
    return Named(rest, files)


def addend(text: str) -> Addend:
    """A file, and the weight after `@`, 1 without one."""
    found = WEIGHTED.fullmatch(text)
    if found is None or is_fine_tune(Path(text)):
        return Addend(Path(os.path.expanduser(text)), 1.0)
    return Addend(Path(os.path.expanduser(found[1])), float(found[2]))


def is_fine_tune(path: Path) -> bool:
    """Whether a file is there that is meant to be a fine-tune, by its name or its beginning."""
    if not os.path.isfile(path):
        return False
    with os_errors(RunError, path, "make it readable"), open(path, "rb") as file:
        return path.suffix == SUFFIX or file.read(len(MAGIC)) == MAGIC
