"""The memory that is free, and what this process holds of it."""

import ctypes
import math
import re
import sys
from contextlib import suppress
from pathlib import Path

from tinyzo.machine import cgroups, macos, windows

MEMORY = Path("/proc/meminfo")
M_MMAP_THRESHOLD = -3  # of mallopt
LARGE = 4 << 20  # bytes of an array that malloc is to give back at once
STATUS = Path("/proc/self/status")


def free_bytes(path: Path = MEMORY, proc: Path = cgroups.PROC) -> float:
    """The memory that this process can still be given; infinite where the system does not say.

    That is the least of what the machine has, what control groups leave, and what limits allow.
    """
    return min(_available(path), cgroups.free_bytes(proc), _within_limits())


def _available(path: Path) -> float:
    """What the system can give to new processes without swapping."""
    if sys.platform == "win32":
        return windows.free_bytes()
    if sys.platform == "darwin":
        return macos.free_bytes() or math.inf
    available = _field_bytes(path, "MemAvailable")
    return math.inf if available is None else available


def _within_limits() -> float:
    """What `ulimit -v` and `ulimit -d` leave."""
    try:
        import resource
    except ImportError:  # on Windows
        return math.inf
    used = {"RLIMIT_AS": "VmSize", "RLIMIT_DATA": "VmData"}
    left = math.inf
    for name, field in used.items():
        limit, _ = resource.getrlimit(getattr(resource, name))
        if limit != resource.RLIM_INFINITY:
            left = min(left, max(0, limit - status_bytes(field)))
    return left


def status_bytes(field: str) -> int:
    """A field of /proc/self/status in bytes (VmHWM, VmRSS, RssAnon, RssFile, ...); 0 if none."""
    return _field_bytes(STATUS, field) or 0


def resident_bytes() -> int:
    """The resident set of this process now; 0 where the system does not say."""
    if sys.platform == "win32":
        return windows.process_memory().resident
    if sys.platform == "darwin":
        return macos.resident_bytes()
    return status_bytes("VmRSS")


def peak_bytes() -> int:
    """The largest resident set of this process so far; 0 where the system does not say."""
    if sys.platform == "win32":
        return windows.process_memory().peak
    if peak := status_bytes("VmHWM"):
        return peak
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024  # of bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def give_back_large_arrays() -> None:
    """Have glibc give a large array's memory back to the system as soon as it is freed.

    Left alone, it keeps what is no larger than some array that was freed before, up to 32 MB. Of
    other libraries nothing is asked.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


def _field_bytes(path: Path, field: str) -> int | None:
    """A field of a file that has lines such as "VmHWM:   2048 kB"; None if it has none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")  # a process may have any name
    except OSError:
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
