"""Files that survive, and what the machine is.

refusals   what the system refuses, as an error of ours that names the file
reading    files that may be damaged or hostile, opened with care and read at a position
writing    files that are there whole or not at all, and locks
machine    its CPUs, its free memory, and the memory of this process
"""

import fcntl
import io
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np

from tinyzo.errors import CheckpointError, TinyzoError, refuse

# -- refusals --------------------------------------------------------------------------


@contextmanager
def os_errors(kind: type[TinyzoError], path: object, hint: str) -> Iterator[None]:
    """Turn what the system refuses inside into an error of `kind`, with the path and the reason."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path}: {error.strerror or error}", hint) from None


# -- reading ---------------------------------------------------------------------------

_LFS_POINTER = b"version https://git-lfs"


def open_file(path: Path, opened: ExitStack) -> tuple[io.FileIO, int]:
    """A regular file, closed when `opened` is, and its size, which is not 0.

    raises: CheckpointError for a folder, a pipe, an empty file, or what stands for a file in git
    """
    with os_errors(CheckpointError, path, "check the path"):
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            refuse(path, "it is not a file", "give the weights file itself")
        file = opened.enter_context(io.FileIO(path))
        size = os.fstat(file.fileno()).st_size
        head = file.read(len(_LFS_POINTER))
    if head == _LFS_POINTER:
        refuse(path, "it is a git-lfs pointer, not the file", "run `git lfs pull` in its clone")
    if not head:
        refuse(path, "it is empty")
    return file, size


def read_at(file: io.FileIO, out: np.ndarray, offset: int) -> None:
    """Fill a C-contiguous array with the file's bytes from `offset` on.

    raises: CheckpointError when the disk fails or the file ends before
    """
    left = out.reshape(-1).view(np.uint8).data
    while left:
        with os_errors(CheckpointError, file.name, "check the disk"):
            count = os.preadv(file.fileno(), [left], offset)
        if count == 0:
            refuse(file.name, f"it is truncated: {len(left)} bytes are missing at {offset}")
        left = left[count:]
        offset += count


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
    for name in taken:
        if (path / name).exists():
            raise kind(f"{path} has a {name} already", "name another --output")
    with os_errors(kind, path, "name another --output"):
        path.mkdir(parents=True, exist_ok=True)


def claim_directory(path: Path, kind: type[TinyzoError]) -> bool:
    """Make a directory, for whoever comes first; False when there is anything of that name.

    raises: an error of `kind` when it cannot be made
    """
    with os_errors(kind, path, "name another --output"):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            return False
    return True


def is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file still is the one of that name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def lock(file: IO[bytes], kind: type[TinyzoError], held: str) -> None:
    """Hold an open file for this process alone, until it is closed.

    held: what to say when another process holds it
    raises: an error of `kind` then, or when the file cannot be locked at all
    """
    with os_errors(kind, file.name, "use a disk on which files can be locked"):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise kind(held, "wait for it") from None


def put_in_place(file: IO[bytes], partial: Path, path: Path) -> None:
    """Close a finished file and give it its name; it survives a loss of power from here on.

    file: open for writing at `partial`, which becomes `path`
    raises: OSError
    """
    file.flush()
    os.fsync(file.fileno())
    os.replace(partial, path)
    file.close()  # last, since a lock ends here
    _sync_names(path.parent)


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
    with open(partial, "wb") as file:
        file.write(data)
        put_in_place(file, partial, path)


# -- machine ---------------------------------------------------------------------------

CPUS = Path("/sys/devices/system/cpu")
MEMORY = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")


def fast_cpus(root: Path = CPUS) -> set[int]:
    """The CPUs this process may use; where some are slower, only those of the highest frequency.

    root: the folder that has, for each, cpuN/cpufreq/cpuinfo_max_freq
    """
    allowed = _allowed_cpus()
    try:
        frequencies = {cpu: _highest_frequency(root, cpu) for cpu in allowed}
    except (OSError, ValueError):  # the system does not say
        return allowed
    highest = max(frequencies.values())
    return {cpu for cpu, frequency in frequencies.items() if frequency == highest}


def _allowed_cpus() -> set[int]:
    allowed: set[int] = set()
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
    return allowed or set(range(os.cpu_count() or 1))


def _highest_frequency(root: Path, cpu: int) -> int:
    return int((root / f"cpu{cpu}" / "cpufreq" / "cpuinfo_max_freq").read_text())


def free_bytes(path: Path = MEMORY) -> float:
    """The memory that the system can give to new processes; infinite where it does not say."""
    available = _field_bytes(path, "MemAvailable")
    return math.inf if available is None else available


def status_bytes(field: str) -> int:
    """A field of /proc/self/status in bytes (VmHWM, VmRSS, RssAnon, RssFile, ...); 0 if none."""
    return _field_bytes(STATUS, field) or 0


def peak_bytes() -> int:
    """The largest resident set of this process so far."""
    if peak := status_bytes("VmHWM"):
        return peak
    import resource  # not on every platform

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _field_bytes(path: Path, field: str) -> int | None:
    """A field of a file that has lines such as "VmHWM:   2048 kB"."""
    if not path.exists():
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None
