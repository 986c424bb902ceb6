"""Packages that others wrote, which may be missing, broken, or anything between.

A missing one is done without in silence; a broken one is done without, too, and said once. Which
error a broken one raises is not known before, so here, and around a compiler, any is caught.
"""

import functools
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from tinyzo.errors import ConfigError, TinyzoError, shown

T = TypeVar("T")
KILLED = "killed by"
LONGEST = 200  # letters of another's message that fit in a line of ours
APART = """\
import sys
sys.path[:] = {0!r}
from tinyzo.packages import in_a_line
try:
    {1}
except Exception as error:
    sys.exit(in_a_line(error))
"""


@functools.cache
def say_once(line: str) -> None:
    """Print a line of log to stderr, unless this process has."""
    tell(f"tinyzo: {shown(line)}")


def tell(text: str) -> None:
    """Print a line to stderr, if somebody listens; one that cannot be written stops nothing."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def in_a_line(error: BaseException) -> str:
    """An error's kind and the first of what it says, which may be pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}..."


def is_missing(error: Exception, name: str) -> bool:
    """True when an import failed since there is no such package, not since it is broken."""
    return isinstance(error, ModuleNotFoundError) and error.name == name


def is_unwanted(package: str) -> bool:
    """Whether the environment says to do without a package: TINYZO_NO_NUMBA=1 of numba.

    raises: ConfigError when it says neither yes nor no
    """
    variable = f"TINYZO_NO_{package.upper()}"
    value = os.environ.get(variable, "")
    if value.strip().lower() in ("1", "true", "yes", "on"):
        return True
    if value.strip().lower() not in ("", "0", "false", "no", "off"):
        raise ConfigError(f"{variable} is {value!r}, neither yes nor no", "set it to 1 or to 0")
    return False


def optional(package: str, instead: str, make: Callable[[], T]) -> T | None:
    """What is made with a package that can be done without; None if it is missing or broken.

    instead: what is the case without it, for the line that says that it is broken
    make:    imports it
    """
    try:
        return make()
    except TinyzoError:
        raise
    except Exception as error:
        if not is_missing(error, package):
            say_once(f"{package} cannot be used ({in_a_line(error)}): {instead}")
    return None


def try_apart(statement: str) -> str:
    """Run a statement in a Python of its own, which may die of it; returns why it failed, or "".

    It imports from where this process does.
    raises: OSError where no other process can be had
    """
    import subprocess  # not at the top: most commands start nobody

    is_python = bool(sys.executable) and not hasattr(sys, "frozen")  # else a program around one
    done = subprocess.run(
        [sys.executable if is_python else "no Python", "-c", APART.format(sys.path, statement)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode < 0:
        return f"{KILLED} signal {-done.returncode}"
    if done.returncode > 255:  # Windows has no signals
        return f"{KILLED} the system, code {done.returncode:#x}"
    if done.returncode:
        return (done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1]
    return ""
