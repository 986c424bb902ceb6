"""What an ONNX file says of itself and of other files, read without running it.

protobuf.py has the format. Here only the fields are read that a hostile file could do harm by:
where its tensors are, and what its metadata claim. All else is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tinyzo.engine.onnx.protobuf import BYTES, FLOAT32, VARINT, External
from tinyzo.errors import refuse

DOUBLE = 1  # the wire type of eight bytes
GRAPH, METADATA = 7, 14  # fields of ModelProto
INITIALIZER = 5  # of GraphProto
DIMS, DATA_TYPE, NAME, EXTERNAL_DATA = 1, 2, 8, 13  # of TensorProto
KEY, VALUE = 1, 2  # of StringStringEntryProto


class Outline(NamedTuple):
    """metadata: what the model says of itself; externals: its tensors in other files."""

    metadata: dict[str, str]
    externals: list[External]


def read_outline(data: bytes, path: Path) -> Outline:
    """The outline of a model.

    raises: CheckpointError, which names `path`, for bytes that are no such messages
    """
    try:
        parts = list(fields(memoryview(data)))
        metadata = dict(entry(part) for part in parts if part.number == METADATA)
        graphs = [part.message for part in parts if part.number == GRAPH]
        tensors = [part for graph in graphs for part in fields(graph) if part.number == INITIALIZER]
        found = [external(tensor.message) for tensor in tensors]
    except ValueError as error:
        refuse(path, f"it is no ONNX model: {error}", "export it again")
    return Outline(metadata, [each for each in found if each])


class Field(NamedTuple):
    """A field of a message: a number, or the bytes of a text or a message."""

    number: int
    value: int | memoryview

    @property
    def message(self) -> memoryview:
        """raises: ValueError for a number"""
        if isinstance(self.value, int):
            raise ValueError(f"field {self.number} is a number")
        return self.value

    @property
    def text(self) -> str:
        """raises: ValueError for what is none"""
        return bytes(self.message).decode()


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message. raises: ValueError where it ends too early"""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = varint(message, at)
            yield Field(number, value)
            continue
        if wire == BYTES:
            size, at = varint(message, at)
        elif wire in (FLOAT32, DOUBLE):
            size = {FLOAT32: 4, DOUBLE: 8}[wire]
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(message):
            raise ValueError(f"it is truncated: {size} bytes at byte {at} of {len(message)}")
        yield Field(number, message[at : at + size])
        at += size


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, and the place after it. raises: ValueError"""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it is truncated within a number")
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number has more than 64 bits")


def entry(field: Field) -> tuple[str, str]:
    """A StringStringEntryProto."""
    found = {each.number: each.text for each in fields(field.message)}
    return found.get(KEY, ""), found.get(VALUE, "")


def external(message: memoryview) -> External | None:
    """A TensorProto as an External; None if its numbers are in the model itself."""
    parts = list(fields(message))
    place = dict(entry(part) for part in parts if part.number == EXTERNAL_DATA)
    if not place:
        return None
    shape = tuple(number(part) for part in parts if part.number == DIMS)
    kind = next((number(part) for part in parts if part.number == DATA_TYPE), 0)
    name = next((part.text for part in parts if part.number == NAME), "")
    offset, nbytes = (natural(place.get(key, "")) for key in ("offset", "length"))
    return External(name, kind, shape, place.get("location", ""), offset, nbytes)


def number(field: Field) -> int:
    """raises: ValueError for bytes"""
    if not isinstance(field.value, int):
        raise ValueError(f"field {field.number} is no number")
    return field.value


def natural(text: str) -> int:
    """A number of a place. raises: ValueError"""
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ValueError(f"{text[:30]!r} is no place in a file")
    return int(text)
