"""LoRA adapters in peft's format: adapter_config.json and adapter_model.safetensors or .bin.

    base_model.model.<module>.lora_A.weight    A [r, in]
    base_model.model.<module>.lora_B.weight    B [out, r]
    W + s B A                                  s = alpha / r; with use_rslora: alpha / sqrt(r)

Source: github.com/huggingface/peft 0.21 (tuners/lora, utils/save_and_load.py), which the tests
    compare with.
differs: the adapted modules are linear; where modules have an s of their own, B takes up what
    differs, rounded once to float32; the base is a folder that is here, sought beside the adapter,
    then, as peft does, from the current directory and in the hub's cache, and never downloaded; a
    tensor too many or too few is refused, where peft warns
"""

import dataclasses
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

from tinyzo.checkpoints.directory import (
    PEFT_PREFIX,
    check_type,
    fingerprint,
    match_names,
    open_torch_bin,
    own_name,
    own_names,
    unwrapped,
)
from tinyzo.checkpoints.hub import cached_model, looked_in
from tinyzo.checkpoints.layout import Layout
from tinyzo.checkpoints.safetensors import open_safetensors
from tinyzo.checkpoints.sources import Source
from tinyzo.errors import ConfigError, refuse
from tinyzo.parsing import JsonObject, read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
WEIGHTS_FILES = {WEIGHTS: open_safetensors, "adapter_model.bin": open_torch_bin}
ORIGIN = "tinyzo.json"  # ours: the base relative to the adapter, and the SHA-256 that it has
PREFIX = PEFT_PREFIX
BASE = "base_model_name_or_path"
MERGE = "only plain LoRA is read; if peft can merge it (merge_and_unload), save the whole model"

Shapes = Mapping[str, tuple[int, ...]]
Number = TypeVar("Number", int, float)


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


class Settings(NamedTuple):
    """An adapter_config.json: of all modules, and of those that a pattern matches."""

    default: AdapterConfig
    ranks: dict[re.Pattern[str], int]
    alphas: dict[re.Pattern[str], float]

    def of(self, module: str) -> AdapterConfig:
        """What holds for a module, by its name in the file."""
        r = first_match(self.ranks, module, self.default.r)
        alpha = first_match(self.alphas, module, self.default.lora_alpha)
        return dataclasses.replace(self.default, r=r, lora_alpha=alpha)


USED = {field.name: field.default for field in dataclasses.fields(AdapterConfig)}
PATTERNS = ("rank_pattern", "alpha_pattern")

# What a field may be. Other ways to begin (PiSSA, OLoRA, CorDA, LoftQ, ...) change the base too:
# with the base as it was, W + s B A would be another model.
ALLOWED: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", "all", "lora_only"),  # if all are the base's own
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}

# Fields that may be anything. One that is nowhere here is off (null, false or empty), or is refused
# by name: what peft invents next is refused until it has been looked at.
IGNORED = frozenset(
    (
        BASE,  # read by `parts`
        "revision",
        "peft_version",  # names
        "task_type",
        "auto_mapping",
        "megatron_core",
        "inference_mode",  # training only
        "lora_dropout",
        "eva_config",
        "target_modules",  # the names of the tensors say it
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "modules_to_save",  # if all are the base's own
        "ensure_weight_tying",
        "fan_in_fan_out",  # peft itself takes it for false where a module is linear
        "qalora_group_size",  # settings of what must be off
        "runtime_config",
    )
)

TASK_TYPES = {"opt": "CAUSAL_LM"}  # peft has no such name for a masked language model


class Adapter(NamedTuple):
    """An open adapter.

    names:   each half by our name -> its name in the file
    scale:   s of W + s B A
    factors: by which a B is to be multiplied, since its module has another s
    copies:  a tensor in the file that has to be the base's own -> that one's name
    """

    source: Source
    names: dict[str, str]
    scale: float
    factors: dict[str, float]
    copies: dict[str, str]


def parts(path: Path) -> list[Path]:
    """The folder of a whole model; or of an adapter, its base's folder and its own two files.

    raises: ConfigError when the base is not here
    """
    config = path / CONFIG
    if not os.path.isfile(config):  # false, too, where a path is none
        return [path]
    raw = read_json(config)
    base = raw.get(BASE)
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{config}: {BASE} = {base!r:.80}", "set it to the folder of the base")
    revision = str(raw.get("revision") or "main")
    weights = next(
        (path / name for name in WEIGHTS_FILES if os.path.isfile(path / name)), path / WEIGHTS
    )
    named = (path / base, Path(base), cached_model(base, revision))
    for folder in chain(named, _moved_base(path)):
        if folder and os.path.isdir(folder):
            return [folder, config, weights]
    raise ConfigError(
        f"{config}: its base {base!r:.200} is no folder here{looked_in(base, revision)}",
        f"download the base, and set {BASE} to its folder",
    )


def _moved_base(path: Path) -> Iterator[Path]:
    """The base of an adapter that moved with it, if it still has the hash that it had."""
    if not os.path.isfile(path / ORIGIN):
        return
    origin = read_json(path / ORIGIN)
    folder = path.resolve() / str(origin.get("base"))
    if os.path.isdir(folder) and fingerprint(folder) == origin.get("sha256"):
        yield folder


def open_adapter(config: Path, file: Path, shapes: Shapes, layout: Layout) -> Adapter:
    """Open an adapter of a base; its halves are called `M.lora_A.weight` and `M.lora_B.weight`.

    shapes, layout: of the base's parameters
    raises: ConfigError for what is not built; CheckpointError for a damaged file, for tensors
        missing, unexpected or misshapen, and when there are none
    """
    settings = read_config(config)
    with ExitStack() as opened:
        source = opened.enter_context(WEIGHTS_FILES[file.name](file))
        modules = _modules(source, shapes, layout)
        configs = {own: settings.of(module) for own, module in modules.items()}
        halves = _half_shapes(shapes, configs)
        _check_lora(source, halves, layout)
        if not halves:
            refuse(file, "it has no adapter")
        copies = (*shapes, *layout.ties, *layout.ignored)
        names, _ = match_names(source, halves, layout._replace(ties={}, ignored=copies))
        scale, factors = _scales(settings.default.scale, configs)
        adapter = Adapter(source, names, scale, factors, _copies(source, shapes, layout))
        opened.pop_all()
    return adapter


def _modules(source: Source, shapes: Shapes, layout: Layout) -> dict[str, str]:
    """The adapted modules, by our names; each one's name in the file, where peft looks for it."""
    modules: dict[str, str] = {}
    for name in source.names():
        module, half, _ = unwrapped(name).partition(".lora_")
        own = own_name(f"{module}.weight", layout, shapes).removesuffix(".weight")
        if half and len(shapes.get(f"{own}.weight", ())) == 2:
            modules[own] = module
    return modules


def _half_shapes(
    shapes: Shapes, configs: Mapping[str, AdapterConfig]
) -> dict[str, tuple[int, ...]]:
    """The shapes of A and B of each adapted module, in the order of the base's parameters."""
    halves: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if module in configs:
            rank = configs[module].r
            halves[f"{module}.lora_A.weight"] = (rank, shape[1])
            halves[f"{module}.lora_B.weight"] = (shape[0], rank)
    return halves


def _check_lora(source: Source, halves: Shapes, layout: Layout) -> None:
    """raises: CheckpointError for a tensor of LoRA that is no half: a magnitude, a table's"""
    for name in source.names():
        if ".lora_" in name and own_name(name, layout, halves) not in halves:
            why = "it is no A or B of a linear module of the base"
            refuse(f"{source.path}: {name:.80}", why, f"is it of another base? {MERGE}")


def _copies(source: Source, shapes: Shapes, layout: Layout) -> dict[str, str]:
    """The tensors in the file that have names of the base's -> the parameter that each one is.

    raises: CheckpointError for one that is misshapen
    """
    own = {name: name for name in shapes} | layout.ties
    found = own_names(source, layout, own)
    copies = {file: own[name] for name, file in found.items() if name in own}
    for file, name in copies.items():
        if source.info(file).shape != shapes[name]:
            refuse_copy(source.path, file, name)
    return copies


def refuse_copy(path: Path, copy: str, own: str) -> NoReturn:
    """Refuse a tensor of an adapter's file that is not what it is in the base."""
    found = f"{copy:.80} is not the base's {own}, so it was trained or resized too"
    refuse(path, f"{found} (bias, modules_to_save)", MERGE)


def _scales(default: float, configs: Mapping[str, AdapterConfig]) -> tuple[float, dict[str, float]]:
    """One s for all modules, and by what each B of another one is to be multiplied."""
    scales = {module: config.scale for module, config in configs.items()}
    if len(set(scales.values())) == 1:
        return scales.popitem()[1], {}
    scale = default or max(scales.values())
    others = {f"{m}.lora_B.weight": s / scale for m, s in scales.items() if s != scale}
    return scale, others


# -- adapter_config.json -----------------------------------------------------------------


def read_config(path: Path) -> Settings:
    """The checked fields of an adapter_config.json.

    raises: ConfigError for a field that is not built, or not of its type
    """
    raw = read_json(path)
    for name, value in raw.items():
        if not _is_built(name, value):
            raise ConfigError(f"{path}: {name} = {value!r:.80} is not built", MERGE)
    given = {name: raw[name] for name in USED if name in raw}
    for name, value in given.items():
        check_type(name, value, USED[name], path)
    ranks = _patterns(path, "rank_pattern", raw.get("rank_pattern"), AdapterConfig.r)
    alphas = _patterns(path, "alpha_pattern", raw.get("alpha_pattern"), AdapterConfig.lora_alpha)
    return Settings(AdapterConfig(**given), ranks, alphas)


def _is_built(name: str, value: object) -> bool:
    if name in ALLOWED:
        return value in ALLOWED[name]
    return name in USED or name in PATTERNS or name in IGNORED or not value


# -- patterns of modules -----------------------------------------------------------------

_MOST_PATTERNS = 1000
_LONGEST = 500  # characters of a pattern
_REPEAT = re.compile(r"[*+?{]")
_REPEATED_GROUP = re.compile(r"\)[*+?{]")
_MOST_REPEATS = 3


def first_match(patterns: Mapping[re.Pattern[str], Number], module: str, default: Number) -> Number:
    """What the first pattern that matches a module's name says."""
    found = (value for pattern, value in patterns.items() if pattern.match(module))
    return next(found, default)


def _patterns(
    path: Path, field: str, found: object, default: Number
) -> dict[re.Pattern[str], Number]:
    """A field that gives modules, by regular expressions, a number of their own.

    raises: ConfigError
    """
    if not found:
        return {}
    if not isinstance(found, dict) or len(found) > _MOST_PATTERNS:
        hint = f"expected at most {_MOST_PATTERNS} patterns, each with a number"
        raise ConfigError(f"{path}: {field} = {found!r:.80}", hint)
    for pattern, value in found.items():
        check_type(f"{field}[{pattern!r:.80}]", value, default, path)
    return {_compiled(path, field, pattern): value for pattern, value in found.items()}


def _compiled(path: Path, field: str, pattern: str) -> re.Pattern[str]:
    """A pattern as peft matches it: against the end of a name, of which it is whole parts.

    raises: ConfigError for one that is none, or that might take for ever
    """
    is_slow = (
        len(pattern) > _LONGEST
        or len(_REPEAT.findall(pattern)) > _MOST_REPEATS
        or _REPEATED_GROUP.search(pattern)
    )
    if is_slow:
        hint = f"at most {_MOST_REPEATS} of *+?{{ are matched, and none of a group"
        raise ConfigError(f"{path}: {field} has the pattern {pattern!r:.80}", hint)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a later Python will read otherwise
            return re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"{path}: {field} has the pattern {pattern!r:.80}: {error}", MERGE
        ) from None


def new_config(family: str, base: Path, ranks: Mapping[str, int], scale: float) -> JsonObject:
    """The contents of a new adapter_config.json.

    ranks: of each adapted module
    scale: s of W + s B A
    """
    r = next(iter(ranks.values()))
    others = {module: rank for module, rank in ranks.items() if rank != r}
    alphas = {module: scale * rank for module, rank in others.items()}
    patterns = {"rank_pattern": others, "alpha_pattern": alphas} if others else {}
    return patterns | {
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
        "target_modules": sorted(ranks),
    }
