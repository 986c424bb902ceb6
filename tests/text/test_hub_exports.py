"""The hub's exports of each task, in every form, give the examples of the original files.

An export has integers for labels, and columns of other names. What each integer means is written
here once more, from the features that the data sets publish.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from exports import write_columns, write_parquet_file
from refusals import message
from words import Words

from tinyzo.text.datasets import load_splits
from tinyzo.text.tasks import get_task

Rows = list[dict[str, Any]]


class Export(NamedTuple):
    """A data set of the hub, and the task that it is of.

    original: rows as the task's own files have them
    renamed:  columns that the hub calls otherwise
    label:    the column of the label there, and what its integers mean
    """

    task: str
    original: Rows
    renamed: Mapping[str, str]
    label: str
    names: Sequence[object]


def pairs(first: str, second: str, label: str, labels: Sequence[object]) -> Rows:
    """A row a label, with two sentences."""
    return [
        {first: f"A man, {n}, sleeps.", second: f"He is awake; {n}.", label: name}
        for n, name in enumerate(labels)
    ]


def texts(column: str, labels: Sequence[object]) -> Rows:
    return [{column: f"a film, {n}", "label": name} for n, name in enumerate(labels)]


RTE = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
CB = ("entailment", "contradiction", "neutral")
COARSE = ("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM")
OLD_COARSE = ("DESC", "ENTY", "ABBR", "HUM", "NUM", "LOC")
TRUTH = (False, True)
WSC = [
    {
        "text": f"Ann told Bob that she lost {n}.",
        "target": {"span1_text": "Ann", "span2_text": "she", "span1_index": 0},
        "label": label,
    }
    for n, label in enumerate(TRUTH)
]
WIC = [
    {"word": "place", "sentence1": f"My place {n}.", "sentence2": "No place.", "label": label}
    for n, label in enumerate(TRUTH)
]
BOOLQ = [
    {"question": f"is it {n}", "passage": "It, so they say, is.", "label": label}
    for n, label in enumerate(TRUTH)
]
COPA = [
    {
        "premise": "It fell.", "choice1": "I slipped.", "choice2": "The wind blew.",
        "question": "cause", "label": label,
    }
    for label in (0, 1)
]  # fmt: skip
PREMISE = {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"}
SPANS = {"span1_text": "span1_text", "span2_text": "span2_text"}
EXPORTS = {
    "glue/sst2": Export("SST-2", texts("sentence", ("0", "1")), {}, "label", ("0", "1")),
    "glue/rte": Export("RTE", pairs("sentence1", "sentence2", "label", RTE), {}, "label", RTE),
    "super_glue/rte": Export("RTE", pairs("premise", "hypothesis", "label", RTE), {}, "label", RTE),
    "labels": Export("RTE", pairs("premise", "hypothesis", "label", RTE), {}, "labels", RTE),
    "glue/mnli": Export(
        "MNLI", pairs("sentence1", "sentence2", "gold_label", NLI), PREMISE, "label", NLI
    ),
    "snli": Export(
        "SNLI", pairs("sentence1", "sentence2", "gold_label", NLI), PREMISE, "label", NLI
    ),
    "super_glue/cb": Export("CB", pairs("premise", "hypothesis", "label", CB), {}, "label", CB),
    "super_glue/boolq": Export("BoolQ", BOOLQ, {}, "label", TRUTH),
    "boolq": Export("BoolQ", BOOLQ, {}, "answer", TRUTH),
    "super_glue/wsc": Export("WSC", WSC, SPANS, "label", TRUTH),
    "super_glue/wic": Export("WIC", WIC, {}, "label", TRUTH),
    "super_glue/copa": Export("COPA", COPA, {}, "label", (0, 1)),
    "sst5": Export("SST-5", texts("sentence", "01234"), {"sentence": "text"}, "label", "01234"),
    "trec": Export("TREC", texts("sentence", COARSE), {"sentence": "text"}, "coarse_label", COARSE),
    "trec-2021": Export(
        "TREC", texts("sentence", OLD_COARSE), {"sentence": "text"}, "label-coarse", OLD_COARSE
    ),
}


def hub_rows(export: Export) -> Rows:
    """The rows as the hub exports them: flat, with integers for labels, and an idx."""
    rows = []
    for number, original in enumerate(export.original):
        flat = {**original, **original.get("target", {}), "idx": number}
        flat.pop("target", None)
        row = {export.renamed.get(name, name): value for name, value in flat.items()}
        name = row.pop("label", None)
        row[export.label] = export.names.index(name)
        rows.append(row)
    return rows


def write_table(path: Path, rows: Rows, **options: Any) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n", **options)
        writer.writeheader()
        writer.writerows(rows)


def write_csv(folder: Path, rows: Rows) -> None:
    write_table(folder / "train.csv", rows)


def write_tsv(folder: Path, rows: Rows) -> None:
    write_table(folder / "train.tsv", rows, delimiter="\t")


def write_jsonl(folder: Path, rows: Rows) -> None:
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_json_lines(folder: Path, rows: Rows) -> None:
    (folder / "train.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_list(folder: Path, rows: Rows) -> None:
    (folder / "train.json").write_text(json.dumps(rows))


def write_parquet(folder: Path, rows: Rows) -> None:
    (folder / "data").mkdir()
    for number, part in enumerate((rows[:1], rows[1:])):
        path = folder / "data" / f"train-{number:05}-of-00002.parquet"
        write_parquet_file(path, part)


WRITERS = [
    write_csv, write_tsv, write_jsonl, write_json_lines, write_list, write_columns, write_parquet,
]  # fmt: skip
KINDS: dict[str, Callable[[int, Export], object]] = {
    "integer": lambda value, export: value,
    "float": lambda value, export: float(value),
    "name": lambda value, export: export.names[value],
}


def examples(task_name: str, folder: Path, family: str) -> list[object]:
    task = get_task(task_name, family)
    bound = task.bind(Words())
    return [bound.encode(row) for row in load_splits(task, folder).train]


def family_of(export: Export) -> str:
    return "roberta" if export.task in ("SST-5", "TREC", "SNLI", "MNLI") else "opt"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("name", EXPORTS)
def test_every_form_gives_the_same_examples(name, write, kind, tmp_path):
    export = EXPORTS[name]
    originals, exported = tmp_path / "originals", tmp_path / "exported"
    originals.mkdir()
    exported.mkdir()
    write_jsonl(originals, export.original)
    rows = hub_rows(export)
    for row in rows:
        row[export.label] = KINDS[kind](row[export.label], export)
    write(exported, rows)
    family = family_of(export)
    wanted = examples(export.task, originals, family)
    assert examples(export.task, exported, family) == wanted
    assert len({example.label for example in wanted}) == len(export.names) == len(wanted)


@pytest.mark.parametrize("name", ["glue/sst2", "super_glue/rte"])
def test_roberta_reads_the_same_labels(name, tmp_path):
    export = EXPORTS[name]
    write_csv(tmp_path, hub_rows(export))
    labels = [example.label for example in examples(export.task, tmp_path, "roberta")]
    assert labels == list(range(len(export.names)))


@pytest.mark.parametrize("value", [-1, -1.0, "-1", None, ""])
@pytest.mark.parametrize("name", EXPORTS)
def test_a_test_split_of_the_hub_has_no_labels(name, value, tmp_path):
    export = EXPORTS[name]
    task = get_task(export.task, family_of(export))
    rows = hub_rows(export)
    for row in rows:
        row[export.label] = value
        assert not task.is_labelled(row)
        assert task.bind(Words()).encode(row, labelled=False).label == -1
    write_csv(tmp_path, rows)
    splits = load_splits(task, tmp_path)
    assert splits.train == [] and f"{len(rows)} of {len(rows)} rows" in splits.left_out["train"]


@pytest.mark.parametrize(
    ("task", "family", "row"),
    [
        ("TREC", "roberta", {"text": "why ?", "label": 3}),  # three orders are in use
        ("TREC", "roberta", {"text": "why ?", "labels": "3"}),
        ("SNLI", "roberta", {"sentence1": "a", "sentence2": "b", "gold_label": 0}),
    ],
)
def test_a_number_that_may_mean_several_labels_is_refused(task, family, row):
    text = message(get_task(task, family).label, row)
    assert "and what numbers mean under this name is unknown\n  hint: give their names: " in text


@pytest.mark.parametrize("value", [True, "true", False, "Yes", 0.69444, 2, "1.5", [0]])
@pytest.mark.parametrize("name", ["glue/rte", "glue/sst2", "super_glue/copa"])
def test_what_is_no_label_is_not_guessed(name, value):
    export = EXPORTS[name]
    task = get_task(export.task, "opt")
    assert "label is " in message(task.label, {**hub_rows(export)[0], "label": value})
