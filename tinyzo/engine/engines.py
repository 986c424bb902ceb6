"""Which engine computes: Numba's where Numba is, NumPy's everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from tinyzo.engine.numpy_engine import NumpyView
from tinyzo.errors import ConfigError

ENGINES = ("numba", "numpy")


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


def choose_engine(name: str, threads: int | None) -> tuple[str, Callable[..., Any]]:
    """The engine of that name, or for "auto" the fastest there is, and what makes its views.

    threads: of the numba engine, None for one on each fast CPU
    raises: ConfigError for an unknown name, or "numba" where it cannot be had
    """
    if name not in ("auto", *ENGINES):
        raise ConfigError(f"engine {name!r} is not built", f"one of auto, {', '.join(ENGINES)}")
    if name == "numpy":
        return "numpy", NumpyView
    if reason := why_no_numba():
        if name == "auto":
            return "numpy", NumpyView
        raise ConfigError("engine 'numba' cannot be had here", f"{reason}; or take --engine numpy")
    from tinyzo.engine.numba_engine import shared_engine

    return "numba", shared_engine(threads)
