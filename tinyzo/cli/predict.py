"""`tinyzo predict`: label texts with a model or a run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tinyzo.cli import options as shared
from tinyzo.cli.parser import Parser
from tinyzo.errors import DataError

if TYPE_CHECKING:
    from tinyzo.text.tasks import BoundTask

MOST_TOKENS = 4096  # computed at once


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
    from tinyzo.cli.opened import open_model
    from tinyzo.runs import evaluate
    from tinyzo.runs.bounded import BoundedLoss
    from tinyzo.runs.data import bind_task
    from tinyzo.zo.objectives import Objective

    model, settings, _ = open_model(options, needs_data=False)
    bound = bind_task(model, settings)
    loss = BoundedLoss(Objective(model, bound), MOST_TOKENS)
    labels = [word.strip() for word in bound.task.fixed_words] or bound.task.labels
    for text in _texts(options.texts or sys.stdin or ()):
        example = bound.encode(_row(bound, text), labelled=False)
        (odds,) = evaluate.predict(loss, [example])
        scores = dict(zip(labels, odds.tolist(), strict=True))
        label = max(scores, key=lambda name: scores[name])
        line = f"{label}\t{scores[label]:.3f}\t{text}"
        if options.json:
            line = json.dumps({"text": text, "label": label, "scores": scores})
        print(line, flush=True)


def _texts(given: Iterable[str]) -> Iterator[str]:
    """The texts without the ends of their lines; raises DataError for one that is not UTF-8."""
    try:
        for text in given:
            text.encode()
            yield text.removesuffix("\n")
    except UnicodeError:
        raise DataError("a text that is not UTF-8", "save the texts as UTF-8") from None


def _row(bound: BoundTask, text: str) -> dict[str, Any]:
    """The columns that the task reads; raises DataError for a text that has not several."""
    if len(bound.fields) == 1:
        return {bound.fields[0]: text}
    try:
        return {**json.loads(text)}
    except (ValueError, TypeError, RecursionError):
        found = f"{text[:40]!r}: the task reads {', '.join(bound.fields)}"
        raise DataError(found, "give each text as a JSON object of these columns") from None
