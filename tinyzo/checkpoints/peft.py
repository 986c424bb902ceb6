"""LoRA adapters in peft's format: adapter_config.json and adapter_model.safetensors.

    base_model.model.<module>.lora_A.weight    A [r, in]
    base_model.model.<module>.lora_B.weight    B [out, r]
    W + s B A                                  s = alpha / r; with use_rslora: alpha / sqrt(r)

Source: github.com/huggingface/peft 0.21 (tuners/lora, utils/save_and_load.py), the tests' oracle.
differs: one rank and one alpha for all modules, which are linear; the base is a folder that is
    here, sought beside the adapter and then, as peft does, from the current directory, and never
    downloaded; a tensor too many or too few is refused, where peft warns
"""

from pathlib import Path
from typing import Any

from tinyzo.checkpoints.directory import Layout, check_type, match_names, read_json
from tinyzo.checkpoints.safetensors import SafetensorsFile
from tinyzo.errors import ConfigError, refuse
from tinyzo.parsing import read_toml

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
FIELDS = read_toml(Path(__file__).with_suffix(".toml"))


def parts(path: Path) -> list[Path]:
    """The folder of a whole model; or of an adapter, its base's folder and its own two files.

    raises: ConfigError when the base is not here
    """
    if not (config := path / CONFIG).is_file():
        return [path]
    base = str(read_json(config).get("base_model_name_or_path"))
    for folder in (path / base, Path(base)):
        if folder.is_dir():
            return [folder, config, path / WEIGHTS]
    raise ConfigError(f"{config}: its base {base!r:.200} is no folder here", FIELDS["no_base"])


def open_adapter(config: Path, file: Path, shapes: dict) -> tuple[Any, dict[str, str], float]:
    """The open file, its tensor of each half (`M.lora_A.weight`, `M.lora_B.weight`), and the scale.

    shapes: of the base's parameters, by name
    raises: ConfigError for what is not built; CheckpointError for a damaged file, for tensors
        missing, unexpected or misshapen, and when there are none
    """
    raw, built = read_json(config), FIELDS["built"]
    for name, value in raw.items():
        if not (value in built[name] if name in built else not value or name in FIELDS["ignored"]):
            raise ConfigError(f"{config}: {name} = {value!r:.80} is not built", FIELDS["only"])
    r, alpha, root = (check_type(n, raw.get(n, d), d, CONFIG) for n, d in FIELDS["used"].items())
    source, halves = SafetensorsFile(file), {}
    adapted = {name.removeprefix(PREFIX).partition(".lora_")[0] for name in source.names()}
    for name, shape in shapes.items():
        if len(shape) == 2 and (m := name.removesuffix(".weight")) in adapted:
            halves |= {f"{m}.lora_A.weight": (r, shape[1]), f"{m}.lora_B.weight": (shape[0], r)}
    names, _ = match_names(source, halves, Layout((PREFIX,), "", {}, ()))
    return source, names or refuse(file, "it has no adapter"), alpha / r ** (0.5 if root else 1)


def new_config(family: str, base: Path, halves: list[str], r: int, scale: float) -> dict[str, Any]:
    """What adapter_config.json is to say; halves: the names of the adapters' tensors, as ours."""
    return FIELDS["written"] | {"task_type": FIELDS["task_type"].get(family), "r": r,
        "lora_alpha": scale * r, "base_model_name_or_path": str(base.resolve()),
        "target_modules": sorted({name.partition(".lora_")[0] for name in halves})}  # fmt: skip
