"""What ends a command before it is done, in words: what failed, and what to do about it."""

import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from tinyzo.errors import TinyzoError, shown
from tinyzo.packages import tell

SIGNALS = ("SIGTERM", "SIGHUP")  # as `kill` sends, and a terminal that is closed
NO_THREAD = "can't start new thread"  # Python's words, which no type says
LESS_MEMORY = "close other programs; finetune takes --memory-budget SIZE or --residency streamed"


class Failure(NamedTuple):
    """What a person is told, and the exit code."""

    what: str
    hint: str
    code: int = 1


def report(failure: Failure) -> int:
    """Tell it in two lines, and return its exit code."""
    text = f"tinyzo: {shown(failure.what)}"
    if failure.hint:
        text += f"\n  hint: {shown(failure.hint)}"
    tell(text)
    return failure.code


def failure_of(error: BaseException) -> Failure | None:
    """What an exception means to a person; None for one that only a fault of tinyzo's can be."""
    match error:
        case TinyzoError():
            return Failure(error.message, error.hint, error.exit_code)
        case KeyboardInterrupt():
            return _stopped(error)
        case OSError():
            return _refused(error)
        case MemoryError():
            return Failure(str(error) or "no memory is left", LESS_MEMORY)
        case RuntimeError() if str(error) == NO_THREAD:
            return Failure("the system gives no more threads", "fewer --threads, or `ulimit -u`")
        case UnicodeEncodeError():
            return _no_name(error)
    return None


def _refused(error: OSError) -> Failure:
    """What the system refuses; `filename` is the path, where it is about one."""
    from tinyzo.system import advise  # loads NumPy

    what = error.strerror or str(error)
    if error.filename is not None:
        what = f"{os.fsdecode(str(error.filename))}: {what}"
    return Failure(what, advise(error, error.filename) or "tinyzo doctor checks this machine")


def _no_name(error: UnicodeEncodeError) -> Failure:
    """A text, a path most often, that has no bytes here."""
    what = f"{error.object[:80]!a} has letters that {error.encoding} has not"
    if error.encoding == "utf-8":
        return Failure(what, "it holds half a letter (a lone surrogate): write it anew")
    return Failure(what, "PYTHONUTF8=1 in the environment allows every letter")


# -- signals


@contextmanager
def heed_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP stop a command as Ctrl-C does, unless someone has said otherwise."""
    heeded = []
    if threading.current_thread() is threading.main_thread():
        known = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
        heeded = [each for each in known if signal.getsignal(each) is signal.SIG_DFL]
    for each in heeded:
        signal.signal(each, _stop)
    try:
        yield
    finally:
        for each in heeded:
            signal.signal(each, signal.SIG_DFL)


def _stop(number: int, frame: FrameType | None) -> None:
    """Stop what runs; a second signal ends the process at once."""
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt(number)


def _stopped(stop: KeyboardInterrupt) -> Failure:
    """By which signal, and how a run goes on: tune says which run, and a search's own are gone."""
    number, *_ = (*stop.args, signal.SIGINT)
    what = "interrupted"
    if number != signal.SIGINT:
        what = f"stopped by {signal.Signals(number).name}"
    run: Path | None = getattr(stop, "run", None)
    hint = ""
    if run and run.exists():
        hint = f"tinyzo finetune --resume {shlex.quote(str(run))} goes on"
    return Failure(what, hint, 128 + number)
