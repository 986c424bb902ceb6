"""`tinyzo evaluate`: how often a model or a run is right on a task."""

import argparse
from typing import Any

from tinyzo.cli import options as shared
from tinyzo.cli.parser import Parser
from tinyzo.cli.streams import put


def add_arguments(parser: Parser) -> None:
    parser.usage = "tinyzo evaluate [options]"
    parser.epilog = "a run knows its task and data: tinyzo evaluate --model RUN"
    model = parser.add_argument_group("model")
    shared.add_model(model)
    shared.add_base(model)
    shared.add_dtype(model)
    shared.add_base_dtype(model)
    shared.add_engine(model)
    model.add_argument(
        "--zero-shot",
        action="store_true",
        help="of a run: the model as it came; default: the step that did best on dev",
    )
    data = parser.add_argument_group("task and data")
    shared.add_task(data)
    shared.add_data(data)
    shared.add_own_task(data)
    shared.add_rows(data)
    shared.add_json(parser.add_argument_group("output"))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Accuracy and loss on the rows that are reported on."""
    from tinyzo.cli.suggest import check_names
    from tinyzo.machine.memory import peak_bytes
    from tinyzo.runs.evaluate import evaluate
    from tinyzo.runs.opened import open_for_task

    given = shared.given_settings(options)
    check_names(given.model, given.task)
    opened = open_for_task(given, zero_shot=options.zero_shot, base=options.base)
    data = opened.data()
    found = evaluate(opened.loss(), data.test)
    if not options.json:
        scores = f"accuracy {found.accuracy:.4f}, loss {found.loss:.4g}"
        if found.f1 is not None:
            scores = (
                f"F1 {found.f1:.4f}, exact match {found.exact_match:.4f}, loss {found.loss:.4g}"
            )
        put(f"{scores} on {found.examples} {data.reported} rows")
    return {
        "model": given.model or opened.settings.model,
        "task": opened.settings.task or "custom",
        **found.record(),
        "split": data.reported,
        "peak_bytes": peak_bytes(),
    }
