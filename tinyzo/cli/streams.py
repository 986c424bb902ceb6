"""The standard streams: results on stdout, words to a person on stderr.

A letter that a stream's encoding has not is escaped, as \\xfc. Results that cannot be written are
an error; words that cannot be written are left out.
"""

import io
import os
import sys
from typing import TextIO

from tinyzo.errors import TinyzoError

ESCAPED = "backslashreplace"
LOSING = ("strict", "surrogateescape")  # what Python does unless told otherwise
# Letters that would end a cell or a line, or command the terminal.
CONTROLS = {
    code: chr(code).encode("unicode_escape").decode() for code in (*range(32), *range(127, 160))
}
IN_LINES = {code: letters for code, letters in CONTROLS.items() if chr(code) not in "\t\n"}


def open_streams() -> None:
    """Make the streams ready for every letter.

    One that is closed, as by `2>&-`, is opened on nothing: else a file would get its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nothing, mode, errors=ESCAPED, closefd=False))
        elif name != "stdin" and _loses_letters(stream):
            stream.reconfigure(errors=ESCAPED)


def _loses_letters(stream: object) -> bool:
    return isinstance(stream, io.TextIOWrapper) and stream.errors in LOSING


def put(text: str, end: str = "\n") -> None:
    """Print a line, or several, to stdout, at once. Names in it may come from files, so what a
    terminal would obey is escaped.

    end:    what follows the text; "" leaves its last line open
    raises: TinyzoError when it cannot be written; BrokenPipeError when nobody reads on
    """
    try:
        print(text.translate(IN_LINES) + end, end="", flush=True)  # one write, whole at Ctrl-C
    except OSError as error:
        _give_up(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise
        hint = "nothing more can be written where the output goes: a full disk, most often"
        raise TinyzoError(f"stdout: {error.strerror}", hint) from None


def leave_stderr() -> None:
    """End with what stderr still holds, even where that cannot be written."""
    try:
        sys.stderr.flush()
    except OSError:
        _give_up(sys.stderr)


def _give_up(stream: TextIO) -> None:
    """Lead a stream to nothing, or what it holds would fail again as Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def escaped(text: str) -> str:
    """A text that may hold anything as a cell of a line: what would end it is escaped, as \\t."""
    return text.translate(CONTROLS)
