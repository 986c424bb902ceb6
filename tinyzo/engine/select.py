"""The choice of an engine: Numba's where Numba is installed, or NumPy's."""

import os
from importlib.util import find_spec

from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.protocols import Engine
from tinyzo.errors import ConfigError, check_choice

ENGINES = ("auto", "numba", "numpy")


def may_have_numba() -> bool:
    """True when Numba is installed and wanted. It is not loaded, which would take memory."""
    return os.environ.get("TINYZO_NO_NUMBA", "0") in ("", "0") and bool(find_spec("numba"))


def why_no_numba() -> str:
    """The reason why the numba engine cannot be had, with a way out; "" when it can."""
    if os.environ.get("TINYZO_NO_NUMBA", "0") not in ("", "0"):
        return "TINYZO_NO_NUMBA is set: unset it"
    try:
        import tinyzo.engine.numba.engine  # noqa: F401
    except ImportError as error:
        return f"{error}: pip install numba (Termux: a wheel of the Termux User Repository)"
    except RuntimeError as error:  # Numba finds no folder that it can write
        return f"{error}: set NUMBA_CACHE_DIR to a folder that can be written"
    return ""


def choose_engine(name: str, threads: int | None = None) -> Engine:
    """The engine of that name, or for "auto" the fastest there is.

    threads: of the numba engine, None for one on each fast CPU
    raises: ConfigError for an unknown name, or "numba" where it cannot be had
    """
    check_choice("engine", name, ENGINES)
    if name == "numpy":
        return NumpyEngine()
    reason = why_no_numba()
    if not reason:
        from tinyzo.engine.numba.engine import shared_engine  # loads Numba: only when it is used

        return shared_engine(threads)
    if name == "auto":
        return NumpyEngine()
    raise ConfigError("engine 'numba' cannot be had here", f"{reason}; or take --engine numpy")
