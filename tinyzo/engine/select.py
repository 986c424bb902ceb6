"""The choice of an engine: Numba's where Numba can be had, or NumPy's; ONNX Runtime's if asked."""

import functools
from importlib.util import find_spec

from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.protocols import Engine
from tinyzo.errors import ConfigError, TinyzoError, check_choice
from tinyzo.packages import in_a_line, is_unwanted, say_once

ENGINES = ("auto", "numba", "numpy", "onnx")


def may_have_numba() -> bool:
    """True when Numba is installed and wanted. It is not loaded, which would take memory."""
    return not is_unwanted("numba") and bool(find_spec("numba"))


def why_no_numba() -> str:
    """The reason why the numba engine cannot be had, with a way out; "" when it can.

    Where it can, its kernels are compiled from now on.
    """
    return "TINYZO_NO_NUMBA is set: unset it" if is_unwanted("numba") else _why_broken()


@functools.cache
def _why_broken() -> str:
    """Load Numba and our kernels; returns what stands against them, or ""."""
    if not find_spec("numba"):
        return "Numba is not installed: pip install numba (Termux: its User Repository has a wheel)"
    try:
        from tinyzo.engine.numba.engine import ensure_compiled

        ensure_compiled()
    except TinyzoError as error:
        return f"{error.message}: {error.hint}"
    except Exception as error:
        way_out = "pip install --force-reinstall numba, or set TINYZO_NO_NUMBA=1"
        return f"numba cannot be used ({in_a_line(error)}): {way_out}"
    return ""


def engine_here(name: str) -> str:
    """The engine that "auto" is here; of any other name, the name.

    That Numba is there and cannot be used is said once.
    raises: ConfigError for an unknown name, or "numba" where it cannot be had
    """
    check_choice("engine", name, ENGINES)
    if name == "numpy":
        return name
    if name == "onnx":
        from tinyzo.engine.onnx.runtime import check_runtime

        check_runtime()
        return name
    reason = why_no_numba()
    if not reason:
        return "numba"
    if name == "numba":
        raise ConfigError("engine 'numba' cannot be had here", f"{reason}; or take --engine numpy")
    if may_have_numba():
        say_once(f"engine numpy, the slow one, since {reason}")
    return "numpy"


def engine_or_other(name: str) -> str:
    """The name of the engine of a run, or "auto" where it cannot be had, which is said once.

    The model of a run is the same whichever engine made it.
    """
    if name == "auto":
        return name
    try:
        return engine_here(name)
    except ConfigError as error:
        say_once(f"{error.message}, so another computes what the run has made; {error.hint}")
        return "auto"


def choose_engine(name: str, threads: int | None = None) -> Engine:
    """The engine of that name, or for "auto" the fastest there is.

    threads: of the numba and onnx engines, None for one on each fast CPU
    raises: as `engine_here` does
    """
    chosen = engine_here(name)
    if chosen == "numpy":
        return NumpyEngine()
    if chosen == "onnx":
        from tinyzo.engine.onnx.engine import OnnxEngine

        return OnnxEngine(threads)
    from tinyzo.engine.numba.engine import shared_engine  # loads Numba: only when it is used

    return shared_engine(threads)
