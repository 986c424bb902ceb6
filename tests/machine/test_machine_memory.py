"""The memory that is free and that is held, on several systems."""

from __future__ import annotations

import ctypes
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from drawn import draw_groups
from folders import python

from tinyzo.machine import macos, memory, windows

MEMINFO = "MemTotal:  8000 kB\nMemAvailable:    5000 kB\nCached: 1 kB\n"
VM_STAT = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10000.
Pages active:                            200000.
Pages inactive:                            4000.
Pages speculative:                          300.
Pages throttled:                              0.
"Translation faults":                1234567890.
"""


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text(MEMINFO)
    return path


# -- Linux


def test_free_memory_is_what_the_system_says(tmp_path: Path, meminfo: Path) -> None:
    assert memory.free_bytes(meminfo, tmp_path) == 5000 * 1024
    meminfo.write_text("MemTotal:  8000 kB\nMemAvailable:    0 kB\n")
    assert memory.free_bytes(meminfo, tmp_path) == 0
    meminfo.write_text("MemTotal:  8000 kB\n")
    assert memory.free_bytes(meminfo, tmp_path) == math.inf
    meminfo.unlink()
    assert memory.free_bytes(meminfo, tmp_path) == math.inf
    assert memory.free_bytes(tmp_path, tmp_path) == math.inf  # a folder cannot be read


@pytest.mark.parametrize(("limit", "free"), [(3 << 20, 3 << 20), (9 << 20, 5000 * 1024)])
def test_a_group_may_leave_less_than_the_system(
    tmp_path: Path, meminfo: Path, limit: int, free: int
) -> None:
    proc = draw_groups(tmp_path, {"/": {"memory.max": str(limit)}}, "/")
    assert memory.free_bytes(meminfo, proc) == free


@pytest.mark.skipif(sys.platform != "linux", reason="limits are as Linux counts them")
@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_limits_of_this_process(name: str) -> None:
    """In a process of its own, which cannot have them back."""
    code = (
        "import resource, sys; from tinyzo.machine import memory\n"
        "field = {'RLIMIT_AS': 'VmSize', 'RLIMIT_DATA': 'VmData'}[sys.argv[1]]\n"
        "used = memory.status_bytes(field)\n"
        "resource.setrlimit(getattr(resource, sys.argv[1]), (used + (64 << 20), -1))\n"
        "print(memory.free_bytes() / 2**20)\n"
        "resource.setrlimit(getattr(resource, sys.argv[1]), (used // 2, -1))\n"
        "print(memory.free_bytes())"
    )
    output, error = python("-c", code, name).communicate()
    left, none = map(float, output.split())
    assert 56 < left <= 64, error
    assert none == 0


def test_memory_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    assert memory.status_bytes("VmHWM") == memory.resident_bytes() == 0
    assert memory.peak_bytes() > 1 << 20  # from getrusage
    fields = b"VmHWM:\t  2048 kB\nVmRSS:\t 1024 kB\nRssAnon:\t 12 kB\n"
    (tmp_path / "status").write_bytes(b"Name:\t\xd0\n" + fields)  # cut in a letter
    assert memory.status_bytes("VmHWM") == memory.peak_bytes() == 2 << 20
    assert memory.resident_bytes() == 1 << 20
    assert memory.status_bytes("RssAnon") == 12 << 10
    assert memory.status_bytes("RssShmem") == 0


# -- macOS


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A Mac whose commands print these texts; what is not among them cannot be run."""
    printed = {"vm_stat": VM_STAT, "ps": "  2048\n", "sysctl": "8\n"}

    def run(command: tuple[str, ...], **_: Any) -> Any:
        if command[0] not in printed:
            raise FileNotFoundError(2, "No such file or directory")
        return SimpleNamespace(stdout=printed[command[0]])

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(memory, "STATUS", tmp_path / "no status")
    return printed


def test_a_mac_says_its_memory_by_commands(mac: dict[str, str], tmp_path: Path) -> None:
    assert memory.free_bytes(tmp_path, tmp_path) == 14300 * 16384
    assert memory.resident_bytes() == 2 << 20
    assert macos.performance_cpus() == 8


@pytest.mark.parametrize("text", ["", "sysctl: unknown oid 'hw.perflevel0.logicalcpu'"])
def test_a_mac_that_does_not_say(mac: dict[str, str], tmp_path: Path, text: str) -> None:
    mac |= dict.fromkeys(mac, text)
    assert memory.free_bytes(tmp_path, tmp_path) == math.inf
    assert memory.resident_bytes() == 0
    mac.clear()
    assert memory.free_bytes(tmp_path, tmp_path) == math.inf
    assert macos.performance_cpus() == 0


@pytest.mark.parametrize(("system", "unit"), [("darwin", 1), ("linux", 1024), ("freebsd14", 1024)])
def test_the_peak_has_the_unit_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, unit: int
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(memory, "STATUS", tmp_path / "no status")
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=5000))
    assert memory.peak_bytes() == 5000 * unit


# -- Windows


class Kernel32:
    """Fills the structures as Windows does, if they say their size."""

    def GlobalMemoryStatusEx(self, found: Any) -> int:  # noqa: N802 (Windows's name)
        assert found._obj.size == ctypes.sizeof(found._obj) == 64
        found._obj.available = 7 << 30
        return 1

    def K32GetProcessMemoryInfo(self, process: Any, found: Any, size: int) -> int:  # noqa: N802
        assert process.value == 2 ** (8 * ctypes.sizeof(process)) - 1  # this process
        assert size == found._obj.size == ctypes.sizeof(found._obj)
        found._obj.peak = 5 << 20
        found._obj.resident = 4 << 20
        return 1


def test_windows_fills_structures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "WinDLL", lambda *_, **__: Kernel32(), raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory.free_bytes(tmp_path, tmp_path) == 7 << 30
    assert memory.peak_bytes() == 5 << 20
    assert memory.resident_bytes() == 4 << 20


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="sizes are those of 64 bits")
def test_the_structures_are_laid_out_as_windows_has_them() -> None:
    places = {"size": 0, "faults": 4, "peak": 8, "resident": 16}
    assert {name: getattr(windows.ProcessMemory, name).offset for name in places} == places
    assert ctypes.sizeof(windows.ProcessMemory) == 72
    assert windows.MemoryStatus.available.offset == 16
    assert (windows.Overlapped.offset.offset, windows.Overlapped.offset_high.offset) == (16, 20)
    assert ctypes.sizeof(windows.Overlapped) == 32


# -- malloc


@pytest.mark.parametrize(("system", "asked"), [("linux", [(-3, 4 << 20)]), ("darwin", [])])
def test_only_glibc_is_asked_to_give_back(monkeypatch, system, asked) -> None:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *given: calls.append(given))
    monkeypatch.setattr(memory.sys, "platform", system)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: library)
    memory.give_back_large_arrays()
    assert calls == asked
    del library.mallopt
    memory.give_back_large_arrays()  # another C library
    assert calls == asked
