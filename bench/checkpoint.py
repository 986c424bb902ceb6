"""Make a model folder of a real model's shapes: config.json and random weights, no tokenizer.

    python bench/checkpoint.py --model roberta-large --dtype bf16 checkpoints/roberta-large-bf16

0.02 z in matrices, 1 in the weights of norms, 0 in biases. Written some rows at a time, so that
the largest model takes little memory. A folder that has it already is left as it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np
from step import SHAPES, model_setup

from tinyzo.checkpoints.safetensors import SafetensorsWriter
from tinyzo.checkpoints.sources import TensorInfo
from tinyzo.dtypes import DTYPES, narrow
from tinyzo.models.model import MODELS

SPREAD, PIECE = 0.02, 1 << 20  # of matrices; elements made at once


def make(folder: Path, name: str, dtype: str) -> None:
    """Write the folder, unless it is there."""
    setup = model_setup(name)
    text = json.dumps({"model_type": setup["family"], **setup["config"]}) + "\n"
    config, weights = folder / "config.json", folder / "model.safetensors"
    if weights.exists() and config.read_text() == text:
        return
    folder.mkdir(parents=True, exist_ok=True)
    weights.unlink(missing_ok=True)
    config.write_text(text)
    architecture = MODELS[setup["family"]]
    shapes = dict(architecture.shapes(architecture.Config(**setup["config"])))
    infos = {tensor: TensorInfo(dtype.upper(), shape) for tensor, shape in shapes.items()}
    random = np.random.default_rng(0)
    with SafetensorsWriter(weights, infos, {"format": "pt"}) as writer:
        for tensor in writer.names():
            for values in pieces(tensor, shapes[tensor], random):
                writer.write(tensor, narrow(values, np.dtype(DTYPES[dtype]), None))


def pieces(name: str, shape: tuple[int, ...], random: np.random.Generator) -> Iterator[np.ndarray]:
    """A tensor, some rows at a time: f32."""
    if len(shape) == 1:
        yield np.full(shape, name.endswith("weight"), np.float32)
        return
    rows = max(1, PIECE // math.prod(shape[1:]))
    for start in range(0, shape[0], rows):
        count = min(rows, shape[0] - start)
        yield np.float32(SPREAD) * random.standard_normal((count, *shape[1:]), np.float32)


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--model", choices=SHAPES, required=True)
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    make(options.folder, options.model, options.dtype)


if __name__ == "__main__":
    main()
