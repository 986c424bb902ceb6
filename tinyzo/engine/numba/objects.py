"""The kernels as the engine calls them: machine code that needs no Numba, or by Numba itself.

A file NAME-DIGEST.object beside the kept kernels holds what Numba compiled, as an object file that
`loader` brings into memory, and what has to be known to call it. A kernel gets its arguments as
Numba passes them: an array is seven or more words, a tuple is its items. Arguments of other kinds
than it was compiled for, or a system where it cannot be loaded: then Numba is loaded and called.
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
C_TYPES: dict[str, Any] = {
    "i": ctypes.c_void_p,  # a word, which is passed in a third of the time of c_int64
    "b": ctypes.c_bool,
    "d": ctypes.c_double,
    "f": ctypes.c_float,
}
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
    kinds:   of its arguments
    helpers: other objects with functions that it calls: name, ELF object, its function
    why_not: why the code is not to be called, or ""
    """

    code: bytes
    entry: str
    kinds: Kinds
    helpers: list[tuple[str, bytes, str]]
    build: Build
    why_not: str

    def to_bytes(self) -> bytes:
        parts = [self.code, *(code for _, code, _ in self.helpers)]
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
        named = zip(about["helpers"], parts[1:], strict=True)
        kinds = about["kinds"]
        lanes, rows, width, bf16, matrix, features = about["build"]
        return cls(
            code=parts[0],
            entry=about["entry"],
            kinds=tuple(k if isinstance(k, str) else (np.dtype(k[0]), k[1]) for k in kinds),
            helpers=[(name, code, entry) for (name, entry), code in named],
            build=Build(lanes, rows, width, bf16, matrix, tuple(features)),
            why_not=about["why_not"],
        )

    def load(self) -> Callable[..., int]:
        """The kernel, to be called with words. raises: LoadError"""
        known = {name: loader.load(code, entry) for name, code, entry in self.helpers}
        return c_function(loader.load(self.code, self.entry, known), self.kinds)


def c_function(address: int, kinds: Kinds) -> Callable[..., int]:
    """A kernel as Numba compiles it: places for a result and an exception, then words."""
    types: list[Any] = [ctypes.c_void_p, ctypes.c_void_p]
    for kind in kinds:
        if isinstance(kind, str):
            types.append(C_TYPES[kind])
        else:
            types += [ctypes.c_void_p] * (5 + 2 * kind[1])
    return ctypes.CFUNCTYPE(ctypes.c_int32, *types)(address)


constants: dict[int, tuple[tuple[Any, ...], list[Any], list[Any]]] = {}  # by id: what it is


def constant(arguments: T) -> T:
    """The same tuple, kept with its kinds and words, which are found once."""
    kinds: list[Any] = []
    words: list[Any] = []
    in_words(arguments, kinds, words)
    constants[id(arguments)] = arguments, kinds, words
    return arguments


def in_words(arguments: Sequence[Any], kinds: list[Any], words: list[Any]) -> None:
    """Append the kinds of arguments, and what Numba passes for them."""
    for each in arguments:
        if isinstance(each, np.ndarray):
            if each.flags.carray:  # contiguous, aligned, may be written
                kinds.append((each.dtype, each.ndim))
                words += (None, None, each.size, each.itemsize, ctypes.addressof(AT(each)))
                words += each.shape
                words += each.strides
            else:
                kinds.append(None)
        elif isinstance(each, tuple):
            if id(each) in constants:
                _, known_kinds, known_words = constants[id(each)]
                kinds += known_kinds
                words += known_words
            else:
                in_words(each, kinds, words)
        else:
            kinds.append(SCALARS.get(type(each)))
            words.append(each.item() if isinstance(each, np.generic) else each)


# -- what is called ----------------------------------------------------------------------------

Functions = dict[Kinds, Callable[..., int]]
known: dict[str, Functions] = {}  # the code of kernels by name, none where Numba has to be called


def functions(name: str) -> Functions:
    """The code of a kernel, by the kinds of arguments that it is for."""
    if name not in known:
        known[name] = dict(_loaded(name)) if not loader.why_not() else {}
    return known[name]


def _loaded(name: str) -> Iterator[tuple[Kinds, Callable[..., int]]]:
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


def results() -> tuple[Any, Any]:
    """Places for what a kernel returns, which is nothing, and an exception."""
    return ctypes.byref(ctypes.c_void_p()), ctypes.byref(ctypes.c_void_p())


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
        first_kinds: list[Any] = []
        first_words: list[Any] = []
        if compiled:
            in_words(first, first_kinds, first_words)

        def call(*others: object) -> None:
            kinds, words = first_kinds.copy(), first_words.copy()
            if compiled:
                in_words(others, kinds, words)
            function = compiled.get(tuple(kinds))
            if function is None:
                self.by_numba(*first, *others)
            elif status := function(*results(), *words):
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
