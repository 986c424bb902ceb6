"""The standard streams: letters that they have not, and lines that cannot be written."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from folders import ROOT

from tinyzo.cli import streams
from tinyzo.errors import TinyzoError
from tinyzo.packages import tell

Capture = pytest.CaptureFixture[str]
LATIN = {"PYTHONIOENCODING": "latin-1"}
C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
OTHERS = (
    {"PYTHONIOENCODING": "ascii:strict"},
    {"PYTHONIOENCODING": "cp1252"},  # a terminal of Windows
    {"PYTHONIOENCODING": "utf-8:strict"},
    {"LC_ALL": "C"},
)
ENVIRONMENTS = [LATIN, C, *(pytest.param(each, marks=pytest.mark.exhaustive) for each in OTHERS)]
environments = pytest.mark.parametrize("environment", ENVIRONMENTS, ids=str)
TEXTS = ("größer", "日本", "😀", "No 1")


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-m", "tinyzo", *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(words, capture_output=True, cwd=ROOT, env=env, stdin=subprocess.DEVNULL)


@environments
def test_no_letter_costs_a_row(home: Path, environment: dict[str, str]) -> None:
    found = run("predict", "--model", home / "opt", *TEXTS, **environment)
    assert (found.returncode, found.stderr) == (0, b"")
    assert len(found.stdout.splitlines()) == len(TEXTS)
    texts = [line.split(b"\t")[2] for line in found.stdout.splitlines()]
    assert texts[-1] == b"No 1"
    if environment == LATIN:
        assert texts == [b"gr\xf6\xdfer", rb"\u65e5\u672c", rb"\U0001f600", b"No 1"]


@environments
def test_json_is_ascii_for_every_terminal(home: Path, environment: dict[str, str]) -> None:
    found = run("predict", "--model", home / "opt", "--json", *TEXTS, **environment)
    assert [json.loads(line)["text"] for line in found.stdout.splitlines()] == list(TEXTS)
    assert found.stdout.isascii()


@environments
def test_an_error_names_a_file_of_any_name(environment: dict[str, str]) -> None:
    found = run("inspect", "/nowhere/größer 日本 \udcff", **environment)
    first, second = found.stderr.splitlines()
    assert found.returncode == 1 and first.startswith(b"tinyzo: /nowhere/gr")
    assert first.endswith(b": no such folder") and second == b"  hint: name a model's folder"


def test_each_letter_is_escaped_only_where_the_user_has_not_said_what_else() -> None:
    for given, kept in (("strict", "backslashreplace"), ("replace", "replace")):
        stream = io.TextIOWrapper(io.BytesIO(), "latin-1", errors=given)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            streams.open_streams()
        assert stream.errors == kept


def test_stdin_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been read from, after which nothing of it can be changed."""
    monkeypatch.setattr(sys, "stdin", stdin := io.TextIOWrapper(io.BytesIO(b"a\nb\n"), "utf-8"))
    stdin.readline()
    streams.open_streams()
    assert stdin.errors == "strict" and stdin.readline() == "b\n"


def test_streams_that_are_no_files_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook."""
    monkeypatch.setattr(sys, "stdout", output := io.StringIO())
    streams.open_streams()
    streams.put("größer")
    assert sys.stdout is output and output.getvalue() == "größer\n"


def test_a_closed_stream_is_opened_on_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    streams.open_streams()
    streams.put("日本")
    tell("日本")
    assert sys.stdin.read() == ""


class Full(io.StringIO):
    """A stream that no line can be written to."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def fileno(self) -> int:
        return self.descriptor

    descriptor = -1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EIO])
def test_results_that_cannot_be_written_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    full = Full(number)
    with open(tmp_path / "file", "w") as file:
        full.descriptor = file.fileno()
        monkeypatch.setattr(sys, "stdout", full)
        if number == errno.EPIPE:
            with pytest.raises(BrokenPipeError):
                streams.put("a")
        else:
            reason = os.strerror(number)
            with pytest.raises(TinyzoError, match=f"stdout: {reason}\n  hint: nothing more can"):
                streams.put("a")
        os.write(full.descriptor, b"lost")  # it leads to nothing now
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EIO])
def test_words_that_cannot_be_written_are_left_out(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(sys, "stderr", Full(number))
    tell("a")


def test_what_breaks_a_line_or_commands_a_terminal_is_escaped() -> None:
    assert streams.escaped("a\nb\r\x1b[31m\x7f\x85\0") == r"a\nb\r\x1b[31m\x7f\x85\x00"
    assert streams.escaped("größer\t日本 😀") == r"größer\t日本 😀"


def test_what_is_put_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    streams.put("a\tb\n\x1b]0;title\x07 größer 日本 😀")
    assert capsys.readouterr().out == "a\tb\n\\x1b]0;title\\x07 größer 日本 😀\n"
