"""Directories for transformers or peft: a run's tuned weights, or a checkpoint converted."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np

from tinyzo.checkpoints import peft
from tinyzo.checkpoints.directory import WEIGHT_FILES, fingerprint, open_torch_bin, open_weights
from tinyzo.checkpoints.groups import (
    Part,
    infos_of_groups,
    is_grouped,
    kind_of,
    metadata_of,
    parts_of,
)
from tinyzo.checkpoints.safetensors import Infos, SafetensorsWriter
from tinyzo.checkpoints.sources import Source, TensorInfo
from tinyzo.dtypes import weight_type
from tinyzo.engine.adapters import scale_of
from tinyzo.engine.weights import Weights
from tinyzo.errors import CheckpointError, RunError, refuse
from tinyzo.models.model import Model, open_model
from tinyzo.parsing import JsonObject, read_json
from tinyzo.runs.places import first_there, relative
from tinyzo.runs.run import Tuned
from tinyzo.runs.snapshots import infos_of, tuned_model
from tinyzo.system import new_directory, os_errors, write_file
from tinyzo.zo.methods import ADAPTERS

WEIGHTS = "model.safetensors"
OTHER_OUTPUT = "name another --output"
METADATA = {"format": "pt"}  # transformers looks for it
# A directory with one of these is a model's or a run's already.
TAKEN = ("config.json", "run.toml", peft.CONFIG, peft.WEIGHTS, *WEIGHT_FILES)
# The small files of a model's folder, which are copied; and those among them that are not.
COMPANIONS = ("*.json", "merges.txt", "vocab.txt", "LICENSE*", "NOTICE*", "README*")
NO_COMPANIONS = (".index.json", peft.CONFIG)


def replay(run: Tuned, output: Path, step: int | None = None, merge: bool = False) -> Path:
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
    run.way(step)  # a step that it has not leaves no directory behind
    is_adapter = run.settings.train in ADAPTERS and not merge
    if not is_adapter:
        _check_floats(run)
    make_new(output)
    model = tuned_model(run, step)
    write = write_adapter if is_adapter else _write_model
    write(output, model)
    return output


def _check_floats(run: Tuned) -> None:
    """raises: RunError for a run whose base is quantised, which is not written as a whole model"""
    kind = run.settings.base_dtype
    path = first_there(run.models)
    if kind is None and os.path.isdir(path):
        with open_weights(peft.parts(path)[0]) as source:
            kind = kind_of(source)
    if kind:
        hint = "give --model the run itself"
        if run.settings.train in ADAPTERS:
            hint = "leave out --merge: the adapter alone is written"
        raise RunError(f"{run.path}: nothing can be added to its base, which is {kind}", hint)


def _write_model(output: Path, model: Model) -> None:
    weights = model.weights
    names = [name for name, _ in model.architecture.shapes(model.config)]
    types = {weight_type(weights.dtype(name)).name for name in names}
    dtype = types.pop() if len(types) == 1 else "float32"
    with _new_model(output, infos_of(weights, names), model.directory, dtype) as writer:
        weights.write(writer.write, writer.names())


def write_adapter(output: Path, model: Model) -> None:
    """Write the adapter that is in front of a model's weights, as a PEFT folder that names its
    base, `model.directory`."""
    weights = model.weights
    names = sorted(name for name in weights.names() if ".lora_" in name)
    found = infos_of(weights, names)
    infos = {peft.PREFIX + name: info for name, info in found.items()}
    ranks = {  # A is [r, in]
        name.removesuffix(".lora_A.weight"): weights.shape(name)[0]
        for name in names
        if name.endswith(".lora_A.weight")
    }
    config = peft.new_config(model.family, model.directory, ranks, scale_of(weights))
    with _new_weights(output / peft.WEIGHTS, peft.CONFIG, infos) as writer:

        def write(name: str, raw: np.ndarray) -> None:
            writer.write(peft.PREFIX + name, raw)

        weights.write(write, names)
        base = relative(str(model.directory.resolve()), output.resolve())
        origin = {"base": base, "sha256": fingerprint(model.directory)}
        write_json(output / peft.ORIGIN, origin)
        write_json(output / peft.CONFIG, config)


def convert(path: Path, output: Path, dtype: str | None = None) -> Path:
    """Rewrite pytorch_model.bin (or sharded safetensors) as one model.safetensors.

    path:    a model's folder, or one .bin file
    dtype:   "int4" or "int8", to quantise the matrices; None: all tensors as they are
    returns: the directory
    """
    if dtype:
        return _quantise(path, output, dtype)
    if os.path.isfile(path):
        folder = path.parent
        source = open_torch_bin(path)
    else:
        folder = path
        source = open_weights(path)
    with source:
        make_new(output)
        rewrite(source, folder, output)
    return output


def rewrite(source: Source, folder: Path, output: Path) -> None:
    """Write a model's tensors as one model.safetensors, and copy the small files of its folder.

    It holds about one tensor in memory at a time. Tensors that share their bytes are written once,
    under their first name.
    """
    twins = source.ties()
    names = [name for name in source.names() if name not in twins]
    infos = {name: source.info(name) for name in names}
    with _new_model(output, infos, folder) as writer:
        for name in writer.names():
            writer.write(name, source.read(name))


def _quantise(path: Path, output: Path, kind: str) -> Path:
    """Write a model's folder whose matrices are in groups, block by block.

    The source is read twice, since the file has all scales before all codes.

    raises: CheckpointError for an adapter, or a file of groups
    """
    folder, *adapter = peft.parts(path)
    if adapter or not os.path.isdir(folder):
        refuse(path, "no folder of a whole model", "only such a one is quantised")
    with open_weights(folder) as source:
        if kind_of(source):
            refuse(source.path, f"it is {kind_of(source)} already", "convert what it was made of")
    weights = open_model(folder, base_dtype=kind).weights
    infos, parts = _in_parts(weights)
    make_new(output)
    with _new_model(output, infos, folder, metadata=metadata_of(kind)) as writer:
        for name in writer.names():
            part = parts.get(name)
            for _, raw in weights.store.blocks(part.matrix if part else name):
                writer.write(name, raw[part.field] if part else raw)
    weights.store.close()
    return output


def _in_parts(weights: Weights) -> tuple[Infos, dict[str, Part]]:
    """What a file of groups has: all its tensors, and those of them that are parts of matrices."""
    infos: dict[str, TensorInfo] = {}
    parts: dict[str, Part] = {}
    for name in weights.names():
        dtype = weights.dtype(name)
        if is_grouped(dtype):
            made = parts_of(name)
            parts |= made
            infos |= zip(made, infos_of_groups(weights.shape(name), dtype), strict=True)
        else:
            infos |= infos_of(weights, [name])
    return infos, parts


def make_new(output: Path) -> None:
    """Make a directory, or use one without a model, as an export that was interrupted left it."""
    partials = (output / f".{name}.partial" for name in (WEIGHTS, peft.WEIGHTS))
    was_interrupted = any(partial.exists() for partial in partials)
    new_directory(output, CheckpointError, () if was_interrupted else TAKEN)


@contextmanager
def _new_model(
    output: Path,
    infos: Infos,
    source: Path,
    dtype: str | None = None,
    metadata: Mapping[str, str] = METADATA,
) -> Iterator[SafetensorsWriter]:
    """Write a model's directory.

    source: the model's directory, of which the small files are copied
    dtype:  what config.json is to say of the weights; None: as in `source`
    """
    with _new_weights(output / WEIGHTS, "config.json", infos, metadata) as writer:
        yield writer
        copy_companions(source, output)
        if dtype:
            config = read_json(source / "config.json") | {"dtype": dtype}
            config.pop("torch_dtype", None)  # as older versions call it
            write_json(output / "config.json", config)


@contextmanager
def _new_weights(
    path: Path, config: str, infos: Infos, metadata: Mapping[str, str] = METADATA
) -> Iterator[SafetensorsWriter]:
    """Write the weights of a new directory, which is one when they take their name, at the end.

    config: the file beside them, which does not stay without them
    raises: CheckpointError when another process has written them meanwhile
    """
    is_ours = False
    try:
        with SafetensorsWriter(path, infos, metadata) as writer:
            is_ours = not path.exists()  # while the writer keeps others out
            if not is_ours:
                refuse(path, "another process has written it meanwhile", OTHER_OUTPUT)
            yield writer
    except BaseException:
        if is_ours:
            path.with_name(config).unlink(missing_ok=True)
        raise


def copy_companions(source: Path, output: Path) -> None:
    """Copy the small files of a model's folder: configuration, tokenizer, licence."""
    for path in chain.from_iterable(map(source.glob, COMPANIONS)):
        if path.is_file() and not path.name.endswith(NO_COMPANIONS):
            with os_errors(CheckpointError, path, "check the model's folder"):
                data = path.read_bytes()
            write_small(output / path.name, data)


def write_json(path: Path, value: JsonObject) -> None:
    write_small(path, as_json(value))


def as_json(value: JsonObject) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def write_small(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    raises: CheckpointError
    """
    with os_errors(CheckpointError, path, OTHER_OUTPUT, f"or {OTHER_OUTPUT}"):
        write_file(path, data)
