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
from collections import namedtuple
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from tinyzo import parsing, system
from tinyzo.checkpoints.sources import Source, Stored, TensorInfo, is_shape, reach
from tinyzo.dtypes import STORAGE
from tinyzo.errors import refuse

_MAX_LISTING_BYTES = 8 << 20  # of a pickle or a ZIP directory: 40,000 tensors, 1 GB of objects
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_RESAVE = "save it again with PyTorch 1.6 or newer: torch.save(model.state_dict(), path)"
_HOSTILE = f"if you do not trust its author, do not use it; else {_RESAVE}"


class TorchBin(Source):
    """A state dict by torch.save: {name: tensor}, bare or as the only entry of
    {"state_dict": ...} or {"model": ...}.

    raises: CheckpointError for all else, which is most of what torch.load takes
    differs: the ZIP's checksums are not compared
    """

    def _load(self, opened: ExitStack) -> dict[str, Stored]:
        file, size = system.open_file(self.path, opened)
        members = _members(file, size)
        pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            refuse(self.path, f"it has {len(pickles)} members */data.pkl, not one", _RESAVE)
        prefix = pickles[0].removesuffix("data.pkl")
        if _read(file, *members.get(prefix + "byteorder", (0, 0))) not in (b"", b"little"):
            refuse(self.path, "it was written on a big-endian machine", _RESAVE)
        tensors = {}
        for name, view in _state_dict(_read(file, *members[pickles[0]]), self.path).items():
            key, _, needed = view.storage
            start, size = members.get(f"{prefix}data/{key}", (0, None))
            if size != needed:
                why = f"{name!r:.80} needs a storage of {needed} bytes and has one of {size}"
                refuse(self.path, why)
            tensors[name] = Stored(view.info, file, key, start + view.start, view.stride)
        return tensors



def _read(file: io.FileIO, start: int, size: int) -> bytes:
    if size > _MAX_LISTING_BYTES:
        refuse(file.name, f"it needs {size} bytes to list its tensors: too many", _HOSTILE)
    return system.read_bytes(file, size, start)


# --- the ZIP, of which zipfile reads the directory only ---


class _Directory(io.FileIO):
    """The file as zipfile sees it: the directory, read at once, takes 20 times the memory."""

    def read(self, size: int = -1) -> bytes:
        if size > _MAX_LISTING_BYTES:
            raise zipfile.BadZipFile(f"it lists too many members, in {size} bytes")
        return super().read(size)


def _members(file: io.FileIO, file_size: int) -> dict[str, tuple[int, int]]:
    """Start and size of each member's bytes; none is compressed, none overlaps another."""
    head = system.read_bytes(file, min(file_size, 512), 0)
    # what torch.save began with, from 0.1.10 on and before: its magic number, a tar
    if b"l\xfc\x9cF\xf9 j\xa8P\x19" in head[:16] or head[257:262] == b"ustar":
        refuse(file.name, "it is in the format of PyTorch before 1.6", _RESAVE)
    if not head.startswith(b"PK\3\4"):
        refuse(file.name, f"it starts with {head[:8]!r}, so torch.save did not write it")
    try:
        with zipfile.ZipFile(_Directory(file.fileno(), closefd=False)) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        refuse(file.name, f"its ZIP directory is damaged: {error}")
    members, end = {}, 0
    for info in infos:
        name = info.orig_filename
        if name in members or info.header_offset < end:
            refuse(file.name, f"its member {name!r:.80} is there twice or overlaps", _HOSTILE)
        members[name] = _locate(file, file_size, info)
        end = sum(members[name])
    return members


def _locate(file: io.FileIO, file_size: int, info: zipfile.ZipInfo) -> tuple[int, int]:
    name, label = info.orig_filename, f"its member {info.orig_filename!r:.80}"
    if set(name) & set("\\:\0") or {"", ".", ".."} & set(name.split("/")):
        refuse(file.name, f"{label} does not stay in its folder", _HOSTILE)
    if info.compress_type or info.flag_bits & 1 or info.file_size != info.compress_size:
        refuse(file.name, f"{label} is compressed or encrypted", _RESAVE)
    start = info.header_offset + _LOCAL_HEADER.size
    if start <= file_size:
        header = system.read_bytes(file, _LOCAL_HEADER.size, info.header_offset)
        signature, *lengths = _LOCAL_HEADER.unpack(header)
        start += sum(lengths)
    if start + info.file_size > file_size or signature != b"PK\3\4":
        refuse(file.name, f"{label} is not where the ZIP directory says")
    return start, info.file_size


# --- the pickle ---


_Global = namedtuple("_Global", "word")  # what stands for a function or a class: it is no callable
_Storage = namedtuple("_Storage", "key dtype size")  # sizes and starts are in bytes
_View = namedtuple("_View", "storage info start stride")
_PLAINLY = {EOFError: "it ends in the middle", IndexError: "it takes a value that is not there"}


def _state_dict(program: bytes, path: Path) -> dict[str, _View]:
    file = io.BytesIO(program)
    try:
        state = _Machine(file).load()
    except Exception as error:  # of any kind, as the documentation of pickle warns
        why = _PLAINLY.get(type(error), error)
        refuse(path, f"its pickle is refused at byte {file.tell()}: {why}", _HOSTILE)
    if isinstance(state, dict) and len(state) == 1:
        inner = state.get("state_dict", state.get("model"))
        state = inner if isinstance(inner, dict) else state
    if not isinstance(state, dict):
        refuse(path, f"it holds a {type(state).__name__}, not a state dict", _RESAVE)
    for name, value in state.items():
        if not isinstance(value, _View):
            refuse(path, f"{name!r:.80} is a {type(value).__name__}, not a tensor", _RESAVE)
    return state


def _made(function: object, arguments: object) -> object:
    """What a call in the pickle returns, without a call."""
    match function, arguments:
        case _Global("dict"), ():
            return {}
        case _Global("parameter"), (_View() as tensor, _, _):
            return tensor
        case _Global("tensor"), (_Storage() as storage, offset, tuple(shape), tuple(stride), _, _):
            return _tensor(storage, offset, shape, stride)
    raise ValueError("no state dict needs such a call")


def _tensor(storage: _Storage, offset: Any, shape: tuple, stride: tuple) -> _View:
    natural = len(shape) == len(stride) and all(map(parsing.is_natural, (offset, *stride)))
    if not natural or not is_shape(shape, storage.dtype):
        raise ValueError("a tensor has an impossible offset, shape or stride")
    info, itemsize = TensorInfo(storage.dtype, shape), STORAGE[storage.dtype].itemsize
    used = info.nbytes and max(info.nbytes, itemsize * (offset + reach(shape, stride) + 1))
    if used > storage.size:
        raise ValueError(f"a tensor takes {used} bytes of a storage of {storage.size}")
    return _View(storage, info, itemsize * offset, stride)


class _Needed(dict[Any, Any]):
    """What a state dict needs of pickle, by opcode or path; all else is refused by its name."""

    def __missing__(self, key: int | str) -> NoReturn:
        what = f"opcode {_NAMES.get(key, key)}" if isinstance(key, int) else f"{key!r:.80}"
        raise ValueError(f"no state dict needs {what}")


_GLOBALS = _Needed({
    "torch.DoubleStorage": "F64", "torch.FloatStorage": "F32", "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16", "torch.LongStorage": "I64", "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16", "torch.CharStorage": "I8", "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL", "torch._utils._rebuild_tensor_v2": "tensor",
    "torch._utils._rebuild_parameter": "parameter", "collections.OrderedDict": "dict"})  # fmt: skip

# What torch.save emits for a state dict, with pickle protocol 2 (its default) to 5, and the
# standard library does as it is needed here; `_Machine` has the rest.
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_EMITTED = """PROTO STOP NONE NEWTRUE NEWFALSE BININT1 BININT2 BININT LONG1 EMPTY_DICT EMPTY_TUPLE
    TUPLE1 TUPLE2 TUPLE3 MARK TUPLE BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL
    STACK_GLOBAL BINPERSID""".split()  # noqa: SIM905 (a list of strings is twice as long)


class _Machine(pickle._Unpickler):
    """The standard library's pickle machine in Python: its memo is a dict, and what it does for
    an opcode is looked up in `dispatch`, so that an opcode that is not there does not exist.

    source: Lib/pickle.py of CPython, whose opcodes of _EMITTED are the same from 3.10 to 3.14
    differs: a global is a word, a call a pattern (`_made`), and nothing is imported or called;
        only names are keys, as the hash of a deep tuple would take the stack or for ever; text is
        strict UTF-8; frames do not matter; the state of BUILD, a `_metadata`, is dropped
    """

    def find_class(self, module: str, name: str) -> _Global:
        return _Global(_GLOBALS[f"{module}.{name}"])

    def persistent_load(self, pid: object) -> _Storage:
        match pid:
            case "storage", _Global(t), str(key), str(), n if t in STORAGE and parsing.is_natural(n):
                return _Storage(key, t, n * STORAGE[t].itemsize)
        raise ValueError("a storage is not described as torch.save does")

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2 or not all(isinstance(name, str) for name in items[::2]):
            raise ValueError("it sets what is not a name in a dict")
        dict.update(self.stack[-1], zip(items[::2], items[1::2], strict=True))

    dispatch = _Needed({c: pickle._Unpickler.dispatch[c] for c in _NAMES if _NAMES[c] in _EMITTED})
    dispatch |= {
        pickle.BINUNICODE[0]: lambda m: m.append(m.read(*struct.unpack("<I", m.read(4))).decode()),
        pickle.SHORT_BINUNICODE[0]: lambda m: m.append(m.read(m.read(1)[0]).decode()),
        pickle.SETITEM[0]: lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()]),
        pickle.SETITEMS[0]: lambda m: m.set_items(m.pop_mark()),
        pickle.REDUCE[0]: lambda m: m.append(_made(m.stack.pop(-2), m.stack.pop())),
        pickle.FRAME[0]: lambda m: m.read(8), pickle.BUILD[0]: lambda m: m.stack.pop()}  # fmt: skip
