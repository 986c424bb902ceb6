"""A file of matrices in groups: its metadata, and codes and scales that fit a model or do not."""

from __future__ import annotations

import json

from fuzz.reader import Reader, place

from tinyzo.checkpoints.groups import infos_of_groups, kind_of, metadata_of, parts_of
from tinyzo.checkpoints.safetensors import open_safetensors
from tinyzo.models import opt
from tinyzo.models.quantised import groups_for, open_grouped

SHAPES = dict(opt.shapes(opt.Config(vocab_size=5, hidden_size=4, num_hidden_layers=1, ffn_dim=70)))
NAMES = {name: name for name in SHAPES}


def read(data: bytes) -> None:
    with open_safetensors(place("groups.safetensors", data)) as source:
        kind = kind_of(source)
        if kind:
            weights = open_grouped(source, NAMES, SHAPES, opt.TABLES, kind)
            for name in weights.names():
                weights.read(name)


def file(kind: str) -> bytes:
    infos = {}
    types = groups_for(SHAPES, opt.TABLES, kind)
    for name, shape in SHAPES.items():
        if name in types:
            infos |= zip(parts_of(name), infos_of_groups(shape, types[name]), strict=True)
        else:
            infos[name] = infos_of_groups((shape[0], 1), types[opt.TOKENS])[1]._replace(shape=shape)
    header: dict[str, object] = {"__metadata__": metadata_of(kind)}
    start = 0
    for name, info in infos.items():
        stop = start + info.nbytes
        header[name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(start)


READER = Reader(
    read,
    seeds=[file("int4"), file("int8")],
    words=[
        b'"tinyzo.int2"',
        b'"group":"65"',
        b'"U8"',
        b'"F16"',
        b"_scales",
        b"[5,1,32]",
        b"\xff\xff",
    ],
)
