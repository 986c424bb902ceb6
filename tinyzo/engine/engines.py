"""Which engine computes: Numba's where Numba is, NumPy's everywhere."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tinyzo.engine.numpy_engine import NumpyView
from tinyzo.errors import ConfigError

ENGINES = ("auto", "numba", "numpy")


def check_choice(what: str, choice: str, known: tuple[str, ...]) -> None:
    """raises: ConfigError when a choice is not among the known ones"""
    if choice not in known:
        raise ConfigError(f"{what} {choice!r} is not built", f"one of {', '.join(known)}")


def may_have_numba() -> bool:
    """Whether Numba is installed and wanted; it is not loaded, which would take its memory."""
    return os.environ.get("TINYZO_NO_NUMBA", "0") in ("", "0") and bool(find_spec("numba"))


def why_no_numba() -> str:
    """What stands against the numba engine here, and a way out; empty when nothing does."""
    if os.environ.get("TINYZO_NO_NUMBA", "0") not in ("", "0"):
        return "TINYZO_NO_NUMBA is set: unset it"
    try:
        import tinyzo.engine.numba_engine  # noqa: F401
    except ImportError as error:
        return f"{error}: pip install numba (Termux: a wheel of the Termux User Repository)"
    except RuntimeError as error:  # Numba finds no folder that it can write
        return f"{error}: set NUMBA_CACHE_DIR to a folder that can be written"
    return ""


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


def choose_engine(name: str, threads: int | None) -> tuple[str, Callable[..., Any]]:
    """The engine of that name, or for "auto" the fastest there is, and what makes its views.

    threads: of the numba engine, None for one on each fast CPU
    raises: ConfigError for an unknown name, or "numba" where it cannot be had
    """
    check_choice("engine", name, ENGINES)
    reason = "" if name == "numpy" else why_no_numba()
    if name == "numpy" or (name == "auto" and reason):
        return "numpy", NumpyView
    if reason:
        raise ConfigError("engine 'numba' cannot be had here", f"{reason}; or take --engine numpy")
    from tinyzo.engine.numba_engine import shared_engine

    return "numba", shared_engine(threads)
