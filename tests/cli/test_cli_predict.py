"""`tinyzo predict`: a line a text, of arguments and of stdin."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from commands import command, document
from folders import lines

Capture = pytest.CaptureFixture[str]
FAMILIES = pytest.mark.parametrize("family", ["roberta", "opt"])
COPA = {"premise": "No.", "choice1": "Yes", "choice2": "It is good", "question": "cause"}
RTE = {"premise": "No good.", "hypothesis": "It is"}


@FAMILIES
@pytest.mark.parametrize("of_run", [False, True])
def test_texts(home: Path, capsys: Capture, family: str, of_run: bool) -> None:
    model = home / (f"{family}-run" if of_run else family)
    capsys.readouterr()
    task = () if of_run else ("--task", "reviews")
    assert command("predict", "--model", model, *task, "--json", "No 1", "", "größer 😀") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in found] == ["No 1", "", "größer 😀"]
    for line in found:
        assert line.keys() == {"text", "label", "scores"}
        assert line["scores"].keys() == {"terrible", "great"}
        assert line["label"] == max(line["scores"], key=line["scores"].get)
        assert sum(line["scores"].values()) == pytest.approx(1, abs=1e-12)
    assert command("predict", "--model", model, *task, "No 1") == 0
    label, odds, text = capsys.readouterr().out.rstrip("\n").split("\t")
    assert (label, text) == (found[0]["label"], "No 1")
    assert odds == f"{max(found[0]['scores'].values()):.3f}"


def test_lines_of_stdin(home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    capsys.readouterr()
    arguments = ("predict", "--model", home / "roberta", "--task", "reviews", "--json")
    assert command(*arguments, "No 1", "Yes 2") == 0
    expected = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO("No 1\nYes 2"))
    assert command(*arguments) == 0
    assert capsys.readouterr().out == expected
    for empty in (io.StringIO(""), None):
        monkeypatch.setattr(sys, "stdin", empty)
        assert command(*arguments) == 0
        assert capsys.readouterr().out == ""


class Pipe(io.TextIOWrapper):
    """stdin as a process has it, of these bytes."""

    def __init__(self, data: bytes, encoding: str = "utf-8", is_terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data), encoding)
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


def texts_of(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, stdin: Pipe, *options: str
) -> list[str]:
    """What predict says that the lines of stdin are."""
    monkeypatch.setattr(sys, "stdin", stdin)
    capsys.readouterr()
    assert command("predict", "--model", home / "opt", "--json", *options) == 0
    return [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"\xef\xbb\xbfNo 1\r\nNo 2\r\n", ["No 1", "No 2"]),
        (b"a\n\n\nb", ["a", "", "", "b"]),
        (b"a\0b\x0c\x1cc\n", ["a\0b\x0c\x1cc"]),
        ("größer\u2028日本\x85😀\n".encode(), ["größer\u2028日本\x85😀"]),
        (b"a\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),  # in the middle it is a letter
        (b"a\rb\n", ["a\rb"]),
        (b"", []),
        (b"x" * 100_000, ["x" * 100_000]),
    ],
)
def test_lines_of_any_letters(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, data: bytes, texts: list[str]
) -> None:
    """They are UTF-8, whatever the locale says."""
    for encoding in ("utf-8", "cp1252"):
        assert texts_of(home, capsys, monkeypatch, Pipe(data, encoding)) == texts


def test_a_terminal_is_read_in_its_own_encoding(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = Pipe("größer\n".encode("latin-1"), "latin-1", is_terminal=True)
    assert texts_of(home, capsys, monkeypatch, stdin) == ["größer"]


def test_a_text_is_a_line_whatever_it_holds(home: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert command("predict", "--model", home / "opt", "a\nb\x1b[31m\tc") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split("\t")[2:] == [r"a\nb\x1b[31m\tc"]


@pytest.mark.parametrize(
    ("bad", "message", "hint"),
    [
        (b'{"premise": "a"}', "no text under 'hypothesis'", "the row has the columns premise"),
        (b"No", "'No': the task reads premise, hypothesis", "give each text as a JSON object of"),
        (b"\xff", "not UTF-8", "save or give the texts as UTF-8"),
    ],
)
def test_it_stops_at_the_first_line_that_it_cannot_label(
    home: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    bad: bytes,
    message: str,
    hint: str,
) -> None:
    """Those before it are labelled, and it is named."""
    good = json.dumps(RTE).encode()
    monkeypatch.setattr(sys, "stdin", Pipe(b"\n".join([good, good, bad, good])))
    capsys.readouterr()
    assert command("predict", "--model", home / "opt", "--task", "RTE", "--json") == 1
    output, log = capsys.readouterr()
    assert len(output.splitlines()) == 2
    first, second = log.splitlines()
    assert first.startswith("tinyzo: line 3 of stdin") and first.endswith(message)
    assert second.startswith(f"  hint: {hint}")


def test_a_text_of_half_a_letter(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the JSON of a row can hold it; not every tokenizer refuses it."""

    def no_bytes(*_: object, **__: object) -> NoReturn:
        raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

    monkeypatch.setattr("tinyzo.text.tasks.BoundTask.encode", no_bytes)
    capsys.readouterr()
    assert command("predict", "--model", home / "opt", "--task", "RTE", json.dumps(RTE)) == 1
    said = "tinyzo: text 1 is no Unicode text\n  hint: its JSON holds half of a letter, as "
    assert capsys.readouterr().err == said + "\\ud800\n"


@FAMILIES
def test_its_label_is_right_as_often_as_evaluate_says(
    home: Path, capsys: Capture, family: str
) -> None:
    rows = lines(home / "data" / "test.jsonl")
    texts = [row["text"] for row in rows]
    run = ("--model", home / f"{family}-run")
    result = document(capsys, "evaluate", *run)
    assert command("predict", *run, "--json", *texts) == 0
    labels = [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]
    right = sum(label == row["mood"] for label, row in zip(labels, rows, strict=True))
    assert right / len(texts) == result["accuracy"]


def test_several_columns_are_a_json_object(home: Path, capsys: Capture) -> None:
    line = document(capsys, "predict", "--model", home / "opt", "--task", "rte", json.dumps(RTE))
    assert line["scores"].keys() == {"Yes", "No"} and line["text"] == json.dumps(RTE)


def test_labels_are_what_the_files_call_them_where_words_are_columns(
    home: Path, capsys: Capture
) -> None:
    arguments = ("predict", "--model", home / "opt", "--task", "COPA", json.dumps(COPA))
    line = document(capsys, *arguments)
    assert line["scores"].keys() == {"0", "1"}
    assert command(*arguments) == 0
    assert capsys.readouterr().out.startswith(line["label"] + "\t")


@pytest.mark.parametrize(
    "text", ["No good.", "{", "[1]", "3", '{"premise": "a"', "[" * 10_000, json.dumps(RTE)[:-9]]
)
def test_what_is_no_object(home: Path, capsys: Capture, text: str) -> None:
    assert command("predict", "--model", home / "opt", "--task", "RTE", text) == 1
    error = capsys.readouterr().err
    assert f"tinyzo: text 1: {text[:40]!r}: the task reads premise, hypothesis\n" in error
    assert "give each text as a JSON object of these columns" in error


def test_an_object_without_a_column(home: Path, capsys: Capture) -> None:
    assert command("predict", "--model", home / "opt", "--task", "RTE", '{"premise": "a"}') == 1
    assert "tinyzo: text 1: no text under 'hypothesis'\n" in capsys.readouterr().err
