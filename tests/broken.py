"""Packages that break as they are imported, each in another way."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NUMPY_IS_TOO_NEW = "Numba needs NumPy 2.4 or less. Got NumPy 2.5."
# What stands in the package, and what is said of it.
BREAKS = {
    'raise SystemError("bad magic\\nand more")': "SystemError: bad magic",
    'raise AttributeError("no such name")': "AttributeError: no such name",
    'raise OSError(2, "No such file", "a.so")': "FileNotFoundError: [Errno 2] No such file: 'a.so'",
    f"raise ImportError({NUMPY_IS_TOO_NEW!r})": f"ImportError: {NUMPY_IS_TOO_NEW}",
    "import nosuchpart": "ModuleNotFoundError: No module named 'nosuchpart'",
    "raise MemoryError": "MemoryError",
    "def f(:": "SyntaxError: invalid syntax (__init__.py, line 1)",
}


starts_another = pytest.mark.skipif(
    os.environ.get("NUMBA_CPU_NAME") == "generic" and platform.machine() == "aarch64",
    reason="an emulated Python starts no other",
)


def path_with(folder: Path, package: str, code: str) -> list[str]:
    """sys.path with such a package before all others."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(code)
    return [str(folder), *sys.path]


def break_package(
    patch: pytest.MonkeyPatch, folder: Path, package: str, code: str = 'raise SystemError("bad")'
) -> None:
    """Break a package for this process, until the patch is undone."""
    patch.setattr(sys, "path", path_with(folder, package, code))
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        patch.delitem(sys.modules, name)
    patch.setitem(sys.modules, package, None)  # so that what is imported meanwhile is forgotten
    patch.delitem(sys.modules, package)


def tinyzo(
    *arguments: object, path: Sequence[str] = (), tree: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command of the package in a tree, whose packages are first looked for along a path."""
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([*path, str(tree)])} | environment
    command = [sys.executable, "-m", "tinyzo", *map(str, arguments)]
    return subprocess.run(
        command, cwd=tree, env=variables, capture_output=True, text=True, check=False
    )
