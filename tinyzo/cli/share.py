"""`tinyzo share`: write what a run is over its base as one small file."""

import argparse
from pathlib import Path
from typing import Any

from tinyzo.cli import options as shared
from tinyzo.cli.parser import Parser, path
from tinyzo.cli.streams import put


def add_arguments(parser: Parser) -> None:
    parser.description = (
        "Write what a run's best step is over its base as one small file, which --model takes as "
        "BASE+FILE.\nIt has no text of the data, and no losses of the training."
    )
    parser.add_argument(
        "path", type=path, metavar="RUN", help="directory of the run, also unfinished"
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output",
        metavar="FILE",
        type=path,
        default="fine-tune.tinyzo",
        help="the new file; default: fine-tune.tinyzo",
    )
    shared.add_step(group)
    shared.add_json(group)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Write the file, and say how it is used."""
    from tinyzo.cli.suggest import check_run
    from tinyzo.runs.run import Run
    from tinyzo.runs.share import share

    check_run(options.path)
    tuned = Run.open(Path(options.path))
    output = share(tuned, Path(options.output), options.step)
    size = output.stat().st_size
    if not options.json:
        put(f"fine-tune written to {output} ({size} bytes)")
        put(f"tinyzo evaluate --model {tuned.settings.model}+{output} applies it")
    return {"run": str(tuned.path), "output": str(output), "bytes": size}
