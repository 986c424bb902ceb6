"""`tinyzo evaluate`: its document and its line, of models and of runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import command, document
from folders import write_jsonl

from tinyzo.runs import evaluate

Capture = pytest.CaptureFixture[str]


def test_its_document_and_its_line(home: Path, capsys: Capture) -> None:
    options = ("--model", home / "opt", "--task", "Reviews", "--data", home / "data")
    result = document(capsys, "evaluate", *options)
    assert result.keys() >= {"model", "task", "examples", "accuracy", "loss"}
    assert (result["examples"], result["task"]) == (8, "Reviews")
    assert document(capsys, "evaluate", *options, "--limit", 3)["examples"] == 3
    assert command("evaluate", *options) == 0
    assert capsys.readouterr().out == (
        f"accuracy {result['accuracy']:.4f}, loss {result['loss']:.4g} on 8 test rows\n"
    )


def test_a_large_loss_is_a_number_for_people(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = evaluate.Evaluation(8, 0.5, 32049323802624.0)
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: found)
    assert command("evaluate", "--model", home / "opt-run") == 0
    assert capsys.readouterr().out == "accuracy 0.5000, loss 3.205e+13 on 8 test rows\n"


def test_zero_shot_of_a_run_is_its_base(home: Path, capsys: Capture) -> None:
    task = ("--task", "reviews", "--data", home / "data")
    base = document(capsys, "evaluate", "--model", home / "opt", *task)
    run = ("evaluate", "--model", home / "opt-run")
    assert document(capsys, *run, "--zero-shot")["loss"] == base["loss"]
    assert document(capsys, *run)["loss"] != base["loss"]


def test_labels_in_another_column(home: Path, tmp_path: Path, capsys: Capture) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [{"text": "No", "y": n % 2} for n in range(9)])
    options = ("--template", "{text} So <mask>.", "--label-words", "bad,good", "--data", data)
    arguments = ("evaluate", "--model", home / "roberta", *options)
    assert document(capsys, *arguments, "--label-field", "y")["examples"] == 9
    assert command(*arguments) == 1
    assert "rows have no label, this one first; its columns are " in capsys.readouterr().err


def test_ways_to_answer_without_training(home: Path, capsys: Capture) -> None:
    task = ("evaluate", "--model", home / "opt", "--task", "reviews", "--data", home / "data")
    plain = document(capsys, *task)
    assert (plain["method"], plain["icl"], plain["calibrate"]) == ("prompt", 0, False)
    shown = document(capsys, *task, "--icl", 2)
    both = document(capsys, *task, "--icl", 2, "--calibrate")
    assert len({plain["loss"], shown["loss"], both["loss"]}) == 3
    assert (both["icl"], both["calibrate"], both["split"]) == (2, True, "test")
    pytest.importorskip("sklearn")
    probe = document(capsys, *task, "--method", "linear-probe", "--k-shot", 2)
    assert (probe["method"], probe["examples"]) == ("linear-probe", 8)
    assert command(*task, "--method", "linear-probe", "--icl", 2) == 2
    assert "a probe reads no candidates: leave them out" in capsys.readouterr().err
    assert command(*task, "--icl", 0) == 2
    assert "--icl takes a whole number from 1 up, not '0'" in capsys.readouterr().err
