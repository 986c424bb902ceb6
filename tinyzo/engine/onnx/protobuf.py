"""ONNX's messages as bytes: Protocol Buffers' wire format, as far as a model needs it.

A message is its fields one after another, each a key and a value:

    key      a varint: field number * 8 + wire type
    varint   wire type 0: 7 bits in a byte, the lowest first; a negative number as its 64 bits
    float    wire type 5: four bytes
    bytes    wire type 2: a varint of the length, and so many bytes: text, or another message

Field numbers are those of onnx.proto (github.com/onnx/onnx); the tests compare with that package.
The `onnx` package itself is none of ours: Termux has none, and a model is written in 150 lines.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

VARINT, BYTES, FLOAT32 = 0, 2, 5
EXTERNAL = 1  # TensorProto.DataLocation

# TensorProto.DataType. bfloat16 is not a type of NumPy's, and is told by its name.
BFLOAT16 = 16
NUMBERS = {
    "f4": 1,
    "u1": 2,
    "i1": 3,
    "u2": 4,
    "i2": 5,
    "i4": 6,
    "i8": 7,
    "?": 9,
    "f2": 10,
    "f8": 11,
    "u4": 12,
    "u8": 13,
}
TYPES = {np.dtype(name): number for name, number in NUMBERS.items()}

Dimension = int | str  # a size, or the name of one that is known only when the graph runs
Attribute = int | float | str | tuple[int, ...]


class Described(NamedTuple):
    """An input or an output: its name, its type (TensorProto.DataType) and its shape."""

    name: str
    type: int
    shape: tuple[Dimension, ...]


class External(NamedTuple):
    """A tensor of which the numbers are some bytes of a file beside the model."""

    name: str
    type: int
    shape: tuple[int, ...]
    file: str
    offset: int
    nbytes: int


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def integer(field: int, value: int) -> bytes:
    return varint(field << 3 | VARINT) + varint(value)


def real(field: int, value: float) -> bytes:
    return varint(field << 3 | FLOAT32) + struct.pack("<f", value)


def data(field: int, value: bytes | str) -> bytes:
    """Bytes, text, or a message that is bytes already."""
    raw = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | BYTES) + varint(len(raw)) + raw


def repeated(field: int, values: Iterable[bytes | str]) -> bytes:
    return b"".join(data(field, value) for value in values)


def attribute(name: str, value: Attribute) -> bytes:
    """AttributeProto, of the type that the value has."""
    if isinstance(value, tuple):
        kind, body = 7, b"".join(integer(8, each) for each in value)
    elif isinstance(value, str):
        kind, body = 3, data(4, value)
    elif isinstance(value, float):
        kind, body = 1, real(2, value)
    else:
        kind, body = 2, integer(3, value)
    return data(1, name) + body + integer(20, kind)


def node(
    op: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: Mapping[str, Attribute],
    domain: str = "",
) -> bytes:
    """NodeProto, named by its first output. An input "" is an optional one that is left out."""
    body = repeated(1, inputs) + repeated(2, outputs) + data(3, outputs[0]) + data(4, op)
    body += repeated(5, (attribute(name, value) for name, value in attributes.items()))
    return body + data(7, domain) if domain else body


def _tensor(name: str, kind: int, shape: Sequence[int]) -> bytes:
    return b"".join(integer(1, size) for size in shape) + integer(2, kind) + data(8, name)


def tensor(name: str, values: np.ndarray) -> bytes:
    """TensorProto of numbers that the model holds itself."""
    kind = TYPES[values.dtype]
    return _tensor(name, kind, values.shape) + data(9, values.tobytes())


def external(tensor: External) -> bytes:
    """TensorProto of numbers in a file."""
    place = {"location": tensor.file, "offset": str(tensor.offset), "length": str(tensor.nbytes)}
    body = _tensor(tensor.name, tensor.type, tensor.shape)
    body += repeated(13, (data(1, key) + data(2, value) for key, value in place.items()))
    return body + integer(14, EXTERNAL)


def described(value: Described) -> bytes:
    """ValueInfoProto."""
    sizes = (data(2, d) if isinstance(d, str) else integer(1, d) for d in value.shape)
    shape = repeated(1, sizes)
    array = integer(1, value.type) + data(2, shape)
    return data(1, value.name) + data(2, data(1, array))


def model(
    nodes: Iterable[bytes],
    tensors: Iterable[bytes],
    inputs: Iterable[Described],
    outputs: Iterable[Described],
    opsets: Mapping[str, int],
    metadata: Mapping[str, str],
) -> bytes:
    """ModelProto of one graph. opsets: the version of each domain; "" is ONNX's own."""
    graph = repeated(1, nodes) + data(2, "tinyzo") + repeated(5, tensors)
    graph += repeated(11, map(described, inputs)) + repeated(12, map(described, outputs))
    body = integer(1, 10) + data(2, "tinyzo") + data(7, graph)  # IR version 10: that of opset 21
    body += repeated(8, (data(1, domain) + integer(2, opsets[domain]) for domain in opsets))
    return body + repeated(14, (data(1, key) + data(2, metadata[key]) for key in metadata))
