"""argparse, with errors of two lines: the option and what it takes, then what to do."""

import argparse
import os
import textwrap
from collections.abc import Iterable
from typing import Any, NoReturn

from tinyzo.cli.streams import put
from tinyzo.errors import UsageError
from tinyzo.runs.spelling import closest


class Formatter(argparse.RawDescriptionHelpFormatter):
    """The formatter of argparse, but it keeps names such as roberta-tiny whole."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


def path(text: str) -> str:
    """A path; ~ at its start is the home folder, also where a shell leaves it."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError
    return os.path.expanduser(text)


def names(text: str) -> list[str]:
    """The value of an option that takes a list: its items, which commas separate."""
    return text.split(",")


def count(text: str) -> int:
    """A whole number from 0 up."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError
    return int(text)


def size(text: str) -> int:
    """A whole number from 1 up."""
    number = count(text)
    if number == 0:
        raise argparse.ArgumentTypeError
    return number


TAKES = {
    int: "a whole number",
    float: "a number",
    count: "a whole number from 0 up",
    size: "a whole number from 1 up",
    path: "a path",
}


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError instead of printing its usage and leaving."""

    def __init__(self, **how: Any) -> None:
        """how: what argparse takes"""
        super().__init__(formatter_class=Formatter, **how)

    def error(self, message: str) -> NoReturn:
        """raises: UsageError with argparse's own words"""
        raise UsageError(message.removeprefix("argument "), f"{self.prog} -h shows how")

    def print_help(self, file: Any = None) -> None:
        """Print the help to stdout; raises as `put` does, where argparse passes over it."""
        put(self.format_help().removesuffix("\n"))

    def refuse(self, unknown: str) -> NoReturn:
        """raises: UsageError for an argument that the command does not take"""
        name = unknown.partition("=")[0]
        known = self._option_string_actions
        hint = f"{self.prog} -h lists what it takes"
        if name in known:
            hint = f"give {name} after the command"
        elif near := closest(name, known):
            hint = f"did you mean {near}?"
        raise UsageError(f"unknown argument {name}", hint)

    # argparse reads values in these places, none public; its public `error` has only their text.

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        values = super()._get_values(action, arg_strings)
        if action.nargs is None and values == []:  # of --option=--, before Python 3.13
            self.error(f"argument {_name(action)}: expected one argument")
        return values

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError:
            found = f"{_name(action)} takes {TAKES[action.type]}, not {arg_string!r}"
            raise UsageError(found, f"{self.prog} -h says what it is") from None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = list(action.choices)
        hint = f"{self.prog} -h says what each is"
        if near := closest(value, known):
            hint = f"did you mean {' '.join([*action.option_strings, near])}?"
        raise UsageError(f"{_name(action)} takes {listed(known)}, not {value!r}", hint)


def _name(action: argparse.Action) -> str:
    """The name of an argument in messages: `--option`, or its metavar."""
    return "/".join(action.option_strings) or str(action.metavar)


def listed(known: Iterable[str]) -> str:
    """a, b or c"""
    *others, last = known
    return f"{', '.join(others)} or {last}" if others else last
