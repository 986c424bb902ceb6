"""Everything tinyzo raises on purpose."""

from collections.abc import Iterable
from typing import NoReturn

DAMAGED = "the file is damaged or of another kind: download or copy it again"
LONGEST = 800  # letters of a message, or of a hint


class TinyzoError(Exception):
    """An error with a way out.

    message: what was read and what was found there, in one line. Names in it may come from hostile
        files, so what a terminal would obey is escaped, and a long one is cut.
    hint:    what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = shown(message)
        self.hint = shown(hint)

    def __str__(self) -> str:
        if not self.hint:
            return self.message
        return f"{self.message}\n  hint: {self.hint}"


def shown(text: str) -> str:
    """A text of one line and a bounded length, without letters that move a terminal's cursor."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


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
