"""LoRA adapters in peft's format: adapter_config.json and adapter_model.safetensors.

    base_model.model.<module>.lora_A.weight    A [r, in]
    base_model.model.<module>.lora_B.weight    B [out, r]
    W + s B A                                  s = alpha / r; with use_rslora: alpha / sqrt(r)

Source: github.com/huggingface/peft 0.21 (tuners/lora, utils/save_and_load.py), which the tests
    compare with.
differs: one rank and one alpha for all modules, which are linear; the base is a folder that is
    here, sought beside the adapter and then, as peft does, from the current directory, and never
    downloaded; a tensor too many or too few is refused, where peft warns
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tinyzo.checkpoints.directory import check_type, fingerprint, match_names
from tinyzo.checkpoints.layout import Layout
from tinyzo.checkpoints.safetensors import SafetensorsFile
from tinyzo.checkpoints.sources import Source
from tinyzo.errors import ConfigError, refuse
from tinyzo.parsing import JsonObject, read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ORIGIN = "tinyzo.json"  # ours: the base relative to the adapter, and the SHA-256 that it has
PREFIX = "base_model.model."
BASE = "base_model_name_or_path"


@dataclass(frozen=True)
class AdapterConfig:
    """The fields of an adapter_config.json that say how to compute, with peft's defaults."""

    r: int = 8
    lora_alpha: float = 8.0
    use_rslora: bool = False

    @property
    def scale(self) -> float:
        """s of W + s B A."""
        if self.use_rslora:
            return self.lora_alpha / math.sqrt(self.r)
        return self.lora_alpha / self.r


USED = {field.name: field.default for field in dataclasses.fields(AdapterConfig)}

# What a field may be. Other ways to begin (PiSSA, OLoRA, CorDA, LoftQ, ...) change the base too:
# with the base as it was, W + s B A would be another model.
ALLOWED: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),
}

# Fields that may be anything. One that is nowhere here is off (null, false or empty), or is refused
# by name: what peft invents next is refused until it has been looked at.
IGNORED = frozenset(
    (
        BASE,  # read by `parts`
        "peft_version",  # names
        "task_type",
        "auto_mapping",
        "revision",
        "megatron_core",
        "inference_mode",  # training only
        "lora_dropout",
        "target_modules",  # the names of the tensors say it
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "qalora_group_size",  # settings of what must be off
        "runtime_config",
    )
)

TASK_TYPES = {"opt": "CAUSAL_LM"}  # peft has no such name for a masked language model


class Adapter(NamedTuple):
    """An open adapter.

    names: each half by our name -> its name in the file
    scale: s of W + s B A
    """

    source: Source
    names: dict[str, str]
    scale: float


def parts(path: Path) -> list[Path]:
    """The folder of a whole model; or of an adapter, its base's folder and its own two files.

    raises: ConfigError when the base is not here
    """
    config = path / CONFIG
    if not config.is_file():
        return [path]
    base = str(read_json(config).get(BASE))
    for folder in (path / base, Path(base), *_moved_base(path)):
        if folder.is_dir():
            return [folder, config, path / WEIGHTS]
    raise ConfigError(
        f"{config}: its base {base!r:.200} is no folder here",
        f"download the base, and set {BASE} to its folder",
    )


def _moved_base(path: Path) -> Iterator[Path]:
    """The base of an adapter that moved with it, if it still has the hash that it had."""
    if not (path / ORIGIN).is_file():
        return
    origin = read_json(path / ORIGIN)
    folder = path.resolve() / str(origin.get("base"))
    if folder.is_dir() and fingerprint(folder) == origin.get("sha256"):
        yield folder


def open_adapter(config: Path, file: Path, shapes: Mapping[str, tuple[int, ...]]) -> Adapter:
    """Open an adapter of a base; its halves are called `M.lora_A.weight` and `M.lora_B.weight`.

    shapes: of the base's parameters, by name
    raises: ConfigError for what is not built; CheckpointError for a damaged file, for tensors
        missing, unexpected or misshapen, and when there are none
    """
    settings = read_config(config)
    with ExitStack() as opened:
        source = opened.enter_context(SafetensorsFile(file))
        halves = _half_shapes(source, shapes, settings.r)
        names, _ = match_names(source, halves, Layout((PREFIX,), "", {}, ()))
        if not names:
            refuse(file, "it has no adapter")
        opened.pop_all()
    return Adapter(source, names, settings.scale)


def read_config(path: Path) -> AdapterConfig:
    """The checked fields of an adapter_config.json.

    raises: ConfigError for a field that is not built, or not of its type
    """
    raw = read_json(path)
    for name, value in raw.items():
        if not _is_built(name, value):
            hint = "only plain LoRA is read; if peft can merge it (merge_and_unload)"
            raise ConfigError(
                f"{path}: {name} = {value!r:.80} is not built", f"{hint}, save the whole model"
            )
    given = {name: raw[name] for name in USED if name in raw}
    for name, value in given.items():
        check_type(name, value, USED[name], CONFIG)
    return AdapterConfig(**given)


def _is_built(name: str, value: object) -> bool:
    if name in ALLOWED:
        return value in ALLOWED[name]
    return name in USED or name in IGNORED or not value


def _half_shapes(
    source: Source, shapes: Mapping[str, tuple[int, ...]], r: int
) -> dict[str, tuple[int, ...]]:
    """The shapes of A and B for each matrix of which the file has a half."""
    adapted = {name.removeprefix(PREFIX).partition(".lora_")[0] for name in source.names()}
    halves: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if len(shape) == 2 and module in adapted:
            halves[f"{module}.lora_A.weight"] = (r, shape[1])
            halves[f"{module}.lora_B.weight"] = (shape[0], r)
    return halves


def new_config(family: str, base: Path, halves: Iterable[str], r: int, scale: float) -> JsonObject:
    """The contents of a new adapter_config.json.

    halves: our names of the adapter's tensors
    scale:  s of W + s B A
    """
    return {
        "peft_type": "LORA",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "task_type": TASK_TYPES.get(family),
        "r": r,
        "lora_alpha": scale * r,
        BASE: str(base.resolve()),
        "target_modules": sorted({name.partition(".lora_")[0] for name in halves}),
    }
