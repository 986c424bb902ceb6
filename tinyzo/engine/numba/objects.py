"""The kernels as the engine calls them: machine code that needs no Numba, or by Numba itself.

A file NAME-DIGEST.object beside the kept kernels holds what Numba compiled, as an object file that
`loader` brings into memory, and what has to be known to call it. A kernel gets its arguments as
Numba passes them: an array is seven or more words, a tuple is its items. They come from here as one
array of words, since a call by ctypes takes as long as it has arguments; `gate` calls the kernel
with them. Arguments of other kinds than it was compiled for, or a system where it cannot be loaded:
then Numba is loaded and called.
"""

import ctypes
import functools
import importlib
import itertools
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tinyzo.engine.numba import files, loader
from tinyzo.errors import TinyzoError
from tinyzo.packages import in_a_line, say_once

T = TypeVar("T", bound=tuple[Any, ...])
Kinds = tuple[Any, ...]  # of arguments: (dtype, dimensions) of an array, a letter of a number
SCALARS: dict[type, str] = {
    int: "i",
    np.int64: "i",
    bool: "b",
    np.bool_: "b",
    float: "d",
    np.float64: "d",
    np.float32: "f",
}
GATE = "gate"
# How arguments lie in memory: numbers by their kinds, arrays by their dimensions.
NUMBERS = {"i": struct.Struct("<q"), "b": struct.Struct("<?7x")}
NUMBERS |= {"d": struct.Struct("<d"), "f": struct.Struct("<f4x")}
ARRAYS = [struct.Struct(f"<{5 + 2 * dimensions}q") for dimensions in range(5)]
AT: Any = (
    ctypes.c_char * 0
).from_buffer  # what has an array's address, in a third of the time, too


class Build(NamedTuple):
    """What kernels are compiled for, as far as Python has to know it.

    lanes, rows, width: of the register tile, vectors.Tile; bf16, matrix: as there
    features: instructions that the CPU has
    """

    lanes: int
    rows: int
    width: int
    bf16: str
    matrix: str
    features: tuple[str, ...]


class Object(NamedTuple):
    """The content of a file.

    code:    an ELF object, and its function that is the kernel
    gate:    an ELF object whose function `gate` calls the kernel with words that lie in memory
    kinds:   of its arguments
    helpers: other objects with functions that it calls: name, ELF object, its function
    why_not: why the code is not to be called, or ""
    """

    code: bytes
    entry: str
    gate: bytes
    kinds: Kinds
    helpers: list[tuple[str, bytes, str]]
    build: Build
    why_not: str

    def to_bytes(self) -> bytes:
        parts = [self.code, self.gate, *(code for _, code, _ in self.helpers)]
        about = {
            "entry": self.entry,
            "kinds": [k if isinstance(k, str) else (k[0].str, k[1]) for k in self.kinds],
            "helpers": [(name, entry) for name, _, entry in self.helpers],
            "build": self.build,
            "why_not": self.why_not,
            "sizes": [len(part) for part in parts],
        }
        header = json.dumps(about).encode()
        return struct.pack("<I", len(header)) + header + b"".join(parts)

    @classmethod
    def from_bytes(cls, content: bytes) -> "Object":
        """raises: ValueError and others for bytes that `to_bytes` did not make"""
        (size,) = struct.unpack_from("<I", content)
        about = json.loads(content[4 : 4 + size])
        ends = list(itertools.accumulate(about["sizes"], initial=4 + size))
        parts = [content[start:end] for start, end in itertools.pairwise(ends)]
        named = zip(about["helpers"], parts[2:], strict=True)
        kinds = about["kinds"]
        lanes, rows, width, bf16, matrix, features = about["build"]
        return cls(
            code=parts[0],
            entry=about["entry"],
            gate=parts[1],
            kinds=tuple(k if isinstance(k, str) else (np.dtype(k[0]), k[1]) for k in kinds),
            helpers=[(name, code, entry) for (name, entry), code in named],
            build=Build(lanes, rows, width, bf16, matrix, tuple(features)),
            why_not=about["why_not"],
        )

    def load(self) -> Callable[[bytes], int]:
        """The kernel, to be called with words in memory. raises: LoadError"""
        known = {name: loader.load(code, entry) for name, code, entry in self.helpers}
        kernel = loader.load(self.code, self.entry, known)
        gate = loader.load(self.gate, GATE, {self.entry: kernel})
        return ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_char_p)(gate)


constants: dict[int, tuple[tuple[Any, ...], Kinds, bytes]] = {}  # by id: what it is


def constant(arguments: T) -> T:
    """The same tuple, kept with its kinds and words, which are found once."""
    constants[id(arguments)] = arguments, *in_words(arguments)
    return arguments


def in_words(arguments: Sequence[Any]) -> tuple[Kinds, bytes]:
    """The kinds of arguments, and what Numba passes for them, in words of 64 bits."""
    kinds: list[Any] = []
    words: list[bytes] = []
    for each in arguments:
        if isinstance(each, np.ndarray):
            if each.flags.carray:  # contiguous, aligned, may be written
                kinds.append((each.dtype, each.ndim))
                start = ctypes.addressof(AT(each))
                about = (0, 0, each.size, each.itemsize, start, *each.shape, *each.strides)
                words.append(ARRAYS[each.ndim].pack(*about))
            else:
                kinds.append(None)
        elif isinstance(each, tuple):
            _, inner_kinds, inner_words = constants.get(id(each)) or (each, *in_words(each))
            kinds += inner_kinds
            words.append(inner_words)
        else:
            kind = SCALARS.get(type(each))
            kinds.append(kind)
            if kind:
                words.append(NUMBERS[kind].pack(each))
    return tuple(kinds), b"".join(words)


# -- what is called ----------------------------------------------------------------------------

Functions = dict[Kinds, Callable[[bytes], int]]
known: dict[str, Functions] = {}  # the code of kernels by name, none where Numba has to be called


def functions(name: str) -> Functions:
    """The code of a kernel, by the kinds of arguments that it is for."""
    if name not in known:
        known[name] = dict(_loaded(name)) if not loader.why_not() else {}
    return known[name]


def _loaded(name: str) -> Iterator[tuple[Kinds, Callable[[bytes], int]]]:
    for path, each in found(name):
        try:
            if not each.why_not:
                yield each.kinds, each.load()
        except loader.LoadError as error:
            say_once(f"{path} cannot be loaded ({error}): Numba is")


def found(name: str) -> Iterator[tuple[Path, Object]]:
    """The objects of a kernel, those that can be read."""
    for folder in files.folders():
        for path in folder.glob(f"{name}-*.object"):
            data, fault = files.read(path)
            try:
                if not fault:
                    yield path, Object.from_bytes(data)
            except (struct.error, ValueError, KeyError, TypeError, IndexError) as error:
                say_once(f"{path} cannot be loaded ({in_a_line(error)}): Numba is")


def why_numba() -> str:
    """Why Numba has to be loaded to compute, or ""."""
    if loader.why_not():
        return loader.why_not()
    for name in files.KERNELS:
        if not functions(name):
            reasons = [each.why_not for _, each in found(name)]
            return f"{name}: {(reasons or ['it is not compiled yet'])[0]}"
    return ""


def will_load_numba() -> bool:
    """True when Numba has to be loaded to compute; a child loads it to compile."""
    if loader.why_not() or files.choose_folder()[0] is None:
        return True
    return not files.why_compile() and bool(why_numba())


def forget() -> None:
    """Look for objects anew."""
    known.clear()
    build.cache_clear()


@functools.cache
def build() -> Build:
    """What the kernels here are compiled for."""
    for _, each in found("linear"):
        return each.build
    from tinyzo.engine.numba.cache import build_here

    return build_here()


class Kernel:
    """A kernel, to be called with arrays, numbers, and tuples of them."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: object) -> None:
        """raises: as what `bind` returns"""
        self.bind(*arguments)()

    def bind(self, *first: object) -> Callable[..., None]:
        """The kernel with its first arguments, to be called with the others, by several threads.

        That raises TinyzoError when it ends with an exception of Numba's, which none should.
        """
        compiled = functions(self.name)
        first_kinds, first_words = in_words(first) if compiled else ((), b"")

        def call(*others: object) -> None:
            kinds, words = in_words(others) if compiled else ((), b"")
            function = compiled.get(first_kinds + kinds)
            if function is None:
                self.by_numba(*first, *others)
            elif status := function(first_words + words):
                found = f"the kernel {self.name} ended with status {status}"
                raise TinyzoError(found, "report this")

        return call

    @property
    def by_numba(self) -> Callable[..., None]:
        """Numba's, which loads Numba."""
        module = importlib.import_module(f"tinyzo.engine.numba.{files.KERNELS[self.name]}")
        kernel: Callable[..., None] = getattr(module, self.name)
        return kernel


def bind(kernel: Callable[..., None], *first: object) -> Callable[..., None]:
    """A kernel, of these or any other, with its first arguments."""
    return kernel.bind(*first) if isinstance(kernel, Kernel) else partial(kernel, *first)


linear = Kernel("linear")
linear_of_few = Kernel("linear_of_few")
attention = Kernel("attention")
attend = Kernel("attend")
gelu = Kernel("gelu")
norm = Kernel("norm")
gather = Kernel("gather")
fold = Kernel("fold")
