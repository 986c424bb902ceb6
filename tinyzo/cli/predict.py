"""`tinyzo predict`: label texts with a model or a run."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import tee

from tinyzo.cli import options as shared
from tinyzo.cli.parser import Parser
from tinyzo.errors import DataError


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
    task = parser.add_argument_group("task")
    shared.add_task(task)
    shared.add_own_task(task)
    parser.add_argument_group("output").add_argument(
        "--json",
        action="store_true",
        help="one JSON object a line: text, label, scores; default: label, probability and text "
        "with tabs between",
    )


def run(options: argparse.Namespace) -> None:
    """Print a line a text: its label, which is the label's word, and how likely it is.

    The labels of a task whose words are columns (COPA) are what its files call them.
    """
    from tinyzo.cli.suggest import check_names
    from tinyzo.runs.api import predictions
    from tinyzo.runs.opened import open_for_task

    given = shared.given_settings(options)
    check_names(given.model, given.task)
    opened = open_for_task(given, needs_data=False, base=options.base)
    fields = opened.bound.fields
    texts, again = tee(_texts(options.texts or sys.stdin or ()))
    rows = (_row(fields, text) for text in again)
    for text, found in zip(texts, predictions(opened, rows), strict=True):
        line = f"{found.label}\t{found.scores[found.label]:.3f}\t{text}"
        if options.json:
            line = json.dumps({"text": text, "label": found.label, "scores": found.scores})
        print(line, flush=True)


def _texts(given: Iterable[str]) -> Iterator[str]:
    """The texts without the ends of their lines; raises DataError for one that is not UTF-8."""
    try:
        for text in given:
            text.encode()
            yield text.removesuffix("\n")
    except UnicodeError:
        raise DataError("a text that is not UTF-8", "save the texts as UTF-8") from None


def _row(fields: Sequence[str], text: str) -> str | dict[str, object]:
    """The columns in a text, for a task that reads several; else, and without JSON, the text."""
    if len(fields) > 1:
        with suppress(ValueError, TypeError, RecursionError):
            return {**json.loads(text)}
    return text
