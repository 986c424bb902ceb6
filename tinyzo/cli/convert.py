"""`tinyzo convert`: rewrite pytorch_model.bin as safetensors, without PyTorch."""

import argparse
from pathlib import Path
from typing import Any

from tinyzo.cli import options as shared
from tinyzo.cli.parser import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_argument("path", metavar="DIR|FILE.bin", help="a model's folder, or its weights")
    group = parser.add_argument_group("output")
    group.add_argument("--output", metavar="DIR", required=True, help="the new folder; needed")
    shared.add_json(group)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Write the folder, with the tokenizer's and other small files."""
    from tinyzo.machine.memory import peak_bytes
    from tinyzo.runs import export
    from tinyzo.runs.settings import model_path

    output = export.convert(model_path(options.path), Path(options.output))
    if not options.json:
        print(f"converted to {output / 'model.safetensors'}")
    return {"output": str(output), "peak_bytes": peak_bytes()}
