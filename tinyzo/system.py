"""Files that may be damaged or hostile: opened, read at an offset, parsed as JSON or TOML.

And what the system refuses, as an error of ours.
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
from typing import Any

import numpy as np

from tinyzo.errors import CheckpointError, TinyzoError, refuse

_LFS_POINTER = b"version https://git-lfs"


@contextmanager
def os_errors(kind: type[TinyzoError], path: object, hint: str) -> Iterator[None]:
    """What the system refuses inside becomes an error of that kind."""
    try:
        yield
    except OSError as error:
        raise _ours(kind, f"{path}: {error.strerror}", hint) from None


def _ours(kind: type[TinyzoError], message: str, hint: str) -> TinyzoError:
    """Says, where the kind is a variable, that what is raised is of our tree."""
    return kind(message, hint)


def new_directory(path: Path, kind: type[TinyzoError], taken: Iterable[str]) -> None:
    """Make a directory, or use one, that has none of the files `taken`."""
    for name in taken:
        if (path / name).exists():
            raise _ours(kind, f"{path} has a {name} already", "name another --output")
    with os_errors(kind, path, "name another --output"):
        path.mkdir(parents=True, exist_ok=True)


def open_file(path: Path, opened: ExitStack) -> tuple[io.FileIO, int]:
    """A regular file, closed when `opened` is, and its size, which is not 0."""
    with os_errors(CheckpointError, path, "check the path"):
        if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would wait for ever
            refuse(path, "it is not a file", "give the weights file itself")
        file = opened.enter_context(io.FileIO(path))
        head, size = file.read(len(_LFS_POINTER)), os.fstat(file.fileno()).st_size
    if head == _LFS_POINTER:
        refuse(path, "it is a git-lfs pointer, not the file", "run `git lfs pull` in its clone")
    if not head:
        refuse(path, "it is empty")
    return file, size


def read_at(file: io.FileIO, out: np.ndarray, offset: int) -> None:
    """Fill a C-contiguous array with the file's bytes from `offset` on."""
    left = out.reshape(-1).view(np.uint8).data
    while left:
        with os_errors(CheckpointError, file.name, "check the disk"):
            count = os.preadv(file.fileno(), [left], offset)
        if not count:
            refuse(file.name, f"it is truncated: {len(left)} bytes are missing at {offset}")
        left, offset = left[count:], offset + count


def lock(file: Any, kind: type[TinyzoError], held: str) -> None:
    """Hold a file for this process alone; held: what to say when another one does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise _ours(kind, held, "wait for it") from None


def put_in_place(file: Any, partial: Path, path: Path) -> None:
    """Give a file that is whole its name: safe from a loss of power from here on. It is closed."""
    file.flush()
    os.fsync(file.fileno())
    os.replace(partial, path)
    file.close()  # a lock ends here
    with suppress(OSError):  # not every system can open a directory
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def write_file(path: Path, data: bytes) -> None:
    """Write or replace a small file, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "wb") as new:
        new.write(data)
        put_in_place(new, partial, path)


def read_bytes(file: io.FileIO, size: int, offset: int) -> bytes:
    out = np.empty(size, np.uint8)
    read_at(file, out, offset)
    return out.tobytes()


# -- the machine

STATUS = Path("/proc/self/status")


def fast_cpus(root: Path = Path("/sys/devices/system/cpu")) -> set[int]:
    """The CPUs this process may use, on big.LITTLE only those of the highest frequency."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    allowed = allowed or set(range(os.cpu_count() or 1))
    try:
        files = (root / f"cpu{cpu}/cpufreq/cpuinfo_max_freq" for cpu in allowed)
        speed = {cpu: int(file.read_text()) for cpu, file in zip(allowed, files, strict=True)}
    except (OSError, ValueError):
        return allowed
    return {cpu for cpu in allowed if speed[cpu] == max(speed.values())}


def free_bytes(path: Path = Path("/proc/meminfo")) -> float:
    """The memory that the system can give to new processes; infinite where it does not say."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return next(found, math.inf)


def status_bytes(field: str) -> int:
    """A field of /proc/self/status in bytes (VmHWM, VmRSS, RssAnon, RssFile, ...); 0 if none."""
    status = STATUS.read_text() if STATUS.exists() else ""
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def peak_bytes() -> int:
    """The largest resident set so far."""
    if peak := status_bytes("VmHWM"):
        return peak
    import resource  # not on every platform

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
