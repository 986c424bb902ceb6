"""From a task and its files to encoded examples: to train on, to choose by, to report."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tinyzo.errors import DataError
from tinyzo.models.model import Model
from tinyzo.runs.settings import Settings
from tinyzo.text.datasets import Splits, draw, kshot, load_splits, sample_opt
from tinyzo.text.tasks import BoundTask, Example, Task, custom_task, get_task

MOST_EVALUATED = 1000  # rows of a larger test set that published figures use
SHARE = 5  # of a single file, one row in so many is for dev, and as many for the report


@dataclass(frozen=True)
class Data:
    """Encoded rows. `reported` names the split that `test` really is."""

    train: list[Example]
    dev: list[Example]
    test: list[Example]
    reported: str

    def digest(self) -> str:
        """SHA-256 of the examples: a run goes on only with the data that it began with."""
        return hashlib.sha256(repr((self.train, self.dev, self.test)).encode()).hexdigest()


def bind_task(model: Model, settings: Settings) -> BoundTask:
    """The task that the settings name, in the model's vocabulary."""
    if settings.template:
        words = settings.label_words or []
        task = custom_task(settings.template, words, model.family, settings.label_field)
    else:
        task = get_task(settings.task or "reviews", model.family)
    return task.bind(model.tokenizer, model.config.max_length)


def choose_rows(task: Task, splits: Splits, settings: Settings) -> tuple[Splits, str]:
    """Which rows train, choose and report, and the name of the split reported on.

    With k_shot the published k-shot sets; with three files those; with a dev file only, that
    is the report and the dev rows come out of the training file, as published; a file alone is
    divided 3 : 1 : 1.
    """
    reported, evaluation = splits.evaluation
    seed = settings.data_seed or 0
    if settings.k_shot:
        train, dev = kshot(task, splits.train, settings.k_shot, seed)
        chosen = Splits(train, dev, evaluation)
    elif splits.train and splits.dev and splits.test:
        chosen = splits
    elif splits.dev and len(splits.train) > task.n_dev:
        chosen = sample_opt(splits.train, evaluation, settings.train_rows, task.n_dev, seed=seed)
    elif splits.dev:
        chosen = Splits(splits.train, splits.dev, evaluation)
    else:
        rows = draw(splits.train, len(splits.train), seed)
        part = max(1, len(rows) // SHARE)
        chosen = Splits(rows[2 * part :], rows[part : 2 * part], rows[:part])
        reported = f"{part} rows held out of {reported}"
    test = chosen.test
    if len(test) > MOST_EVALUATED:
        test = draw(test, MOST_EVALUATED, 42)
    return Splits(chosen.train, chosen.dev, test[: settings.limit]), reported


def load_data(bound: BoundTask, settings: Settings) -> Data:
    """The examples of a run.

    raises: DataError for files or rows that cannot be used, or a split without rows
    """
    splits = load_splits(bound.task, settings.data_path)
    chosen, reported = choose_rows(bound.task, splits, settings)
    for name, rows in (("training", chosen.train), ("evaluation", chosen.test)):
        if not rows:
            raise DataError(f"{settings.data_path}: no {name} rows", "see its folder for the files")
    encoded = ([bound.encode(row) for row in rows] for rows in
               (chosen.train, chosen.dev, chosen.test))  # fmt: skip
    return Data(*encoded, reported)


def load_evaluation(bound: BoundTask, settings: Settings) -> tuple[str, list[Example]]:
    """The split to report on and its examples; the training rows are not needed for it."""
    splits = load_splits(bound.task, settings.data_path)
    name, rows = splits.evaluation
    if len(rows) > MOST_EVALUATED:
        rows = draw(rows, MOST_EVALUATED, 42)
    return name, [bound.encode(row) for row in rows[: settings.limit]]
