"""A snapshot: a safetensors file with the checksums of its rows, read through."""

from __future__ import annotations

import numpy as np
from fuzz.reader import Reader, place
from fuzz.readers.safetensors import file as other_file

from tinyzo.checkpoints.checksums import TENSOR, Checksums
from tinyzo.checkpoints.safetensors import SafetensorsFile, SafetensorsWriter
from tinyzo.checkpoints.sources import TensorInfo
from tinyzo.dtypes import STORAGE

SHAPES = {"a.weight": ("F32", (3, 4)), "b.weight": ("BF16", (2, 5)), "c.bias": ("F16", (7,))}


def read(data: bytes) -> None:
    with SafetensorsFile(place("weights-4.safetensors", data)) as source:
        for name in source.names():
            if source.info(name).nbytes < 1 << 20:
                source.read(name)


def file() -> bytes:
    infos = {name: TensorInfo(*what) for name, what in SHAPES.items()}
    table = Checksums(infos)
    path = place("new.safetensors", b"")
    with SafetensorsWriter(path, infos | {TENSOR: table.info}, {"journal": "0" * 8}) as writer:
        for name in writer.names()[:-1]:
            dtype, shape = SHAPES[name]
            rows = np.ones(shape, STORAGE[dtype])
            table.make(name, rows)
            writer.write(name, rows)
        writer.write(TENSOR, table.table)
    return path.read_bytes()


EMPTY = {
    TENSOR: {"dtype": "U8", "shape": [0, 8], "data_offsets": [0, 0]},
    "hollow": {"dtype": "F32", "shape": [0, 4], "data_offsets": [0, 0]},
}
READER = Reader(
    read,
    seeds=[file(), other_file(EMPTY, 0)],
    words=[f'"{TENSOR}"'.encode(), b"[10,8]", b'"U8"', b'"F64"', b"[0,0]", b"[]"],
)
