"""Object files that are brought into memory: what is read, what is refused, and what is called."""

from __future__ import annotations

import ctypes
import errno
import mmap
import struct
import subprocess
import sys

import pytest
from broken import starts_another
from tiny import ENGINES

from tinyzo.engine.numba import loader
from tinyzo.engine.numba.loader import LoadError

if "numba" not in ENGINES or loader.why_not():
    pytest.skip("no objects are loaded here", allow_module_level=True)

from llvmlite import binding as llvm

X86 = loader.machine() == loader.MACHINES["x86_64"]
CALLS = """
declare i32 @abs(i32)
@ten = constant i64 10
@place = global i64* @ten
@count = common global i64 0
define internal i64 @local(i64 %x) noinline {
  %c = load i64, i64* @count
  %n = add i64 %c, 1
  store i64 %n, i64* @count
  %p = load i64*, i64** @place
  %ten = load i64, i64* %p
  %r = mul i64 %x, %ten
  %s = add i64 %r, %n
  ret i64 %s
}
define i64 @entry(i64 %x) {
  %small = trunc i64 %x to i32
  %positive = call i32 @abs(i32 %small)
  %wide = sext i32 %positive to i64
  %r = call i64 @local(i64 %wide)
  ret i64 %r
}
"""


def compiled(code: str, **options: str) -> bytes:
    """The object that LLVM makes of its assembly."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(code)
    target = llvm.Target.from_triple(llvm.get_process_triple())
    return target.create_target_machine(opt=1, **options).emit_object(module)


def called(content: bytes, x: int, *, known: dict[str, int] | None = None) -> int:
    address = loader.load(content, "entry", known)
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)(x)


MODELS = {"large": {"codemodel": "large", "reloc": "static"}}
MODELS |= {"jit": {"codemodel": "jitdefault", "jit": True}}
if X86:
    MODELS |= {"small": {"codemodel": "small", "reloc": "static"}}  # calls within 2 GB, or by slots


@pytest.mark.parametrize("model", MODELS)
def test_code_calls_others_and_has_variables(model):
    """Constants, a variable of its own, one that no section holds, and a function of libc."""
    assert called(compiled(CALLS, **MODELS[model]), -7) == 71


def test_functions_that_are_given():
    def negated(x: int) -> int:
        return -x

    function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32)(negated)
    known = {"abs": ctypes.cast(function, ctypes.c_void_p).value or 0}
    assert called(compiled(CALLS, **MODELS["large"]), 5, known=known) == -49


def test_code_is_never_written_and_executed_at_once():
    """As the system knows it: each mapping of ours is either."""
    address = loader.load(compiled(CALLS, **MODELS["large"]), "entry")
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(each, 16) for each in line.split()[0].split("-"))
            rights = line.split()[1]
            assert not ("w" in rights and "x" in rights and start <= address < end)
            if start <= address < end:
                assert rights.startswith("r-x")


ABORTS = """
import ctypes
from tinyzo.engine.numba import loader
address = loader.address_of("NRT_MemInfo_alloc")
assert address == loader.address_of("PyErr_SetString") != loader.address_of("NRT_Allocate")
ctypes.CFUNCTYPE(None)(address)()
"""


@starts_another
def test_what_only_a_fault_calls_ends_the_process():
    assert subprocess.run([sys.executable, "-c", ABORTS], check=False).returncode == -6


# -- what is refused -------------------------------------------------------------------------------


def relocation_at(content: bytes) -> int:
    """Where the first relocation of what is loaded lies in a file."""
    each = loader.ElfObject(content)
    tables = [s for s in each.sections if s.kind == loader.ADDENDS]
    return next(t.offset for t in tables if each.sections[t.info].is_loaded)


def patched(form: str, at: int, value: int) -> bytes:
    content = bytearray(compiled(CALLS, **MODELS["large"]))
    if at < 0:
        at = relocation_at(bytes(content)) - at - 100
    struct.pack_into(form, content, at, value)
    return bytes(content)


BROKEN = {
    "nothing": (b"", "it is no ELF object of 64 bits"),
    "junk": (b"\x7fELF\x01\x01" + b"x" * 99, "it is no ELF object of 64 bits"),
    "its first bytes": (b"\x7fELF\x02\x01", "it is damaged"),
}
PATCHES = {
    "a program": ("<H", 16, 2, "it is an ELF file of type 2 for machine"),
    "another machine": ("<H", 18, 8, "it is an ELF file of type 1 for machine 8"),
    "sections beyond the file": ("<Q", 40, 1 << 40, "it is damaged"),
    "an unknown relocation": ("<I", -108, 99, "its relocations of type 99 are not known"),
    "a symbol that is none": ("<I", -112, 9999, "it is damaged (list index out of range)"),
    "a place outside": ("<Q", -100, 1 << 40, "a relocation is outside of its section"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_no_object(case):
    content, message = BROKEN[case]
    with pytest.raises(LoadError) as caught:
        loader.load(content, "entry")
    assert message in str(caught.value)


@pytest.mark.parametrize("case", PATCHES)
def test_a_changed_object(case):
    *patch, message = PATCHES[case]
    with pytest.raises(LoadError) as caught:
        loader.load(patched(*patch), "entry")
    assert message in str(caught.value)


def test_a_part_that_is_missing():
    content = compiled(CALLS, **MODELS["large"])
    each = loader.ElfObject(content)
    each.content = content[:70]
    with pytest.raises(LoadError, match="a section ends beyond the file"):
        each.bytes(each.sections[-1])
    with pytest.raises(LoadError):
        loader.load(content[: len(content) // 2], "entry")


def test_every_flipped_byte_of_the_headers_loads_or_is_refused():
    """It is never called: whether it is sound is known by its digest."""
    content = compiled(CALLS, **MODELS["large"])
    for at in range(64):
        changed = bytearray(content)
        changed[at] ^= 0xFF
        try:
            assert loader.ElfObject(bytes(changed)).sections is not None
        except (LoadError, struct.error, IndexError, ValueError, OverflowError):
            continue


def test_functions_that_are_nowhere():
    with pytest.raises(LoadError, match="there is no function no_such_function here"):
        called(compiled(CALLS.replace("@abs", "@no_such_function"), **MODELS["large"]), 1)
    with pytest.raises(LoadError, match="it has no function entry"):
        called(compiled(CALLS.replace("@entry", "@other"), **MODELS["large"]), 1)


def test_a_symbol_that_is_not_loaded():
    each = loader.ElfObject(compiled(CALLS, **MODELS["large"]))
    image = loader.Image(each, {})
    with pytest.raises(LoadError, match="its symbol 'x' is not in memory"):
        image.address(loader.Symbol("x", 0xFFF1, 0, 0))


# -- where none can be loaded ----------------------------------------------------------------------


@pytest.fixture
def unknown():
    """Nothing is known of this system, before and after."""
    cached = (loader.machine, loader.why_not)
    for each in cached:
        each.cache_clear()
    yield
    for each in cached:
        each.cache_clear()


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_other_systems(unknown, monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    assert loader.why_not() == "objects are for Linux on x86-64 or AArch64"


def test_a_system_that_executes_nothing_that_was_written(unknown, monkeypatch):
    """SELinux may refuse it."""

    class Process(dict):
        def __missing__(self, name):
            def refuse(*_):
                ctypes.set_errno(errno.EACCES)
                return -1

            return refuse

    monkeypatch.setattr(loader, "process", Process)
    assert loader.why_not() == "this system executes no memory that was written (Permission denied)"


def test_a_system_that_gives_no_pages(unknown, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    assert loader.why_not() == "[Errno 12] Cannot allocate memory"
