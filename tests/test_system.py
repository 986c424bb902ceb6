"""Files that survive, with the true reason and a hint that fits it when they do not."""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pytest
from stand_ins import ALL

from tinyzo import system
from tinyzo.errors import CheckpointError, DataError, RunError, TinyzoError
from tinyzo.packages import say_once

fcntl = pytest.importorskip("fcntl", reason="these are calls of POSIX")


def failing(code: int) -> Any:
    """A function of the system that fails with that error."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


# -- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ECHILD, "No child processes", "/else"), "No child processes"),
        (OSError("a reason without a number"), "a reason without a number"),
        (io.UnsupportedOperation("not writable"), "not writable"),
    ],
)
def test_an_error_of_the_system_keeps_path_and_reason(error: OSError, reason: str) -> None:
    with pytest.raises(RunError) as caught, system.os_errors(RunError, "some/path", "do this"):
        raise error
    assert caught.value.message == f"some/path: {reason}"
    assert caught.value.hint == "do this"


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOSPC, "make room on the disk, then that; the file needs 9 bytes"),
        (errno.EACCES, "check the permissions of the file and its folder, then that"),
        (errno.EIO, "the disk fails: check it, and copy what is on it, then that"),
        (errno.ENOENT, "do this"),
    ],
)
def test_the_hint_follows_the_reason(code: int, hint: str) -> None:
    failed = pytest.raises(RunError)
    with failed as caught, system.os_errors(RunError, "path", "do this", "then that", 9):
        raise OSError(code, os.strerror(code))
    assert caught.value.hint == hint


def test_a_link_that_leads_nowhere_is_named_with_where(tmp_path: Path) -> None:
    """As in a cache of a hub, whose files are links to blobs."""
    link = tmp_path / "model.safetensors"
    link.symlink_to("../blobs/5af")
    with pytest.raises(CheckpointError) as caught, ExitStack() as opened:
        system.open_file(link, opened)
    assert caught.value.message == f"{link}: No such file or directory"
    assert (
        caught.value.hint == "it is a link to ../blobs/5af, which is not there: download it again"
    )


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(KeyError), system.os_errors(RunError, "path", "hint"):
        raise KeyError("x")
    with pytest.raises(CheckpointError), system.os_errors(RunError, "path", "hint"):
        raise CheckpointError("x")


@pytest.mark.parametrize(
    ("other", "hint"),
    [
        ("Train.JSONL", "there is Train.JSONL, and names differ by case: rename it"),
        ("train.jsonl.part", "there is train.jsonl.part: unpack it, or finish its download"),
        ("train.json", "check the path"),
    ],
)
def test_what_stands_in_the_folder_instead(tmp_path: Path, other: str, hint: str) -> None:
    (tmp_path / other).touch()
    with pytest.raises(DataError) as caught:
        system.read_file(tmp_path / "train.jsonl", DataError, "check the path")
    assert caught.value.hint == hint


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
    assert caught.value.hint == "the disk fails: check it, and copy what is on it"


def read_bytes(path: Path) -> bytes:
    return system.read_file(path, DataError, "check the path")


def open_one(path: Path) -> None:
    with ExitStack() as opened:
        system.open_file(path, opened)


@pytest.mark.parametrize("read", [read_bytes, open_one])
@pytest.mark.parametrize("name", ALL)
def test_what_stands_for_a_file_is_named(
    tmp_path: Path, name: str, read: Callable[[Path], object]
) -> None:
    content, message, hint = ALL[name]
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(TinyzoError) as caught:
        read(path)
    assert caught.value.message.startswith(f"{path}: {message}")
    assert hint in caught.value.hint


@pytest.mark.parametrize("read", [read_bytes, open_one])
def test_a_file_that_is_not_there(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(TinyzoError, match="No such file or directory\n  hint: check the path"):
        read(tmp_path / "file")


@pytest.mark.parametrize(
    "content",
    [b"{", b"<a/>", b"<htmlx>", b"GGUF,label\n", bytes(15), b"BZh9", b"PK", b"text <html>", b"\n"],
)
def test_what_only_looks_like_it_is_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert read_bytes(path) == content


def test_a_folder_or_a_pipe_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe):
        for read in (read_bytes, open_one):
            with pytest.raises(TinyzoError, match="it is not a file"):
                read(path)


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
    assert list(tmp_path.iterdir()) == [path]


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


@pytest.mark.parametrize("make", [system.new_directory, system.claim_directory])
def test_folders_are_made_all_or_none(tmp_path: Path, make: Any) -> None:
    (tmp_path / "there").mkdir()
    deep = tmp_path / "there" / "a" / "b" / ("c" * 300)
    taken = ((),) if make is system.new_directory else ()
    with pytest.raises(RunError, match="File name too long"):
        make(deep, RunError, *taken)
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_a_name_that_windows_does_not_take(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "runs" / "nul.txt"
    assert system.claim_directory(path, RunError)  # elsewhere it is a name as any other
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(RunError) as caught:
        system.new_directory(path, RunError, ())
    assert caught.value.message == f"{path}: 'nul.txt' is a device of Windows"
    assert caught.value.hint == "name another --output"


@pytest.mark.parametrize(("mask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_who_may_read_a_file_is_as_the_umask_has_it(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        system.write_file(tmp_path / "file", b"new")
        system.new_directory(tmp_path / "a" / "b", RunError, ())
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o777 & ~mask


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


# -- lacking -------------------------------------------------------------------------------

LACKING = [errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL]


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    say_once.cache_clear()


@pytest.mark.parametrize("code", [*LACKING, errno.ENOLCK])
def test_a_disk_without_locks_is_said_once_and_no_other_process(
    ten: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(code))
    with open(ten, "ab") as file:
        system.lock(file, RunError, "another process is at work")
        system.lock(file, RunError, "another process is at work")
    said = "files cannot be locked there: let one process at a time write"
    assert capsys.readouterr().err == f"tinyzo: {ten.parent}: {said}\n"


@pytest.mark.parametrize("code", [errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES])
def test_a_lock_that_is_held_is_another_process(
    ten: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(code))
    with open(ten, "ab") as file, pytest.raises(RunError) as caught:
        system.lock(file, RunError, "another process is at work")
    assert caught.value.message == "another process is at work"


@pytest.mark.parametrize("code", LACKING)
def test_a_disk_without_sync_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    monkeypatch.setattr(os, "fsync", failing(code))
    for _ in range(2):
        system.write_file(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"data"
    said = "files cannot be synced there: a loss of power may lose some"
    assert capsys.readouterr().err == f"tinyzo: {tmp_path}: {said}\n"


@pytest.mark.parametrize("code", [*LACKING, None])
def test_a_system_that_reads_at_no_place(
    ten: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    if code is None:
        monkeypatch.delattr(os, "preadv", raising=False)
    else:
        monkeypatch.setattr(os, "preadv", failing(code), raising=False)
    with ExitStack() as opened:
        file, _ = system.open_file(ten, opened)
        assert system.read_bytes(file, 3, 6) == b"678"
        assert system.read_bytes(file, 10, 0) == b"0123456789"
        with pytest.raises(CheckpointError, match="it is truncated: 2 bytes are missing at 10"):
            system.read_bytes(file, 4, 8)


def test_threads_read_one_file_without_preadv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "preadv", raising=False)
    data = np.arange(1 << 16, dtype="<u4").tobytes()
    (tmp_path / "file").write_bytes(data)
    with ExitStack() as opened, ThreadPoolExecutor(8) as threads:
        file, size = system.open_file(tmp_path / "file", opened)
        starts = range(0, size, 1000)
        parts = threads.map(lambda at: system.read_bytes(file, min(1000, size - at), at), starts)
        assert b"".join(parts) == data


def test_short_reads_are_gone_on_with(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, views, at: preadv(file, [views[0][:1]], at))
    with ExitStack() as opened:
        file, _ = system.open_file(ten, opened)
        assert system.read_bytes(file, 8, 1) == b"12345678"


NO_RENAME_OVER = [*LACKING, errno.EEXIST, errno.EPERM, errno.EXDEV]


@pytest.fixture
def no_rename_over(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a disk that renames, but never over a file."""

    def install(code: int, broken: str = "") -> None:
        rename = os.rename

        def careful(source: Path, target: Path) -> None:
            if os.path.exists(target) or Path(source).name == broken:
                raise OSError(code, os.strerror(code))
            rename(source, target)

        monkeypatch.setattr(os, "replace", careful)
        monkeypatch.setattr(os, "rename", careful)
        monkeypatch.setattr(Path, "rename", lambda path, target: careful(path, target))

    return install


@pytest.mark.parametrize("code", NO_RENAME_OVER)
def test_a_disk_that_renames_over_no_file(tmp_path: Path, no_rename_over: Any, code: int) -> None:
    no_rename_over(code)
    for data in (b"first", b"second"):
        system.write_file(tmp_path / "a", data)
        assert (tmp_path / "a").read_bytes() == data
        assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.mark.parametrize("code", NO_RENAME_OVER)
def test_the_old_file_is_back_when_the_new_one_cannot_be_placed(
    tmp_path: Path, no_rename_over: Any, code: int
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    no_rename_over(code, broken="a.partial")
    with pytest.raises(OSError, match=re.escape(os.strerror(code))):
        system.write_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_mac_syncs_all_the_way(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F_FULLFSYNC, or else fsync, on a disk that has none."""
    done: list[str] = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda _, command: done.append(f"fcntl {command}"))
    monkeypatch.setattr(os, "fsync", lambda _: done.append("fsync"))
    with open(ten, "ab") as file:
        system.sync(file)
        monkeypatch.setattr(fcntl, "fcntl", failing(errno.ENOTSUP))
        system.sync(file)
    assert done == ["fcntl 51", "fsync"]


# -- every call, every error ---------------------------------------------------------------

# What the hint speaks of, by errno; None: the caller's own hint.
WORDS = {
    "EACCES": "permissions", "EPERM": "permissions", "EROFS": "only be read",
    "ENOSPC": "make room on the disk", "EDQUOT": "your share", "EFBIG": "no larger file",
    "EIO": "the disk fails", "ENXIO": "device is gone", "ENODEV": "device is gone",
    "EMFILE": "ulimit -n", "ENFILE": "on this machine", "ENOMEM": "room in memory",
    "ENAMETOOLONG": "shorter", "ELOOP": "circle", "ENOTDIR": "a folder is needed",
    "EISDIR": "a folder of that name", "EEXIST": "something of that name",
    "EBUSY": "another program", "ETXTBSY": "another program", "EAGAIN": "another program",
    "EINTR": "try again",
    "ESTALE": "network", "ETIMEDOUT": "network", "EXDEV": "another one", "EINVAL": "another one",
    "ENOSYS": "another one", "ENOTSUP": "another one", "EOPNOTSUPP": "another one",
    "ENOLCK": "another one", "ENOENT": None, "EBADF": None,
}  # fmt: skip
EVERY = [getattr(errno, name) for name in WORDS]


class Call(NamedTuple):
    """A call of the system, and what makes it.

    where, name: the function
    lacking: the errors that it may have, and all goes well
    """

    where: Any
    name: str
    task: Callable[[Path], None]
    lacking: Sequence[int] = ()


def read(path: Path) -> None:
    with ExitStack() as opened:
        file, size = system.open_file(path, opened)
        assert system.read_bytes(file, size, 0) == b"old"


def write(path: Path) -> None:
    with system.os_errors(CheckpointError, path, "look at it"):
        system.write_file(path, b"new")


def make(path: Path) -> None:
    system.new_directory(path, CheckpointError, ("run.toml",))


def hold(path: Path) -> None:
    with open(path, "ab") as file:
        system.lock(file, CheckpointError, f"{path}: {os.strerror(errno.EAGAIN)}")


CALLS = {
    "stat": Call(Path, "stat", read),
    "open to read": Call(system, "ReadFile", read),
    "fstat": Call(os, "fstat", read),
    "preadv": Call(os, "preadv", read, LACKING),
    "open to write": Call(builtins, "open", write),
    "fsync": Call(os, "fsync", write, LACKING),
    "replace": Call(os, "replace", write, NO_RENAME_OVER),
    "open a folder": Call(os, "open", write, EVERY),
    "flock": Call(fcntl, "flock", hold, [*LACKING, errno.ENOLCK]),
    "exists": Call(Path, "exists", make),
    "mkdir": Call(Path, "mkdir", make),
}


def check_failure(task: Callable[[Path], None], path: Path, name: str) -> None:
    """A task fails by an error that names the path and the reason, with a hint that fits it."""
    with pytest.raises(CheckpointError) as caught:
        task(path)
    reason = os.strerror(getattr(errno, name))
    assert caught.value.message == f"{path}: {reason}"
    words = WORDS[name]
    if words:
        assert words in caught.value.hint
    else:
        known = ("check the path", "check the disk", "look at it", "name another --output")
        assert caught.value.hint.startswith((*known, "use a disk on which"))


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("call", CALLS)
def test_every_error_of_every_call(tmp_path: Path, call: str, name: str) -> None:
    """It is named, nothing half-made is left behind, and the next attempt succeeds."""
    where, function, task, lacking = CALLS[call]
    code = getattr(errno, name)
    path = tmp_path / "file"
    if task is not make:
        path.write_bytes(b"old")
    before = sorted(tmp_path.iterdir())
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(where, function, failing(code))
        if code in lacking:
            task(path)
        elif task is hold:
            check_lock(path, name)
        else:
            check_failure(task, path, name)
    assert sorted(tmp_path.iterdir()) == before
    task(path)


def check_lock(path: Path, name: str) -> None:
    """A lock that is held is another process; any other error is itself."""
    if name in ("EAGAIN", "EACCES"):
        with pytest.raises(CheckpointError) as caught:
            hold(path)
        assert caught.value.hint == "wait for it"
    else:
        check_failure(hold, path, name)


class BrokenFile(io.FileIO):
    """A file that takes one byte, and then no more."""

    code = 0

    def write(self, data: Any) -> int:
        if self.tell():
            raise OSError(self.code, os.strerror(self.code))
        return super().write(data[:1])


@pytest.mark.parametrize("name", sorted({*WORDS} - {"EINTR"}))  # which Python itself goes on from
def test_every_error_of_a_write_that_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(BrokenFile, "code", getattr(errno, name))
    with monkeypatch.context() as broken:
        broken.setattr(
            builtins, "open", lambda at, mode, **_: io.BufferedWriter(BrokenFile(at, mode))
        )
        check_failure(write, path, name)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write(path)
    assert path.read_bytes() == b"new"


def test_the_first_error_counts_when_the_rest_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    monkeypatch.setattr(Path, "unlink", failing(errno.EROFS))
    check_failure(write, tmp_path / "file", "ENOSPC")
