"""A Hugging Face model folder: config.json, weights, and the names its tensors really have.

Everything is strict. A config field is used, or is on the list of ignored_fields.toml, or is
refused by name; a tensor is the model's, or tied, or known to be idle, or is refused by name.
"""

import dataclasses
import hashlib
import json
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from tinyzo.checkpoints.layout import Layout
from tinyzo.checkpoints.safetensors import open_safetensors
from tinyzo.checkpoints.sources import Source
from tinyzo.errors import CheckpointError, ConfigError, refuse
from tinyzo.parsing import read_toml
from tinyzo.system import os_errors


def open_torch_bin(path: Path) -> Source:
    """A pytorch_model.bin, by a package that is not loaded before."""
    from tinyzo.checkpoints.torch_bin import TorchBin

    return TorchBin.open(path)


OPENERS = {"model.safetensors": open_safetensors, "pytorch_model.bin": open_torch_bin}
WEIGHT_FILES = {file + end: OPENERS[file] for file in OPENERS for end in ("", ".index.json")}

IGNORED = {*chain(*read_toml(Path(__file__).with_name("ignored_fields.toml")).values())}
# Fields whose usual value means "off": anything else would change the result.
OFF = {"pruned_heads": {}, "is_encoder_decoder": False, "cross_attention_hidden_size": None}

OTHER_HEADS = ("classifier.", "qa_outputs.", "score.", "classification_head.")
PRETRAINED = "take the pretrained checkpoint with its language-model head: tinyzo tunes by prompts"
INCOMPLETE = "an encoder without its head, or a download that is not complete"

Config = TypeVar("Config")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    raises: ConfigError when the file is missing, is not JSON, or is not an object
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}", f"a model has a readable {path.name}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a JSON object", f"copy {path.name} from the model's page")
    return value


def typed_config(raw: dict[str, Any], kind: type[Config], allowed: dict[str, tuple]) -> Config:
    """The fields of config.json as a dataclass of the model, each one accounted for.

    raises: ConfigError when a field is unknown, of another type, or has a value not built
    """
    fields = {f.name: f.default for f in dataclasses.fields(kind)}
    for name, value in raw.items():
        if name in OFF and value != OFF[name]:
            raise ConfigError(f"config.json: {name} = {value!r} is not built", "leave it out")
        if not (name in fields or name in IGNORED or name in OFF):
            hint = "if it does not change the forward pass, remove it from config.json"
            raise ConfigError(f"config.json: unknown field {name!r} = {value!r}", hint)
        if name in allowed and value not in allowed[name]:
            known = ", ".join(map(repr, allowed[name]))
            raise ConfigError(f"config.json: {name} = {value!r} is not built", f"built: {known}")
        if name in fields:
            check_type(name, value, fields[name])
    return kind(**{name: raw[name] for name in fields if name in raw})


def check_type(name: str, value: Any, default: Any, file: str = "config.json") -> Any:
    """The value, if it is of the default's type and, as a number, in range; else: ConfigError."""
    wanted = int if default is None else type(default)
    right = type(value) in (int, float) if wanted is float else type(value) is wanted
    limits = ""
    if wanted in (int, float):
        least = 1 if wanted is int and not name.endswith("_token_id") else 0  # sizes and counts
        right = right and least <= value < 1 << 31  # which also keeps NaN and infinity out
        limits = f" from {least} to 2^31"
    if not right and (value, default) != (None, None):
        raise ConfigError(f"{file}: {name} = {value!r}", f"expected {wanted.__name__}{limits}")
    return value


def weights_file(directory: Path) -> Path:
    """The weights of a model folder: safetensors before pytorch_model.bin, single or sharded.

    raises: CheckpointError when there is none
    """
    if not directory.is_dir():
        refuse(directory, "no such folder", "--model takes a model's folder")
    for name in WEIGHT_FILES:
        if (directory / name).is_file():
            return directory / name
    refuse(directory, f"none of {', '.join(WEIGHT_FILES)}", "download the model's weights into it")


def open_weights(directory: Path) -> Source:
    """A reader of the folder's weights, whichever file they are in."""
    path = weights_file(directory)
    return WEIGHT_FILES[path.name](path)


def match_names(source: Source, shapes: dict[str, tuple[int, ...]],
                layout: Layout) -> tuple[dict[str, str], dict[str, str]]:  # fmt: skip
    """Which tensor of the file each parameter is, and the tied twins left to compare.

    returns: parameter -> name in the file; second name in the file -> parameter it must equal
    raises: CheckpointError for a missing, unexpected, doubled or misshapen tensor, by name
    """
    known = {*shapes, *layout.ties, *layout.ignored}
    found: dict[str, str] = {}
    for name in source.names():
        full = layout.canonical(name, known)
        if full in found:
            raise CheckpointError(f"{found[full]} and {name} are both {full}", "keep one of them")
        found[full] = name
    ties = [(second, first) for second, first in layout.ties.items() if second in found]
    twins = {found[second]: first for second, first in ties if first in found}
    found = {first: found[second] for second, first in ties} | found
    others = [file for full, file in found.items() if full not in known]
    if heads := [file for file in others if file.startswith(OTHER_HEADS)]:
        refuse(heads[0], "the head of a fine-tuned classifier, which is out of scope", PRETRAINED)
    _refuse_any("unexpected tensors", others, "is this another model?")
    _refuse_any("missing tensors", [name for name in shapes if name not in found], INCOMPLETE)
    for name, shape in shapes.items():
        if (here := source.info(found[name]).shape) != shape:
            why = f"shape {list(here)}, the configuration asks for {list(shape)}"
            refuse(found[name], why, "configuration and weights are of two different models")
    return {name: found[name] for name in shapes}, twins


def _refuse_any(what: str, names: list[str], hint: str) -> None:
    if names:
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        refuse(what, ", ".join(names[:4]) + more, hint)


def fingerprint(directory: Path, *more: Path) -> str:
    """SHA-256 of config.json, every weights file and more: what a run's journal builds on.

    raises: CheckpointError when one cannot be read
    """
    open_weights(directory).close()  # refuses an index that names no plain files
    weights = weights_file(directory)
    files = [directory / "config.json", weights]
    if weights.name.endswith(".index.json"):
        files += [directory / name for name in sorted({*read_json(weights)["weight_map"].values()})]
    digest = hashlib.sha256()
    for path in [*files, *more]:
        with os_errors(CheckpointError, path, "check the path"), open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
