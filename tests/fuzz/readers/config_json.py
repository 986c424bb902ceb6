"""The config.json of a model, of either family, and the names of tensors that it asks for."""

from __future__ import annotations

import json

from fuzz.reader import Reader, place
from golden.seeded import TINY

from tinyzo.models.model import MODELS, read_config

LAYERS = 100  # of which the tensors are listed


def read(data: bytes) -> None:
    family, config = read_config(place("model/config.json", data).parent)
    if config.num_hidden_layers <= LAYERS:
        dict(MODELS[family].shapes(config))


READER = Reader(
    read,
    seeds=[json.dumps(case.config).encode() for case in TINY.values()],
    words=[
        *(f'"{family}"'.encode() for family in MODELS),
        *(f'"{name}":'.encode() for each in MODELS.values() for name in vars(each.Config())),
        *b'"pruned_heads":{} "torch_dtype": "id2label":{"0":"a"} "relu" "gelu"'.split(),
        *b"1e-5 false 2147483648 0.5".split(),
    ],
)
