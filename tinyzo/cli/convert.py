"""`tinyzo convert`: rewrite pytorch_model.bin as safetensors, without PyTorch."""

import argparse
from pathlib import Path
from typing import Any

from tinyzo.cli import options as shared
from tinyzo.cli.parser import Parser, path
from tinyzo.cli.streams import put


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "path",
        type=path,
        metavar="DIR|FILE.bin",
        help="a model's folder, its weights, or a name that ships",
    )
    group = parser.add_argument_group("output")
    shared.add_new_folder(group)
    shared.add_json(group)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Write the folder, with the tokenizer's and other small files."""
    from tinyzo.cli.suggest import check_no_run
    from tinyzo.machine.memory import peak_bytes
    from tinyzo.runs import export
    from tinyzo.runs.settings import model_path

    check_no_run(options.path, "tinyzo replay writes the model of a run")
    output = export.convert(model_path(options.path), Path(options.output))
    if not options.json:
        put(f"converted to {output / 'model.safetensors'}")
    return {"output": str(output), "peak_bytes": peak_bytes()}
