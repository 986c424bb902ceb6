"""`tinyzo predict`: label texts with a model or a run."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from tinyzo.cli import options as shared
from tinyzo.cli.parser import Parser
from tinyzo.cli.streams import escaped, put
from tinyzo.errors import DataError

if TYPE_CHECKING:
    from tinyzo.runs.api import Prediction
    from tinyzo.runs.opened import Opened


def add_arguments(parser: Parser) -> None:
    parser.usage = "tinyzo predict [options] [TEXT ...]"
    parser.epilog = 'tinyzo predict --model RUN "a phone that lasts", or lines of a file by < FILE'
    parser.add_argument(
        "texts",
        nargs="*",
        metavar="TEXT",
        help="a text, or for tasks of several columns a JSON object of them; default: the lines "
        "of stdin",
    )
    model = parser.add_argument_group("model")
    shared.add_model(model)
    shared.add_base(model)
    shared.add_dtype(model)
    shared.add_base_dtype(model)
    shared.add_engine(model)
    task = parser.add_argument_group("task")
    shared.add_task(task)
    shared.add_own_task(task)
    parser.add_argument_group("output").add_argument(
        "--json",
        action="store_true",
        help="one JSON object a line: text, label, scores; default: label, probability and text "
        "with tabs between. SQuAD and DROP have an answer for the label, and no scores",
    )


def run(options: argparse.Namespace) -> None:
    """Print a line a text: its label, which is the label's word, and how likely it is.

    The labels of a task whose words are columns (COPA) are what its files call them, those of a
    task whose candidates are the row's own (ReCoRD) are these, and an answer has no probability.
    raises: DataError for the first text that cannot be labelled, after the lines of those before it
    """
    from tinyzo.cli.suggest import check_names
    from tinyzo.runs.opened import open_for_task

    given = shared.given_settings(options)
    check_names(given.model, given.task)
    opened = open_for_task(given, needs_data=False, base=options.base)
    texts = _numbered("text {}", options.texts) if options.texts else _lines_of_stdin()
    for where, text in texts:
        found = _predict(opened, where, text)
        parts = [escaped(found.label), escaped(text)]
        if found.scores:
            parts.insert(1, f"{found.scores[found.label]:.3f}")
        line = "\t".join(parts)
        if options.json:
            answer = {"text": text, "label": found.label, "scores": found.scores}
            line = json.dumps(answer, allow_nan=False)
        put(line)


def _numbered(place: str, texts: Iterable[str | bytes]) -> Iterator[tuple[str, str]]:
    """(where it is, in words; the text), for each.

    raises: DataError for a text that is not UTF-8
    """
    for number, given in enumerate(texts, 1):
        where = place.format(number)
        try:
            yield where, _decoded(given)
        except UnicodeError:
            raise DataError(f"{where} is not UTF-8", "save or give the texts as UTF-8") from None


def _decoded(given: str | bytes) -> str:
    """A text; of an argument in a locale without its letters Python keeps the bytes, escaped.

    raises: UnicodeError
    """
    try:
        return (given.encode() if isinstance(given, str) else given).decode()
    except UnicodeEncodeError:
        return os.fsencode(given).decode()


def _lines_of_stdin() -> Iterator[tuple[str, str]]:
    """The lines of stdin: UTF-8 whatever the locale says, but of a terminal in its own encoding."""
    from tinyzo.system import os_errors

    lines: Iterable[str | bytes] = sys.stdin
    if not sys.stdin.isatty():
        lines = getattr(sys.stdin, "buffer", sys.stdin)
    with os_errors(DataError, "stdin", "give it a file of lines, or the texts as arguments"):
        mark = "\ufeff"  # of the byte order, which only the first line may begin with
        for where, line in _numbered("line {} of stdin", lines):
            yield where, line.removeprefix(mark).removesuffix("\n").removesuffix("\r")
            mark = ""


def _predict(opened: "Opened", where: str, text: str) -> "Prediction":
    """raises: DataError that says where the text is, when it cannot be labelled"""
    from tinyzo.runs.api import predictions
    from tinyzo.text.tasks import NO_FILE

    try:
        (found,) = predictions(opened, [_row(opened.bound.fields, text)])
    except DataError as error:
        what = error.message.removeprefix(f"{NO_FILE}: ")
        raise DataError(f"{where}: {what}", error.hint) from None
    except UnicodeEncodeError:
        hint = r"its JSON holds half of a letter, as \ud800"
        raise DataError(f"{where} is no Unicode text", hint) from None
    return found


def _row(fields: Sequence[str], text: str) -> str | dict[str, object]:
    """The columns in a text, for a task that reads several; else, and without JSON, the text."""
    if len(fields) > 1:
        with suppress(ValueError, TypeError, RecursionError):
            return {**json.loads(text)}
    return text
