"""`tinyzo report`: one page of HTML on one run, or on several to compare."""

import argparse
from pathlib import Path
from typing import Any

from tinyzo.cli import options as shared
from tinyzo.cli.parser import Parser, path
from tinyzo.cli.streams import put

OUTPUT = "report.html"


def add_arguments(parser: Parser) -> None:
    parser.description = (
        "Write one page of HTML on a run, or on several to compare: curves, results, settings, and "
        "what the model said before and after. It needs no network."
    )
    parser.add_argument(
        "paths", type=path, nargs="+", metavar="RUN", help="directory of a run, also unfinished"
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output",
        metavar="FILE",
        type=path,
        default=OUTPUT,
        help=f"the page; one of before is replaced; default: {OUTPUT}",
    )
    shared.add_json(group)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Write the page."""
    from tinyzo.cli.suggest import check_run
    from tinyzo.runs.page import write_report
    from tinyzo.runs.report import say

    for each in options.paths:
        check_run(each)
    page = write_report(list(map(Path, options.paths)), Path(options.output))
    for problem in page.problems:
        say(problem)
    if not options.json:
        put(f"report written to {page.path} ({page.size} bytes)")
    return {"output": str(page.path), "runs": options.paths, "bytes": page.size}
