"""Ten rows with what the model said before and after: which, how they are kept, and when twice."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from disturbed import Killed, die_at, record
from folders import finetune, lines, write_jsonl, write_model, write_reviews
from questions import ROWS as QUESTIONS
from questions import drop_rows, record_rows, squad_rows

import tinyzo
from tinyzo.cli import main
from tinyzo.runs.answers import (
    LABEL_LETTERS,
    Answer,
    Change,
    Shown,
    answers,
    changes,
    shown_rows,
    squeezed,
)
from tinyzo.runs.answers import lines as lines_of
from tinyzo.runs.lines import read_lines
from tinyzo.runs.page import html_page
from tinyzo.runs.recorded import read_run
from tinyzo.runs.run import Run
from tinyzo.text.rows import Row
from tinyzo.text.tasks import Example, get_task

FAMILIES = pytest.mark.parametrize("family", ["roberta", "opt"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    for family in ("roberta", "opt"):
        write_model(home / family, family)
    write_reviews(home / "data", test=25)
    return home


def places(count: int) -> list[int]:
    task = get_task("reviews", "opt")
    return [each.row for each in shown_rows(task, count * [Row(text="a", mood="great")])]


def start(home: Path, output: Path, family: str = "opt", *options: str) -> int:
    return finetune(home / family, home / "data", output, "--lr", "1e-2", *options)


@pytest.mark.parametrize(
    ("count", "rows"),
    [(0, []), (1, [0]), (3, [0, 1, 2]), (10, [*range(10)]),
     (25, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22])],
)  # fmt: skip
def test_ten_rows_evenly_apart(count, rows):
    assert places(count) == rows


@FAMILIES
def test_they_are_what_predict_says(home, tmp_path, family):
    """Before and after, by the commands that compute them anew."""
    assert start(home, tmp_path / "run", family) == 0
    run = Run.open(tmp_path / "run")
    found = changes(lines(run.path / "events.jsonl"), run.best_step())
    rows = lines(home / "data" / "test.jsonl")
    assert [change.before.row for change in found] == places(25)
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


def test_a_row_as_a_person_reads_it():
    """The columns that ask, the names that are chosen from, and all gold answers."""
    rows = {
        "COPA": {
            "premise": "Up.",
            "question": "cause",
            "choice1": "A b",
            "choice2": "C",
            "label": 1,
        },
        "MultiRC": {"paragraph": "P", "question": "Q?", "answer": "A", "label": 1},
        "ReCoRD": record_rows(2)[1],
        "SQuAD": squad_rows(1)[0] | {"answers": {"text": ["No", "No", "Yes"]}},
        "DROP": drop_rows(1)[0],
        "SST-2": {"text": "Fine.", "label": 0},
    }
    shown = {name: shown_rows(get_task(name, "opt"), [Row(row)])[0] for name, row in rows.items()}
    assert shown == {
        "COPA": Shown(0, "Up. | cause", "c", ("a b", "c")),
        "MultiRC": Shown(0, "P | Q? | A", "Yes", ("No", "Yes")),
        "ReCoRD": Shown(0, "1.\n@highlight\nNo | @placeholder no", "Al | Bo", ("Al", "Bo", "Cy")),
        "SQuAD": Shown(0, "T | No 0. | No?", "No | Yes", ()),
        "DROP": Shown(0, "No 0. | No?", "0", ()),
        "SST-2": Shown(0, "Fine.", "terrible", ("terrible", "great")),
    }


def test_a_row_without_a_title_begins_with_its_text():
    row = {"passage": "P", "query": "Q?", "answer": "A"}
    (shown,) = shown_rows(get_task("SQuAD", "opt"), [Row(row)])
    assert shown.text == "P | Q?"


def test_what_is_kept_of_long_texts_has_their_end():
    assert squeezed("x" * 300, 300) == "x" * 300
    assert squeezed("a" * 400 + "z" * 400, 300) == "a" * 148 + " ... " + "z" * 147
    assert squeezed("It is cold. Is that a mountain?", 24) == "It is cold ... mountain?"


def test_answers_that_are_written():
    shown = [Shown(0, "Q?", "the Alps | Alps", ()), Shown(2, "R?", "2", ())]
    examples = [Example((0,), ((1,),), -1, 0, "", answers=("the Alps", "Alps"))] * 3
    found = answers(shown, examples, ["An alps!", "2", ""])
    assert found == [
        Answer(0, "Q?", "the Alps | Alps", "An alps!", None, True),
        Answer(2, "R?", "2", "", None, False),
    ]


def test_any_gold_candidate_is_right():
    shown = Shown(0, "Q", "Al | Cy", ("Al", "Bo", "Cy"))
    example = Example((0,), ((1,), (2,), (3,)), -1, 0, "", also_gold=(2,))
    (answer,) = answers([shown], [example], [np.array([0.0, 0.0, np.log(2.0), -np.inf])])
    assert answer == Answer(0, "Q", "Al | Cy", "Cy", pytest.approx(0.5), is_right=True)


@pytest.mark.parametrize("name", QUESTIONS)
def test_runs_of_questions_show_what_a_person_reads(home, tmp_path, capsys, name):
    """Before and after; what predict says by the same model."""
    write_jsonl(tmp_path / "rows.jsonl", QUESTIONS[name](15))
    write_model(tmp_path / "opt", "opt")
    code = main([
        "finetune", "--model", str(tmp_path / "opt"), "--task", name, "--steps", "2",
        "--data", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "run"), "--lr", "1e-3",
    ])  # fmt: skip
    assert code == 0
    run = Run.open(tmp_path / "run")
    found = changes(read_lines(run.path / "events.jsonl"), run.best_step())
    assert len(found) == 3 and all(change.after for change in found)
    by_text = {shown.text: row for row in QUESTIONS[name](15)
               for shown in shown_rows(get_task(name, "opt"), [Row(row)])}  # fmt: skip
    for change in found:
        (known,) = tinyzo.predict(tmp_path / "opt", [by_text[change.before.text]], task=name)
        assert change.before.said == squeezed(known.label, LABEL_LETTERS)
        assert (change.before.probability is None) == (name in ("SQuAD", "DROP"))
    assert "3 of these rows, before and after" in capsys.readouterr().out
    check_page = html_page([read_run(run.path)])
    assert check_page.count('class="text"') == 3


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
    """A row a line; in a narrow terminal a block of lines."""
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((columns, 25)))
    assert start(home, tmp_path / "run") == 0
    table = capsys.readouterr().out.partition("10 of these rows, before and after")[2]
    title, *rows = table.splitlines()
    assert title.endswith("steps (+ right, - wrong):")
    assert max(map(len, rows)) <= columns
    if columns == 40:
        assert len(rows) == 40
        assert [row.split()[0] for row in rows[1:4]] == ["label", "before", "after"]
    else:
        assert rows[0].split() == ["label", "before", "after", "text"] and len(rows) == 11


def test_a_question_at_the_end_of_a_text_stays_in_sight():
    from tinyzo.cli.answers import table

    text = f"{'A long passage. ' * 9}| Why so?"
    row = Change(Answer(0, text, "It was.", "It rained for a week.", None, False), None)
    narrow = ["  A long passage....| Why so?", "    label   It was.",
              "    before  - It rained for a w...", "    after   ?"]  # fmt: skip
    assert list(table([row], 34)) == narrow
    assert list(table([row._replace(before=row.before._replace(said=""))], 80)) == [
        "  label    before       after  text",
        "  It was.  - (nothing)  ?      A long passage. A long...passage. | Why so?",
    ]


def test_texts_of_any_letters_in_a_terminal():
    from tinyzo.cli.answers import cut, table, width

    hostile = "a\x1b[31m\u202eb\0"
    assert cut(hostile, 40) == "a\\x1b[31m\\u202eb\\x00"
    assert [width(text) for text in ("abc", "日本", "e\u0301")] == [3, 4, 1]
    assert cut("日本語のテキスト", 9) == "日本語..."
    row = Change(Answer(0, "日本語のテキスト" * 9, "日", "本", 0.5, False), None)
    head, line = table([row], 60)
    assert width(line) in range(58, 61) and line.startswith("  日     - 本 0.50  ?      日本語")
    assert head == "  label  before     after  text"
