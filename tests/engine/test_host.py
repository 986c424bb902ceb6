"""What compiled code is for, as it is known without Numba."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny import ENGINES

if "numba" not in ENGINES:
    pytest.skip("it is about the numba engine", allow_module_level=True)

from numba.core.registry import cpu_target

from tinyzo.engine.numba import host

X86 = """processor\t: {core}
vendor_id\t: GenuineIntel
model name\t: Some CPU
cpu MHz\t\t: {mhz}
flags\t\t: fpu sse2 {flag}
"""
linux = pytest.mark.skipif(not host.CPU_INFO.exists(), reason="the system says nothing of its CPU")


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What a system says of its CPU, of which a function tells what we take."""

    def take(text: str) -> tuple[object, ...]:
        (tmp_path / "cpuinfo").write_text(text)
        return host.cpu.__wrapped__()

    monkeypatch.setattr(host, "CPU_INFO", tmp_path / "cpuinfo")
    return take


@linux
def test_a_cpu_is_told_by_what_its_cores_are(told):
    first = told(X86.format(core=0, mhz=2100, flag="avx2"))
    cores = "\n".join(X86.format(core=i, mhz=3000 + i, flag="avx2") for i in range(8))
    assert told(cores) == first
    assert told(X86.format(core=0, mhz=2100, flag="avx512f")) != first
    assert told(X86.format(core=0, mhz=2100, flag="avx2").replace("Some", "Other")) != first
    arm = "processor: 0\nFeatures: fp asimd\nCPU implementer: 0x41\nCPU part: 0xd05\n"
    assert told(arm) != told(arm.replace("asimd", "asimd bf16")) != first
    assert told(arm) != told(arm + "\nprocessor: 1\nCPU part: 0xd0a\n")


@linux
def test_capabilities_are_the_systems():
    machine, *rest = host.cpu()
    assert machine == os.uname().machine
    assert all(isinstance(each, int) for each in rest[:2]) and rest[0]


def test_where_the_system_says_nothing_numba_does(told, tmp_path, monkeypatch):
    numbas = (cpu_target.target_context.codegen().magic_tuple(),)
    assert told("") == numbas
    monkeypatch.setattr(host, "CPU_INFO", tmp_path / "none")
    assert host.cpu.__wrapped__() == numbas


def test_settings_of_numba_that_change_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = host.settings()
    monkeypatch.setenv("NUMBA_CACHE_DIR", "elsewhere")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    assert host.settings() == before
    monkeypatch.setenv("NUMBA_OPT", "1")
    assert host.settings() != before
    monkeypatch.delenv("NUMBA_OPT")
    Path(".numba_config.yaml").write_text("opt: 1\n")
    assert host.settings() != before


def test_a_package_tells_its_version_without_being_imported(tmp_path, monkeypatch):
    import numba

    assert numba.__version__.encode() in host.version_of("numba")
    assert host.version_of("no_such_package") == b""
    (tmp_path / "package_of_no_version").mkdir()
    (tmp_path / "package_of_no_version" / "__init__.py").write_text("raise SystemError")
    monkeypatch.syspath_prepend(tmp_path)
    assert host.version_of("package_of_no_version") == b"raise SystemError"
