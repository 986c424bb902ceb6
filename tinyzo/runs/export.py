"""Directories for transformers or peft: a run's tuned weights, or a checkpoint converted."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from tinyzo.checkpoints import peft
from tinyzo.checkpoints.directory import WEIGHT_FILES, open_torch_bin, open_weights
from tinyzo.checkpoints.safetensors import Infos, SafetensorsWriter
from tinyzo.dtypes import weight_type
from tinyzo.errors import CheckpointError, RunError
from tinyzo.models.model import Model
from tinyzo.parsing import read_json
from tinyzo.runs.run import Run
from tinyzo.runs.snapshots import infos_of, tuned_model
from tinyzo.system import new_directory, write_file

METADATA = {"format": "pt"}  # transformers looks for it
# A directory with one of these is a model's already.
TAKEN = ("config.json", peft.CONFIG, *WEIGHT_FILES)
# Everything small that belongs to a model's folder; weights of any kind do not.
COMPANIONS = ("*.json", "merges.txt", "vocab.txt", "LICENSE*", "NOTICE*", "README*")


def replay(run: Run, output: Path, step: int | None = None, merge: bool = False) -> Path:
    """Write the tuned model: base plus terms, as a directory that transformers loads.

    Of LoRA: the adapter, as a directory that peft loads and that names its base.

    step: after so many steps; None: the best on dev. merge: LoRA as a whole model too
    returns the directory
    raises: CheckpointError when `output` has a model already or cannot be written; RunError when
        there is no format for it
    """
    if run.settings.train == "prefix":
        raise RunError(f"{run.path}: transformers reads no prefix", "give --model the run itself")
    _check_new(output)
    model = tuned_model(run, step)
    if run.settings.train in ("lora", "lora-fa") and not merge:
        return _write_adapter(output, model)
    names = [name for name, _ in model.architecture.shapes(model.config)]
    infos = infos_of(model.weights, names)
    kinds = {weight_type(model.weights.dtype(n)).name for n in names}
    dtype = kinds.pop() if len(kinds) == 1 else "float32"
    with _new_model(output, infos, model.directory, dtype) as writer:
        model.weights.write(writer.write, writer.names())
    return output


def _write_adapter(output: Path, model: Model) -> Path:
    """The file that makes the directory an adapter is the last."""
    names = sorted(name for name in model.weights.names() if ".lora_" in name)
    infos = {peft.PREFIX + name: info for name, info in infos_of(model.weights, names).items()}
    with SafetensorsWriter(output / peft.WEIGHTS, infos, METADATA) as writer:
        model.weights.write(lambda name, raw: writer.write(peft.PREFIX + name, raw), names)
    r = model.weights.shape(names[0])[0]  # the first is an A: [r, in]
    scale = model.weights.adapter_scale or 1.0
    config = peft.new_config(model.family, model.directory, names, r, scale)
    write_file(output / peft.CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    return output


def convert(path: Path, output: Path) -> Path:
    """Rewrite pytorch_model.bin (or sharded safetensors) as one model.safetensors.

    Holds about one tensor at a time. Tensors that share their bytes are written once, under
    their first name. returns the directory
    """
    with open_torch_bin(path) if path.is_file() else open_weights(path) as source:
        _check_new(output)
        twins = source.ties()
        infos = {name: source.info(name) for name in source.names() if name not in twins}
        folder = path if path.is_dir() else path.parent
        with _new_model(output, infos, folder) as writer:
            for name in writer.names():
                writer.write(name, source.read(name))
    return output


def _check_new(output: Path) -> None:
    """Make a directory, unless it has a model; what an interrupted export left is none."""
    is_ours = (output / ".model.safetensors.partial").exists()
    new_directory(output, CheckpointError, () if is_ours else TAKEN)


@contextmanager
def _new_model(output: Path, infos: Infos, source: Path,
               dtype: str | None = None) -> Iterator[SafetensorsWriter]:  # fmt: skip
    """A directory that is a model once its weights have their name, which is the last thing done.

    source: the directory whose companions come along; dtype: what config.json is to say
    """
    writer = SafetensorsWriter(output / "model.safetensors", infos, METADATA)
    try:
        with writer:
            yield writer
            for path in chain.from_iterable(map(source.glob, COMPANIONS)):
                if path.is_file() and not path.name.endswith((".index.json", peft.CONFIG)):
                    write_file(output / path.name, path.read_bytes())
            if dtype:
                config = read_json(source / "config.json") | {"dtype": dtype}
                config.pop("torch_dtype", None)
                write_file(output / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    except BaseException:
        (output / "config.json").unlink(missing_ok=True)
        raise
