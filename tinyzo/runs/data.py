"""From a task and its files to encoded examples: to train on, to choose by, to report."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tinyzo.errors import DataError, UsageError
from tinyzo.models.model import Model
from tinyzo.runs.answers import Shown, shown_rows
from tinyzo.runs.settings import RunSettings
from tinyzo.text.datasets import Splits, draw, kshot, load_splits, sample_opt
from tinyzo.text.rows import Row
from tinyzo.text.tasks import BoundTask, Example, Task, custom_task, get_task

MOST_EVALUATED = 1000  # rows of a larger test set that published figures use
PUBLISHED_SEED = 42  # which draws them for RoBERTa, whatever the seed of the k-shot split
LISTED = 5  # labels that a line names
SHARE = 5  # where nothing is published, one row in so many is for dev, or for the report


class Data(NamedTuple):
    """Encoded rows.

    reported: the split that `test` really is
    left_out: of splits with rows that have no label, a line each
    oddities: what else a person should know of the rows, a line each
    shown:    some of `test`, as a person reads them
    """

    train: list[Example]
    dev: list[Example]
    test: list[Example]
    reported: str
    left_out: tuple[str, ...] = ()
    oddities: tuple[str, ...] = ()
    shown: Sequence[Shown] = ()

    def digest(self) -> str:
        """SHA-256 of the examples: a run goes on only with the data that it began with."""
        splits = (self.train, self.dev, self.test)
        examples = repr(splits)
        gold = [(each.also_gold, each.answers) for split in splits for each in split]
        if any(map(any, gold)):  # else the digest is that of runs from before there were such rows
            examples += repr(gold)
        return hashlib.sha256(examples.encode()).hexdigest()


def bind_task(model: Model, settings: RunSettings) -> BoundTask:
    """The task that the settings name, in the model's vocabulary.

    raises: DataError for a task that cannot be used; UsageError for an objective that it has not
    """
    if settings.task is None:
        template = settings.template or ""
        words = settings.label_words or []
        task = custom_task(template, words, model.family, settings.label_field)
    else:
        task = get_task(settings.task, model.family)
    if settings.objective == "f1" and task.choices:
        found = f"--objective f1 is over labels, which {task.name} has not"
        raise UsageError(found, "--objective accuracy is what its figures are")
    return task.bind(model.tokenizer, model.config.max_length)


def choose_rows(task: Task, splits: Splits, settings: RunSettings) -> tuple[Splits, str]:
    """Which rows train, choose and report, and the name of the split reported on.

    Reported is the test file, else the dev file; a file alone is divided 3 : 1 : 1. Dev rows are
    the published k-shot ones, or the dev file if it is not the report, or come out of the
    training file: as many as published, or a fifth where it has no more.
    """
    seed = settings.data_seed
    train = splits.train
    dev = splits.dev
    reported, test = splits.evaluation
    n_dev = len(train) // SHARE
    if len(train) > task.n_dev:
        n_dev = task.n_dev
    if reported == "train":
        n_dev = max(1, len(train) // SHARE)
        shuffled = draw(train, len(train), seed)
        test = shuffled[:n_dev]
        train = shuffled[n_dev:]
        reported = "held-out"
    if settings.k_shot:
        train, dev = kshot(task, train, settings.k_shot, seed)
    elif not dev or reported == "dev":
        train, dev = sample_opt(train, settings.train_rows, n_dev, seed)
    elif len(train) > settings.train_rows:
        train = draw(train, settings.train_rows, seed)
    test = _reported_rows(task, test, settings)
    return Splits(train, dev, test), reported


def _reported_rows(task: Task, rows: list[Row], settings: RunSettings) -> list[Row]:
    """The published draw where there are more than 1,000, and of those the first `limit`."""
    if len(rows) > MOST_EVALUATED:
        seed = settings.data_seed
        if task.family == "roberta":
            seed = PUBLISHED_SEED
        rows = draw(rows, MOST_EVALUATED, seed)
    return rows[: settings.limit]


def load_data(bound: BoundTask, settings: RunSettings) -> Data:
    """The examples of a run.

    raises: DataError for files or rows that cannot be used, or too few of them
    """
    splits = load_splits(bound.task, settings.data_path)
    if not splits.train:
        found = splits.left_out.get("train", f"{settings.data_path}: no training rows")
        raise DataError(found, "name the file train, and its labels' column as the task has it")
    chosen, reported = choose_rows(bound.task, splits, settings)
    train = _encode(bound, chosen.train)
    labels = {example.label for example in train}
    if "train" in splits.left_out and bound.task.labels and len(labels) == 1:
        found = f"{splits.left_out['train']}, and the others all have one label"
        raise DataError(found, "-1 means no label: number the labels from 0")
    dev = _encode(bound, chosen.dev)
    test = _encode(bound, chosen.test)
    left_out = tuple(splits.left_out.values())
    data = Data(train, dev, test, reported, left_out, shown=shown_rows(bound.task, chosen.test))
    return data._replace(oddities=tuple(_oddities(bound, data)))


def _oddities(bound: BoundTask, data: Data) -> Iterator[str]:
    """What makes a figure worth less than it seems."""
    task = bound.task
    if task.label_field in bound.fields:
        yield f"the template says the label itself: {{{task.label_field}}}"
    seen = {example.label for example in data.train}
    lacking = [label for number, label in enumerate(task.labels) if number not in seen]
    if lacking:
        yield f"no training row has the label {', '.join(lacking[:LISTED])}"
    known = {(example.prompt, example.candidates) for example in data.train}
    both = sum((example.prompt, example.candidates) in known for example in data.test)
    if both:
        yield f"{both} of {len(data.test)} {data.reported} rows are training rows, too"


def load_evaluation(bound: BoundTask, settings: RunSettings) -> Data:
    """Only the examples to report on, of a model that was not tuned here: a file alone is all.

    raises: DataError for files or rows that cannot be used, or that have no labels at all
    """
    splits = load_splits(bound.task, settings.data_path)
    reported, rows = splits.evaluation
    if not rows:
        found = "; ".join(splits.left_out.values())
        hint = "accuracy and loss need labels; predict labels texts without"
        raise DataError(found, hint)
    test = _encode(bound, _reported_rows(bound.task, rows, settings))
    return Data([], [], test, reported, tuple(splits.left_out.values()))


def demonstrations(task: Task, settings: RunSettings, count: int) -> list[str]:
    """Training rows as a prompt shows them, `count` of them drawn by the data seed.

    raises: DataError for files or rows that cannot be used, or too few to train on
    differs: one draw for all rows that are reported on, as published code has by --train_set_seed;
        else that draws anew for each
    """
    splits = load_splits(task, settings.data_path)
    reported, _ = splits.evaluation
    if reported == "train" or len(splits.train) < count:
        held = 0 if reported == "train" else len(splits.train)
        found = f"{settings.data_path}: {held} rows to demonstrate, which are not reported on"
        raise DataError(found, f"--icl {count} takes so many from a file train, beside dev or test")
    return [task.demonstration(row) for row in draw(splits.train, count, settings.data_seed)]


def _encode(bound: BoundTask, rows: Iterable[Row]) -> list[Example]:
    return [bound.encode(row) for row in rows]
