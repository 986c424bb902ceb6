"""The commands that make a run again, and its model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from tinyzo.errors import TinyzoError
from tinyzo.runs.settings import RunSettings, Settings

# Always said; any other setting where it is not what tinyzo would choose by itself.
SAID = ("model", "task", "template", "label_words", "data", "method", "steps")


def finetune_command(settings: RunSettings, family: str, output: str) -> str:
    """The command of a new run with these settings."""
    return _line(["tinyzo", "finetune"], {**_needed(settings, family), "output": output})


def replay_command(run: str, output: str) -> str:
    """The command that writes a run's tuned model."""
    return shlex.join(["tinyzo", "replay", run, "--output", output])


def _needed(settings: RunSettings, family: str) -> dict[str, object]:
    """The settings that have to be said, for all others to be as they are.

    One that is said may change what tinyzo chooses for another, so they are resolved anew until
    they agree; all are said if they cannot be, as where a model's folder is gone.
    """
    all_of_them = {name: value for name, value in vars(settings).items() if value is not None}
    said = {name: value for name, value in all_of_them.items() if name in SAID}
    while True:
        try:
            found = vars(Settings(**said).resolve(family))
        except TinyzoError:
            return all_of_them
        others = {k: v for k, v in all_of_them.items() if found[k] != v and k not in said}
        if not others:
            return said
        said |= others


def _line(command: list[str], options: Mapping[str, object]) -> str:
    """A command of several lines, an option in each."""
    return " \\\n  ".join([shlex.join(command), *map(_option, options.items())])


def _option(item: tuple[str, object]) -> str:
    name, value = item
    text = ",".join(value) if isinstance(value, list) else f"{value}"
    option = f"--{name.replace('_', '-')}"
    if text.startswith("-"):
        return shlex.quote(f"{option}={text}")
    return f"{option} {shlex.quote(text)}"
