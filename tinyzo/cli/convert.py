"""`tinyzo convert`: rewrite pytorch_model.bin as safetensors, without PyTorch, or quantised."""

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
    group.add_argument(
        "--dtype",
        metavar="TYPE",
        choices=("int4", "int8"),
        help="quantise the matrices: int4 or int8; default: all tensors as they are",
    )
    shared.add_new_folder(group)
    shared.add_json(group)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Write the folder, with the tokenizer's and other small files."""
    from tinyzo.cli.suggest import check_no_run
    from tinyzo.machine.memory import peak_bytes
    from tinyzo.runs import export
    from tinyzo.runs.settings import model_path

    check_no_run(options.path, "tinyzo replay writes the model of a run")
    path = model_path(options.path)
    output = export.convert(path, Path(options.output), options.dtype)
    if not options.json:
        put(f"converted to {output / 'model.safetensors'}")
    return {"output": str(output), "peak_bytes": peak_bytes()}
