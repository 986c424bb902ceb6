"""`tinyzo generate`: text as it comes, lines of JSON, and an end that leaves whole lines."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import command

import tinyzo
from tinyzo.runs import texts
from tinyzo.runs.texts import Piece

Capture = pytest.CaptureFixture[str]
PROMPTS = ("No 1", "größer 😀", "Yes")


def said(capsys: Capture, *arguments: object) -> str:
    capsys.readouterr()
    assert command("generate", *arguments) == 0
    return capsys.readouterr().out


def test_text_and_json_are_those_of_python(home: Path, capsys: Capture) -> None:
    options = ("--model", home / "opt", "--max-new-tokens", 7)
    found = tinyzo.generate(home / "opt", PROMPTS, 7)
    lines = said(capsys, *options, *PROMPTS, "--json").splitlines()
    assert [json.loads(line) for line in lines] == [vars(each) for each in found]
    shown = said(capsys, *options, *PROMPTS)
    plain = "".join(f"{each.text}\n" for each in found)
    assert shown == plain.translate(tinyzo.cli.streams.IN_LINES)


def test_what_is_drawn_and_where_it_stops(home: Path, capsys: Capture) -> None:
    how = ("--temperature", "1.5", "--top-p", "0.9", "--seed", "3", "--stop", "e", "--stop", "a")
    (line,) = said(capsys, "--model", home / "opt", *how, "--json", "No").splitlines()
    wanted = tinyzo.generate(
        home / "opt", ["No"], temperature=1.5, top_p=0.9, seed=3, stop=["e", "a"]
    )
    assert json.loads(line) == vars(wanted[0])


def test_lines_of_stdin(home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--model", home / "opt", "--max-new-tokens", 3, "--json")
    expected = said(capsys, *options, "No 1", "Yes 2")
    monkeypatch.setattr(sys, "stdin", io.StringIO("No 1\nYes 2\n"))
    assert said(capsys, *options) == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert said(capsys, *options) == ""


def test_the_model_that_ships_and_a_run(home: Path, capsys: Capture) -> None:
    assert said(capsys, "The camera", "--max-new-tokens", 3).strip()
    run = said(capsys, "--model", home / "opt-run", "--base", home / "opt", "No")
    assert run.endswith("\n")


def test_roberta_is_refused_by_name(home: Path, capsys: Capture) -> None:
    assert command("generate", "--model", home / "roberta", "No") == 1
    said = capsys.readouterr().err
    assert said.startswith("tinyzo: roberta is a masked language model, which continues no text\n")
    assert "opt-tiny" in said


def fake(monkeypatch: pytest.MonkeyPatch, *given: Piece | type[BaseException]) -> None:
    """Let these pieces come; an exception is raised in its turn."""

    def pieces(*_: object) -> Iterator[Piece]:
        for each in given:
            if not isinstance(each, Piece):
                raise each
            yield each

    monkeypatch.setattr(texts, "pieces", pieces)


def test_one_prompt_is_written_as_it_comes_and_others_wait(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    put = lambda text, end="\n": written.append(text + end)  # noqa: E731
    monkeypatch.setattr("tinyzo.cli.generate.put", put)
    came = [(1, "c", ""), (0, "a", ""), (1, "d", "stop"), (0, "b", ""), (0, "", "length")]
    fake(monkeypatch, *(Piece(*each, 2) for each in came))
    assert command("generate", "--model", home / "opt", "x", "y") == 0
    assert written == ["a", "b", "\n", "c", "d\n"]


@pytest.mark.parametrize(
    ("before", "output"), [(Piece(0, "ab", "", 2), "ab\n"), (Piece(0, "ab", "stop", 2), "ab\n")]
)
def test_an_interrupt_ends_the_line(
    home: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    before: Piece,
    output: str,
) -> None:
    fake(monkeypatch, before, KeyboardInterrupt)
    capsys.readouterr()
    assert command("generate", "--model", home / "opt", "x", "y") == 130
    assert capsys.readouterr() == (output, "tinyzo: interrupted\n")


def test_what_a_terminal_would_obey_is_escaped(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, Piece(0, "a\x1b[31m\tb\n", "stop", 2))
    assert said(capsys, "--model", home / "opt", "x") == "a\\x1b[31m\tb\n\n"
