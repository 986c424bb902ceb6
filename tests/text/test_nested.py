"""WSC, MultiRC, ReCoRD, SQuAD and DROP: their own files give the rows of the hub's exports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exports import write_columns, write_parquet_file
from published import DATA, VOCABULARIES, needs_data, needs_vocabularies
from refusals import message
from words import Words

from tinyzo.packages import say_once
from tinyzo.text import rows
from tinyzo.text.datasets import kshot, load_splits
from tinyzo.text.tasks import Example, get_task
from tinyzo.text.tokenizer import load_tokenizer

Rows = list[dict[str, Any]]
PASSAGE = "Ann Lee met Bob in Rome.\n@highlight\nAnn Lee met Bob"
NO_DATE = {"day": "", "month": "", "year": ""}


def answer(number: str = "", spans: tuple[str, ...] = (), **date: str) -> dict[str, Any]:
    """An answer as DROP has it."""
    return {"number": number, "date": {**NO_DATE, **date}, "spans": list(spans)}


ORIGINALS: dict[str, Any] = {
    "MultiRC": [
        {
            "idx": 0,
            "version": 1.1,
            "passage": {
                "text": "Ann met Bob.",
                "questions": [
                    {
                        "question": "Who met?",
                        "answers": [
                            {"text": "Ann and Bob", "idx": 0, "label": 1},
                            {"text": "Nobody", "idx": 1, "label": 0},
                        ],
                        "idx": 0,
                    },
                    {"question": "Where?", "answers": [{"text": "Rome", "label": 0}], "idx": 1},
                ],
            },
        }
    ],
    "ReCoRD": [
        {
            "source": "ours",
            "passage": {
                "text": PASSAGE,
                "entities": [
                    {"start": start, "end": end} for start, end in [(19, 22), (0, 6), (12, 14)]
                ]
                + [{"start": 36, "end": 42}],
            },
            "qas": [
                {
                    "query": "@placeholder was met",
                    "answers": [{"start": 12, "end": 14, "text": "Bob"}],
                    "idx": 0,
                },
                {
                    "query": "in @placeholder",
                    "answers": [{"text": "Rome"}, {"text": "Ann Lee"}, {"text": "Rome"}],
                    "idx": 1,
                },
            ],
            "idx": 0,
        }
    ],
    "SQuAD": {
        "version": "1.1",
        "data": [
            {
                "title": "Tea",
                "paragraphs": [
                    {
                        "context": "Tea is hot.",
                        "qas": [
                            {
                                "id": "1",
                                "question": "What is hot?",
                                "answers": [
                                    {"text": "Tea", "answer_start": 0},
                                    {"text": "tea", "answer_start": 0},
                                ],
                            },
                            {"id": "2", "question": " How? ", "answers": [{"text": "hot"}]},
                        ],
                    },
                    {"context": "It is.", "qas": [{"question": "Is it?", "answers": []}]},
                ],
            }
        ],
    },
    "DROP": {
        "nfl_1": {
            "passage": "The Bears led 10-7 in May 1900.",
            "wiki_url": "none",
            "qa_pairs": [
                {"question": "By how many?", "answer": answer("3"), "validated_answers": []},
                {"question": "When?", "answer": answer(month="May", year="1900")},
                {
                    "question": "Who?",
                    "answer": answer(spans=("Bears",)),
                    "validated_answers": [answer(spans=("The Bears", "Bears")), answer("1")],
                },
                {"question": "How?", "answer": answer("3", ("three",))},
            ],
        },
        "nfl_2": {"passage": "No.", "qa_pairs": [{"question": "Why?", "answer": answer("0")}]},
    },
}
EXPORTS: dict[str, Rows] = {
    "MultiRC": [
        {"paragraph": "Ann met Bob.", "question": question, "answer": text, "label": label}
        for question, text, label in [
            ("Who met?", "Ann and Bob", 1),
            ("Who met?", "Nobody", 0),
            ("Where?", "Rome", 0),
        ]
    ],
    "ReCoRD": [
        {"passage": PASSAGE, "query": query, "entities": ["Ann Lee", "Bob", "Rome"], "answers": a}
        for query, a in [
            ("@placeholder was met", ["Bob"]), ("in @placeholder", ["Ann Lee", "Rome"]),
        ]
    ],
    "SQuAD": [
        {"title": "Tea", "context": "Tea is hot.", "question": question, "answers": answers}
        for question, answers in [
            ("What is hot?", {"text": ["Tea", "tea"], "answer_start": [0, 0]}),
            (" How? ", {"text": ["hot"], "answer_start": [7]}),
        ]
    ],
    "DROP": [
        {
            "passage": passage, "question": question,
            "answers_spans": {"spans": spans, "types": types},
        }
        for passage, question, spans, types in [
            ("The Bears led 10-7 in May 1900.", "By how many?", ["3"], ["number"]),
            ("The Bears led 10-7 in May 1900.", "When?", ["May 1900"], ["date"]),
            ("The Bears led 10-7 in May 1900.", "Who?", ["The Bears", "Bears", "1"],
             ["span", "span", "number"]),
            ("No.", "Why?", ["0"], ["number"]),
        ]
    ],
}  # fmt: skip
TASKS = pytest.mark.parametrize("name", ORIGINALS)


def write_lines(folder: Path, rows: Rows) -> None:
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_list(folder: Path, rows: Rows) -> None:
    (folder / "train.json").write_text(json.dumps({"data": rows}))


def write_parquet(folder: Path, rows: Rows) -> None:
    write_parquet_file(folder / "train-00000-of-00001.parquet", rows)


def write_original(folder: Path, name: str) -> Path:
    """The task's own file under its own name."""
    original = ORIGINALS[name]
    if isinstance(original, list):
        write_lines(folder, original)
        return folder / "train.jsonl"
    path = folder / {"SQuAD": "train-v1.1.json", "DROP": "drop_dataset_train.json"}[name]
    path.write_text(json.dumps(original, indent=1))
    return path


def examples(name: str, path: Path) -> list[Example]:
    task = get_task(name, "opt")
    bound = task.bind(Words())
    return [bound.encode(row) for row in load_splits(task, path).train]


@TASKS
@pytest.mark.parametrize("write", [write_lines, write_list, write_columns, write_parquet])
def test_every_form_gives_the_same_examples(
    name: str, write: Callable[[Path, Rows], None], tmp_path: Path
) -> None:
    exported = tmp_path / "exported"
    exported.mkdir()
    write(exported, EXPORTS[name])
    write_original(tmp_path, name)
    found = examples(name, tmp_path)
    assert found == examples(name, exported) and len(found) == len(EXPORTS[name])


def test_gold_candidates_and_answers(tmp_path: Path) -> None:
    for name in ORIGINALS:
        (tmp_path / name).mkdir()
        write_original(tmp_path / name, name)
    found = {name: examples(name, tmp_path / name) for name in ORIGINALS}
    assert [each.label for each in found["MultiRC"]] == [1, 0, 0]
    gold = [(each.label, each.also_gold, len(each.candidates)) for each in found["ReCoRD"]]
    assert gold == [(1, (), 3), (0, (2,), 3)]
    assert [each.answers for each in found["SQuAD"]] == [("Tea", "tea"), ("hot",)]
    answers = [("3",), ("May 1900",), ("The Bears", "Bears", "1"), ("0",)]
    assert [each.answers for each in found["DROP"]] == answers


@TASKS
def test_rows_say_where_they_are(name: str, tmp_path: Path) -> None:
    path = write_original(tmp_path, name)
    splits = load_splits(get_task(name, "opt"), path)
    places = {
        "MultiRC": "line 1 questions 1 answers 2",
        "ReCoRD": "line 1 qas 2",
        "SQuAD": "row 1 paragraphs 1 qas 2",
        "DROP": "row 1 qa_pairs 2",
    }
    assert splits.train[1].where == f"{path} {places[name]}"
    left_out = {
        "SQuAD": "row 1 paragraphs 2 qas 1: 1 of 3 rows have no answers.text",
        "DROP": "row 1 qa_pairs 4: 1 of 5 rows have no answers_spans.spans",
    }
    told = splits.left_out.get("train", "")
    assert left_out.get(name, "") in told and bool(told) == (name in left_out)


@TASKS
def test_a_test_split_without_answers_is_left_out(name: str, tmp_path: Path) -> None:
    original = json.loads(json.dumps(ORIGINALS[name]))
    for row in original if isinstance(original, list) else original.get("data", ()):
        for query in row.get("qas", ()):
            del query["answers"]
        for question in row["passage"].get("questions", ()) if "passage" in row else ():
            for each in question["answers"]:
                del each["label"]
        for paragraph in row.get("paragraphs", ()):
            for question in paragraph["qas"]:
                question["answers"] = []
    if name == "DROP":
        for section in original.values():
            for question in section["qa_pairs"]:
                question.pop("validated_answers", None)
                del question["answer"]
    (tmp_path / "train.json").write_text(json.dumps(original))
    splits = load_splits(get_task(name, "opt"), tmp_path)
    assert splits.train == [] and "rows have no " in splits.left_out["train"]


def spoilt(name: str, old: str, new: str) -> str:
    """The text of a file in which one thing is another."""
    text = json.dumps(ORIGINALS[name])
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("MultiRC", '"questions": [', '"queries": [', "row 1: no 'questions'\n  hint: questions is "
         "a list in the task's own files; or give flat rows"),
        ("MultiRC", '"text": "Nobody"', '"text": 5', "row 1 questions 1 answers 2: 'text' is 5\n"),
        ("MultiRC", '"question": "Where?"', '"question": null', "questions 2: 'question' is None"),
        ("ReCoRD", '"start": 19', '"start": "19"', "row 1 entities 1: 'start' is '19'"),
        ("ReCoRD", '"query": "in', '"quer": "in', "row 1 qas 2: no 'query'\n"
         "  hint: query is a text"),
        ("ReCoRD", '{"start": 36, "end": 42}', "7", "row 1 entities 4: 'entities' is 7\n"
         "  hint: entities is a list of objects"),
        ("SQuAD", '"context": "It is."', '"text": "It is."', "row 1 paragraphs 2: no 'context'"),
        ("SQuAD", '"title": "Tea"', '"title": ["Tea"]', "row 1: 'title' is ['Tea']"),
        ("SQuAD", '"answers": []', '"answers": "It"', "paragraphs 2 qas 1: 'answers' is 'It'"),
        ("DROP", '"passage": "No."', '"passage": 0', "row 2: 'passage' is 0"),
        ("DROP", '"number": "3"', '"number": 3', "row 1 qa_pairs 1: 'number' is 3"),
        ("DROP", '"month": ""', '"month": 5', "row 1 qa_pairs 1: 'month' is 5"),
        ("DROP", '"spans": ["Bears"]', '"spans": "Bears"', ""),
    ],
)  # fmt: skip
def test_what_is_not_as_in_the_tasks_own_files_is_named(
    name: str, old: str, new: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "train.json"
    path.write_text(spoilt(name, old, new))
    if told:
        text = message(load_splits, get_task(name, "opt"), path)
        assert told in text and text.startswith(str(path))
    else:  # an answer that nobody reads, since several people gave others
        assert len(load_splits(get_task(name, "opt"), path).train) == 4


def test_far_too_many_rows_in_one_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LEAST_ROOM", 10_000)
    answers = ",".join(['{"text":"","label":0}'] * 400)
    question = f'{{"question": "", "answers": [{answers}]}}'
    path = tmp_path / "train.jsonl"
    path.write_text(f'{{"passage": {{"text": "", "questions": [{question}]}}}}\n')
    text = message(load_splits, get_task("MultiRC", "opt"), path)
    assert "rows and " in text and text.startswith(str(path)) and "which would take " in text


def test_a_span_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(spoilt("DROP", '["The Bears", "Bears"]', '["The Bears", 7]'))
    task = get_task("DROP", "opt")
    row = load_splits(task, path).train[2]
    text = message(task.bind(Words()).encode, row)
    assert text.startswith(f"{path} row 1 qa_pairs 3: 'answers_spans.spans' is ['The Bears', 7, ")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"answers": ["Cy"]}, "answers has 'Cy', which is not in entities"),
        ({"answers": ["Bob", "Cy"]}, "answers has 'Cy', which is not in entities"),
        ({"entities": "['Bob', 'Ann']"}, "'entities' is \"['Bob', 'Ann']\"\n  hint: entities is a "
         "list of texts, which JSON and Parquet can hold"),
        ({"entities": []}, "'entities' is []"),
        ({"entities": ["Bob", None]}, "'entities' is ['Bob', None]"),
        ({"entities": None}, "no texts under 'entities'"),
        ({"answers": 4}, "'answers' is 4"),
        ({"query": "No place"}, "' No place' has no @placeholder\n  hint: write it where a "
         "candidate goes"),
        ({"query": None}, "'query' is null"),
    ],
)  # fmt: skip
def test_a_row_of_record_that_is_wrong_is_named(changes: dict[str, Any], told: str) -> None:
    row = {**EXPORTS["ReCoRD"][0], **changes}
    text = message(get_task("ReCoRD", "opt").bind(Words()).encode, row)
    assert text.startswith(f"the input: {told}")


WSC_TEXT = "The cup stood on Ann's old table , and it fell. So did Bob and then Al.\nIt broke."


@pytest.mark.parametrize(
    ("span", "mended"),
    [
        ("The cup", "The cup"),
        ("the cup", "The cup"),
        ("Old table", "old table"),
        ("The cup.", "The cup"),
        ("it fell. So", "it fell. So"),
        ("Bob and Al", "Bob and Al"),
        ("Ann's\nold", "Ann's old"),
        ("", ""),
    ],
)
def test_spans_of_wsc_are_those_of_its_text(span: str, mended: str, tmp_path: Path) -> None:
    """As the hub's wsc.fixed has them, which is the one that published figures are of."""
    target = {"span1_text": span, "span1_index": 0, "span2_text": "It", "span2_index": 9}
    row = {"text": WSC_TEXT, "target": target, "idx": 3, "label": True}
    write_lines(tmp_path, [row, row | {"label": False}])
    splits = load_splits(get_task("WSC", "opt"), tmp_path)
    assert [each["span1_text"] for each in splits.train] == [mended] * 2
    assert splits.train[1].where == f"{tmp_path / 'train.jsonl'} line 2"
    flat = {"text": WSC_TEXT, "span1_text": mended, "span2_text": "It", "idx": 3, "label": 1}
    bound = get_task("WSC", "opt").bind(Words())
    assert bound.encode(splits.train[0]) == bound.encode(flat)
    assert [bound.encode(each).label for each in splits.train] == [1, 0]


def test_a_span_of_wsc_that_is_no_text_is_named(tmp_path: Path) -> None:
    row = {"text": WSC_TEXT, "target": {"span1_text": 5, "span2_text": "It"}, "label": True}
    write_lines(tmp_path, [row])
    text = message(load_splits, get_task("WSC", "opt"), tmp_path)
    assert "train.jsonl line 1: 'span1_text' is 5\n  hint: span1_text is a text in" in text


def test_one_answer_may_be_a_text_alone(tmp_path: Path) -> None:
    rows = [{"query": "Is it?", "passage": "It is.", "answer": "is"}]
    write_lines(tmp_path, rows)
    (example,) = examples("SQuAD", tmp_path)
    words = Words()
    bound = get_task("SQuAD", "opt").bind(words)
    full = {"title": "", "context": "It is.", "question": "Is it?", "answers": {"text": ["is"]}}
    assert bound.encode(rows[0]) == bound.encode(full)
    assert words.decode(bound.encode(full).candidates[0]) == " is|\n"
    assert example.answers == ("is",)


def test_a_missing_title_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    say_once.cache_clear()
    row = {"context": "It is.", "question": "Is it?", "answer": "is"}
    get_task("SQuAD", "opt").bind(Words()).encode(row)
    assert capfd.readouterr().err == "tinyzo: SQuAD rows without title: the prompt says ''\n"


@pytest.mark.parametrize("name", ["ReCoRD", "SQuAD", "DROP"])
def test_there_are_no_labels_to_take_rows_of(name: str) -> None:
    text = message(kshot, get_task(name, "opt"), EXPORTS[name], 2, 0)
    assert text.startswith(
        f"{name} has no labels, of which k=2 would take rows of each\n  hint: use"
    )


# The data as they are published, with the vocabulary of OPT.


@needs_data
@needs_vocabularies
@pytest.mark.parametrize(
    ("name", "folder", "counts"),
    [
        ("MultiRC", "superglue/MultiRC", (27_243, 4_848)),
        ("MultiRC", "superglue-32shot/MultiRC", (154, 167)),
        ("ReCoRD", "superglue-32shot/ReCoRD", (32, 32)),
        ("SQuAD", "squad/squad_500.jsonl", (500, 0)),
    ],
)
def test_published_files_are_read(name: str, folder: str, counts: tuple[int, int]) -> None:
    task = get_task(name, "opt")
    splits = load_splits(task, DATA / folder)
    assert (len(splits.train), len(splits.dev)) == counts and splits.left_out == {}
    tokenizer = load_tokenizer(VOCABULARIES / "opt")
    bound = task.bind(tokenizer)
    for row in splits.train[:40]:
        example = bound.encode(row)
        gold = tokenizer.decode(example.candidates[example.label])
        if name == "MultiRC":
            assert gold == ("Yes" if row["label"] else "No")
        elif name == "ReCoRD":
            assert gold == " " + row["query"].replace("@placeholder", row["answers"][0])
            assert tokenizer.decode(example.prompt[1:]).endswith("\n-")
        else:
            assert gold == f" {row['answer']}\n"
            asked = f"\nContext: {row['passage']}\nQuestion: {row['query'].strip()}\nAnswer:"
            assert tokenizer.decode(example.prompt[1:]) == "Title: " + asked
