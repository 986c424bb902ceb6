"""`tinyzo export`: write a step as a graph, from which an app tunes a model without tinyzo."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tinyzo.cli import options as shared
from tinyzo.cli.parser import Parser, size
from tinyzo.cli.streams import put

FORMATS = ("onnx",)


def add_arguments(parser: Parser) -> None:
    parser.usage = "tinyzo export [options] --format onnx --output DIR"
    parser.description = (
        "Write a step and an evaluation as ONNX graphs, with the model, the adapter and the\n"
        "task's rows: a folder from which an app tunes the model by ONNX Runtime alone."
    )
    model = parser.add_argument_group("model: what is trained")
    shared.add_model(model)
    shared.add_base(model)
    model.add_argument(
        "--train",
        metavar="WHAT",
        help="which half of the adapters is trained: lora-fa (B) or lora (A and B); default: "
        "lora-fa, or that of a run",
    )
    shared.add_adapters(model)
    data = parser.add_argument_group("task and data")
    shared.add_task(data)
    shared.add_data(data)
    shared.add_own_task(data)
    shared.add_rows(data)
    shared.add_sampling(data)
    step = parser.add_argument_group("step")
    step.add_argument(
        "--queries", metavar="Q", type=int, help="directions per step; default: 4, or a run's"
    )
    step.add_argument(
        "--batch-size",
        metavar="N",
        type=int,
        help="examples of a batch, which the graphs then fix; default: any number",
    )
    step.add_argument(
        "--tokens",
        metavar="N",
        type=size,
        help="tokens of a row, which the graphs then fix; default: any number",
    )
    step.add_argument(
        "--lr",
        metavar="X",
        type=float,
        help="learning rate that an app begins with; default: "
        "1e-4, or 5e-3 for a model that ships, or a run's",
    )
    step.add_argument(
        "--eps",
        metavar="X",
        type=float,
        help="size of the perturbation that an app begins with; default: 0.01, or a run's",
    )
    step.add_argument(
        "--seed",
        metavar="N",
        type=int,
        help="seed of new adapters and of the steps; default: 0",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--format", metavar="NAME", choices=FORMATS, required=True, help="onnx; needed"
    )
    shared.add_new_folder(output)
    shared.add_json(output)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Write the folder, and say what is in it."""
    from tinyzo.cli.suggest import check_names
    from tinyzo.machine.memory import peak_bytes
    from tinyzo.runs.inference import EVAL, STEP, export_onnx

    given = shared.given_settings(options)
    check_names(given.model, given.task)
    output = export_onnx(given, Path(options.output), options.tokens, options.base)
    sizes = {name: (output / name).stat().st_size for name in (STEP, EVAL)}
    if not options.json:
        listed = ", ".join(f"{name} ({count} bytes)" for name, count in sizes.items())
        put(f"exported to {output}: {listed}; tinyzo inspect {output} says what they take")
    return {"output": str(output), "graphs": sizes, "peak_bytes": peak_bytes()}
