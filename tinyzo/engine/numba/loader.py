"""Machine code from an ELF object into memory, as a linker and a loader would bring it there.

Phones have no linker, and what compiled the code, Numba with LLVM, takes 107 MB. So an object file
is laid out in a block of pages; the addresses in it, its relocations, are filled in; then the pages
may be executed and no longer written. An object that asks for anything not known here is refused.

The format is that of the ELF specification (System V ABI), of 64 bits and little-endian, and its
supplements for x86-64 and AArch64, whose names the relocations have here.
"""

import ctypes
import functools
import mmap
import os
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

MACHINES = {"x86_64": 62, "aarch64": 183}  # by their numbers in an object file
PROGRAM, SYMBOLS, ADDENDS, ZEROS = 1, 2, 4, 8  # types of sections
WRITTEN, LOADED = 1, 2  # flags of sections
RELOCATABLE = 1  # type of an ELF file
UNDEFINED, COMMON = 0, 0xFFF2  # sections of symbols that are in none
SLOT_BYTES = 16  # a jump to a symbol and its address
ALIASES = {"NRT_Allocate": "malloc", "NRT_Free": "free"}  # Numba's, by the C library's
# Numba's and Python's functions of the ways that end in an exception, and of a Python caller.
ENDS = ("NRT_", "Py", "_Py", "numba_")


class LoadError(Exception):
    """An object file that cannot be loaded here: Numba compiles instead."""


class Section(NamedTuple):
    """A part of an object."""

    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int

    @property
    def is_loaded(self) -> bool:
        return bool(self.flags & LOADED) and self.kind in (PROGRAM, ZEROS)


class Symbol(NamedTuple):
    """A name of a place in a section."""

    name: str
    section: int
    value: int
    size: int


class Relocation(NamedTuple):
    """A place in a section whose content follows from a symbol's address. symbol: its number"""

    section: int
    offset: int
    kind: int
    symbol: int
    addend: int


# -- what there is here ------------------------------------------------------------------------


@functools.cache
def machine() -> int:
    """This process's number in MACHINES, or 0 where objects cannot be loaded."""
    is_known = sys.platform in ("linux", "android") and struct.calcsize("P") == 8
    return MACHINES.get(os.uname().machine, 0) if is_known else 0


@functools.cache
def process() -> ctypes.CDLL:
    """The functions of this process, those of the C library among them."""
    return ctypes.CDLL(None, use_errno=True)


def address_of(name: str) -> int:
    """Of a function of the C library, or of `abort` for one that a sound kernel does not call.

    raises: LoadError where there is none
    """
    name = ALIASES.get(name, name)
    try:
        function = process()["abort" if name.startswith(ENDS) else name]
    except AttributeError:
        raise LoadError(f"there is no function {name} here") from None
    return ctypes.cast(function, ctypes.c_void_p).value or 0


kept: list["Pages"] = []


class Pages:
    """Memory for code, never to be written and executed at once. It is not given back."""

    def __init__(self, size: int) -> None:
        self.memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        kept.append(self)

    def make_executable(self, size: int) -> None:
        """raises: LoadError where the system does not let us execute what we wrote"""
        protect = process()["mprotect"]
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        if protect(self.address, size, mmap.PROT_READ | mmap.PROT_EXEC):
            error = os.strerror(ctypes.get_errno())
            raise LoadError(f"this system executes no memory that was written ({error})")


@functools.cache
def why_not() -> str:
    """Why no object can be loaded here, or ""."""
    if not machine():
        return "objects are for Linux on x86-64 or AArch64"
    try:
        Pages(mmap.PAGESIZE).make_executable(mmap.PAGESIZE)
    except (LoadError, OSError, ValueError) as error:
        return str(error)
    return ""


# -- objects -----------------------------------------------------------------------------------


class ElfObject:
    """An object file, read.

    raises: LoadError when it is not one of this machine's
    """

    def __init__(self, content: bytes) -> None:
        if content[:6] != b"\x7fELF\x02\x01":
            raise LoadError("it is no ELF object of 64 bits")
        kind, number = struct.unpack_from("<HH", content, 16)
        if (kind, number) != (RELOCATABLE, machine()):
            raise LoadError(f"it is an ELF file of type {kind} for machine {number}")
        self.content = content
        (start,) = struct.unpack_from("<Q", content, 40)
        size, count = struct.unpack_from("<HH", content, 58)
        self.sections = [self._section(start + i * size) for i in range(count)]
        self.symbols = [symbol for each in self._of(SYMBOLS) for symbol in self._symbols(each)]

    def _section(self, at: int) -> Section:
        _, kind, flags, _, *rest = struct.unpack_from("<IIQQQQIIQ", self.content, at)
        return Section(kind, flags, *rest)

    def _of(self, kind: int) -> Iterator[Section]:
        return (section for section in self.sections if section.kind == kind)

    def _symbols(self, table: Section) -> Iterator[Symbol]:
        names = self.bytes(self.sections[table.link])
        for name, _, _, section, value, size in struct.iter_unpack("<IBBHQQ", self.bytes(table)):
            yield Symbol(names[name : names.index(b"\0", name)].decode(), section, value, size)

    def bytes(self, section: Section) -> bytes:
        """The content of a section."""
        part = self.content[section.offset : section.offset + section.size]
        if len(part) != section.size:
            raise LoadError("a section ends beyond the file")
        return part

    def relocations(self) -> Iterator[Relocation]:
        """Those of the sections that are loaded."""
        for table in self._of(ADDENDS):
            if self.sections[table.info].is_loaded:
                for offset, info, addend in struct.iter_unpack("<QQq", self.bytes(table)):
                    yield Relocation(table.info, offset, info & 0xFFFFFFFF, info >> 32, addend)


class Image:
    """An object in memory: what is executed, a slot for each symbol, then what is written.

    known: addresses of functions that are not the C library's
    """

    def __init__(self, parsed: ElfObject, known: Mapping[str, int]) -> None:
        self.object = parsed
        self.known = known
        self.offsets: dict[int, int] = {}  # of sections
        self.commons: dict[str, int] = {}  # offsets of symbols that are in no section
        self.slots = self._place(0, is_written=False)
        self.code_bytes = padded(self.slots + SLOT_BYTES * len(parsed.symbols), mmap.PAGESIZE)
        end = self._place(self.code_bytes, is_written=True)
        for symbol in parsed.symbols:
            if symbol.section == COMMON:
                self.commons[symbol.name] = padded(end, symbol.value)
                end = self.commons[symbol.name] + symbol.size
        self.pages = Pages(max(end, mmap.PAGESIZE))

    def _place(self, end: int, is_written: bool) -> int:
        """Give offsets, from `end` on, to the sections that are written or not; returns the end."""
        for i, section in enumerate(self.object.sections):
            if section.is_loaded and bool(section.flags & WRITTEN) == is_written:
                self.offsets[i] = padded(end, max(section.align, SLOT_BYTES))
                end = self.offsets[i] + section.size
        return padded(end, SLOT_BYTES)

    def fill(self) -> None:
        """Write what sections hold, and all that follows from addresses."""
        memory = self.pages.memory
        for i, offset in self.offsets.items():
            section = self.object.sections[i]
            if section.kind == PROGRAM:
                memory[offset : offset + section.size] = self.object.bytes(section)
        for each in self.object.relocations():
            section = self.object.sections[each.section]
            if each.offset + 4 > section.size:
                raise LoadError("a relocation is outside of its section")
            target = self.address(self.object.symbols[each.symbol])
            slot = self.slots + SLOT_BYTES * each.symbol
            memory[slot : slot + SLOT_BYTES] = JUMPS[machine()] + struct.pack("<Q", target)
            at = self.offsets[each.section] + each.offset
            relocate = relocate_x86_64 if machine() == MACHINES["x86_64"] else relocate_aarch64
            base = self.pages.address
            relocate(memory, at, base + at, each.kind, target + each.addend, base + slot)

    def address(self, symbol: Symbol) -> int:
        """Where a symbol is in memory. raises: LoadError when it is not"""
        if symbol.section == UNDEFINED:
            return self.known.get(symbol.name) or address_of(symbol.name)
        if symbol.section == COMMON:
            return self.pages.address + self.commons[symbol.name]
        if symbol.section not in self.offsets:
            raise LoadError(f"its symbol {symbol.name!r} is not in memory")
        return self.pages.address + self.offsets[symbol.section] + symbol.value


def load(content: bytes, entry: str, known: Mapping[str, int] | None = None) -> int:
    """The address of an object's function `entry`, which can be called.

    known: addresses of functions that are not the C library's
    raises: LoadError when it cannot be loaded
    """
    try:
        image = Image(ElfObject(content), known or {})
        image.fill()
    except (struct.error, IndexError, ValueError, OverflowError, OSError) as error:
        raise LoadError(f"it is damaged ({error})") from None
    found = [symbol for symbol in image.object.symbols if symbol.name == entry and symbol.section]
    if not found:
        raise LoadError(f"it has no function {entry}")
    image.pages.make_executable(image.code_bytes)
    clear_cache(image.pages.address, image.code_bytes)
    return image.address(found[0])


def clear_cache(start: int, size: int) -> None:
    """Let Arm fetch instructions that were written as data. The system does so, too, where it makes
    pages executable; the function that programs have for it is not everywhere.
    """
    if machine() == MACHINES["aarch64"]:
        with suppress(OSError, AttributeError):
            clear = ctypes.CDLL("libgcc_s.so.1")["__clear_cache"]
            clear(ctypes.c_void_p(start), ctypes.c_void_p(start + size))


def padded(n: int, multiple: int) -> int:
    """n, rounded up."""
    return -(-n // max(1, multiple)) * max(1, multiple)


# -- relocations -------------------------------------------------------------------------------

JUMPS = {  # to the address that follows
    MACHINES["x86_64"]: bytes.fromhex("ff2502000000 9090"),  # jmp [rip + 2]
    MACHINES["aarch64"]: bytes.fromhex("50000058 00021fd6"),  # ldr x16, 8; br x16
}


def relocate_x86_64(
    memory: mmap.mmap, at: int, place: int, kind: int, target: int, slot: int
) -> None:
    """Fill in what is at memory[at], whose address is `place`.

    target: the symbol's address, with the addend; slot: the address of its slot
    raises: LoadError for a kind that is not known
    """
    if kind == 1:  # R_X86_64_64
        struct.pack_into("<Q", memory, at, target)
    elif kind == 24:  # R_X86_64_PC64
        struct.pack_into("<q", memory, at, target - place)
    elif kind == 2:  # R_X86_64_PC32
        struct.pack_into("<i", memory, at, target - place)
    elif kind == 4:  # R_X86_64_PLT32, a call: 4 bytes, then the next instruction
        struct.pack_into("<i", memory, at, slot - place - 4)
    elif kind in (9, 41, 42):  # R_X86_64_GOTPCREL, GOTPCRELX, REX_GOTPCRELX: likewise
        struct.pack_into("<i", memory, at, slot + 8 - place - 4)
    else:
        raise LoadError(f"its relocations of type {kind} are not known")


MOVES = {264: 0, 266: 16, 268: 32, 269: 48}  # R_AARCH64_MOVW_UABS_G0_NC to _G3: the lowest bit


def relocate_aarch64(
    memory: mmap.mmap, at: int, place: int, kind: int, target: int, slot: int
) -> None:
    """The same; instructions have zeros where a number belongs."""
    if kind == 257:  # R_AARCH64_ABS64
        struct.pack_into("<Q", memory, at, target)
        return
    if kind == 260:  # R_AARCH64_PREL64
        struct.pack_into("<q", memory, at, target - place)
        return
    if kind in MOVES:
        bits = (target >> MOVES[kind] & 0xFFFF) << 5
    elif kind in (282, 283):  # R_AARCH64_JUMP26, CALL26: within 128 MB, or by the slot
        distance = target - place
        if not -(2**27) <= distance < 2**27:
            distance = slot - place
        bits = distance >> 2 & 0x3FFFFFF
    elif kind == 311:  # R_AARCH64_ADR_GOT_PAGE
        pages = ((slot + 8) >> 12) - (place >> 12)
        bits = (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
    elif kind == 312:  # R_AARCH64_LD64_GOT_LO12_NC
        bits = ((slot + 8) & 0xFFF) >> 3 << 10
    else:
        raise LoadError(f"its relocations of type {kind} are not known")
    (word,) = struct.unpack_from("<I", memory, at)
    struct.pack_into("<I", memory, at, word | bits)
