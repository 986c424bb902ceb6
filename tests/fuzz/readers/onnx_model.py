"""An ONNX model, of which only the metadata and the places of tensors in files are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fuzz.reader import Reader

from tinyzo.engine.onnx import protobuf
from tinyzo.engine.onnx.protobuf import BFLOAT16, Described, External
from tinyzo.engine.onnx.reader import read_outline

NODES = [
    protobuf.node("Gemm", ["x", "w", ""], ["y"], {"transB": 1, "alpha": 0.5}),
    protobuf.node("Transpose", ["y"], ["z"], {"perm": (1, 0), "as": "text"}, "com.microsoft"),
]
TENSORS = [
    protobuf.external(External("w", 1, (64, 16), "model.safetensors", 1 << 33, 4096)),
    protobuf.external(External("b", BFLOAT16, (), "adapter/a.safetensors", 0, 2)),
    protobuf.tensor("c", np.arange(3)),
]


def model(*tensors: bytes) -> bytes:
    inputs = [Described("x", 1, ("rows", 16))]
    return protobuf.model(NODES, tensors, inputs, [], {"": 21}, {"noise_format": "1", "k": ""})


READER = Reader(
    lambda data: read_outline(data, Path("step.onnx")),
    seeds=[model(*TENSORS), model()],
    words=[
        b"\xff\xff\xff\xff\x0f",
        b"\x80",
        b"\x3a",
        b"\x2a\x00",
        b"\x6a",
        b"length",
        b"-1",
        b"\x09",
    ],
)
