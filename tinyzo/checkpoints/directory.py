"""A Hugging Face model folder: config.json, weights, and the names its tensors really have.

Everything is strict. A config field is used, or is on the list of ignored_fields.toml, or is
refused by name; a tensor is the model's, or tied, or known to be idle, or is refused by name.
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar

from tinyzo.checkpoints.hub import looked_in
from tinyzo.checkpoints.layout import Layout
from tinyzo.checkpoints.safetensors import open_safetensors
from tinyzo.checkpoints.sources import Source, open_source
from tinyzo.errors import CheckpointError, ConfigError, refuse
from tinyzo.packages import say_once
from tinyzo.parsing import JsonObject, own_toml, read_json
from tinyzo.system import os_errors


class Dataclass(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


Config = TypeVar("Config", bound=Dataclass)


# -- files -----------------------------------------------------------------------------


def open_torch_bin(path: str | Path) -> Source:
    """A pytorch_model.bin, or several behind an index; the reader is imported only here."""
    from tinyzo.checkpoints.torch_bin import TorchBin

    return open_source(path, TorchBin)


# The names that a weights file may have, the preferred one first, and how each is opened.
WEIGHT_FILES: dict[str, Callable[[Path], Source]] = {
    "model.safetensors": open_safetensors,
    "model.safetensors.index.json": open_safetensors,
    "pytorch_model.bin": open_torch_bin,
    "pytorch_model.bin.index.json": open_torch_bin,
}
# What weights are called in other formats, as variants, and while they are downloaded.
OTHER_WEIGHTS = re.compile(
    r"\.(safetensors|bin|h5|msgpack|ckpt|pth?|gguf|onnx)(\.|$)|^(model|pytorch_model)[.-]", re.I
)


def weights_file(directory: Path) -> Path:
    """The weights of a model folder: safetensors before pytorch_model.bin, single or sharded.

    raises: CheckpointError when there is none
    """
    with os_errors(CheckpointError, directory, "check the path and its permissions"):
        is_folder = directory.is_dir()
        found = "a file, not a folder" if directory.exists() else "no such folder"
    if not is_folder:
        refuse(directory, found, f"name a model's folder{looked_in(directory.as_posix())}")
    for name in WEIGHT_FILES:
        if os.path.lexists(directory / name):  # a link may lead nowhere: opening it says so
            return directory / name
    _refuse_others(directory)


def _refuse_others(directory: Path) -> NoReturn:
    """Refuse a folder without weights of a known name, and name those of others that it has."""
    found = f"none of {', '.join(WEIGHT_FILES)}"
    with os_errors(CheckpointError, directory, "check its permissions"):
        others = sorted(name for name in os.listdir(directory) if OTHER_WEIGHTS.search(name))
    if not others:
        refuse(directory, found, "download the model's weights into it")
    hint = "give such a file its name; finish a download; save_pretrained changes other formats"
    refuse(directory, f"{found}, but {', '.join(others[:4])}", hint)


def open_weights(directory: Path) -> Source:
    """A reader of the folder's weights, whichever file they are in.

    raises: CheckpointError when they are missing or damaged
    """
    path = weights_file(directory)
    return WEIGHT_FILES[path.name](path)


def fingerprint(directory: Path, *more: Path) -> str:
    """SHA-256 of config.json, of every weights file, and of the files `more`.

    A run keeps it, since a journal means nothing without the weights that it builds on.

    raises: CheckpointError when one cannot be read
    """
    open_weights(directory).close()  # refuses an index that names no plain files
    weights = weights_file(directory)
    files = [directory / "config.json", weights]
    if weights.name.endswith(".index.json"):
        shards = set(read_json(weights)["weight_map"].values())
        files += [directory / name for name in sorted(shards)]
    digest = hashlib.sha256()
    for path in [*files, *more]:
        with os_errors(CheckpointError, path, "check the path"), open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


# -- config.json -----------------------------------------------------------------------

# Fields whose usual value means "off": anything else would change the result.
OFF: dict[str, object] = {
    "pruned_heads": {},
    "is_encoder_decoder": False,
    "tie_encoder_decoder": False,
    "cross_attention_hidden_size": None,
}


@cache
def ignored_fields() -> frozenset[str]:
    """The fields that cannot change what a forward pass computes."""
    groups = own_toml("checkpoints/ignored_fields.toml")
    return frozenset(name for names in groups.values() for name in names)


def typed_config(
    raw: JsonObject,
    kind: type[Config],
    allowed: Mapping[str, Sequence[object]],
    file: str | Path = "config.json",
) -> Config:
    """The fields of config.json as a dataclass of the model, each one accounted for.

    kind: a dataclass whose fields all have a default
    allowed: of some fields, the values that are built
    file: what errors name
    raises: ConfigError when a field is unknown, of another type, or has a value not built
    """
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    for name, value in raw.items():
        if name in OFF:
            _check_off(name, value, file)
        elif name in defaults:
            if name in allowed:
                _check_built(name, value, allowed[name], file)
            check_type(name, value, defaults[name], file)
        elif name not in ignored_fields():
            hint = "if it does not change the forward pass, remove it from config.json"
            raise ConfigError(f"{file}: unknown field {name!r:.80} = {value!r:.80}", hint)
    return kind(**{name: value for name, value in raw.items() if name in defaults})


def _check_off(name: str, value: object, file: str | Path) -> None:
    if value != OFF[name]:
        raise ConfigError(f"{file}: {name} = {value!r:.80} is not built", "leave it out")


def _check_built(name: str, value: object, built: Sequence[object], file: str | Path) -> None:
    if value not in built:
        hint = f"built: {', '.join(map(repr, built))}"
        raise ConfigError(f"{file}: {name} = {value!r:.80} is not built", hint)


def check_type(name: str, value: object, default: object, file: str | Path) -> None:
    """Check that a value is of its default's type, and in range if it is a number.

    default: None is that of an int that may be left out
    raises: ConfigError
    """
    if value is None and default is None:
        return
    wanted = int if default is None else type(default)
    accepted = (int, float) if wanted is float else (wanted,)
    least = _least(name, wanted)
    limits = "" if least is None else f" from {least} to 2^31"
    if type(value) not in accepted or not _is_in_range(value, least):
        raise ConfigError(f"{file}: {name} = {value!r:.80}", f"expected {wanted.__name__}{limits}")


def _least(name: str, wanted: type) -> int | None:
    """The smallest value of a number; None for a type that is none."""
    if wanted is float or (wanted is int and name.endswith("_token_id")):
        return 0
    if wanted is int:  # a size or a count
        return 1
    return None


def _is_in_range(value: object, least: int | None) -> bool:
    if least is None:
        return True
    # Also keeps NaN and infinity out.
    return isinstance(value, int | float) and least <= value < 1 << 31


# -- tensors ---------------------------------------------------------------------------

# What wraps a module puts a name of its own into those of the tensors: torch.compile, DataParallel,
# FSDP, activation checkpoints, and peft around a module that has an adapter, and around the model.
WRAPPERS = {
    "_orig_mod",
    "module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "base_layer",
}
PEFT_PREFIX = "base_model.model."
# Buffers that some versions saved, by the last part of their names: none is trained, and what is in
# them follows from config.json.
BUFFERS = ("position_ids", "token_type_ids", "version", "inv_freq", "_float_tensor")
OTHER_HEADS = ("classifier.", "qa_outputs.", "score.", "classification_head.")
PRETRAINED = "take the pretrained checkpoint with its language-model head: tinyzo tunes by prompts"
INCOMPLETE = "an encoder without its head, or a download that is not complete"
ANOTHER_MODEL = "configuration and weights are of two different models"
UNEXPECTED = (
    "is this another model? if they are leftovers of training, save the model's own tensors alone"
)


def match_names(
    source: Source, shapes: Mapping[str, tuple[int, ...]], layout: Layout
) -> tuple[dict[str, str], dict[str, str]]:
    """Which tensor of the file each parameter is, and the tied tensors that are left to compare.

    returns: parameter -> name in the file; second name in the file -> parameter it must equal
    raises: CheckpointError for a missing, unexpected, doubled or misshapen tensor, by name
    """
    known = {*shapes, *layout.ties, *layout.ignored}
    found = own_names(source, layout, known)
    twins = {}
    for second, first in layout.ties.items():
        if second in found and first in found:
            twins[found[second]] = first
        elif second in found:
            found[first] = found[second]
    _check_complete(source.path, found, shapes, known)
    names = {name: found[name] for name in shapes}
    for name, own in [*twins.items(), *((found[own], own) for own in shapes)]:
        check_shape(source, name, shapes[own])
    return names, twins


def check_shape(source: Source, name: str, shape: tuple[int, ...]) -> None:
    """raises: CheckpointError for a tensor of another shape, by its name in the file"""
    stored = source.info(name).shape
    if stored != shape:
        why = f"shape {list(stored)}, the configuration asks for {list(shape)}"
        refuse(f"{source.path}: {name:.80}", why, ANOTHER_MODEL)


def own_names(source: Source, layout: Layout, known: Container[str]) -> dict[str, str]:
    """The model's own name of each tensor, or the file's if that is unknown -> the file's."""
    found: dict[str, str] = {}
    wrappers = {part for name in source.names() for part in name.split(".")} & WRAPPERS
    for wrapper in sorted(wrappers):
        say_once(f"{source.path}: {wrapper!r} is left out of the names of its tensors")
    for name in source.names():
        own = own_name(name, layout, known)
        if own in found:
            refuse(source.path, f"{found[own]} and {name} are both {own}", "keep one of them")
        found[own] = name
    return found


def own_name(name: str, layout: Layout, known: Container[str]) -> str:
    """The model's own name of a tensor in a file; an unknown one keeps the file's."""
    bare = unwrapped(name)
    if bare in known:
        return bare
    for prefix in layout.prefixes:
        own = layout.base + bare[len(prefix) :]
        if bare.startswith(prefix) and own in known:
            return own
    return name


def unwrapped(name: str) -> str:
    """A tensor's name without those of the modules that only wrap others."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    return ".".join(parts).removeprefix(PEFT_PREFIX)


def _check_complete(
    path: Path, found: dict[str, str], shapes: Iterable[str], known: set[str]
) -> None:
    """Check that every tensor is known and every parameter is there."""
    unknown = [name for own, name in found.items() if own not in known and not _is_buffer(own)]
    for name in unknown:
        if unwrapped(name).startswith(OTHER_HEADS):
            why = "the head of a fine-tuned classifier, which is out of scope"
            refuse(f"{path}: {name:.80}", why, PRETRAINED)
    _refuse_any(f"{path}: unexpected tensors", unknown, UNEXPECTED)
    missing = [name for name in shapes if name not in found]
    _refuse_any(f"{path}: missing tensors", missing, INCOMPLETE)


def _is_buffer(name: str) -> bool:
    return name.rpartition(".")[2] in BUFFERS


def _refuse_any(what: str, names: list[str], hint: str, shown: int = 4) -> None:
    if not names:
        return
    listed = ", ".join(f"{name:.80}" for name in names[:shown])
    if len(names) > shown:
        listed += f" and {len(names) - shown} more"
    refuse(what, listed, hint)
