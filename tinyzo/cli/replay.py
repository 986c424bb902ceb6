"""`tinyzo replay`: write a run's tuned model as a folder that transformers or peft loads."""

import argparse
from pathlib import Path
from typing import Any

from tinyzo.cli import options as shared
from tinyzo.cli.parser import Parser, path
from tinyzo.cli.streams import put


def add_arguments(parser: Parser) -> None:
    parser.description = (
        "Write a run's tuned model as a Hugging Face folder; of LoRA the adapter, as a PEFT folder."
    )
    parser.add_argument(
        "path", type=path, metavar="RUN", help="directory of the run, or BASE+FILE.tinyzo"
    )
    shared.add_base(parser.add_argument_group("model"), "--model")
    group = parser.add_argument_group("output")
    shared.add_new_folder(group)
    shared.add_step(group)
    group.add_argument(
        "--merge",
        action="store_true",
        help="LoRA as a whole model; default: as an adapter",
    )
    shared.add_json(group)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Write the folder."""
    from tinyzo.cli.suggest import check_run
    from tinyzo.runs import export
    from tinyzo.runs.named import open_one

    check_run(options.path)
    tuned = open_one(options.path, options.base)
    output = export.replay(tuned, Path(options.output), options.step, options.merge)
    if not options.json:
        put(f"tuned model written to {output}")
    return {"run": str(tuned.path), "output": str(output)}
