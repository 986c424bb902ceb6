"""Files in, rows out; and the draws of the papers, row for row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from published import DATA, needs_data
from refusals import message

from tinyzo.text.datasets import Splits, draw, kshot, load_splits, sample_opt
from tinyzo.text.rows import Row, read_rows
from tinyzo.text.tasks import Task, get_task

TASK = Task("toy", "roberta", "{text} <mask>", ("bad", "good"), (" bad", " good"))


@pytest.fixture
def write(tmp_path):
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("name", ["none", "none.tsv"])
def test_a_path_that_is_not_there(tmp_path, name):
    assert f"{name}: no such file or folder" in message(load_splits, TASK, tmp_path / name)


def test_splits_are_found_by_name(write, tmp_path):
    write("train.tsv", "text\tlabel\na\tbad\n")
    write("val.jsonl", '{"text": "b", "label": "good"}\n')
    write("test.csv", "text,label\nc,good\n")
    splits = load_splits(TASK, tmp_path)
    texts = [row["text"] for rows in (splits.train, splits.dev, splits.test) for row in rows]
    assert texts == ["a", "b", "c"] and splits.evaluation == ("test", splits.test)


def test_packed_files_are_named(write, tmp_path, capsys):
    write("train.jsonl.gz", b"\x1f\x8b\x08")
    assert f"{tmp_path} holds no data, only train.jsonl.gz\n" in message(
        load_splits, TASK, tmp_path
    )
    assert f"{tmp_path / 'train.jsonl.gz'} is not read: unpack it" in capsys.readouterr().err
    write("dev.tsv", "text\tlabel\nb\tbad\n")
    write("dev.tsv.gz", b"\x1f\x8b\x08")
    assert load_splits(TASK, tmp_path).dev
    assert "dev.tsv.gz" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["test.tsv", "test.csv"])
def test_a_test_file_without_labels_is_no_test(write, tmp_path, name):
    write("train.tsv", "text\tlabel\na\tbad\n")
    write("dev.tsv", "text\tlabel\nb\tbad\n")
    separator = "," if name.endswith("csv") else "\t"
    write(name, "index\ttext\n0\tc\n".replace("\t", separator))
    splits = load_splits(TASK, tmp_path)
    assert splits.test == [] and splits.evaluation == ("dev", splits.dev)
    found = "1 of 1 rows have no label, this one first; its columns are index, text"
    assert splits.left_out == {"test": f"{tmp_path / name} line 2: {found}"}


@pytest.mark.parametrize("label", ['"label": null', '"label": -1', '"label": ""', '"idx": 1'])
def test_rows_without_a_label_are_left_out_and_told(write, label):
    rows = f'{{"text": "a", "label": "bad"}}\n{{"text": "b", {label}}}\n{{"text": "c", {label}}}\n'
    path = write("test.jsonl", rows)
    splits = load_splits(TASK, path)
    assert [row["text"] for row in splits.train] == ["a"]
    assert splits.left_out["train"].startswith(f"{path} line 2: 2 of 3 rows have no label")


def test_shards_are_read_in_order(write, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number, text in enumerate("ab"):
        row = f'{{"text": "{text}", "label": "bad"}}\n'
        write(f"data/train-{number:05}-of-00002-0a1b.jsonl", row)
    write("data/validation-00000-of-00001.csv", "text,label\nc,good\n")
    write("README.md", "not data")
    splits = load_splits(TASK, tmp_path)
    assert [row["text"] for row in splits.train] == ["a", "b"]
    assert [row["text"] for row in splits.dev] == ["c"]
    (folder / "train-00000-of-00002-0a1b.jsonl").unlink()
    assert "has 1 of the 2 files train-*-of-00002.jsonl" in message(load_splits, TASK, tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("validation_matched", "dev"),
        ("validation_mismatched", "dev"),
        ("validation", "dev"),
        ("test_matched", "test"),
        ("test_mismatched", "test"),
    ],
)
def test_the_hubs_names_of_splits(write, tmp_path, name, split):
    write(f"{name}.csv", "text,label\nc,good\n")
    assert len(getattr(load_splits(TASK, tmp_path), split)) == 1


def test_matched_goes_before_mismatched(write, tmp_path):
    for name in ("validation_mismatched", "validation_matched"):
        write(f"{name}.csv", f"text,label\n{name},good\n")
    assert load_splits(TASK, tmp_path).dev[0]["text"] == "validation_matched"


def test_one_file_is_the_training_split(write):
    splits = load_splits(TASK, write("mine.csv", "text,label\nc,good\n"))
    assert splits == Splits([{"text": "c", "label": "good"}], [], [])
    assert splits.evaluation == ("train", splits.train)
    assert Splits([], [], []).evaluation == ("test", [])


def test_a_folder_without_data_says_what_it_looked_for(tmp_path):
    names = "train_first1000_hf, train-v1.1, drop_dataset_train, dev, dev_matched"
    assert names in message(load_splits, TASK, tmp_path)


def rows_of(counts: dict[str, int]) -> list[Row]:
    return [Row(text=f"{label}{i}", label=label) for label, n in counts.items() for i in range(n)]


def test_kshot_is_the_legacy_shuffle_of_a_list():
    rows = rows_of({"bad": 30, "good": 50})
    np.random.seed(21)
    shuffled = list(rows)
    np.random.shuffle(shuffled)
    groups = {label: [r for r in shuffled if r["label"] == label] for label in ("bad", "good")}
    first, second = sorted(groups.values(), key=lambda group: shuffled.index(group[0]))
    train, dev = kshot(TASK, rows, 15, 21)
    assert train == first[:15] + second[:15] and dev == first[15:30] + second[15:30]


def test_draws_neither_read_nor_move_the_global_generator():
    rows = rows_of({"bad": 40, "good": 40})
    np.random.seed(5)
    before, first = np.random.random(), kshot(TASK, rows, 3, 13)
    np.random.seed(5)
    assert np.random.random() == before and kshot(TASK, rows, 3, 13) == first
    assert kshot(TASK, rows, 3, 14) != first
    state = np.random.get_state()[1].copy()
    draw(rows, 10, 0)
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize("counts", [{"bad": 31, "good": 32}, {"good": 32}])
def test_kshot_names_the_label_that_is_short(counts):
    found = counts.get("bad", 0)
    text = message(kshot, TASK, rows_of(counts), 16, 42)
    assert f"toy: label 'bad' has {found} rows where k=16 takes 32, half for dev" in text
    assert f"use k <= {found // 2}" in text


def test_opt_rows_are_one_permutation_with_dev_at_its_end():
    rows, evaluation = rows_of({"bad": 2000}), rows_of({"good": 1500})
    order = np.random.RandomState(0).permutation(2000)
    train, dev = sample_opt(rows, 1000, 500, 0)
    assert train == [rows[i] for i in order[:1000]]
    assert dev == [rows[i] for i in order[1000:1500]]
    order = np.random.RandomState(0).permutation(1500)
    assert draw(evaluation, 1000, 0) == [evaluation[i] for i in order[:1000]]


def test_opt_rows_of_a_small_task_leave_the_last_for_dev():
    train, dev = sample_opt(rows_of({"bad": 250}), 1000, 100, 0)
    assert (len(train), len(dev)) == (150, 100)
    train, dev = sample_opt(rows_of({"bad": 250}), 1000, 0, 0)
    assert (len(train), dev) == (250, [])
    text = message(sample_opt, rows_of({"bad": 500}), 1000, 500, 0)
    assert "500 training rows, of which dev would take 500" in text


# The published files: our draw from the full data must give the same rows in the same order.


@needs_data
def test_rte_16_42_is_the_published_one():
    task, published = get_task("rte", "roberta"), DATA / "k-shot/RTE/16-42"
    train, dev = kshot(task, read_rows(DATA / "glue/RTE/train.tsv"), 16, 42)
    assert train == read_rows(published / "train.tsv") and len(train) == 32
    assert dev == read_rows(published / "dev.tsv")


@needs_data
def test_trec_16_42_is_the_published_one():
    task = get_task("trec", "roberta")
    published = load_splits(task, DATA / "k-shot/trec/16-42")
    full = load_splits(task, DATA / "trec")
    train, dev = kshot(task, full.train, 16, 42)
    assert same(task, train, published.train) and same(task, dev, published.dev)
    assert same(task, full.test, published.test) and len(full.test) == 500


@needs_data
def test_sst5_16_42_and_its_thousand_test_rows_are_the_published_ones():
    task = get_task("sst-5", "roberta")
    published = load_splits(task, DATA / "k-shot/sst-5/16-42")
    full = load_splits(task, DATA / "sst-5")
    train, dev = kshot(task, full.train, 16, 42)
    assert same(task, train, published.train) and same(task, dev, published.dev)
    assert same(task, draw(full.test, 1000, 42), published.test)


def same(task: Task, ours: list[Row], published: list[Row]) -> bool:
    """Equal as the model sees them: the raw files spell labels and quotes in another way."""

    def seen(row: Row) -> tuple[int, list[str]]:
        stretches = task.fill(task.template, row)
        return task.label(row), [stretch.text for stretch in stretches]

    return len(ours) == len(published) > 0 and [*map(seen, ours)] == [*map(seen, published)]


@needs_data
@pytest.mark.parametrize(
    ("name", "family", "folder", "sizes"),
    [
        ("SST-2", "roberta", "glue/SST-2", (67349, 872, 0)),
        ("SST-2", "roberta", "k-shot/SST-2/16-42", (32, 32, 0)),
        ("RTE", "opt", "glue/RTE", (2490, 277, 0)),
        ("RTE", "opt", "superglue-32shot/RTE", (32, 32, 0)),
        ("SNLI", "roberta", "k-shot/SNLI/16-42", (48, 48, 1000)),
        ("MNLI", "roberta", "k-shot/MNLI/16-42", (48, 48, 1000)),
        ("SST-5", "roberta", "sst-5", (8544, 1101, 2210)),
        ("TREC", "roberta", "trec", (5452, 0, 500)),
        ("CB", "opt", "superglue/CB", (250, 56, 0)),
        ("BoolQ", "opt", "superglue/BoolQ", (1000, 3270, 0)),
        ("WSC", "opt", "superglue/WSC", (554, 104, 0)),
        ("WIC", "opt", "superglue/WiC", (5428, 638, 0)),
        ("COPA", "opt", "superglue/COPA", (400, 100, 0)),
    ],
)
def test_the_real_folders_are_found_whole_and_every_label_is_known(name, family, folder, sizes):
    task = get_task(name, family)
    splits = load_splits(task, DATA / folder)
    assert (len(splits.train), len(splits.dev), len(splits.test)) == sizes
    labels = {task.label(row) for rows in (splits.train, splits.dev, splits.test) for row in rows}
    assert labels == set(range(len(task.labels)))
