"""Compiled kernels in files: whose they are, what is damaged, and where they can be kept."""

from __future__ import annotations

import ast
import errno
import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
import zipimport
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from broken import ROOT, starts_another, tinyzo
from tiny import ENGINES

if "numba" not in ENGINES:
    pytest.skip("it is about the numba engine", allow_module_level=True)

from tinyzo.engine.numba import cache, files, host, layers, objects, products
from tinyzo.engine.numba import engine as numba_engine
from tinyzo.engine.numba.cache import KernelCache
from tinyzo.errors import ConfigError

HINT = "set NUMBA_CACHE_DIR to a folder that can be written"
NAME = files.folders()[0].name


@pytest.fixture(autouse=True)
def nothing_is_known():
    cached = (files.choose_folder, cache.say_once, numba_engine.ensure_compiled)
    for each in cached:
        each.cache_clear()
    yield
    for each in cached:
        each.cache_clear()


@pytest.fixture(scope="session")
def sound():
    """The folder of the kernels that all tests use."""
    for folder in files.folders():
        if {file.name.split("-")[0] for file in folder.glob("*")} >= set(files.KERNELS):
            return folder
    return pytest.skip("no folder here can keep kernels")


@pytest.fixture
def folder(sound, tmp_path, monkeypatch):
    """A copy of it, the only one that there is; another is in the environment of processes."""
    copy = tmp_path / "cache" / "tinyzo" / NAME
    shutil.copytree(sound, copy)
    monkeypatch.setattr(files, "folders", lambda: [copy])
    return copy


def file_of(folder: Path, kernel: str) -> Path:
    (file,) = folder.glob(f"{kernel}-*.kernel")
    return file


# -- of what a folder is ---------------------------------------------------------------------------


def test_every_source_that_is_compiled_is_known():
    """All of the engine's that a compiled file imports; cache.py itself does not compute."""
    own = {file.relative_to(files.ENGINE).as_posix() for file in files.ENGINE.rglob("*.py")}
    compiled = [source for source in files.SOURCES if source.startswith("numba/")]
    found = set()
    for source in compiled:
        tree = ast.parse((files.ENGINE / source).read_text())
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        modules = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
        for place in own:
            module = f"tinyzo.engine.{place[:-3].replace('/', '.')}"
            if any(f"{each}.".startswith(f"{module}.") for each in modules):
                found.add(place)
    roots = {"numba/few.py", "numba/gather.py", "numba/layers.py"}
    assert found | roots == {*files.SOURCES, "numba/cache.py"}


def test_a_folder_is_of_the_content_of_its_sources(tmp_path, monkeypatch):
    shutil.copytree(files.ENGINE, tmp_path / "engine")
    monkeypatch.setattr(files, "ENGINE", tmp_path / "engine")
    before = files.of_sources()
    assert NAME.startswith(before)
    for source in files.SOURCES + files.FORMATS:
        path = tmp_path / "engine" / source
        text = path.read_text()
        os.utime(path, (2**31, 2**31))  # another date is no other content
        assert files.of_sources() == before
        path.write_text(f"{text}#")
        assert files.of_sources() != before
        path.write_text(text)
    assert files.of_sources() == before


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (host, "__version__", "9"),
        (host.np, "__version__", "9"),
        (host, "version_of", lambda package: b"9" if package == "numba" else b""),
        (host, "version_of", lambda package: b"9" if package == "llvmlite" else b""),
        (sys, "version", "9"),
        (host, "cpu", lambda: ("another",)),
    ],
)
def test_a_folder_is_of_what_compiles(monkeypatch, owner, name, value):
    before = files.of_compiler()
    assert NAME.endswith(before) and files.of_compiler() == before
    monkeypatch.setattr(owner, name, value)
    assert files.of_compiler() != before


@starts_another
def test_a_folder_is_of_a_kind_of_cpu():
    """As where two machines have one home."""
    program = "from tinyzo.engine.numba.files import folders; print(folders()[0].name)"
    found = []
    for features in ("", "+sse4.2"):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        environment |= {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features}
        run = [sys.executable, "-c", program]
        found.append(subprocess.check_output(run, env=environment, text=True, cwd=ROOT).strip())
    assert len({*found, NAME}) == 3
    assert {name.rpartition("-")[0] for name in found} == {NAME.rpartition("-")[0]}


# -- files -----------------------------------------------------------------------------------------


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def make_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES = {
    "emptied": lambda file: file.write_bytes(b""),
    "cut to its digest": lambda file: file.write_bytes(file.read_bytes()[:32]),
    "halved": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "junk": lambda file: file.write_bytes(b"\x80\x04junk" * 999),
    "a bit": flip,
    "a folder": make_a_folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kernel", ["linear-*.kernel", "gelu-*.object"])
def test_a_damaged_file_is_as_a_missing_one(folder, damage, kernel):
    assert files.why_compile() == ""
    (file,) = folder.glob(kernel)
    DAMAGES[damage](file)
    assert files.read(file) == (b"", "is damaged")
    assert files.why_compile() == f"anew, since {file} is damaged"
    assert list(folder.iterdir()) == []  # ready to be filled


def test_a_missing_file(folder):
    file_of(folder, "fold").unlink()
    assert files.why_compile() == "once on this machine"
    assert len(list(folder.glob("*.kernel"))) == len(files.KERNELS) - 1  # the sound ones stay


def test_a_file_that_cannot_be_read(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    file = file_of(folder, "linear")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert files.read(file) == (b"", "cannot be read (Permission denied)")
    assert files.read(folder / "none")[1] == "cannot be read (No such file or directory)"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="a system without owners")
def test_code_of_another_user_is_not_run(folder, monkeypatch):
    file = file_of(folder, "linear")
    mine = os.getuid()
    assert files.read(file)[1] == ""
    stat = os.stat_result

    class Other(os.PathLike):
        def __init__(self, owner):
            self.owner = owner

        def __fspath__(self):
            return str(file)

        def stat(self):
            fields = list(file.stat())
            fields[4] = self.owner
            return stat(fields)

        is_file = file.is_file
        read_bytes = file.read_bytes

    sources = files.ENGINE.stat().st_uid
    owners = {mine: "", sources: "", 0: "", 54321: "is another user's"}
    assert {owner: files.read(Other(owner))[1] for owner in owners} == owners


def test_sources_in_a_zip_have_a_digest_and_no_owner(tmp_path, monkeypatch):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for source in files.SOURCES + files.FORMATS:
            packed.write(files.ENGINE / source, f"engine/{source}")
    name = files.of_sources()
    monkeypatch.setattr(files, "LOADER", zipimport.zipimporter(str(archive)))
    monkeypatch.setattr(files, "ENGINE", archive / "engine")
    assert files.of_sources() == name
    assert files.trusted_owners() == {getattr(os, "getuid", int)(), 0}


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.kernel"
    files.write(path, b"one")
    assert path.read_bytes() == hashlib.sha256(b"one").digest() + b"one"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, b"two")
    assert files.read(path) == (b"one", "") and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_rebuilt_is_compiled(folder, capsys):
    """Its digest is right: as of a Numba that was changed and kept its number."""
    context = layers.gelu.targetctx
    signature = tuple(layers.gelu.signatures[0]) if layers.gelu.signatures else ()
    keeper = KernelCache("gelu")
    files.write(folder / keeper.file(signature), pickle.dumps(("nothing", "of", "Numba's")))
    assert keeper.load_overload(signature, context) is None
    assert "cannot be loaded (TypeError: " in capsys.readouterr().err


def test_what_cannot_be_kept_is_said_once_and_computes(folder, monkeypatch, capsys):
    class Result:
        def _reduce(self):
            raise pickle.PicklingError("not this")

    for kernel in ("gelu", "fold"):
        KernelCache(kernel).save_overload((), Result())
    why = "(PicklingError: not this): compiled anew next time"
    assert lines(capsys) == [f"tinyzo: {folder} cannot keep kernels {why}"]


# -- folders ---------------------------------------------------------------------------------------


def test_the_first_folder_that_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    places = [tmp_path / "file" / NAME, tmp_path / "a" / "b" / NAME, tmp_path / "c" / NAME]
    monkeypatch.setattr(files, "folders", lambda: places)
    assert files.choose_folder() == (places[1], "")
    assert places[1].is_dir() and not places[2].exists()


def test_where_nothing_can_be_kept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(files, "folders", lambda: [tmp_path / "file" / NAME])
    why = f"{tmp_path / 'file'}: Not a directory"
    assert files.choose_folder() == (None, why)
    expected = f"for this process alone, since none can be kept ({why}): {HINT}"
    assert files.why_compile() == expected
    KernelCache("gelu").save_overload((), None)  # nothing is tried


def test_the_folders_that_there_are(tmp_path, monkeypatch):
    folders = files.folders.__wrapped__
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert folders() == [files.OWN / NAME, tmp_path / ".cache" / "tinyzo" / NAME]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "n"))
    own = files.OWN / NAME
    assert folders() == [tmp_path / "n/tinyzo" / NAME, own, tmp_path / "x/tinyzo" / NAME]
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(files.os.path, "expanduser", lambda path: path)  # who has no home
    assert folders() == [tmp_path / "n/tinyzo" / NAME, own]


def test_kernels_of_older_sources_go_from_our_own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "OWN", tmp_path)
    other_cpu = f"{files.of_sources()}another-cpu"
    for name in ("kernels-older-1", other_cpu):
        (tmp_path / name).mkdir()
    (tmp_path / "kernels.cpython-311.pyc").touch()
    files.make_ready(tmp_path / NAME)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {NAME, other_cpu, "kernels.cpython-311.pyc"}


# -- who compiles ----------------------------------------------------------------------------------


@pytest.fixture
def cold(tmp_path, monkeypatch):
    """An empty cache, a child that fills it, and what is asked of whom."""
    asked = []

    def child(statement):
        if statement == "import numba":
            return ""
        asked.append(statement)
        for kernel in files.KERNELS:
            files.write(tmp_path / NAME / f"{kernel}-1.kernel", b"")
            files.write(tmp_path / NAME / f"{kernel}-1.object", b"")
        return ""

    monkeypatch.setattr(files, "folders", lambda: [tmp_path / NAME])
    monkeypatch.setattr(objects, "why_numba", lambda: "")
    monkeypatch.setattr(objects, "forget", lambda: None)
    monkeypatch.setattr(numba_engine, "try_apart", child)
    for name in ("compile_kernels", "compile_to_keep"):
        monkeypatch.setattr(numba_engine, name, lambda: asked.append("here"))
    return asked


def lines(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_cold_cache_is_filled_by_a_child(cold, capsys):
    numba_engine.ensure_compiled()
    assert cold == [numba_engine.COMPILE] and "compile_to_keep()" in cold[0]
    numba_engine.ensure_compiled.cache_clear()
    numba_engine.ensure_compiled()
    assert len(cold) == 1
    assert lines(capsys) == ["tinyzo: compiling kernels, once on this machine"]


def test_kernels_that_numba_has_to_call_are_loaded_at_once(cold, monkeypatch):
    monkeypatch.setattr(objects, "why_numba", lambda: "fold: it was never tried to the end")
    numba_engine.ensure_compiled()
    assert cold == [numba_engine.COMPILE, "here"]


@pytest.mark.parametrize(
    ("failed", "why"),
    [
        (OSError(errno.EAGAIN, "try again"), "BlockingIOError: [Errno 11] try again"),
        ("MemoryError", "MemoryError"),
    ],
)
def test_where_a_child_fails_this_process_compiles(cold, capsys, monkeypatch, failed, why):
    def fails(statement):
        if statement == "import numba":
            return ""
        if isinstance(failed, OSError):
            raise failed
        return failed

    monkeypatch.setattr(numba_engine, "try_apart", fails)
    numba_engine.ensure_compiled()
    assert cold == ["here"]
    said = f"tinyzo: no other process compiles kernels ({why}): this one does"
    assert lines(capsys)[1:] == [said]


def test_a_numba_that_cannot_be_loaded(cold, monkeypatch):
    monkeypatch.setattr(numba_engine, "try_apart", lambda statement: "SystemError: bad magic")
    with pytest.raises(ConfigError, match=r"numba cannot be used \(SystemError: bad magic\)\n"):
        numba_engine.ensure_compiled()
    assert cold == []


def test_what_kills_a_child_is_not_tried_here(cold, monkeypatch):
    monkeypatch.setattr(numba_engine, "check_numba", lambda: None)
    monkeypatch.setattr(numba_engine, "try_apart", lambda statement: "killed by signal 9")
    message = "the process that compiles kernels was killed by signal 9\n  hint: begin again"
    with pytest.raises(ConfigError, match=message):
        numba_engine.ensure_compiled()
    assert cold == []


def test_where_nothing_is_kept_this_process_compiles(cold, capsys, tmp_path):
    (tmp_path / NAME).touch()
    numba_engine.ensure_compiled()
    assert cold == ["here"]
    (line,) = lines(capsys)
    assert line.startswith("tinyzo: compiling kernels, for this process alone, since none can be")


def test_kernels_that_cannot_be_compiled(cold, capsys, monkeypatch):
    def fails():
        raise RuntimeError("LLVM ERROR\nmore")

    monkeypatch.setattr(numba_engine, "check_numba", lambda: None)
    monkeypatch.setattr(numba_engine, "try_apart", lambda statement: "RuntimeError: LLVM ERROR")
    monkeypatch.setattr(numba_engine, "compile_to_keep", fails)
    with pytest.raises(ConfigError, match=r"cannot be compiled \(RuntimeError: LLVM ERROR\)\n"):
        numba_engine.ensure_compiled()


def test_numba_that_may_not_compile(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.raises(ConfigError, match="NUMBA_DISABLE_JIT is set\n  hint: unset it"):
        numba_engine.ensure_compiled()


# -- as it is used ---------------------------------------------------------------------------------


def answer(tree: Path, **environment: str) -> list[str]:
    """What a command of a tree says on stderr; its answer is as ever."""
    home = {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "", "NUMBA_CACHE_DIR": ""}
    done = tinyzo("predict", "a good film", tree=tree, **home | environment)
    assert done.returncode == 0 and done.stdout.startswith("movie\t0.71"), done.stderr
    return done.stderr.splitlines()


@pytest.fixture
def tree(tmp_path):
    """A copy of the package and its model, without kernels."""
    for part in ("tinyzo", "weights"):
        without = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, tmp_path / "tree" / part, ignore=without)
    return tmp_path / "tree"


def own(tree: Path) -> Path:
    return tree / files.OWN.relative_to(ROOT) / NAME


@starts_another
def test_a_copied_cache_is_used(folder):
    assert answer(ROOT, NUMBA_CACHE_DIR=str(folder.parents[1])) == []  # it may measure rates
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert answer(ROOT, NUMBA_CACHE_DIR=str(folder.parents[1])) == []
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before


@pytest.mark.exhaustive  # each compiles all kernels
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_filled_anew(sound, tree, damage):
    shutil.copytree(sound, own(tree))
    for file in list(own(tree).iterdir()):
        DAMAGES[damage](file)
    (line,) = answer(tree)
    assert line.startswith(f"tinyzo: compiling kernels, anew, since {own(tree)}")
    assert line.endswith((".kernel is damaged", ".object is damaged"))
    assert answer(tree) == []


@pytest.mark.exhaustive  # the same
@pytest.mark.skipif(not hasattr(os, "getuid") or not os.path.isdir("/proc"), reason="no /proc")
def test_without_a_place_for_kernels(tree):
    own(tree).parent.touch()
    (line,) = answer(tree)
    assert line.startswith("tinyzo: compiling kernels, for this process alone, since none can be")
    assert f"{own(tree).parent}: Not a directory; /proc/nowhere/.cache/tinyzo: " in line


@pytest.mark.exhaustive  # the same
def test_a_child_that_is_killed(tree):
    """Its memory ends, say; the command goes on with NumPy."""
    (tree / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if 'compile_to_keep' in ' '.join(sys.orig_argv):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    first, second = answer(tree)
    assert first == "tinyzo: compiling kernels, once on this machine"
    killed = "the process that compiles kernels was killed by signal 9: begin again"
    assert second.startswith(f"tinyzo: engine numpy, the slow one, since {killed}")


@pytest.mark.exhaustive  # the same
def test_two_kinds_of_cpu_and_two_processes_at_once(tree):
    kinds: list[dict[str, str]] = [{"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, {}]
    with ThreadPoolExecutor() as threads:
        running = [threads.submit(answer, tree, **kind) for kind in kinds for _ in range(2)]
    once = ["tinyzo: compiling kernels, once on this machine"]
    assert [each.result() for each in running] == [once] * 4
    folders = list(own(tree).parent.glob("kernels-*"))
    assert len(folders) == 2
    for folder in folders:
        every = {*folder.glob("*.kernel"), *folder.glob("*.object")}
        assert len(every) == 2 * len(files.KERNELS)
        assert {*folder.iterdir()} - every <= {folder / products.FILE}
        assert not any(files.read(file)[1] for file in every)
