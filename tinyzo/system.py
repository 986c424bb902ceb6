"""Files that survive.

refusals   what the system refuses, as an error of ours that names the file and fits the cause
reading    files that may be damaged or hostile, opened with care and read at a position
writing    files that are there whole or not at all, and locks
lacking    what a disk or a system cannot do, and what is done instead
"""

import errno
import io
import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO

import numpy as np

from tinyzo.errors import DAMAGED, CheckpointError, TinyzoError, refuse
from tinyzo.machine import windows
from tinyzo.packages import say_once

# Opens a file so that it can be renamed and removed while it is open, as POSIX has it anyway.
OPENER: Callable[[str, int], int] | None = None
_PERMISSIONS = "check the permissions of the file and its folder"
if sys.platform == "win32":
    OPENER = windows.open_shared
    _PERMISSIONS = f"close what else uses it, or {_PERMISSIONS}"

# -- refusals --------------------------------------------------------------------------

_NETWORK = "connect the network disk again"
_ELSEWHERE = "this disk cannot do it: use a folder on another one"
# What to do, by the system's errno; the caller knows what to do about any other.
HINTS = {
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EROFS: "this disk can only be read: use a folder on another one",
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "your share of the disk is used up: make room in it",
    errno.EFBIG: "the disk (FAT has at most 4 GB a file) or `ulimit -f` allows no larger file",
    errno.EIO: "the disk fails: check it, and copy what is on it",
    errno.ENXIO: "the device is gone: connect it again",
    errno.ENODEV: "the device is gone: connect it again",
    errno.EMFILE: "too many files are open in this process: raise `ulimit -n`",
    errno.ENFILE: "too many files are open on this machine: close some programs",
    errno.ENOMEM: "make room in memory",
    errno.ENAMETOOLONG: "choose a shorter name or path",
    errno.ELOOP: "its symbolic links lead in a circle: name the file itself",
    errno.ENOTDIR: "a part of the path is a file, where a folder is needed",
    errno.EISDIR: "there is a folder of that name: move it away, or give the path of a file",
    errno.EEXIST: "there is something of that name: move it away",
    errno.EBUSY: "another program uses it: close that first",
    errno.ETXTBSY: "another program uses it: close that first",
    errno.EAGAIN: "another program uses it: close that first",
    errno.EINTR: "it was interrupted: try again",
    errno.ESTALE: _NETWORK,
    errno.ETIMEDOUT: _NETWORK,
    errno.EXDEV: _ELSEWHERE,
    errno.EINVAL: _ELSEWHERE,
    errno.ENOSYS: _ELSEWHERE,
    errno.ENOTSUP: _ELSEWHERE,
    errno.EOPNOTSUPP: _ELSEWHERE,
    errno.ENOLCK: _ELSEWHERE,
}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def os_errors(
    kind: type[TinyzoError], path: object, hint: str, then: str = "", size: int = 0
) -> Iterator[None]:
    """Turn what the system refuses inside into an error of `kind`, with the path and the reason.

    hint: what to do where the reason does not say it
    then: what to do after what the reason says, such as "then --resume"
    size: of the file that there may be no room for
    """
    try:
        yield
    except OSError as error:
        advice = advise(error, path, then) or hint
        if size and error.errno in _NO_ROOM:
            advice += f"; the file needs {size} bytes"
        raise kind(f"{path}: {error.strerror or error}", advice) from None


def advise(error: OSError, path: object, then: str = "") -> str:
    """What to do about an error of the system, by its errno; "" where that does not say it."""
    found = HINTS.get(error.errno or 0, "")
    if error.errno == errno.ENOENT:
        found = why_not_there(Path(str(path)))
    return f"{found}, {then}" if found and then else found


def why_not_there(path: Path) -> str:
    """What stands in a folder for a file that is not there: a link to nothing, or another name."""
    if os.path.islink(path):
        return f"it is a link to {os.readlink(path)}, which is not there: download it again"
    with suppress(OSError):
        for name in sorted(os.listdir(path.parent)):
            if name.lower() == path.name.lower() and name != path.name:
                return f"there is {name}, and names differ by case: rename it"
            if name.startswith(f"{path.name}."):
                return f"there is {name}: unpack it, or finish its download"
    return ""


# -- reading ---------------------------------------------------------------------------

_UNPACK = "unpack it, and give what is in it"
_AS_SAFETENSORS = "load it with transformers, and save_pretrained writes model.safetensors"
# What stands where a file should be, by its first bytes: what it is, and what to do about it.
_STAND_INS = {
    rb"\Z": ("empty", DAMAGED),
    rb"\x00{16}": ("zeros, as an unfinished download has them", "download it again"),
    rb"version https://git-lfs": (
        "a git-lfs pointer, not the file",
        "run `git lfs pull` in its clone",
    ),
    rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype html|html[\s>])": (
        "a page of HTML, not the file",
        "download the file itself: on a hub its address has /resolve/, the page's has /blob/",
    ),
    rb"\x1f\x8b\x08": ("compressed by gzip", "unpack it: gzip -d"),
    rb"\xfd7zXZ\x00": ("compressed by xz", "unpack it: xz -d"),
    rb"\x28\xb5\x2f\xfd": ("compressed by zstd", "unpack it: zstd -d"),
    rb"BZh[1-9]1AY&SY": ("compressed by bzip2", "unpack it: bzip2 -d"),
    rb"7z\xbc\xaf\x27\x1c": ("an archive of 7-Zip", _UNPACK),
    rb"PK\x03\x04": (
        "a ZIP, as torch.save and spreadsheets write them",
        f"{_UNPACK}; a file of torch.save is a .bin, a spreadsheet has to be exported as CSV",
    ),
    rb".{4}\x00{4}\{": ("a safetensors file", "its name has to end in .safetensors"),
    rb"\x80[\x02-\x05]": ("a pickle, as older versions of torch.save write", _AS_SAFETENSORS),
    rb"GGUF.\x00\x00\x00": ("a GGUF, as llama.cpp has", "take the model in safetensors"),
    rb"\x89HDF": ("HDF5, as Keras writes it", _AS_SAFETENSORS),
    rb"PAR1": ("Parquet", "its name has to end in .parquet"),
}
_NONE = rb"(?!)"  # matches nothing
START = 64  # bytes of a file that say what it is


def check_start(path: Path, start: bytes, kind: type[TinyzoError], own: bytes = _NONE) -> None:
    """Check that a file begins with nothing that only stands for it.

    start: its first bytes, 64 where there are as many
    own:   how a file of the kind that is wanted begins, a regular expression
    raises: an error of `kind` that says what it is
    """
    if re.match(own, start, re.DOTALL):
        return
    for pattern, (found, hint) in _STAND_INS.items():
        if re.match(pattern, start, re.DOTALL):
            raise kind(f"{path}: it is {found}", hint)


def _check_regular(path: Path, kind: type[TinyzoError], hint: str) -> None:
    """raises: an error of `kind` for a folder or a pipe, which would be waited for for ever"""
    if not stat.S_ISREG(path.stat().st_mode):
        raise kind(f"{path}: it is not a file", hint)


class ReadFile(io.FileIO):
    """A file that is only read.

    version: its size and the time of its last change when opened
    pages:   the file as memory, once it has been mapped
    """

    version: tuple[int, int]
    pages: mmap | None = None

    def close(self) -> None:
        """Close it, and give its pages back: Windows keeps a file that is mapped.

        Arrays of pages keep these until they are gone too.
        """
        self.pages = None
        super().close()


def open_file(path: Path, opened: ExitStack, own: bytes = _NONE) -> tuple[ReadFile, int]:
    """A regular file, closed when `opened` is, and its size, which is not 0.

    own: as for `check_start`
    raises: CheckpointError for a folder, a pipe, or what stands for a file
    """
    with os_errors(CheckpointError, path, "check the path"):
        _check_regular(path, CheckpointError, "give the weights file itself")
        file = opened.enter_context(ReadFile(path, opener=OPENER))
        file.version = _version(file)
    size, _ = file.version
    check_start(path, read_bytes(file, min(size, START), 0), CheckpointError, own)
    return file, size


def read_file(
    path: Path, kind: type[TinyzoError], hint: str, most: int = -1, own: bytes = _NONE
) -> bytes:
    """The bytes of a regular file, or the first `most`.

    hint: what to do when it cannot be read and the reason does not say it
    own:  as for `check_start`
    raises: an error of `kind`, also for what stands for a file
    """
    with os_errors(kind, path, hint):
        _check_regular(path, kind, hint)
        with open(path, "rb", opener=OPENER) as file:
            data = file.read(most)
    check_start(path, data[:START], kind, own)
    return data


def map_file(file: ReadFile, path: Path) -> mmap:
    """A file's bytes as memory that is only read, the same each time.

    raises: CheckpointError where it cannot be mapped, is closed, or has changed since it was opened
    """
    _check_open(file)
    check_unchanged(file)
    if file.pages is None:
        with os_errors(CheckpointError, path, "copy it to a disk of this machine"):
            file.pages = mmap(file.fileno(), 0, access=ACCESS_READ)
    return file.pages


def read_at(file: io.FileIO, out: np.ndarray, offset: int) -> None:
    """Fill a C-contiguous array with the file's bytes from `offset` on.

    raises: CheckpointError when the disk fails, or the file ends before or is closed
    """
    _check_open(file)
    left = out.reshape(-1).view(np.uint8).data
    while left:
        with os_errors(CheckpointError, file.name, "check the disk"):
            count = _read_some(file, left, offset)
        if count == 0:
            refuse(file.name, f"it is truncated: {len(left)} bytes are missing at {offset}")
        left = left[count:]
        offset += count


def _check_open(file: io.FileIO) -> None:
    if file.closed:
        refuse(file.name, "it is closed", "load the model again")


def check_unchanged(file: ReadFile) -> None:
    """raises: CheckpointError when somebody has written into a file since it was opened"""
    with os_errors(CheckpointError, file.name, "check the disk"):
        is_same = _version(file) == file.version
    if not is_same:
        why = "it has changed since it was opened"
        refuse(file.name, why, "begin again; replace a file that is in use, never write into it")


def _version(file: io.FileIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def read_bytes(file: io.FileIO, size: int, offset: int) -> bytes:
    """So many of the file's bytes from `offset` on; raises as `read_at` does."""
    out = np.empty(size, np.uint8)
    read_at(file, out, offset)
    return out.tobytes()


# -- writing ---------------------------------------------------------------------------


def new_directory(path: Path, kind: type[TinyzoError], taken: Iterable[str]) -> None:
    """Make a directory, or use one that has none of the files `taken`.

    raises: an error of `kind` when it has one of them, or cannot be made
    """
    with os_errors(kind, path, "name another --output", "or name another --output"):
        for name in taken:
            if (path / name).exists():
                raise kind(f"{path} has a {name} already", "name another --output")
        _make_folders(path, kind, exist_ok=True)


def claim_directory(path: Path, kind: type[TinyzoError]) -> bool:
    """Make a directory, for whoever comes first; False when there is anything of that name.

    raises: an error of `kind` when it cannot be made
    """
    with os_errors(kind, path, "name another --output"):
        try:
            _make_folders(path, kind)
        except FileExistsError:
            return False
    return True


def _make_folders(path: Path, kind: type[TinyzoError], exist_ok: bool = False) -> None:
    """Make a directory and those above it, all or none.

    raises: OSError; an error of `kind` for a name that Windows does not take
    """
    if sys.platform == "win32" and (why := windows.why_no_name(path)):
        raise kind(f"{path}: {why}", "name another --output")
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
    except OSError:
        for folder in missing:
            with suppress(OSError):  # another process has put something there
                folder.rmdir()
        raise


def is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file still is the one of that name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def lock(file: IO[bytes], kind: type[TinyzoError], held: str) -> None:
    """Hold an open file for this process alone, until it is closed.

    Where files cannot be locked, that is said once, and work goes on.

    held: what to say when another process holds it
    raises: an error of `kind` then, or when the system fails
    """
    with os_errors(kind, file.name, "use a disk on which files can be locked"):
        try:
            is_locked = _try_to_lock(file.fileno())
        except (OSError, ImportError) as error:
            if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
                raise
            folder = Path(file.name).parent
            say_once(f"{folder}: files cannot be locked there: let one process at a time write")
            return
    if not is_locked:
        raise kind(held, "wait for it")


def try_lock(file: IO[bytes]) -> bool:
    """Hold an open file as `lock` does, where nobody else does; False, too, where none can be."""
    with suppress(OSError, ImportError):
        return _try_to_lock(file.fileno())
    return False


def put_in_place(file: IO[bytes], partial: Path, path: Path) -> None:
    """Close a finished file and give it its name; it survives a loss of power from here on.

    file: open for writing at `partial`, which becomes `path`
    raises: OSError
    """
    sync(file)
    _rename_over(partial, path)
    file.close()  # last, since a lock ends here
    _sync_names(path.parent)


def sync(file: IO[bytes]) -> None:
    """Push what is written to a file through to the disk, against loss of power.

    Where that cannot be done, it is said once, and work goes on.

    raises: OSError
    """
    file.flush()
    try:
        _sync_to_disk(file.fileno())
    except OSError as error:
        if error.errno not in _UNBUILT:
            raise
        folder = Path(file.name).parent
        say_once(f"{folder}: files cannot be synced there: a loss of power may lose some")


def _sync_names(folder: Path) -> None:
    """Push the names in a folder through to the disk, on systems that can open a folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Write or replace a small file, whole or not at all.

    raises: OSError
    """
    partial = path.with_name(f"{path.name}.partial")
    with ExitStack() as unfinished:
        file = unfinished.enter_context(open(partial, "wb", opener=OPENER))
        unfinished.callback(_remove, partial)
        file.write(data)
        put_in_place(file, partial, path)
        unfinished.pop_all()


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


# -- lacking ---------------------------------------------------------------------------

_UNBUILT = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_NO_LOCKS = (*_UNBUILT, errno.ENOLCK)
_NO_RENAME_OVER = (*_UNBUILT, errno.EEXIST, errno.EPERM, errno.EXDEV)
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_position = threading.Lock()  # of any file that is read without preadv


def _read_some(file: io.FileIO, out: memoryview, offset: int) -> int:
    """os.preadv, or the same without it; returns how many bytes were read.

    raises: OSError
    """
    if hasattr(os, "preadv"):
        try:
            return os.preadv(file.fileno(), [out], offset)
        except OSError as error:
            if error.errno not in _UNBUILT:
                raise
    with _position:
        file.seek(offset)
        return file.readinto(out) or 0


def _try_to_lock(descriptor: int) -> bool:
    """Lock an open file; False when another process holds it.

    raises: OSError, or ImportError on a system that has no locks
    """
    if sys.platform == "win32":
        return windows.lock(descriptor)
    import fcntl  # not on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD:
            raise
        return False
    return True


def _sync_to_disk(descriptor: int) -> None:
    """os.fsync, and on macOS, where the disk may keep it in its cache, all the way.

    raises: OSError
    """
    if sys.platform == "darwin":
        import fcntl

        with suppress(OSError):  # a network disk has none
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _rename_over(partial: Path, path: Path) -> None:
    """os.replace, or two renamings where a disk has no such thing.

    raises: OSError, with the old file in its place
    """
    try:
        os.replace(partial, path)
    except OSError as error:
        if error.errno not in _NO_RENAME_OVER or not path.is_file():
            raise
        old = path.with_name(f".{path.name}.old")
        path.rename(old)
        try:
            partial.rename(path)
        except OSError:
            old.rename(path)
            raise
        _remove(old)
