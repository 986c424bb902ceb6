"""Calls of Windows in place of POSIX's: memory, locks, and files that are renamed while open."""

import ctypes
import os
from ctypes import wintypes
from pathlib import PurePath, PureWindowsPath
from typing import Any

HELD = (33, 997)  # ERROR_LOCK_VIOLATION, ERROR_IO_PENDING
AT_ONCE_ALONE = 1 | 2  # LOCKFILE_FAIL_IMMEDIATELY, LOCKFILE_EXCLUSIVE_LOCK
BEYOND = 1 << 62  # no file has this byte: a locked one could not be read
SHARED = 1 | 2 | 4  # FILE_SHARE_READ, _WRITE and _DELETE, which lets it be renamed
READ = 0x80000000  # GENERIC_READ
WRITE = 0x40000000  # GENERIC_WRITE
ACCESS = {os.O_RDONLY: READ, os.O_WRONLY: WRITE, os.O_RDWR: READ | WRITE}
CREATE_ALWAYS, OPEN_EXISTING, OPEN_ALWAYS = 2, 3, 4


DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
DEVICES |= {f"{device}{number}" for device in ("COM", "LPT") for number in "123456789¹²³"}
NO_LETTERS = frozenset('<>:"|?*').union(map(chr, range(32)))


def why_no_name(path: PurePath) -> str:
    """Why Windows makes no file or folder of that name; "" where it does."""
    found = PureWindowsPath(path)
    for part in found.relative_to(found.anchor).parts:
        if part.partition(".")[0].rstrip().upper() in DEVICES:
            return f"{part!r} is a device of Windows"
        if part.strip(".") and part[-1] in " .":
            return f"{part!r} ends in {part[-1]!r}, which Windows leaves out"
        if letters := sorted(NO_LETTERS.intersection(part)):
            return f"{part!r} has {letters[0]!r}, which Windows takes in no name"
    return ""


class MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX"""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("available", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 5),
    )
    available: int


class ProcessMemory(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS"""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("faults", ctypes.c_uint32),
        ("peak", ctypes.c_size_t),
        ("resident", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 6),
    )
    peak: int
    resident: int


class Overlapped(ctypes.Structure):
    """OVERLAPPED: here only the place of a lock."""

    _fields_ = (
        ("internal", ctypes.c_size_t * 2),
        ("offset", ctypes.c_uint32),
        ("offset_high", ctypes.c_uint32),
        ("event", wintypes.HANDLE),
    )


def free_bytes() -> int:
    """The physical memory that is available."""
    found = MemoryStatus(size=ctypes.sizeof(MemoryStatus))
    _kernel32().GlobalMemoryStatusEx(ctypes.byref(found))
    return found.available


def process_memory() -> ProcessMemory:
    """The resident set of this process, and its peak."""
    found = ProcessMemory(size=ctypes.sizeof(ProcessMemory))
    this_process = wintypes.HANDLE(-1)
    _kernel32().K32GetProcessMemoryInfo(this_process, ctypes.byref(found), found.size)
    return found


def lock(descriptor: int) -> bool:
    """Lock an open file for this process until it is closed; False when another one holds it.

    raises: OSError
    """
    import msvcrt

    handle = wintypes.HANDLE(msvcrt.get_osfhandle(descriptor))  # type: ignore[attr-defined]
    place = Overlapped(offset_high=BEYOND >> 32)
    if _kernel32().LockFileEx(handle, AT_ONCE_ALONE, 0, 1, 0, ctypes.byref(place)):
        return True
    code = ctypes.get_last_error()  # type: ignore[attr-defined]
    if code in HELD:
        return False
    raise ctypes.WinError(code)  # type: ignore[attr-defined]


def open_shared(path: str, flags: int) -> int:
    """os.open of a file that may be renamed or removed while it is open, for `opener=`.

    raises: OSError
    """
    import msvcrt

    access = ACCESS[flags & (os.O_WRONLY | os.O_RDWR)]
    how = OPEN_EXISTING
    if flags & os.O_CREAT:
        how = CREATE_ALWAYS if flags & os.O_TRUNC else OPEN_ALWAYS
    create = _kernel32().CreateFileW
    create.restype = wintypes.HANDLE
    handle = create(os.fspath(path), access, SHARED, None, how, 0, None)
    if handle == wintypes.HANDLE(-1).value:
        raise ctypes.WinError(ctypes.get_last_error())  # type: ignore[attr-defined]
    return msvcrt.open_osfhandle(handle, flags)  # type: ignore[attr-defined]


def _kernel32() -> Any:
    return ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
