"""`tinyzo evaluate`: how often a model or a run is right on a task."""

import argparse
from typing import Any

from tinyzo.cli import options as shared
from tinyzo.cli.parser import Parser, size
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
    add_ways(parser)
    data = parser.add_argument_group("task and data")
    shared.add_task(data)
    shared.add_data(data)
    shared.add_own_task(data)
    shared.add_rows(data)
    shared.add_sampling(data)
    shared.add_json(parser.add_argument_group("output"))


def add_ways(parser: Parser) -> None:
    way = parser.add_argument_group("how it answers")
    way.add_argument(
        "--method",
        metavar="NAME",
        dest="way",
        default="prompt",
        choices=("prompt", "linear-probe"),
        help="prompt: by the words after the prompt; linear-probe: logistic regression on hidden "
        "states of --k-shot or --train-rows rows, which needs scikit-learn; default: prompt",
    )
    way.add_argument(
        "--icl",
        metavar="N",
        type=size,
        help="in-context learning (OPT): show N training rows with their answers before each "
        "prompt, drawn by --data-seed; published: 32; default: none",
    )
    way.add_argument(
        "--calibrate",
        action="store_true",
        help="choose the candidate that the row makes likelier by most, against a prompt without "
        "content (OPT); default: the likeliest",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Accuracy and loss on the rows that are reported on."""
    from tinyzo.cli.suggest import check_names
    from tinyzo.machine.memory import peak_bytes
    from tinyzo.runs.opened import open_for_task
    from tinyzo.runs.untrained import Way, score

    given = shared.given_settings(options)
    way = Way(options.way, options.icl or 0, options.calibrate)
    way.check(given)
    check_names(given.model, given.task)
    opened = open_for_task(given, zero_shot=options.zero_shot, base=options.base)
    found, split = score(opened, way)
    if not options.json:
        scores = f"accuracy {found.accuracy:.4f}, loss {found.loss:.4g}"
        if found.f1 is not None:
            scores = (
                f"F1 {found.f1:.4f}, exact match {found.exact_match:.4f}, loss {found.loss:.4g}"
            )
        put(f"{scores} on {found.examples} {split} rows")
    return {
        "model": given.model or opened.settings.model,
        "task": opened.settings.task or "custom",
        **way._asdict(),
        **found.record(),
        "split": split,
        "peak_bytes": peak_bytes(),
    }
