"""`pytorch_model.bin`, as torch.save has written it since 1.6, read without PyTorch.

    <prefix>/data.pkl      a pickle: {name: tensor of (storage, offset, shape, stride), ...}
    <prefix>/data/<key>    the bytes of one storage
    <prefix>/...           version, byteorder and the like

in a ZIP that compresses nothing. A pickle is a program, and this one may be hostile: so it runs on
a machine of our own that knows only the opcodes of torch.save, makes nothing but dicts, tuples,
strings, numbers and descriptions of tensors, and calls nothing but three functions of this file.
"""

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

from tinyzo.checkpoints import files
from tinyzo.checkpoints.sources import STORAGE, Source, Stored, TensorInfo, is_shape, reach

_MAX_LISTING_BYTES = 8 << 20  # of a pickle or a ZIP directory: 40,000 tensors, 1 GB of objects
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
_RESAVE = "save it again with PyTorch 1.6 or newer: torch.save(model.state_dict(), path)"
_HOSTILE = f"if you do not trust its author, do not use it; else {_RESAVE}"


class TorchBin(Source):
    """A state dict by torch.save: {name: tensor}, bare or as the only entry of
    {"state_dict": ...} or {"model": ...}.

    raises: CheckpointError for all else, which is most of what torch.load takes
    differs: the ZIP's checksums are not compared
    """

    def _load(self, opened: ExitStack) -> dict[str, Stored]:
        file, size = files.open_file(self.path, opened)
        members = _members(file, size)
        pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            files.refuse(self.path, f"it has {len(pickles)} members */data.pkl, not one", _RESAVE)
        prefix = pickles[0].removesuffix("data.pkl")
        if _read(file, *members.get(prefix + "byteorder", (0, 0))) not in (b"", b"little"):
            files.refuse(self.path, "it was written on a big-endian machine", _RESAVE)
        tensors = {}
        for name, view in _state_dict(_read(file, *members[pickles[0]]), self.path).items():
            key, dtype, numel = view.storage
            start, size = members.get(f"{prefix}data/{key}", (0, None))
            if size != (needed := numel * STORAGE[dtype].itemsize):
                why = f"{name!r:.80} needs a storage of {needed} bytes and has one of {size}"
                files.refuse(self.path, why)
            start += view.offset * STORAGE[dtype].itemsize
            tensors[name] = Stored(TensorInfo(dtype, view.shape), file, key, start, view.stride)
        return tensors


open_torch_bin = TorchBin.open


def _read(file: io.FileIO, start: int, size: int) -> bytes:
    if size > _MAX_LISTING_BYTES:
        why = f"it needs {size} bytes to describe its tensors, which is too many"
        files.refuse(file.name, why, _HOSTILE)
    return files.read_bytes(file, size, start)


# --- the ZIP, of which zipfile reads the directory only ---


class _Directory(io.FileIO):
    """The file as zipfile sees it: the directory, read at once, takes 20 times the memory."""

    def read(self, size: int = -1) -> bytes:
        if size > _MAX_LISTING_BYTES:
            raise zipfile.BadZipFile(f"it lists too many members, in {size} bytes")
        return super().read(size)


def _members(file: io.FileIO, file_size: int) -> dict[str, tuple[int, int]]:
    """Start and size of each member's bytes; none is compressed, none overlaps another."""
    head = files.read_bytes(file, min(file_size, 512), 0)
    if _LEGACY_MAGIC in head[:16] or head[257:262] == b"ustar":
        files.refuse(file.name, "it is in the format of PyTorch before 1.6", _RESAVE)
    if not head.startswith(b"PK\3\4"):
        files.refuse(file.name, f"it starts with {head[:8]!r}, so torch.save did not write it")
    try:
        with zipfile.ZipFile(_Directory(file.fileno(), closefd=False)) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        files.refuse(file.name, f"its ZIP directory is damaged: {error}")
    members, end = {}, 0
    for info in infos:
        name = info.orig_filename
        if name in members or info.header_offset < end:
            files.refuse(file.name, f"its member {name!r:.80} is there twice or overlaps", _HOSTILE)
        members[name] = _locate(file, file_size, info)
        end = sum(members[name])
    return members


def _locate(file: io.FileIO, file_size: int, info: zipfile.ZipInfo) -> tuple[int, int]:
    name, label = info.orig_filename, f"its member {info.orig_filename!r:.80}"
    if set(name) & set("\\:\0") or {"", ".", ".."} & set(name.split("/")):
        files.refuse(file.name, f"{label} does not stay in its folder", _HOSTILE)
    if info.compress_type or info.flag_bits & 1 or info.file_size != info.compress_size:
        files.refuse(file.name, f"{label} is compressed or encrypted", _RESAVE)
    start = info.header_offset + _LOCAL_HEADER.size
    if start <= file_size:
        header = files.read_bytes(file, _LOCAL_HEADER.size, info.header_offset)
        signature, *lengths = _LOCAL_HEADER.unpack(header)
        start += sum(lengths)
    if start + info.file_size > file_size or signature != b"PK\3\4":
        files.refuse(file.name, f"{label} is not where the ZIP directory says")
    return start, info.file_size


# --- the pickle ---


_StorageType = Enum("_StorageType", {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL"})  # fmt: skip


class _Storage(NamedTuple):
    key: str
    dtype: str
    numel: int


class _View(NamedTuple):
    """A tensor: its element [i, j, ...] is storage[offset + i * stride[0] + j * stride[1] ...]."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _state_dict(program: bytes, path: Path) -> dict[str, _View]:
    machine = _Machine(program)
    try:
        state = machine.run()
    except (ValueError, IndexError, KeyError) as error:
        why = error if isinstance(error, ValueError) else "it takes a value that is not there"
        files.refuse(path, f"its pickle is refused at byte {machine.at}: {why}", _HOSTILE)
    if isinstance(state, dict) and len(state) == 1:
        inner = state.get("state_dict", state.get("model"))
        state = inner if isinstance(inner, dict) else state
    if not isinstance(state, dict):
        files.refuse(path, f"it holds a {type(state).__name__}, not a state dict", _RESAVE)
    for name, value in state.items():
        if not isinstance(value, _View):
            kind = type(value).__name__
            files.refuse(path, f"its entry {name!r:.80} is a {kind}, not a tensor", _RESAVE)
    return state


def _ordered_dict(*arguments: object) -> dict[str, object]:
    if arguments:
        raise ValueError("an OrderedDict starts with something in it")
    return {}


def _tensor(*arguments: object) -> _View:
    match arguments:
        case _Storage() as storage, offset, tuple(shape), tuple(stride), _, _:
            natural = all(map(files.is_natural, (offset, *stride)))
            possible = natural and len(shape) == len(stride) and is_shape(shape, storage.dtype)
        case _:
            possible = False
    if not possible:
        raise ValueError("a tensor has an impossible offset, shape or stride")
    if 0 not in shape and offset + reach(shape, stride) >= storage.numel:
        raise ValueError(f"a tensor reaches beyond the {storage.numel} elements of its storage")
    if math.prod(shape) > storage.numel:
        raise ValueError("a tensor has more elements than its storage")
    return _View(storage, offset, shape, stride)


def _parameter(*arguments: object) -> _View:
    if len(arguments) != 3 or not isinstance(arguments[0], _View):
        raise ValueError("a parameter is not made of a tensor")
    return arguments[0]


_GLOBALS: dict[str, object] = {f"torch.{kind.name}": kind for kind in _StorageType}
_GLOBALS["collections.OrderedDict"] = _ordered_dict
_GLOBALS["torch._utils._rebuild_tensor_v2"] = _tensor
_GLOBALS["torch._utils._rebuild_parameter"] = _parameter


class _Machine:
    """Runs the opcodes of _STEPS, with the globals of _GLOBALS, and refuses every other by name."""

    def __init__(self, program: bytes) -> None:
        self.program, self.at = program, 0
        self.stack, self.below, self.memo = [], [], {}  # below: the stacks under each mark

    def run(self) -> Any:
        while (opcode := self.take(1)) != b".":
            if opcode not in _STEPS:
                known = pickletools.code2op.get(opcode.decode("latin1"))
                raise ValueError(f"no state dict needs opcode {known.name if known else opcode}")
            _STEPS[opcode](self)
        return self.stack.pop()

    def take(self, count: int) -> bytes:
        self.at += count
        if self.at > len(self.program):
            raise ValueError("it ends in the middle")
        return self.program[self.at - count : self.at]

    def number(self, width: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(width), "little", signed=signed)

    def line(self) -> str:
        return self.take(self.program.index(b"\n", self.at) + 1 - self.at)[:-1].decode()

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> tuple[Any, ...]:
        return tuple(self.stack.pop() for _ in range(count))[::-1]

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> tuple[Any, ...]:
        values, self.stack = self.stack, self.below.pop()
        return tuple(values)

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def find(self, module: object, name: object) -> None:
        path = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "?"
        if path not in _GLOBALS:
            raise ValueError(f"no state dict needs {path!r:.80}")
        self.push(_GLOBALS[path])

    def storage(self) -> None:
        match self.stack.pop():
            case ("storage", _StorageType() as kind, str(key), str(), n) if files.is_natural(n):
                self.push(_Storage(key, kind.value, n))
            case _:
                raise ValueError("a storage is not described as torch.save does")

    def call(self) -> None:
        function, arguments = self.pop(2)
        if not isinstance(function, FunctionType) or not isinstance(arguments, tuple):
            raise ValueError(f"it calls a {type(function).__name__}")
        self.push(function(*arguments))

    def set_items(self, items: tuple[Any, ...]) -> None:
        target, names, values = self.stack[-1], items[::2], items[1::2]
        named = all(isinstance(name, str) for name in names) and len(names) == len(values)
        if not isinstance(target, dict) or not named:
            raise ValueError("it sets what is not a name in a dict")
        target.update(zip(names, values, strict=True))


# What torch.save emits for a state dict, with pickle protocol 2 (its default) to 5.
_STEPS: dict[bytes, Callable[[_Machine], object]] = {
    # protocol, frame: not needed
    b"\x80": lambda m: m.take(1), b"\x95": lambda m: m.take(8),
    # constants
    b"N": lambda m: m.push(None), b"\x88": lambda m: m.push(True), b"\x89": lambda m: m.push(False),
    # integers
    b"K": lambda m: m.push(m.number(1)), b"M": lambda m: m.push(m.number(2)),
    b"J": lambda m: m.push(m.number(4, signed=True)),
    b"\x8a": lambda m: m.push(m.number(m.number(1), signed=True)),
    # strings
    b"X": lambda m: m.push(m.take(m.number(4)).decode()),
    b"\x8c": lambda m: m.push(m.take(m.number(1)).decode()),
    # tuples: of none, one, two, three, of all since the mark
    b")": lambda m: m.push(()), b"\x85": lambda m: m.push(m.pop(1)),
    b"\x86": lambda m: m.push(m.pop(2)), b"\x87": lambda m: m.push(m.pop(3)),
    b"(": _Machine.mark, b"t": lambda m: m.push(m.pop_to_mark()),
    # a dict; one item, or all since the mark, put into it
    b"}": lambda m: m.push({}),
    b"s": lambda m: m.set_items(m.pop(2)), b"u": lambda m: m.set_items(m.pop_to_mark()),
    # what is met again
    b"q": lambda m: m.put(m.number(1)), b"r": lambda m: m.put(m.number(4)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"h": lambda m: m.push(m.memo[m.number(1)]), b"j": lambda m: m.push(m.memo[m.number(4)]),
    # globals, storages, calls; BUILD, the `_metadata` of an OrderedDict, which is dropped
    b"c": lambda m: m.find(m.line(), m.line()), b"\x93": lambda m: m.find(*m.pop(2)),
    b"Q": _Machine.storage, b"R": _Machine.call, b"b": lambda m: m.stack.pop(),
}  # fmt: skip
