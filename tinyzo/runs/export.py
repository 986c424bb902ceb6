"""Plain Hugging Face directories: of a run's tuned weights, or of a checkpoint converted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tinyzo.checkpoints.directory import WEIGHT_FILES, open_weights, read_json
from tinyzo.checkpoints.files import new_directory
from tinyzo.checkpoints.safetensors import SafetensorsWriter
from tinyzo.checkpoints.torch_bin import open_torch_bin
from tinyzo.errors import CheckpointError
from tinyzo.runs.run import Run
from tinyzo.runs.snapshots import infos_of, tuned_model

METADATA = {"format": "pt"}  # transformers looks for it
NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
TAKEN = ("config.json", *WEIGHT_FILES)  # a directory with one of these is a model's already
# Everything small that belongs to a model's folder; weights of any kind do not.
COMPANIONS = ("*.json", "merges.txt", "vocab.txt", "LICENSE*", "NOTICE*", "README*")


def replay(run: Run, output: Path, step: int | None = None) -> Path:
    """Write the tuned model: base plus terms, as a directory that transformers loads.

    step: after so many steps; None: the best on dev. returns the directory
    raises: CheckpointError when `output` has a model already or cannot be written
    """
    new_directory(output, CheckpointError, TAKEN)
    model = tuned_model(run, step)
    infos = infos_of(model.weights)
    kinds = {NAMES[info.dtype] for info in infos.values()}
    config = read_json(model.directory / "config.json")
    config.pop("torch_dtype", None)
    config["dtype"] = kinds.pop() if len(kinds) == 1 else "float32"
    with SafetensorsWriter(output / "model.safetensors", infos, METADATA) as writer:
        model.weights.write(writer.write, writer.names())
        _copy_companions(model.directory, output)
        (output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return output


def convert(path: Path, output: Path) -> Path:
    """Rewrite pytorch_model.bin (or sharded safetensors) as one model.safetensors.

    Holds about one tensor at a time. Tensors that share their bytes are written once, under
    their first name. returns the directory
    """
    with open_torch_bin(path) if path.is_file() else open_weights(path) as source:
        new_directory(output, CheckpointError, TAKEN)
        twins = source.ties()
        infos = {name: source.info(name) for name in source.names() if name not in twins}
        with SafetensorsWriter(output / "model.safetensors", infos, METADATA) as writer:
            for name in writer.names():
                writer.write(name, source.read(name))
            _copy_companions(path if path.is_dir() else path.parent, output)
    return output


def _copy_companions(source: Path, output: Path) -> None:
    for pattern in COMPANIONS:
        for path in source.glob(pattern):
            if path.is_file() and not path.name.endswith(".index.json"):
                shutil.copyfile(path, output / path.name)
