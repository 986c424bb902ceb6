"""A safetensors file: its header, and where it says that the tensors are."""

from __future__ import annotations

import json

from fuzz.reader import Reader, place

from tinyzo.checkpoints.safetensors import open_safetensors


def read(data: bytes) -> None:
    with open_safetensors(place("model.safetensors", data)) as source:
        for name in source.names():
            if source.info(name).nbytes < 1 << 20:
                source.read(name)


def file(header: object, size: int) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(size)


TENSORS = {
    "__metadata__": {"format": "pt"},
    "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b.bias": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "empty": {"dtype": "F16", "shape": [0, 7], "data_offsets": [32, 32]},
    "scalar": {"dtype": "I64", "shape": [], "data_offsets": [32, 40]},
}
READER = Reader(
    read,
    seeds=[file(TENSORS, 40), file({}, 0), file({"__metadata__": {}}, 0)],
    words=[*(f'"{word}"'.encode() for word in ("F64", "BOOL", "U8", "dtype", "shape")), b"[0,0]"],
)
