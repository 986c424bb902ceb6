"""Kernels that are called without Numba: their files, their arguments, and their results."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from broken import ROOT, starts_another
from tiny import ENGINES

if "numba" not in ENGINES:
    pytest.skip("it is about the numba engine", allow_module_level=True)

from numba import types

from tinyzo.engine.numba import cache, files, loader, objects
from tinyzo.engine.numba import engine as numba_engine
from tinyzo.engine.numba.loader import LoadError
from tinyzo.engine.numba.objects import Build, Object
from tinyzo.engine.numba.terms import Terms
from tinyzo.errors import TinyzoError

needs_objects = pytest.mark.skipif(bool(loader.why_not()), reason="no objects are loaded here")
SOUND = Object(
    b"code",
    "entry",
    b"gate",
    ((np.dtype(np.float32), 2), "i"),
    [("f", b"more", "g")],
    Build(4, 4, 8, "", "", ()),
    "",
)


@pytest.fixture(autouse=True)
def looks_anew():
    objects.forget()
    cache.say_once.cache_clear()
    yield
    objects.forget()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty one, in which nothing of Numba's is looked for."""
    monkeypatch.setattr(files, "folders", lambda: [tmp_path])
    monkeypatch.setattr(files, "choose_folder", lambda: (tmp_path, ""))
    return tmp_path


# -- files -----------------------------------------------------------------------------------------


def test_a_file_holds_what_it_was_given():
    assert Object.from_bytes(SOUND.to_bytes()) == SOUND


CHANGES = {
    "nothing": lambda data: b"",
    "no header": lambda data: data[:20],
    "not JSON": lambda data: data[:4] + b"x" + data[5:],
    "another version's": lambda data: data.replace(b'"kinds"', b'"kind_"'),
    "no parts": lambda data: data.replace(b"[4, 4, 4]", b"[4, 4]   "),
    "another build": lambda data: data.replace(b'[4, 4, 8, "", []]', b'[4, 4, 8, [], ""]'),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_content_is_done_without(folder, capsys, change):
    """Its digest is right: as of another version of ours."""
    files.write(folder / "gelu-1.object", CHANGES[change](SOUND.to_bytes()))
    assert objects.functions("gelu") == {}
    assert "gelu-1.object cannot be loaded (" in capsys.readouterr().err


@needs_objects
def test_what_cannot_be_loaded_is_said_once(folder, capsys):
    files.write(folder / "gelu-1.object", SOUND.to_bytes())
    assert objects.functions("gelu") == objects.functions("gelu") == {}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tinyzo: {folder / 'gelu-1.object'} cannot be loaded (it is no ELF")


@needs_objects
def test_why_numba_is_loaded(folder, monkeypatch):
    assert objects.why_numba() == "linear: it is not compiled yet"
    files.write(folder / "linear-1.object", SOUND._replace(why_not="it is odd").to_bytes())
    objects.forget()
    assert objects.why_numba() == "linear: it is odd"
    monkeypatch.setattr(objects, "functions", lambda name: {(): print})
    assert objects.why_numba() == ""
    monkeypatch.setattr(loader, "why_not", lambda: "this is no Linux")
    assert objects.why_numba() == "this is no Linux"


def test_whether_numba_will_be_loaded(folder, monkeypatch):
    monkeypatch.setattr(loader, "why_not", lambda: "")
    assert not objects.will_load_numba()  # a child compiles
    monkeypatch.setattr(files, "why_compile", lambda: "")
    assert objects.will_load_numba()  # there are kernels and no objects
    monkeypatch.setattr(objects, "why_numba", lambda: "")
    assert not objects.will_load_numba()
    monkeypatch.setattr(files, "choose_folder", lambda: (None, "full"))
    assert objects.will_load_numba()


def test_the_build_is_of_what_is_kept(folder):
    here = cache.build_here()
    assert objects.build() == here
    objects.forget()
    files.write(folder / "linear-1.object", SOUND.to_bytes())
    assert objects.build() == SOUND.build != here


# -- arguments -------------------------------------------------------------------------------------


def test_kinds_of_arguments_are_those_of_numba():
    """Of what Numba compiled for arguments, and of the arguments."""
    import numba

    matrix = np.ones((2, 3), np.float32)
    pair = (np.zeros(4, np.uint16), True)
    arguments = (matrix, pair, 3, np.int64(4), np.bool_(0), 1.5, np.float32(2))
    kinds, words = objects.in_words(arguments)
    assert list(kinds) == cache.kinds_of(tuple(map(numba.typeof, arguments)))
    start = (0, 0, 6, 4, matrix.ctypes.data, 2, 3, 12, 4)
    assert words.startswith(struct.pack("<9q", *start))
    assert words.endswith(struct.pack("<4qdf4x", True, 3, 4, False, 1.5, 2.0))


@pytest.mark.parametrize(
    "argument",
    [np.ones((4, 4))[:, ::2], np.ones((4, 4)).T, np.frombuffer(b"12345678"), "text", 1j],
)
def test_other_arguments_are_for_numba(argument):
    kinds, _ = objects.in_words((argument,))
    assert kinds == (None,)


@pytest.mark.parametrize(
    "kind", [types.float32[:], types.Array(types.int64, 1, "C", readonly=True), types.int32]
)
def test_types_that_only_numba_passes(kind):
    with pytest.raises(LoadError, match=r"arguments of type .* are for Numba"):
        cache.kinds_of((kind,))


@needs_objects
def test_arguments_of_another_kind_are_given_to_numba(monkeypatch):
    numba_engine.ensure_compiled()
    called = []
    monkeypatch.setattr(
        objects.Kernel, "by_numba", property(lambda self: lambda *a: called.append(a))
    )
    x = np.zeros(4, np.float32)
    objects.gelu(x, np.zeros(0, np.float32), np.zeros(3, np.int64))
    assert not called
    objects.gelu(x[::2], np.zeros(0, np.float32), np.zeros(3, np.int64))
    assert len(called) == 1


def test_a_kernel_that_ends_with_an_exception(monkeypatch):
    monkeypatch.setitem(objects.known, "gelu", {("i",): lambda words: words[0]})
    objects.gelu(0)
    with pytest.raises(TinyzoError, match="the kernel gelu ended with status 3\n  hint: report"):
        objects.gelu(3)


# -- results ---------------------------------------------------------------------------------------


@needs_objects
def test_an_object_computes_the_bits_that_numba_does(monkeypatch):
    """All kernels, on several threads."""
    numba_engine.ensure_compiled()
    assert objects.why_numba() == ""
    ours = numba_engine.compile_kernels()
    with ThreadPoolExecutor(4) as threads:
        every = [threads.submit(numba_engine.compile_kernels) for _ in range(8)]
    assert {tuple(each.result()) for each in every} == {tuple(ours)}
    monkeypatch.setattr(objects, "known", {name: {} for name in files.KERNELS})
    assert numba_engine.compile_kernels() == ours


@starts_another
@needs_objects
def test_a_process_computes_without_numba():
    numba_engine.ensure_compiled()
    program = """if True:
        import sys
        from tinyzo.engine.numba.engine import compile_kernels, shared_engine
        shared_engine(2)
        compile_kernels()
        print({"numba", "llvmlite"} & {*sys.modules})"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"


def test_every_kernel_that_the_engine_calls_is_kept():
    for name in files.KERNELS:
        assert isinstance(getattr(objects, name).by_numba._cache, cache.KernelCache)
        assert getattr(objects, name).name == name


# -- how objects come to be ------------------------------------------------------------------------


RESULT = SimpleNamespace(  # as Numba has one
    library=SimpleNamespace(_get_compiled_object=lambda: b"code"),
    fndesc=SimpleNamespace(llvm_func_name="entry"),
    signature=SimpleNamespace(args=(types.int64,)),
)


@pytest.fixture
def trial(folder, monkeypatch):
    """One kernel, compiled; `trial` is what the kernels compute, each time they are tried."""
    monkeypatch.setattr(cache, "compiled", {"gelu": ("gelu-1.kernel", RESULT)})
    monkeypatch.setattr(objects, "known", {})
    monkeypatch.setattr(cache.KernelCache, "reads", True)
    monkeypatch.setattr(loader, "why_not", lambda: "")
    monkeypatch.setattr(Object, "load", lambda self: print)
    monkeypatch.setattr(cache, "gate_to", lambda result: b"gate")
    return folder / "gelu-1.object"


def kept(path) -> Object:
    return Object.from_bytes(files.read(path)[0])


def test_an_object_that_computes_the_same_is_kept(trial):
    cache.make_objects(lambda: [b"a"])
    assert kept(trial) == Object(b"code", "entry", b"gate", ("i",), [], cache.build_here(), "")


def test_an_object_that_computes_other_numbers_is_not_called(trial):
    results = iter(([b"a"], [b"b"]))
    cache.make_objects(lambda: next(results))
    assert kept(trial).why_not == "it computes other numbers than Numba"
    assert objects.known["gelu"] == {}


def test_an_object_that_cannot_be_loaded_is_not_called(trial, monkeypatch):
    def refuse(self):
        raise LoadError("its relocations of type 9 are not known")

    monkeypatch.setattr(Object, "load", refuse)
    cache.make_objects(lambda: [b"a"])
    assert kept(trial).why_not == "its relocations of type 9 are not known"


def test_an_object_that_ends_the_process_is_not_called_again(trial):
    """What it leaves."""
    results = iter(([b"a"],))
    with pytest.raises(StopIteration):
        cache.make_objects(lambda: next(results))
    assert kept(trial).why_not == "it was never tried to the end"


def test_where_none_can_be_loaded_none_is_made(trial, monkeypatch):
    monkeypatch.setattr(loader, "why_not", lambda: "this is no Linux")
    cache.make_objects(lambda: [b"a"])
    assert not trial.exists()


# -- for which CPU ---------------------------------------------------------------------------------


def test_terms_are_passed_in_the_order_that_they_have():
    terms = Terms(*(np.full((1,), i, np.int64) for i in range(len(Terms._fields))))
    _, words = objects.in_words((terms,))
    numbers = struct.unpack(f"<{7 * len(terms)}q", words)
    assert numbers[4::7] == tuple(each.ctypes.data for each in terms)


@starts_another
def test_a_fork_calls_objects_too():
    program = """if True:
        import os
        from tinyzo.engine.numba.engine import compile_kernels, shared_engine
        shared_engine(2)
        before = compile_kernels()
        if os.fork() == 0:
            os._exit(compile_kernels() != before)
        print(os.waitstatus_to_exitcode(os.wait()[1]))"""
    if not hasattr(os, "fork"):
        pytest.skip("this system forks nothing")
    run = [sys.executable, "-c", program]
    assert subprocess.check_output(run, text=True, cwd=ROOT) == "0\n"
