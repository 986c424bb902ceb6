"""The index of shards: a *.index.json beside two files of safetensors."""

from __future__ import annotations

import json

from checkpoints.hostile import entry, safetensors
from fuzz.reader import Reader, place

from tinyzo.checkpoints.safetensors import open_safetensors

SHARDS = {
    "1.safetensors": safetensors({"a": entry(), "b": entry("I8", [4], [8, 12])}, bytes(12)),
    "2.safetensors": safetensors(
        {"c": entry("BF16", [4]), "d": entry("F16", [0], [8, 8])}, bytes(8)
    ),
}
placed: set[str] = set()


def read(data: bytes) -> None:
    for name in SHARDS.keys() - placed:
        place(f"shards/{name}", SHARDS[name])
        placed.add(name)
    with open_safetensors(place("shards/model.safetensors.index.json", data)) as source:
        for name in source.names():
            source.read(name)


PLACES = {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors", "d": "2.safetensors"}
INDICES = [
    {"metadata": {"total_size": 20}, "weight_map": PLACES},
    {"weight_map": {"a": "1.safetensors"}},
    {"weight_map": {}},
]
READER = Reader(
    read,
    seeds=[json.dumps(index).encode() for index in INDICES],
    words=b'"c":"2.safetensors" ../ / 1.safetensors "weight_map": x.index.json'.split(),
)
