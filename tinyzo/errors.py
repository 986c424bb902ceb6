"""Everything tinyzo raises on purpose.

TinyzoError               exit code 1: what was read, what was found, and a hint
  CheckpointError         a weights file or directory: truncated, hostile, mismatched, missing
  ConfigError             a config.json or a setting that asks for what is not built
  TokenizerError          a vocabulary that is missing, damaged, or does not fit the model
  DataError               a data file, a task, a template, a label word, a sequence too long
  ShapeError              arrays that do not fit together
  RunError                a run directory or journal: corrupt, changed under us, in use
  NumericError            a loss that is not finite
  UsageError              exit code 2: the command itself is wrong
"""

from collections.abc import Iterable
from typing import NoReturn

DAMAGED = "the file is damaged or of another kind: download or copy it again"


class TinyzoError(Exception):
    """An error with a way out.

    message: what was read and what was found there, in one line.
    hint:    what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        if not self.hint:
            return self.message
        return f"{self.message}\n  hint: {self.hint}"


class CheckpointError(TinyzoError):
    """A weights file or directory is truncated, hostile, mismatched or missing."""


class ConfigError(TinyzoError):
    """A config.json or a setting asks for something that is not built."""


class TokenizerError(TinyzoError):
    """A vocabulary is missing, damaged, or does not fit the model."""


class DataError(TinyzoError):
    """A data file, task, template, label word or sequence cannot be used."""


class ShapeError(TinyzoError):
    """Arrays do not fit together."""


class RunError(TinyzoError):
    """A run directory or journal is corrupt, was changed, or is in use."""


class NumericError(TinyzoError):
    """A loss is not finite."""


class UsageError(TinyzoError):
    """The command itself is wrong."""

    exit_code = 2


def refuse(what: object, why: str, hint: str = DAMAGED) -> NoReturn:
    """Raise a CheckpointError that names a file or a tensor, and what is wrong with it."""
    raise CheckpointError(f"{what}: {why}", hint)


def check_choice(what: str, choice: str, known: Iterable[str]) -> None:
    """raises: ConfigError for a choice that is none of the known ones, which it lists"""
    known = list(known)
    if choice not in known:
        raise ConfigError(f"{what} {choice!r} is not built", f"one of {', '.join(known)}")
