"""Packages of others, which may be missing or broken in any way: what is said, and what goes on."""

from __future__ import annotations

import io
import sys

import pytest
from broken import BREAKS, break_package, path_with

from tinyzo import packages
from tinyzo.errors import ConfigError, DataError
from tinyzo.packages import in_a_line, is_unwanted, optional, say_once, try_apart


@pytest.fixture(autouse=True)
def nothing_is_said_yet():
    say_once.cache_clear()


def importing(name):
    return lambda: __import__(name)


@pytest.mark.parametrize("code", BREAKS)
def test_a_broken_package_is_done_without_and_said_once(tmp_path, monkeypatch, capsys, code):
    break_package(monkeypatch, tmp_path, "brokenpackage", code)
    for _ in range(3):
        assert optional("brokenpackage", "we go on", importing("brokenpackage")) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"tinyzo: brokenpackage cannot be used ({BREAKS[code]}): we go on"


def test_a_missing_package_is_done_without_in_silence(capsys):
    assert optional("nosuchpackage", "we go on", importing("nosuchpackage")) is None
    assert optional("json", "we go on", importing("json")).__name__ == "json"
    assert capsys.readouterr() == ("", "")


def test_what_is_wrong_with_our_files_is_not_the_packages_fault():
    def make():
        raise DataError("a file of ours")

    with pytest.raises(DataError, match="a file of ours"):
        optional("json", "", make)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (SystemError("bad magic\n\nand pages"), "SystemError: bad magic"),
        (ImportError("\n  IMPORTANT: read\n  this\n"), "ImportError: IMPORTANT: read"),
        (MemoryError(), "MemoryError"),
        (OSError(2, "No such file", "a.so"), "FileNotFoundError: [Errno 2] No such file: 'a.so'"),
        (ValueError("x" * 999), f"ValueError: {'x' * 188}..."),
    ],
)
def test_an_error_in_a_line(error, line):
    assert in_a_line(error) == line


def test_a_stderr_that_takes_nothing_stops_nothing(monkeypatch, capsys):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    closed = io.StringIO()
    closed.close()
    for number, stderr in enumerate((None, Full(), closed)):
        monkeypatch.setattr(sys, "stderr", stderr)
        say_once(f"line {number}")
    assert capsys.readouterr().out == ""


# -- a process of its own --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("import json", ""),
        ("import nosuch", "ModuleNotFoundError: No module named 'nosuch'"),
        ("raise SystemError('bad\\nmagic')", "SystemError: bad"),
        ("raise KeyboardInterrupt('stop')", "killed by signal 2"),
        ("import os; os.abort()", "killed by signal 6"),
        ("import os; os.kill(os.getpid(), 40)", "killed by signal 40"),  # which has no name
        ("import os; os._exit(3)", "exit code 3"),
        ("raise SystemExit('a')", "a"),  # as any that is no Exception, of whatever name
        ("print('to stdout'); print(input())", "EOFError: EOF when reading a line"),
    ],
)
def test_a_statement_apart(statement, why, capfd):
    assert try_apart(statement) == why
    assert capfd.readouterr() == ("", "")


def test_a_process_apart_imports_from_where_we_do(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", path_with(tmp_path / "it's \\ here", "ours", "x = 1"))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert try_apart("import ours") == ""


def test_the_system_that_kills_without_signals(monkeypatch):
    import subprocess

    done = subprocess.CompletedProcess([], 0xC0000005, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert try_apart("pass") == f"{packages.KILLED} the system, code 0xc0000005"


@pytest.mark.parametrize("python", ["", None, "/no/such/python"])
def test_where_no_other_python_can_be_had(monkeypatch, python):
    monkeypatch.setattr(sys, "executable", python)
    with pytest.raises(OSError, match=r"no Python|/no/such/python"):
        try_apart("pass")


def test_a_program_around_a_python_is_not_started_again(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(OSError, match="no Python"):
        try_apart("pass")


@pytest.mark.parametrize("value", ["1", "true", "Yes", " ON "])
def test_the_environment_does_without_a_package(monkeypatch, value):
    monkeypatch.setenv("TINYZO_NO_NUMBA", value)
    assert is_unwanted("numba") and not is_unwanted("tokenizers")


@pytest.mark.parametrize("value", ["", "0", "False", "no", "OFF", " "])
def test_the_environment_does_with_a_package(monkeypatch, value):
    monkeypatch.setenv("TINYZO_NO_NUMBA", value)
    assert not is_unwanted("numba")


@pytest.mark.parametrize("value", ["2", "maybe", "-1", "n o"])
def test_the_environment_says_neither(monkeypatch, value):
    monkeypatch.setenv("TINYZO_NO_NUMBA", value)
    with pytest.raises(ConfigError) as caught:
        is_unwanted("numba")
    assert caught.value.message == f"TINYZO_NO_NUMBA is {value!r}, neither yes nor no"
    assert caught.value.hint == "set it to 1 or to 0"
