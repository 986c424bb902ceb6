"""`tinyzo evaluate`: how often a model or a run is right on a task."""

import argparse
from typing import Any

from tinyzo.cli import options as shared
from tinyzo.cli.parser import Parser


def add_arguments(parser: Parser) -> None:
    parser.usage = "tinyzo evaluate [options]"
    parser.epilog = "a run knows its task and data: tinyzo evaluate --model RUN"
    model = parser.add_argument_group("model")
    shared.add_model(model)
    shared.add_dtype(model)
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
    from tinyzo.cli.opened import open_model
    from tinyzo.runs.bounded import BoundedLoss
    from tinyzo.runs.data import bind_task, load_data, load_evaluation
    from tinyzo.runs.evaluate import evaluate
    from tinyzo.system import peak_bytes
    from tinyzo.zo.objectives import Objective

    model, settings, is_own = open_model(options, needs_data=True, zero_shot=options.zero_shot)
    bound = bind_task(model, settings)
    load = load_data if is_own else load_evaluation
    data = load(bound, settings)
    loss = BoundedLoss(Objective(model, bound), settings.micro_batch_tokens)
    found = evaluate(loss, data.test)
    if not options.json:
        scores = f"accuracy {found.accuracy:.4f}, loss {found.loss:.4g}"
        print(f"{scores} on {found.examples} {data.reported} rows")
    return {
        "model": options.model or settings.model,
        "task": settings.task or "custom",
        **found._asdict(),
        "split": data.reported,
        "peak_bytes": peak_bytes(),
    }
