"""Which rows train, choose and report, from each kind of folder; and the examples' digest."""

from __future__ import annotations

import pytest
from folders import rows, write_jsonl, write_model, write_reviews

from tinyzo.errors import DataError
from tinyzo.models.model import load
from tinyzo.runs.data import bind_task, choose_rows, load_data, load_evaluation
from tinyzo.runs.settings import Settings
from tinyzo.text.datasets import Splits, draw, kshot, sample_opt
from tinyzo.text.rows import Row
from tinyzo.text.tasks import get_task

SST2 = get_task("SST-2", "roberta")
SST2_OPT = get_task("SST-2", "opt")
SETTINGS = Settings(data_seed=42).resolve("roberta")


def numbered(count, start=0):
    return [Row(sentence=f"text {n}", label=str(n % 2)) for n in range(start, start + count)]


def texts(rows):
    return [row["sentence"] for row in rows]


def choose(task=SST2, train=0, dev=0, test=0, **settings):
    splits = Splits(numbered(train), numbered(dev, 10_000), numbered(test, 20_000))
    return splits, *choose_rows(task, splits, SETTINGS.replace(**settings))


def test_three_files_are_used_as_they_are():
    splits, chosen, reported = choose(train=6, dev=4, test=5)
    assert (chosen, reported) == (splits, "test")


def test_of_three_files_at_most_train_rows_train():
    splits, chosen, _ = choose(train=30, dev=4, test=5, train_rows=10)
    assert chosen.train == draw(splits.train, 10, 42)
    assert (chosen.dev, chosen.test) == (splits.dev, splits.test)


@pytest.mark.parametrize("train", [501, 2000])
def test_with_a_dev_file_only_it_is_reported_and_dev_comes_of_the_training_file(train):
    splits, chosen, reported = choose(SST2_OPT, train=train, dev=40, data_seed=0)
    assert (chosen.train, chosen.dev) == sample_opt(splits.train, 1000, 500, 0)
    assert (chosen.test, reported) == (splits.dev, "dev")
    assert len(chosen.dev) == 500 and len(chosen.train) == min(1000, train - 500)


def test_a_small_training_file_gives_a_fifth_to_dev():
    splits, chosen, reported = choose(train=50, dev=10)
    assert (len(chosen.train), len(chosen.dev), reported) == (40, 10, "dev")
    assert sorted(texts(chosen.train + chosen.dev)) == sorted(texts(splits.train))
    assert chosen.test == splits.dev


def test_with_a_test_file_only_dev_comes_of_the_training_file_too():
    splits, chosen, reported = choose(train=50, test=10)
    assert (len(chosen.train), len(chosen.dev), reported) == (40, 10, "test")
    assert chosen.test == splits.test


@pytest.mark.parametrize(("count", "part"), [(3, 1), (50, 10), (1200, 240)])
def test_a_file_alone_is_divided(count, part):
    splits, chosen, reported = choose(train=count)
    assert (len(chosen.test), len(chosen.dev), len(chosen.train)) == (part, part, count - 2 * part)
    assert (len(chosen.test), reported) == (part, "held-out")
    found = texts([*chosen.train, *chosen.dev, *chosen.test])
    assert sorted(found) == sorted(texts(splits.train))


def test_kshot_is_the_published_split_and_never_reported_on():
    splits, chosen, reported = choose(train=100, dev=30, k_shot=4, data_seed=13)
    assert (chosen.train, chosen.dev) == kshot(SST2, splits.train, 4, 13)
    assert (chosen.test, reported) == (splits.dev, "dev")
    _, alone, reported = choose(train=100, k_shot=4, data_seed=13)
    assert not set(texts(alone.test)) & set(texts(alone.train + alone.dev))
    assert len(alone.test) == 20 and reported == "held-out"


def test_of_a_large_evaluation_file_a_thousand_are_drawn_and_then_limited():
    splits, chosen, _ = choose(train=100, dev=2000, k_shot=4, data_seed=13)
    assert chosen.test == draw(splits.dev, 1000, 42)  # whatever the seed of the split
    splits, chosen, _ = choose(SST2_OPT, train=2000, dev=2000, data_seed=7, limit=3)
    assert chosen.test == draw(splits.dev, 1000, 7)[:3]
    splits, chosen, _ = choose(train=9, dev=9, test=9, limit=4)
    assert chosen.test == splits.test[:4]


def test_other_data_seeds_draw_other_rows():
    one, other = (choose(train=50, dev=9, data_seed=seed)[1].train for seed in (1, 2))
    assert one == choose(train=50, dev=9, data_seed=1)[1].train != other


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(write_model(tmp_path_factory.mktemp("model") / "roberta"))


def loaded(model, path, loader=load_data, **settings):
    settings = Settings(task="reviews", data=str(path), **settings).resolve("roberta")
    return loader(bind_task(model, settings), settings)


def test_examples_and_their_digest(model, tmp_path):
    data = loaded(model, write_reviews(tmp_path / "data"))
    assert [len(part) for part in (data.train, data.dev, data.test)] == [12, 8, 8]
    assert [e.label for e in data.test] == [0, 1] * 4
    assert data.digest() == loaded(model, tmp_path / "data").digest()
    write_jsonl(tmp_path / "data" / "test.jsonl", rows(8, 21))
    assert data.digest() != loaded(model, tmp_path / "data").digest()


def test_evaluation_takes_all_of_a_file_alone_and_needs_no_training_rows(model, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", rows(10))
    data = loaded(model, path, load_evaluation)
    assert (len(data.test), data.reported, data.train) == (10, "train", [])
    assert len(loaded(model, path, load_evaluation, limit=3).test) == 3
    (tmp_path / "only").mkdir()
    write_jsonl(tmp_path / "only" / "test.jsonl", rows(5))
    assert len(loaded(model, tmp_path / "only", load_evaluation).test) == 5
    with pytest.raises(DataError, match="only: no training rows"):
        loaded(model, tmp_path / "only")


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_rows_to_divide(model, tmp_path, count):
    with pytest.raises(DataError, match=f"{count - 1} training rows, of which dev would take 1"):
        loaded(model, write_jsonl(tmp_path / "rows.jsonl", rows(count)))


def test_a_label_that_is_unknown_is_named_with_its_line(model, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows(9), {"text": "a", "mood": "so-so"}])
    with pytest.raises(DataError, match=r"rows.jsonl line 10: mood is 'so-so'"):
        loaded(model, path)


def without_label(count, label=None):
    return [{"text": f"text {n}", "mood": label} for n in range(count)]


@pytest.mark.parametrize("label", [None, -1, ""])
def test_a_test_split_without_labels_is_left_out_and_dev_is_reported(model, tmp_path, label):
    data = write_reviews(tmp_path / "data")
    write_jsonl(data / "test.jsonl", without_label(5, label))
    found = loaded(model, data)
    assert (len(found.test), found.reported) == (8, "dev")
    path = data / "test.jsonl"
    assert found.left_out == (
        f"{path} line 1: 5 of 5 rows have no mood, this one first; its columns are text, mood",
    )


def test_of_a_split_with_some_labels_those_rows_count(model, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows(10), *without_label(3, -1)])
    whole = write_jsonl(tmp_path / "whole.jsonl", rows(10))
    found = loaded(model, path, load_evaluation)
    assert found.test == loaded(model, whole, load_evaluation).test
    assert found.left_out == (f"{path} line 11: 3 of 13 rows have no mood, this one first",)
    assert loaded(model, path).digest() == loaded(model, whole).digest()


def test_rows_without_any_label_have_no_accuracy(model, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", without_label(3))
    with pytest.raises(DataError, match=r"line 1: 3 of 3 rows have no mood(.|\n)*predict labels"):
        loaded(model, path, load_evaluation)
    with pytest.raises(DataError, match=r"3 of 3 rows have no mood(.|\n)*name the file train"):
        loaded(model, path)


def test_minus_one_for_a_second_label_is_noticed(model, tmp_path):
    """Labels of -1 and 1, which are not numbered from 0: half of the rows would be left out."""
    signs = [{"text": f"text {n}", "label": (-1, 1)[n % 2]} for n in range(20)]
    path = write_jsonl(tmp_path / "rows.jsonl", signs)
    settings = Settings(
        template="{text} It was <mask>.", label_words=["terrible", "great"], data=str(path)
    ).resolve("roberta")
    expected = r"10 of 20 rows have no label, .*the others all have one label(.|\n)*from 0"
    with pytest.raises(DataError, match=expected):
        load_data(bind_task(model, settings), settings)


def oddities(tmp_path, train, test=(), **settings):
    """What is said of rows, with RoBERTa and the words great and terrible."""
    write_jsonl(tmp_path / "train.jsonl", list(train))
    if test:
        write_jsonl(tmp_path / "test.jsonl", list(test))
    own = {"template": "{text} is <mask>", "label_words": ["great", "terrible"]}
    given = Settings(data=str(tmp_path), **own | settings).resolve("roberta")
    model = load(write_model(tmp_path / "model"))
    return load_data(bind_task(model, given), given).oddities


def labelled(*labels):
    return [{"text": f"No {n}", "label": label} for n, label in enumerate(labels)]


def test_rows_as_they_should_be(tmp_path):
    rows = labelled(*["great", "terrible"] * 10)
    assert oddities(tmp_path, rows, [{"text": "another", "label": "great"}]) == ()


def test_one_class_only(tmp_path):
    assert oddities(tmp_path, labelled(*["great"] * 10)) == (
        "no training row has the label terrible",
    )


def test_training_rows_among_those_that_are_reported_on(tmp_path):
    rows = labelled(*["great", "terrible"] * 10)
    (found,) = oddities(tmp_path, rows, [*rows[:5], {"text": "another", "label": "great"}])
    assert found in [f"{n} of 6 test rows are training rows, too" for n in range(1, 6)]


def test_a_template_that_says_the_label(tmp_path):
    rows = labelled(*["great", "terrible"] * 10)
    found = oddities(tmp_path, rows, template="{text} {label} is <mask>")
    assert found == ("the template says the label itself: {label}",)
