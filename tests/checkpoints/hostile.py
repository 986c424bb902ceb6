"""Builders of weights files, genuine ones and every kind of bad one."""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# --- safetensors ---


def safetensors(header: Any, data: bytes = b"") -> bytes:
    """A file with that header (bytes, or what JSON is made of), well-formed or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


# --- torch.save: the bytes it writes, without it ---


class Global:
    """Stands for a name of torch's in a pickle."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self) -> None:
        """pickle wants the first part of a REDUCE to be callable."""


REBUILD_TENSOR = Global("torch._utils", "_rebuild_tensor_v2")
REBUILD_PARAMETER = Global("torch._utils", "_rebuild_parameter")
STORAGE_TYPES = {
    tag: Global("torch", name + "Storage")
    for tag, name in {
        "F32": "Float", "F16": "Half", "BF16": "BFloat16", "F64": "Double", "I64": "Long",
        "I32": "Int", "I16": "Short", "I8": "Char", "U8": "Byte", "BOOL": "Bool",
    }.items()
}  # fmt: skip


@dataclass(eq=False)
class Storage:
    dtype: str
    values: np.ndarray
    numel: int | None = None  # what the pickle claims
    key: str | None = None  # given when it is first saved


@dataclass(eq=False)
class Tensor:
    storage: Storage
    offset: Any
    shape: Any
    stride: Any
    hooks: OrderedDict[str, Any] = field(default_factory=OrderedDict)


@dataclass(eq=False)
class Parameter:
    data: Tensor
    hooks: OrderedDict[str, Any] = field(default_factory=OrderedDict)


def tensor(dtype: str, values: Any) -> Tensor:
    """A contiguous tensor with a storage of its own; BF16 is given as uint16."""
    array = np.asarray(values)
    stride = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
    return Tensor(Storage(dtype, array.reshape(-1)), 0, array.shape, stride)


class _Pickler(pickle._Pickler):
    """torch.save's pickler, with the stand-ins above for what torch has."""

    def __init__(self, file: io.BytesIO, protocol: int, storages: list[Storage]) -> None:
        super().__init__(file, protocol)
        self.storages = storages

    def persistent_id(self, value: object) -> tuple[Any, ...] | None:
        if not isinstance(value, Storage):
            return None
        if value not in self.storages:
            value.key = value.key or str(len(self.storages))
            self.storages.append(value)
        numel = len(value.values) if value.numel is None else value.numel
        return ("storage", STORAGE_TYPES[value.dtype], value.key, "cpu", numel)

    def save(self, value: object, save_persistent_id: bool = True) -> None:
        if isinstance(value, Global | Tensor | Parameter) and id(value) in self.memo:
            self.write(self.get(self.memo[id(value)][0]))
        elif isinstance(value, Global):
            self._save_global(value)
        elif isinstance(value, Tensor):
            parts = (value.storage, value.offset, value.shape, value.stride, False, value.hooks)
            self.save_reduce(REBUILD_TENSOR, parts, obj=value)
        elif isinstance(value, Parameter):
            self.save_reduce(REBUILD_PARAMETER, (value.data, True, value.hooks), obj=value)
        else:
            super().save(value, save_persistent_id)

    def _save_global(self, value: Global) -> None:
        if self.proto >= 4:
            self.save(value.module)
            self.save(value.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(f"c{value.module}\n{value.name}\n".encode())
        self.memoize(value)


def state_pickle(state: object, protocol: int = 2) -> tuple[bytes, list[Storage]]:
    """data.pkl and the storages it refers to, in order."""
    file = io.BytesIO()
    storages: list[Storage] = []
    _Pickler(file, protocol, storages).dump(state)
    return file.getvalue(), storages


def zip_of(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A ZIP whose members start at multiples of 64, as PyTorch's do."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            padding = -(file.tell() + 30 + len(name.encode()) + 4) % 64
            info.extra = struct.pack("<HH", 0x4246, padding) + b"Z" * padding
            archive.writestr(info, data)
    return file.getvalue()


def torch_bin(state: object, protocol: int = 2) -> bytes:
    """What torch.save would write."""
    return torch_zip(*state_pickle(state, protocol))


def torch_zip(program: bytes, storages: Sequence[Storage] = (), prefix: str = "archive") -> bytes:
    """The archive around any data.pkl."""
    members = [("data.pkl", program), ("byteorder", b"little")]
    members += [(f"data/{s.key}", s.values.tobytes()) for s in storages]
    members += [("version", b"3\n")]
    return zip_of([(f"{prefix}/{name}", data) for name, data in members])
