"""`tinyzo predict`: a line a text, of arguments and of stdin."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

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
