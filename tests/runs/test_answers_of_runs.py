"""Ten rows with what the model said before and after: which, how they are kept, and when twice."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from disturbed import Killed, die_at, record
from folders import finetune, lines, write_model, write_reviews

import tinyzo
from tinyzo.cli import main
from tinyzo.runs.answers import Answer, Change, answers, changes, shown_rows
from tinyzo.runs.answers import lines as lines_of
from tinyzo.runs.data import bind_task
from tinyzo.runs.lines import read_lines
from tinyzo.runs.run import Run
from tinyzo.runs.settings import Settings
from tinyzo.text.tasks import Example

FAMILIES = pytest.mark.parametrize("family", ["roberta", "opt"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    for family in ("roberta", "opt"):
        write_model(home / family, family)
    write_reviews(home / "data", test=25)
    return home


def start(home: Path, output: Path, family: str = "opt", *options: str) -> int:
    return finetune(home / family, home / "data", output, "--lr", "1e-2", *options)


@pytest.mark.parametrize(
    ("count", "rows"),
    [(0, []), (1, [0]), (3, [0, 1, 2]), (10, [*range(10)]),
     (25, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22])],
)  # fmt: skip
def test_ten_rows_evenly_apart(count, rows):
    assert shown_rows(count) == rows


@FAMILIES
def test_they_are_what_predict_says(home, tmp_path, family):
    """Before and after, by the commands that compute them anew."""
    assert start(home, tmp_path / "run", family) == 0
    run = Run.open(tmp_path / "run")
    found = changes(lines(run.path / "events.jsonl"), run.best_step())
    rows = lines(home / "data" / "test.jsonl")
    assert [change.before.row for change in found] == shown_rows(25)
    for model, said in (
        (home / family, [change.before for change in found]),
        (run.path, [change.after for change in found]),
    ):
        texts = [rows[answer.row]["text"] for answer in said]
        for answer, known in zip(said, tinyzo.predict(model, texts, "reviews"), strict=True):
            assert (answer.text, answer.said) == (known.text, known.label)
            assert answer.probability == pytest.approx(known.scores[known.label], abs=1e-6)
            assert answer.label == rows[answer.row]["mood"]
            assert answer.is_right == (answer.said == answer.label)


@FAMILIES
def test_an_evaluation_has_them_in_one_write_before_it(home, tmp_path, family):
    assert start(home, tmp_path / "run", family) == 0
    events = lines(tmp_path / "run" / "events.jsonl")
    kinds = [event["event"] for event in events if event["split"] == "test"]
    assert kinds == 2 * (["answer"] * 10 + ["evaluation"])
    assert not [e for e in events if e["event"] == "answer" and e["split"] == "dev"]


def test_zero_shot_answers_cost_no_evaluation(home, tmp_path, monkeypatch):
    from tinyzo.runs import train

    calls: list[int] = []
    original = train.evaluate

    def counted(loss, examples, *others):
        calls.append(len(examples))
        return original(loss, examples, *others)

    monkeypatch.setattr(train, "evaluate", counted)
    assert start(home, tmp_path / "run") == 0
    assert calls.count(25) == 2 and len(calls) == 6  # and dev at 0, 2, 4, 6


@pytest.mark.parametrize("kept", [0, 4, 10])
def test_answers_without_their_evaluation_are_made_again_and_count_once(home, tmp_path, kept):
    """As a full disk may leave them: the first of them whole, and then a torn line."""
    assert start(home, tmp_path / "whole") == 0
    run = shutil.copytree(tmp_path / "whole", tmp_path / "run")
    written = (run / "events.jsonl").read_bytes().splitlines(keepends=True)
    (run / "events.jsonl").write_bytes(b"".join(written[:kept]) + written[kept][:30])
    (run / "result.json").unlink()
    assert main(["finetune", "--resume", str(run)]) == 0
    assert record(run) == record(tmp_path / "whole")
    found = [changes(read_lines(path / "events.jsonl"), 6) for path in (run, tmp_path / "whole")]
    assert found[0] == found[1] and len(found[0]) == 10


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", [1, 3, 6])
def test_a_run_that_died_at_an_evaluation_shows_the_same_rows(
    home, tmp_path, monkeypatch, capsys, call, after
):
    assert start(home, tmp_path / "whole") == 0
    expected = capsys.readouterr().out.partition("of these rows")[2]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        die_at(patch, Run, "record_all", call * 2 - 1, after)
        start(home, tmp_path / "run")
    assert main(["finetune", "--resume", str(tmp_path / "run")]) == 0
    assert record(tmp_path / "run") == record(tmp_path / "whole")
    assert capsys.readouterr().out.partition("of these rows")[2] == expected != ""


def test_a_run_of_before_shows_none(home, tmp_path, capsys):
    assert start(home, tmp_path / "run") == 0
    path = tmp_path / "run" / "events.jsonl"
    kept = (line for line in path.read_text().splitlines() if '"answer"' not in line)
    path.write_text("".join(f"{line}\n" for line in kept))
    capsys.readouterr()
    assert main(["finetune", "--resume", str(tmp_path / "run")]) == 0
    output = capsys.readouterr().out
    assert "accuracy on 25 test rows" in output and "of these rows" not in output


def test_a_label_without_a_name_is_its_number_and_long_texts_are_cut(home):
    model = tinyzo.load(home / "roberta", engine="numpy")
    settings = Settings(model=str(home / "roberta"), task="reviews").resolve("roberta")
    bound = bind_task(model, settings)
    example = Example((0,), (), 0, label=7, text="x" * 1000)
    (answer,) = answers(bound, [example], [np.array([0.0, 0.0, 0.0, np.log(3.0)])])
    assert answer == Answer(
        0, "x" * 300, label="7", said="3", probability=pytest.approx(0.5), is_right=False
    )


def test_what_is_known_of_a_row():
    before = Answer(3, "a", "great", "terrible", 0.75, False)
    after = Answer(3, "a", "great", "great", 0.5, True)
    events = [*lines_of(0, "test", [before]), *lines_of(4, "test", [after])]
    assert json.loads(json.dumps(events)) == events
    assert changes(events, 4) == [Change(before, after)]
    assert changes(events, None) == changes(events, 2) == [Change(before, None)]
    assert changes(events[1:], 4) == []
    assert (before.is_right, after.is_right) == (False, True)


# --- in the terminal ---


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_lines_fit_the_terminal(home, tmp_path, monkeypatch, capsys, columns):
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((columns, 25)))
    assert start(home, tmp_path / "run") == 0
    table = capsys.readouterr().out.partition("10 of these rows, before and after")[2]
    title, head, *rows = table.splitlines()
    assert title.endswith("steps (+ right, - wrong):")
    assert head.split() == ["label", "before", "after", "text"] and len(rows) == 10
    assert max(map(len, rows)) <= max(columns, 66)


def test_texts_of_any_letters_in_a_terminal():
    from tinyzo.cli.answers import cut, table, width

    hostile = "a\x1b[31m\u202eb\0"
    assert cut(hostile, 40) == "a\\x1b[31m\\u202eb\\x00"
    assert [width(text) for text in ("abc", "日本", "e\u0301")] == [3, 4, 1]
    assert cut("日本語のテキスト", 9) == "日本語..."
    row = Change(Answer(0, "日本語のテキスト" * 9, "日", "本", 0.5, False), None)
    head, line = table([row], 50)
    assert width(line) in (49, 50) and line.startswith("  日     - 本 0.50  ?      日本語")
    assert head == "  label  before     after  text"
