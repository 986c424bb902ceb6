"""What compiled code is for: the CPU, and the versions and settings of what compiles it.

Numba and LLVM would say which CPU they compile for, but loading them is what kept kernels save. So
more is taken for a difference here than makes one: then kernels are compiled once more.
"""

import ctypes
import functools
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tinyzo import __version__

CPU_INFO = Path("/proc/cpuinfo")
TOLD = {  # lines of it that tell kinds of CPU apart
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"),
}
CAPABILITIES = (16, 26)  # AT_HWCAP, AT_HWCAP2: what the system says of the CPU's instructions
NO_MATTER = {"NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS"}  # to compiled code


@functools.cache
def cpu() -> tuple[object, ...]:
    """What tells this kind of CPU from others; where the system does not, what Numba says."""
    try:
        lines = CPU_INFO.read_text(errors="replace").splitlines()
        told = {line for line in lines if line.partition(":")[0].strip() in TOLD}
        capability = ctypes.CDLL(None).getauxval
        capability.restype = ctypes.c_ulong
        capabilities = [capability(ctypes.c_ulong(which)) for which in CAPABILITIES]
    except (OSError, AttributeError):
        told = set()
    if not told:
        from numba.core.registry import cpu_target

        return (cpu_target.target_context.codegen().magic_tuple(),)
    return (os.uname().machine, *capabilities, *sorted(told))


def versions() -> tuple[object, ...]:
    """The versions of what compiles, and of what compiled code depends on."""
    compilers = [version_of(package) for package in ("numba", "llvmlite")]
    return (__version__, sys.version, np.__version__, *compilers)


def version_of(package: str) -> bytes:
    """What a package's files say of its version; it is not imported."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return b""
    for name in ("_version.py", "__init__.py"):
        path = Path(spec.origin).with_name(name)
        if path.is_file():
            return path.read_bytes()
    return b""


def settings() -> tuple[object, ...]:
    """Numba's settings: variables of the environment, and its file in the current folder."""
    variables = [f"{k}={v}" for k, v in os.environ.items() if k.startswith("NUMBA_")]
    told = sorted(each for each in variables if each.partition("=")[0] not in NO_MATTER)
    try:
        return (*told, Path(".numba_config.yaml").read_bytes())
    except OSError:
        return tuple(told)
