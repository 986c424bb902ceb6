"""Files that survive, with the true reason when they do not, and what the machine is."""

from __future__ import annotations

import errno
import fcntl
import io
import math
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from tinyzo import system
from tinyzo.errors import CheckpointError, RunError


def failing(code: int) -> Any:
    """A function of the system that fails with that error."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


# -- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EIO, "Input/output error", "/else"), "Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError("a reason without a number"), "a reason without a number"),
        (io.UnsupportedOperation("not writable"), "not writable"),
    ],
)
def test_an_error_of_the_system_keeps_path_and_reason(error: OSError, reason: str) -> None:
    with pytest.raises(RunError) as caught, system.os_errors(RunError, "some/path", "do this"):
        raise error
    assert caught.value.message == f"some/path: {reason}"
    assert caught.value.hint == "do this"


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(KeyError), system.os_errors(RunError, "path", "hint"):
        raise KeyError("x")
    with pytest.raises(CheckpointError), system.os_errors(RunError, "path", "hint"):
        raise CheckpointError("x")


# -- reading -------------------------------------------------------------------------------


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    path = tmp_path / "ten"
    path.write_bytes(b"0123456789")
    return path


def test_a_file_is_open_as_long_as_its_stack(ten: Path) -> None:
    with ExitStack() as opened:
        file, size = system.open_file(ten, opened)
        assert (size, file.closed) == (10, False)
        assert system.read_bytes(file, 3, 6) == b"678"
        assert system.read_bytes(file, 0, 99) == b""
    assert file.closed


def test_an_array_of_any_shape_is_filled_at_any_place(ten: Path) -> None:
    out = np.zeros((2, 2), "<u2")
    with ExitStack() as opened:
        file, _ = system.open_file(ten, opened)
        system.read_at(file, out, 1)
    assert out.tobytes() == b"12345678"


def test_a_file_that_ends_too_early_is_refused(ten: Path) -> None:
    with ExitStack() as opened:
        file, _ = system.open_file(ten, opened)
        with pytest.raises(CheckpointError, match="it is truncated: 2 bytes are missing at 10"):
            system.read_bytes(file, 4, 8)


def test_a_disk_that_fails_is_named(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as opened:
        file, _ = system.open_file(ten, opened)
        monkeypatch.setattr(os, "preadv", failing(errno.EIO))
        with pytest.raises(CheckpointError) as caught:
            system.read_bytes(file, 4, 0)
    assert caught.value.message == f"{ten}: Input/output error"
    assert caught.value.hint == "check the disk"


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (None, "No such file or directory", "check the path"),
        (b"", "it is empty", "download or copy it again"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "it is a git-lfs pointer",
            "git lfs pull",
        ),
    ],
)
def test_what_is_no_weights_file(
    tmp_path: Path, content: bytes | None, message: str, hint: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught, ExitStack() as opened:
        system.open_file(path, opened)
    assert caught.value.message.startswith(f"{path}: {message}")
    assert hint in caught.value.hint


def test_a_folder_or_a_pipe_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe):
        with pytest.raises(CheckpointError, match="it is not a file"), ExitStack() as opened:
            system.open_file(path, opened)


# -- writing -------------------------------------------------------------------------------


def test_a_small_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    for data in (b"first", b"second, longer", b""):
        system.write_file(path, data)
        assert path.read_bytes() == data
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_small_file_stays_as_it_was_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left on device"):
        system.write_file(path, b"new")
    assert path.read_bytes() == b"old"


def test_bytes_and_names_reach_the_disk_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        done.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        done.append(f"replace {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    system.write_file(tmp_path / "a", b"data")
    assert done == ["fsync a.partial", "replace a", f"fsync {tmp_path.name}"]


def test_a_system_that_opens_no_folders_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", failing(errno.EACCES))
    system.write_file(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"data"


def test_a_new_directory_may_be_there_but_not_be_taken(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er"
    system.new_directory(path, RunError, ("run.toml",))
    system.new_directory(path, RunError, ("run.toml",))
    (path / "run.toml").write_text("")
    with pytest.raises(RunError) as caught:
        system.new_directory(path, RunError, ("config.json", "run.toml"))
    assert caught.value.message == f"{path} has a run.toml already"
    assert caught.value.hint == "name another --output"


def test_a_directory_that_cannot_be_made(ten: Path) -> None:
    with pytest.raises(RunError) as caught:
        system.new_directory(ten / "below", RunError, ())
    assert caught.value.message == f"{ten / 'below'}: Not a directory"


def test_a_lock_keeps_others_out_until_the_file_is_closed(ten: Path) -> None:
    with open(ten, "ab") as mine, open(ten, "ab") as other:
        system.lock(mine, RunError, "held")
        with pytest.raises(RunError) as caught:
            system.lock(other, RunError, "another process is at work")
        assert caught.value.message == "another process is at work"
        assert caught.value.hint == "wait for it"
        mine.close()
        system.lock(other, RunError, "held")


def test_a_lock_ends_with_its_process(ten: Path) -> None:
    program = (
        "import os, sys; from tinyzo import errors, system\n"
        "system.lock(open(sys.argv[1], 'ab'), errors.RunError, 'held'); os._exit(3)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(system.__file__).parents[1])}
    child = subprocess.run([sys.executable, "-c", program, ten], env=environment, check=False)
    assert child.returncode == 3
    with open(ten, "ab") as file:
        system.lock(file, RunError, "held")


def test_a_disk_without_locks_is_not_taken_for_another_process(
    ten: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    with open(ten, "ab") as file, pytest.raises(RunError) as caught:
        system.lock(file, RunError, "another process is at work")
    assert caught.value.message == f"{ten}: No locks available"
    assert caught.value.hint == "use a disk on which files can be locked"


# -- machine -------------------------------------------------------------------------------


def test_only_the_fast_cpus_of_a_phone_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 7}, raising=False)
    assert system.fast_cpus(tmp_path) == {0, 1, 4, 7}  # nothing is known of their frequencies
    for cpu, frequency in {0: 1800000, 1: 1800000, 4: 2400000, 7: 2400000, 6: 2900000}.items():
        folder = tmp_path / f"cpu{cpu}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "cpuinfo_max_freq").write_text(f"{frequency}\n")
    assert system.fast_cpus(tmp_path) == {4, 7}
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert system.fast_cpus(tmp_path) == {0, 1}
    (tmp_path / "cpu1" / "cpufreq" / "cpuinfo_max_freq").write_text("<unknown>\n")
    assert system.fast_cpus(tmp_path) == {0, 1}
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert system.fast_cpus(tmp_path) == {0}


def test_free_memory_is_what_the_system_says(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    assert system.free_bytes(path) == math.inf
    path.write_text("MemTotal:  8000 kB\nMemAvailable:    5000 kB\nCached: 1 kB\n")
    assert system.free_bytes(path) == 5000 * 1024
    path.write_text("MemTotal:  8000 kB\nMemAvailable:    0 kB\n")
    assert system.free_bytes(path) == 0
    path.write_text("MemTotal:  8000 kB\n")
    assert system.free_bytes(path) == math.inf


def test_memory_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "STATUS", tmp_path / "status")
    assert system.status_bytes("VmHWM") == 0
    assert system.peak_bytes() > 1 << 20  # from getrusage
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  2048 kB\nRssAnon:\t 12 kB\n")
    assert system.status_bytes("VmHWM") == system.peak_bytes() == 2 << 20
    assert system.status_bytes("RssAnon") == 12 << 10
    assert system.status_bytes("RssShmem") == 0
