"""Directories for transformers or peft: a run's tuned weights, or a checkpoint converted."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np

from tinyzo.checkpoints import peft
from tinyzo.checkpoints.directory import WEIGHT_FILES, open_torch_bin, open_weights
from tinyzo.checkpoints.safetensors import Infos, SafetensorsWriter
from tinyzo.dtypes import weight_type
from tinyzo.engine.adapters import scale_of
from tinyzo.errors import CheckpointError, RunError
from tinyzo.models.model import Model
from tinyzo.parsing import JsonObject, read_json
from tinyzo.runs.run import Run
from tinyzo.runs.snapshots import infos_of, steps_up_to, tuned_model
from tinyzo.system import new_directory, write_file

WEIGHTS = "model.safetensors"
METADATA = {"format": "pt"}  # transformers looks for it
# A directory with one of these is a model's or a run's already.
TAKEN = ("config.json", "run.toml", peft.CONFIG, *WEIGHT_FILES)
# The small files of a model's folder, which are copied; and those among them that are not.
COMPANIONS = ("*.json", "merges.txt", "vocab.txt", "LICENSE*", "NOTICE*", "README*")
NO_COMPANIONS = (".index.json", peft.CONFIG)


def replay(run: Run, output: Path, step: int | None = None, merge: bool = False) -> Path:
    """Write the tuned model: base plus terms, as a directory that transformers loads.

    Of LoRA: the adapter, as a directory that peft loads and that names its base.

    step:  after so many steps; None: the best on dev
    merge: write a whole model of LoRA too
    returns: the directory
    raises: CheckpointError when `output` has a model already or cannot be written; RunError when
        there is no format for it
    """
    if run.settings.train == "prefix":
        raise RunError(f"{run.path}: transformers reads no prefix", "give --model the run itself")
    steps_up_to(run, step)  # a step that it has not leaves no directory behind
    _make_new(output)
    model = tuned_model(run, step)
    if run.settings.train in ("lora", "lora-fa") and not merge:
        _write_adapter(output, model)
    else:
        _write_model(output, model)
    return output


def _write_model(output: Path, model: Model) -> None:
    weights = model.weights
    names = [name for name, _ in model.architecture.shapes(model.config)]
    types = {weight_type(weights.dtype(name)).name for name in names}
    dtype = types.pop() if len(types) == 1 else "float32"
    with _new_model(output, infos_of(weights, names), model.directory, dtype) as writer:
        weights.write(writer.write, writer.names())


def _write_adapter(output: Path, model: Model) -> None:
    """adapter_config.json comes last, since it makes the directory an adapter."""
    weights = model.weights
    names = sorted(name for name in weights.names() if ".lora_" in name)
    found = infos_of(weights, names)
    infos = {peft.PREFIX + name: info for name, info in found.items()}
    with SafetensorsWriter(output / peft.WEIGHTS, infos, METADATA) as writer:

        def write(name: str, raw: np.ndarray) -> None:
            writer.write(peft.PREFIX + name, raw)

        weights.write(write, names)
    rank = weights.shape(names[0])[0]  # the first is an A: [r, in]
    config = peft.new_config(model.family, model.directory, names, rank, scale_of(weights))
    _write_json(output / peft.CONFIG, config)


def convert(path: Path, output: Path) -> Path:
    """Rewrite pytorch_model.bin (or sharded safetensors) as one model.safetensors.

    It holds about one tensor in memory at a time. Tensors that share their bytes are written once,
    under their first name.

    path:    a model's folder, or one .bin file
    returns: the directory
    """
    if path.is_file():
        folder = path.parent
        source = open_torch_bin(path)
    else:
        folder = path
        source = open_weights(path)
    with source:
        _make_new(output)
        twins = source.ties()
        names = [name for name in source.names() if name not in twins]
        infos = {name: source.info(name) for name in names}
        with _new_model(output, infos, folder) as writer:
            for name in writer.names():
                writer.write(name, source.read(name))
    return output


def _make_new(output: Path) -> None:
    """Make a directory, or use one without a model, as an export that was interrupted left it."""
    was_interrupted = (output / f".{WEIGHTS}.partial").exists()
    new_directory(output, CheckpointError, () if was_interrupted else TAKEN)


@contextmanager
def _new_model(
    output: Path, infos: Infos, source: Path, dtype: str | None = None
) -> Iterator[SafetensorsWriter]:
    """Write a model's directory; it becomes one when its weights take their name, which comes last.

    source: the model's directory, of which the small files are copied
    dtype:  what config.json is to say of the weights; None: as in `source`
    """
    writer = SafetensorsWriter(output / WEIGHTS, infos, METADATA)
    try:
        with writer:
            yield writer
            _copy_companions(source, output)
            if dtype:
                config = read_json(source / "config.json") | {"dtype": dtype}
                config.pop("torch_dtype", None)  # as older versions call it
                _write_json(output / "config.json", config)
    except BaseException:
        (output / "config.json").unlink(missing_ok=True)
        raise


def _copy_companions(source: Path, output: Path) -> None:
    for path in chain.from_iterable(map(source.glob, COMPANIONS)):
        if path.is_file() and not path.name.endswith(NO_COMPANIONS):
            write_file(output / path.name, path.read_bytes())


def _write_json(path: Path, value: JsonObject) -> None:
    text = json.dumps(value, indent=2) + "\n"
    write_file(path, text.encode())
