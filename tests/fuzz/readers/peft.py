"""A PEFT folder: adapter_config.json, a zero byte, and the header of adapter_model.safetensors."""

from __future__ import annotations

import json
import re

from checkpoints.hostile import safetensors
from fuzz.reader import Reader, place
from golden.seeded import ADAPTERS

from tinyzo.checkpoints.peft import CONFIG, PREFIX, WEIGHTS, open_adapter, parts
from tinyzo.models import opt

SHAPES = dict(opt.shapes(opt.Config(vocab_size=5, hidden_size=4, num_hidden_layers=2, ffn_dim=6)))


def read(data: bytes) -> None:
    config, _, header = data.partition(b"\0")
    config_file = place(f"adapter/{CONFIG}", config)
    found = re.findall(rb'"data_offsets": ?\[\d+, ?(\d{1,5})\]', header)
    size = max(map(int, found), default=0)
    weights = place(f"adapter/{WEIGHTS}", safetensors(header, bytes(size)))
    if not (config_file.parent / "base").is_dir():
        place("adapter/base/none", b"")
    parts(config_file.parent)
    open_adapter(config_file, weights, SHAPES, opt.LAYOUT).source.close()


def header(*modules: str, rank: int = 2) -> bytes:
    """The header of adapters of the modules, and of a bias that is the base's own."""
    shapes = {}
    for module in modules:
        out, width = SHAPES[f"{module}.weight"]
        shapes[f"{PREFIX}{module}.lora_A.weight"] = [rank, width]
        shapes[f"{PREFIX}{module}.lora_B.weight"] = [out, rank]
    shapes[f"{PREFIX}{modules[0]}.bias"] = list(SHAPES[f"{modules[0]}.bias"])
    entries, start = {}, 0
    for name, shape in shapes.items():
        stop = start + 4 * shape[0] * (shape[1] if shape[1:] else 1)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}
        start = stop
    return json.dumps(entries).encode()


QUERY = "model.decoder.layers.{}.self_attn.q_proj"
HEADERS = [header(QUERY.format(0), QUERY.format(1)), header("model.decoder.layers.1.fc1")]
CONFIGS = [
    {"peft_type": "LORA", "base_model_name_or_path": "base"} | settings | {"r": 2}
    for _, settings in ADAPTERS.values()
]
PATTERNS = {"rank_pattern": {"layers.0.*q_proj": 2}, "alpha_pattern": {"^fc[12]$": 3, "q|v": 0.5}}
SEEDS = [json.dumps(config | PATTERNS).encode() for config in CONFIGS]
READER = Reader(
    read,
    seeds=[seed + b"\0" + head for seed in SEEDS for head in HEADERS],
    words=[
        *b"_orig_mod. module. .base_layer .lora_A .lora_B .lora_embedding_A lm_head.weight".split(),
        *b"base_model.model. model.decoder. .q_proj ( ) | * {9} [ ] \\\\d".split(),
        *b'"revision":"v1", "bias":"all", "rank_pattern":{}, "use_dora":true,'.split(),
    ],
)
