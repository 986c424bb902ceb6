"""What ends a command: each exception in its own words, and a hint that fits what failed."""

from __future__ import annotations

import errno
import signal
import threading
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import pytest
from commands import command

from tinyzo.cli import failures
from tinyzo.cli.failures import Failure, failure_of, heed_signals
from tinyzo.errors import DataError, UsageError

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (DataError("what", "hint"), Failure("what", "hint", 1)),
        (UsageError("what"), Failure("what", "", 2)),
        (OSError(errno.ENOSPC, "No space", "a"), Failure("a: No space", "make room on the disk")),
        (
            OSError(errno.ENAMETOOLONG, "Long", "a"),
            Failure("a: Long", "choose a shorter name or path"),
        ),
        (
            OSError(errno.EIO, "I/O"),
            Failure("I/O", "the disk fails: check it, and copy what is on it"),
        ),
        (OSError(errno.EDOM, "X", "a"), Failure("a: X", "tinyzo doctor checks this machine")),
        (OSError("odd"), Failure("odd", "tinyzo doctor checks this machine")),
        (MemoryError("2 GB"), Failure("2 GB", failures.LESS_MEMORY)),
        (
            RuntimeError("can't start new thread"),
            Failure("the system gives no more threads", "fewer --threads, or `ulimit -u`"),
        ),
        (
            UnicodeEncodeError("ascii", "größer", 2, 3, "no"),
            Failure(
                r"'gr\xf6\xdfer' has letters that ascii has not",
                "PYTHONUTF8=1 in the environment allows every letter",
            ),
        ),
        (
            UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no"),
            Failure(
                r"'\ud800' has letters that utf-8 has not",
                "it holds half a letter (a lone surrogate): write it anew",
            ),
        ),
        (KeyboardInterrupt(), Failure("interrupted", "", 130)),
        (KeyboardInterrupt(signal.SIGTERM), Failure("stopped by SIGTERM", "", 143)),
        (RuntimeError("of ours"), None),
        (ZeroDivisionError(), None),
    ],
    ids=repr,
)
def test_each_in_its_own_words(error: BaseException, failure: Failure | None) -> None:
    assert failure_of(error) == failure


def test_a_run_is_named_only_while_it_is_there(tmp_path: Path) -> None:
    stop = KeyboardInterrupt()
    vars(stop)["run"] = tmp_path
    failure = failure_of(stop)
    assert failure and failure.hint == f"tinyzo finetune --resume {tmp_path} goes on"
    vars(stop)["run"] = tmp_path / "gone"
    assert failure_of(stop) == Failure("interrupted", "", 130)


def test_a_fault_of_tinyzos_own_is_a_traceback(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*_: object) -> NoReturn:
        raise ZeroDivisionError

    import_module("tinyzo.runs.inference")  # first imported below, it would keep what is faulty
    monkeypatch.setattr("tinyzo.models.model.open_model", faulty)
    with pytest.raises(ZeroDivisionError):
        command("inspect", home / "opt")


def test_a_message_is_one_line_whatever_it_names(capsys: Capture) -> None:
    assert command("inspect", "a\nb\x1b[31m") == 1
    error = capsys.readouterr().err
    assert error == "tinyzo: a\\nb\\x1b[31m: no such folder\n  hint: name a model's folder\n"


# --- signals ---


def test_signals_are_heeded_while_a_command_runs() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt) as stop, heed_signals():
            signal.raise_signal(signal.SIGTERM)
        assert stop.value.args == (signal.SIGTERM,)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as nohup has SIGHUP
        with heed_signals():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_no_signal_can_be_heeded(capsys: Capture) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(command("--version")))
    thread.start()
    thread.join()
    assert codes == [0] and capsys.readouterr().out.startswith("tinyzo ")
