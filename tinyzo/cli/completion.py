"""Completion of commands, options, their values and paths by the shell; shtab writes it."""

import argparse

from tinyzo.errors import UsageError
from tinyzo.packages import in_a_line, is_missing

SHELLS = ("bash", "zsh")
FOLDERS = ("DIR", "RUN", "DIR|RUN")
FILES = ("PATH", "FILE.toml", "DIR|FILE.bin")


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script that a shell reads.

    raises: UsageError without shtab
    """
    try:
        import shtab
    except Exception as error:
        needs = "--print-completion needs shtab"
        if is_missing(error, "shtab"):
            raise UsageError(needs, "pip install 'tinyzo[completion]' brings it") from None
        found = f"{needs}, which cannot be used ({in_a_line(error)})"
        raise UsageError(found, "pip install --force-reinstall shtab") from None
    _complete_paths(parser, dict.fromkeys(FOLDERS, shtab.DIRECTORY))
    _complete_paths(parser, dict.fromkeys(FILES, shtab.FILE))
    return str(shtab.complete(parser, shell))


def _complete_paths(parser: argparse.ArgumentParser, by_metavar: dict[str, object]) -> None:
    """Tell shtab, by an attribute of its own, which arguments are paths."""
    for action in parser._actions:  # argparse has no public list of them
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_paths(command, by_metavar)
        elif action.metavar in by_metavar:
            vars(action)["complete"] = by_metavar[action.metavar]
