"""Runs commands in a process that has what another system has; a script, or what it prints.

    python elsewhere.py SYSTEM COMMAND...

SYSTEM is win32, darwin, bare (no system that is known) or here. COMMAND is a JSON list of arguments
of tinyzo. Windows's calls are made of Linux's, and a file can be renamed or removed while it is
open only if it was opened so, as there. os.name, paths and encodings stay those of this system.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import io
import json
import os
import pkgutil
import sys
import types
from pathlib import Path
from typing import Any

# What is loaded before the system changes is whole.
for package in ("subprocess", "numpy", "tqdm", "numba", "tokenizers"):
    with contextlib.suppress(ImportError):
        importlib.import_module(package)

LACKING = {
    "win32": (
        ("fcntl", "resource", "pwd", "grp", "termios"),
        ("preadv", "pread", "sched_getaffinity", "sched_setaffinity", "fork", "register_at_fork"),
    ),
    "darwin": ((), ("preadv", "sched_getaffinity", "sched_setaffinity")),
    "bare": (
        ("fcntl", "resource", "msvcrt"),
        ("preadv", "sched_getaffinity", "sched_setaffinity", "fork", "register_at_fork"),
    ),
    "here": ((), ()),
}
FLAGS = {2: os.O_CREAT | os.O_TRUNC, 3: 0, 4: os.O_CREAT}  # of CREATE_ALWAYS, OPEN_EXISTING, ...
ACCESS = {0x80000000: os.O_RDONLY, 0x40000000: os.O_WRONLY, 0xC0000000: os.O_RDWR}


class Kernel32:
    """The calls that tinyzo makes of it."""

    flock: Any
    shared: set[int] = set()  # noqa: RUF012 (of the process, as the descriptors are)
    error = 0

    def __init__(self) -> None:
        def create(path: str, access: int, share: int, _: None, how: int, *others: Any) -> int:
            assert share == 7
            descriptor = os.open(path, ACCESS[access] | FLAGS[how], 0o666)
            self.shared.add(descriptor)
            return descriptor

        self.CreateFileW = create

    def GlobalMemoryStatusEx(self, found: Any) -> int:  # noqa: N802 (Windows's name)
        found._obj.available = 4 << 30
        return 1

    def K32GetProcessMemoryInfo(self, _: Any, found: Any, size: int) -> int:  # noqa: N802
        found._obj.peak = found._obj.resident = 123 << 20
        return 1

    def LockFileEx(self, handle: Any, flags: int, *_: Any) -> int:  # noqa: N802
        assert flags == 3
        try:
            self.flock(handle.value, 2 | 4)
        except BlockingIOError:
            Kernel32.error = 33
            return 0
        return 1


def opened(path: Any) -> set[int]:
    """The descriptors of a file."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.path.samefile(link, path) and os.path.isfile(path):
                found.add(int(link.name))
    return found


def become_windows() -> None:
    import fcntl

    Kernel32.flock = staticmethod(fcntl.flock)
    ctypes.WinDLL = lambda *_, **__: Kernel32()
    ctypes.get_last_error = lambda: Kernel32.error
    sys.modules["msvcrt"] = types.SimpleNamespace(
        get_osfhandle=lambda descriptor: descriptor, open_osfhandle=lambda handle, flags: handle
    )
    replace, unlink = os.replace, os.unlink

    def careful_replace(source: Any, target: Any) -> None:
        if opened(source) - Kernel32.shared or opened(target):
            raise PermissionError(13, "it is open", str(target))
        replace(source, target)

    def careful_unlink(path: Any, **others: Any) -> None:
        if opened(path) - Kernel32.shared:
            raise PermissionError(13, "it is open", str(path))
        unlink(path, **others)

    os.replace = careful_replace
    os.unlink = careful_unlink


def become(system: str) -> None:
    os.environ["TINYZO_NO_NUMBA"] = "1"  # whose system is this one
    sys.modules["matplotlib"] = None
    if system == "win32":
        become_windows()
    if system == "darwin":
        importlib.import_module("fcntl").F_FULLFSYNC = 51
    modules, functions = LACKING[system]
    sys.modules.update(dict.fromkeys(modules))
    for name in functions:
        if hasattr(os, name):
            delattr(os, name)
    if system != "here":
        sys.platform = system
        if hasattr(os, "process_cpu_count"):
            os.process_cpu_count = os.cpu_count  # as Python has it where there is no affinity


def import_all() -> int:
    """Import every module of the package; returns how many."""
    import tinyzo

    names = [module.name for module in pkgutil.walk_packages(tinyzo.__path__, "tinyzo.")]
    if importlib.util.find_spec("numba") is None:
        names = [name for name in names if not name.startswith("tinyzo.engine.numba.")]
    if importlib.util.find_spec("flwr") is None:
        of_flower = ("tinyzo.fleet.client", "tinyzo.fleet.server")
        names = [name for name in names if name not in of_flower]
    for name in names:
        if name != "tinyzo.__main__":
            importlib.import_module(name)
    return len(names)


def run(commands: list[str]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    from tinyzo.cli import main

    endings = []
    for command in commands:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(json.loads(command))
            except SystemExit as ending:
                code = int(ending.code or 0)
        endings.append((code, out.getvalue(), err.getvalue()))
    return endings


if __name__ == "__main__":
    become(sys.argv[1])
    count = import_all()
    print(json.dumps({"modules": count, "endings": run(sys.argv[2:])}))
