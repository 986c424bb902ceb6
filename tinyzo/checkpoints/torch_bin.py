"""`pytorch_model.bin`, as torch.save has written it since 1.6, read without PyTorch.

    <prefix>/data.pkl      a pickle: {name: tensor of (storage, offset, shape, stride), ...}
    <prefix>/data/<key>    the bytes of one storage
    <prefix>/...           version, byteorder and the like

in a ZIP that compresses nothing. A pickle is a program, and this one may be hostile: so it runs on
a machine that knows only the opcodes of torch.save, makes nothing but dicts, tuples, strings,
numbers and descriptions of tensors, and has nothing that could be called.
"""

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeGuard

from tinyzo import system
from tinyzo.checkpoints.sources import Source, Stored, TensorInfo, is_shape, reach
from tinyzo.dtypes import STORAGE, STORAGE_TYPES
from tinyzo.errors import refuse
from tinyzo.parsing import MAX_BYTES, is_natural

_MAX_OPCODES = 500_000  # of which torch.save emits 30 a tensor; one makes up to 130 bytes
_RESAVE = "save it again with PyTorch 1.6 or newer: torch.save(model.state_dict(), path)"
_HOSTILE = f"if you do not trust its author, do not use it; else {_RESAVE}"


class TorchBin(Source):
    """A state dict by torch.save: {name: tensor}, bare or as the only entry of
    {"state_dict": ...}, {"model": ...} or {"module": ...}.

    raises: CheckpointError for all else, which is most of what torch.load takes
    differs: the ZIP's checksums are not compared
    """

    def _load(self, opened: ExitStack) -> dict[str, Stored]:
        file, size = system.open_file(self.path, opened, _OWN)
        members = _list_members(file, size)
        prefix = _find_prefix(members, self.path)
        byteorder = members.get(f"{prefix}byteorder")
        if byteorder is not None and _read_member(file, byteorder) not in (b"", b"little"):
            refuse(self.path, "it was written on a big-endian machine", _RESAVE)
        program = _read_member(file, members[f"{prefix}data.pkl"])
        tensors = {}
        for name, tensor in load_state_dict(program, self.path).items():
            storage = tensor.storage
            member = members.get(f"{prefix}data/{storage.key}")
            if member is None:
                refuse(self.path, f"{name!r:.80} has no storage {storage.key!r:.80}")
            if member.size != storage.size:
                needed = f"{name!r:.80} needs a storage of {storage.size} bytes"
                refuse(self.path, f"{needed} and has one of {member.size}")
            start = member.start + tensor.start
            tensors[name] = Stored(tensor.info, file, storage.key, start, tensor.stride)
        return tensors


# -- the ZIP, of which zipfile reads the directory only --------------------------------

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name, length of the rest
_LOCAL_SIGNATURE = b"PK\3\4"
_OWN = rb"PK\x03\x04|\x80"  # and pickles, of which there is more to say
_LEGACY_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # what torch.save began with from 0.1.10 on
_TAR_MAGIC = b"ustar"  # at byte 257: what it wrote before


class _Member(NamedTuple):
    """Where the bytes of a member of the ZIP lie."""

    start: int
    size: int


class _Directory(io.FileIO):
    """The file as zipfile sees it: the directory, read at once, takes 20 times the memory."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_BYTES:
            raise zipfile.BadZipFile(f"it lists too many members, in {size} bytes")
        return super().read(size)


def _list_members(file: io.FileIO, file_size: int) -> dict[str, _Member]:
    """The members by name; none is compressed, none overlaps another."""
    head = system.read_bytes(file, min(file_size, 512), 0)
    if _LEGACY_MAGIC in head[:16] or head[257:262] == _TAR_MAGIC:
        refuse(file.name, "it is in the format of PyTorch before 1.6", _RESAVE)
    if not head.startswith(_LOCAL_SIGNATURE):
        refuse(file.name, f"it starts with {head[:8]!r}, so torch.save did not write it")
    try:
        with zipfile.ZipFile(_Directory(file.fileno(), closefd=False)) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        refuse(file.name, f"its ZIP directory is damaged: {error}")
    members: dict[str, _Member] = {}
    end = 0
    for info in infos:
        name = info.orig_filename
        if name in members or info.header_offset < end:
            refuse(file.name, f"its member {name!r:.80} is there twice or overlaps", _HOSTILE)
        members[name] = _locate(file, file_size, info)
        end = members[name].start + members[name].size
    return members


def _locate(file: io.FileIO, file_size: int, info: zipfile.ZipInfo) -> _Member:
    """Where a member's bytes are, once its name and its header have been checked."""
    name = info.orig_filename
    label = f"its member {name!r:.80}"
    if set(name) & set("\\:\0") or {"", ".", ".."} & set(name.split("/")):
        refuse(file.name, f"{label} does not stay in its folder", _HOSTILE)
    if info.compress_type or info.flag_bits & 1 or info.file_size != info.compress_size:
        refuse(file.name, f"{label} is compressed or encrypted", _RESAVE)
    start = info.header_offset + _LOCAL_HEADER.size
    signature = b""
    if start <= file_size:
        header = system.read_bytes(file, _LOCAL_HEADER.size, info.header_offset)
        signature, name_size, extra_size = _LOCAL_HEADER.unpack(header)
        start += name_size + extra_size
    if signature != _LOCAL_SIGNATURE or start + info.file_size > file_size:
        refuse(file.name, f"{label} is not where the ZIP directory says")
    return _Member(start, info.file_size)


def _find_prefix(members: dict[str, _Member], path: Path) -> str:
    """The folder of the ZIP in which everything lies, with its slash."""
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        refuse(path, f"it has {len(pickles)} members */data.pkl, not one", _RESAVE)
    return pickles[0].removesuffix("data.pkl")


def _read_member(file: io.FileIO, member: _Member) -> bytes:
    if member.size > MAX_BYTES:
        refuse(file.name, f"it needs {member.size} bytes to list its tensors: too many", _HOSTILE)
    return system.read_bytes(file, member.size, member.start)


# -- the pickle: what it describes -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Global:
    """Stands for a function or a class of Python's: a word, which nothing can call."""

    word: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes of the file: the key of their member, their type, and how many there should be."""

    key: str
    dtype: str
    size: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage, from its byte `start` on; the stride is in elements."""

    storage: Storage
    info: TensorInfo
    start: int
    stride: tuple[int, ...]


# All names that a state dict needs; the word of a storage's class is its tag in STORAGE.
_GLOBALS = {
    "collections.OrderedDict": Global("dict"),
    "torch._utils._rebuild_tensor_v2": Global("tensor"),
    "torch._utils._rebuild_parameter": Global("parameter"),
} | {f"torch.{each.torch}": Global(each.tag) for each in STORAGE_TYPES if each.torch}


def load_state_dict(program: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors that a pickle describes.

    raises: CheckpointError that names `path`
    """
    machine = Machine(program)
    try:
        state = machine.run()
    except ValueError as error:
        refuse(path, f"its pickle is refused at byte {machine.position}: {error}", _HOSTILE)
    state = _unwrap(state)
    if not isinstance(state, dict):
        refuse(path, f"it holds a {type(state).__name__}, not a state dict", _RESAVE)
    for name, value in state.items():
        if isinstance(value, dict) and name in _WRAPPERS:
            found = f"it is a checkpoint of a training, which has its weights in {name!r}"
            refuse(path, found, f"save those alone: torch.save(torch.load(path)[{name!r}], new)")
        if not isinstance(value, Tensor):
            refuse(path, f"{name!r:.80} is a {type(value).__name__}, not a tensor", _RESAVE)
    return state


_WRAPPERS = ("state_dict", "model", "module", "model_state_dict")  # Lightning's, DeepSpeed's


def _unwrap(state: object) -> object:
    """The dict in {"state_dict": {...}} and the like; anything else as it is."""
    if isinstance(state, dict) and len(state) == 1:
        for wrapper in _WRAPPERS:
            if isinstance(state.get(wrapper), dict):
                return state[wrapper]
    return state


def _describe_call(function: object, arguments: object) -> object:
    """Describe the value that a call in the pickle would return; nothing is called."""
    match function, arguments:
        case Global("dict"), ():
            return {}
        case Global("parameter"), (Tensor() as tensor, _, _):
            return tensor
        case Global("tensor"), (Storage() as storage, offset, tuple(shape), tuple(stride), _, _):
            return _describe_tensor(storage, offset, shape, stride)
    raise ValueError("no state dict needs such a call")


def _describe_tensor(
    storage: Storage, offset: object, shape: tuple[object, ...], stride: tuple[object, ...]
) -> Tensor:
    if not (
        is_natural(offset)
        and is_shape(shape, storage.dtype)
        and _is_stride(stride, axes=len(shape))
    ):
        raise ValueError("a tensor has an impossible offset, shape or stride")
    info = TensorInfo(storage.dtype, shape)
    itemsize = STORAGE[storage.dtype].itemsize
    if info.nbytes:
        end = itemsize * (offset + reach(shape, stride) + 1)
        used = max(info.nbytes, end)  # a stride of 0 makes more of the bytes than there are
        if used > storage.size:
            raise ValueError(f"a tensor takes {used} bytes of a storage of {storage.size}")
    return Tensor(storage, info, itemsize * offset, stride)


def _is_stride(stride: tuple[object, ...], axes: int) -> TypeGuard[tuple[int, ...]]:
    return len(stride) == axes and all(map(is_natural, stride))


def _describe_storage(description: object) -> Storage:
    match description:
        case "storage", Global(tag), str(key), str(), count:
            if tag in STORAGE and is_natural(count):
                return Storage(key, tag, count * STORAGE[tag].itemsize)
    raise ValueError("a storage is not described as torch.save does")


# -- the pickle: the machine that runs it ----------------------------------------------


class Machine:
    """Runs the pickle of a state dict: what torch.save emits with protocol 2 (its default) to 5.

    An opcode that is not in HANDLERS does not exist.

    source: Lib/pickle.py of CPython, `_Unpickler`, of which each handler does what it does there
    differs: a global is a word, a call a pattern (`_describe_call`), and nothing is imported or
        called; only names are keys, as the hash of a deep tuple would take the stack or for ever;
        text is strict UTF-8; frames do not matter; the state of BUILD, a `_metadata`, is dropped
    """

    def __init__(self, program: bytes) -> None:
        self._program = program
        self.position = 0  # of the next byte
        self._stack: list[object] = []
        self._below_marks: list[list[object]] = []  # a stack for each mark: what lies below it
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        """The value that the program leaves.

        raises: ValueError for a program that no state dict needs
        """
        for _ in range(_MAX_OPCODES):
            opcode = self._read(1)
            if opcode == pickle.STOP:
                return self._pop()
            if opcode not in HANDLERS:
                raise ValueError(f"no state dict needs opcode {_opcode_name(opcode)}")
            HANDLERS[opcode](self)
        raise ValueError(f"no state dict needs more than {_MAX_OPCODES} opcodes")

    # the program

    def _read(self, size: int) -> bytes:
        data = self._program[self.position : self.position + size]
        self.position += len(data)
        if len(data) < size:
            raise ValueError("it ends in the middle")
        return data

    def _read_number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self._read(size), "little", signed=signed)

    def _read_text(self, size: int) -> str:
        return self._read(size).decode()

    def _read_line(self) -> str:
        end = self._program.find(b"\n", self.position)
        if end < 0:
            raise ValueError("it ends in the middle")
        return self._read(end + 1 - self.position)[:-1].decode()

    # the stack

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _top(self) -> object:
        if not self._stack:
            raise ValueError("it takes a value that is not there")
        return self._stack[-1]

    def _pop(self) -> object:
        (top,) = self._take(1)
        return top

    def _take(self, count: int) -> list[object]:
        """The last `count` values, the last one last."""
        if len(self._stack) < count:
            raise ValueError("it takes a value that is not there")
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _take_to_mark(self) -> list[object]:
        if not self._below_marks:
            raise ValueError("it takes a value that is not there")
        items = self._stack
        self._stack = self._below_marks.pop()
        return items

    # opcodes without effect

    def protocol(self) -> None:
        version = self._read_number(1)
        if version > pickle.HIGHEST_PROTOCOL:
            raise ValueError(f"unsupported pickle protocol: {version}")

    def frame(self) -> None:
        self._read(8)

    def build(self) -> None:
        self._pop()

    # constants, numbers, text

    def none(self) -> None:
        self._push(None)

    def true(self) -> None:
        self._push(True)

    def false(self) -> None:
        self._push(False)

    def uint8(self) -> None:
        self._push(self._read_number(1))

    def uint16(self) -> None:
        self._push(self._read_number(2))

    def int32(self) -> None:
        self._push(self._read_number(4, signed=True))

    def long(self) -> None:
        self._push(self._read_number(self._read_number(1), signed=True))

    def short_text(self) -> None:
        self._push(self._read_text(self._read_number(1)))

    def text(self) -> None:
        self._push(self._read_text(self._read_number(4)))

    # tuples

    def mark(self) -> None:
        self._below_marks.append(self._stack)
        self._stack = []

    def empty_tuple(self) -> None:
        self._push(())

    def tuple_of_1(self) -> None:
        self._push(tuple(self._take(1)))

    def tuple_of_2(self) -> None:
        self._push(tuple(self._take(2)))

    def tuple_of_3(self) -> None:
        self._push(tuple(self._take(3)))

    def tuple_to_mark(self) -> None:
        self._push(tuple(self._take_to_mark()))

    # dicts

    def empty_dict(self) -> None:
        self._push({})

    def set_item(self) -> None:
        self._set(self._take(2))

    def set_items(self) -> None:
        self._set(self._take_to_mark())

    def _set(self, items: list[object]) -> None:
        """Set names in a dict to values. items: a name, its value, the next name, ..."""
        target = self._top()
        if not isinstance(target, dict):
            raise ValueError(f"it sets a name in a {type(target).__name__}")
        names = items[::2]
        if len(items) % 2 or not all(isinstance(name, str) for name in names):
            raise ValueError("it sets what is not a name in a dict")
        target.update(zip(names, items[1::2], strict=True))

    # the memo

    def put_uint8(self) -> None:
        self._memo[self._read_number(1)] = self._top()

    def put_uint32(self) -> None:
        self._memo[self._read_number(4)] = self._top()

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._top()

    def get_uint8(self) -> None:
        self._get(self._read_number(1))

    def get_uint32(self) -> None:
        self._get(self._read_number(4))

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise ValueError(f"Memo value not found at index {index}")
        self._push(self._memo[index])

    # what stands for Python's functions and torch's objects

    def global_by_lines(self) -> None:
        module = self._read_line()
        self._push_global(module, self._read_line())

    def global_by_stack(self) -> None:
        module, name = self._take(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("STACK_GLOBAL requires str")
        self._push_global(module, name)

    def _push_global(self, module: str, name: str) -> None:
        path = f"{module}.{name}"
        if path not in _GLOBALS:
            raise ValueError(f"no state dict needs {path!r:.80}")
        self._push(_GLOBALS[path])

    def reduce(self) -> None:
        function, arguments = self._take(2)
        self._push(_describe_call(function, arguments))

    def persistent_id(self) -> None:
        self._push(_describe_storage(self._pop()))


def _opcode_name(opcode: bytes) -> str:
    """Its name in pickle, or its number where pickle has no such opcode."""
    for known in pickletools.opcodes:
        if known.code.encode("latin-1") == opcode:
            return known.name
    return str(opcode[0])


HANDLERS: dict[bytes, Callable[[Machine], None]] = {
    pickle.PROTO: Machine.protocol,
    pickle.FRAME: Machine.frame,
    pickle.BUILD: Machine.build,
    pickle.NONE: Machine.none,
    pickle.NEWTRUE: Machine.true,
    pickle.NEWFALSE: Machine.false,
    pickle.BININT1: Machine.uint8,
    pickle.BININT2: Machine.uint16,
    pickle.BININT: Machine.int32,
    pickle.LONG1: Machine.long,
    pickle.SHORT_BINUNICODE: Machine.short_text,
    pickle.BINUNICODE: Machine.text,
    pickle.MARK: Machine.mark,
    pickle.EMPTY_TUPLE: Machine.empty_tuple,
    pickle.TUPLE1: Machine.tuple_of_1,
    pickle.TUPLE2: Machine.tuple_of_2,
    pickle.TUPLE3: Machine.tuple_of_3,
    pickle.TUPLE: Machine.tuple_to_mark,
    pickle.EMPTY_DICT: Machine.empty_dict,
    pickle.SETITEM: Machine.set_item,
    pickle.SETITEMS: Machine.set_items,
    pickle.BINPUT: Machine.put_uint8,
    pickle.LONG_BINPUT: Machine.put_uint32,
    pickle.MEMOIZE: Machine.memoize,
    pickle.BINGET: Machine.get_uint8,
    pickle.LONG_BINGET: Machine.get_uint32,
    pickle.GLOBAL: Machine.global_by_lines,
    pickle.STACK_GLOBAL: Machine.global_by_stack,
    pickle.REDUCE: Machine.reduce,
    pickle.BINPERSID: Machine.persistent_id,
}
