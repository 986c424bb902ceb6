"""`tinyzo report`: its line, its document, its mistakes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import command, document

Capture = pytest.CaptureFixture[str]


def test_a_page_where_the_command_runs(
    home: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("report", home / "opt-run") == 0
    output, log = capsys.readouterr()
    size = (tmp_path / "report.html").stat().st_size
    assert (output, log) == (f"report written to report.html ({size} bytes)\n", "")
    assert command("report", home / "opt-run", home / "roberta-run") == 0
    assert (tmp_path / "report.html").stat().st_size > size


def test_its_document(home: Path, tmp_path: Path, capsys: Capture) -> None:
    page = tmp_path / "r.html"
    runs = [str(home / "opt-run"), str(home / "roberta-run")]
    found = document(capsys, "report", *runs, "--output", page)
    assert found == {"output": str(page), "runs": runs, "bytes": page.stat().st_size}


def test_a_run_that_is_unfinished_is_said(home: Path, tmp_path: Path, capsys: Capture) -> None:
    run = shutil.copytree(home / "opt-run", tmp_path / "half")
    (run / "result.json").unlink()
    assert command("report", run, "--output", tmp_path / "r.html") == 0
    assert capsys.readouterr().err == "half: not finished\n"


def test_mistakes(home: Path, tmp_path: Path, capsys: Capture) -> None:
    assert command("report") == 2
    assert "the following arguments are required: RUN" in capsys.readouterr().err
    assert command("report", home / "opt-rum") == 1
    hint = f"{home / 'opt-rum'}: no such folder\n  hint: did you mean {home / 'opt-run'}?"
    assert hint in capsys.readouterr().err
    assert command("report", home / "data", "--output", tmp_path / "r.html") == 1
    assert "data: there is no run\n  hint: name the" in capsys.readouterr().err
    (tmp_path / "r.html").write_text("mine")
    assert command("report", home / "opt-run", "--output", tmp_path / "r.html") == 1
    assert "r.html: there is another file of that name\n  hint:" in capsys.readouterr().err
