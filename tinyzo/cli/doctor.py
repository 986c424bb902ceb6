"""`tinyzo doctor`: whether this machine and a model do what they should, a check a line."""

import argparse
from typing import TYPE_CHECKING, Any

from tinyzo.cli import options as shared
from tinyzo.cli.parser import Parser, path
from tinyzo.cli.streams import put
from tinyzo.errors import shown
from tinyzo.runs.defaults import MODEL

if TYPE_CHECKING:
    from tinyzo.runs.doctor import Check


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "path",
        type=path,
        nargs="?",
        metavar="DIR",
        default=MODEL,
        help=f"a model's folder, or a name that ships; default: {MODEL}",
    )
    shared.add_json(parser.add_argument_group("output"))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Make all checks; `ok` is whether nothing needed is broken."""
    from tinyzo.cli.suggest import check_no_run
    from tinyzo.runs import doctor
    from tinyzo.runs.settings import model_path

    check_no_run(options.path, "name the folder that the run began with, or what replay writes")
    checks = []
    for check in doctor.examine(model_path(options.path)):
        checks.append(check)
        if not options.json:
            put(_line(check))
    return {"ok": all(check["ok"] for check in checks), "checks": checks}


def _line(check: "Check") -> str:
    mark = "ok" if check["ok"] else "BAD"
    line = f"{mark:4}{check['name']:15}{shown(check['value'])}"
    if check["hint"]:
        line += f"\n{'':19}hint: {shown(check['hint'])}"
    return line
