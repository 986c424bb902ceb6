"""Data files as rows, and the draws by which the papers chose some of them."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyzo.errors import DataError
from tinyzo.packages import say_once
from tinyzo.text.nested import flat_rows
from tinyzo.text.rows import READERS, SUFFIXES, Row, check_room, read_rows
from tinyzo.text.tasks import Task

# The names of the file of a split, in GLUE, SuperGLUE, k-shot folders, on the hub and elsewhere.
STEMS = {
    "train": ("train", "train_first1000_hf", "train-v1.1", "drop_dataset_train"),
    "dev": (
        "dev",
        "dev_matched",
        "dev32",
        "val",
        "valid",
        "validation",
        "validation_matched",
        "dev_mismatched",
        "validation_mismatched",
        "dev-v1.1",
        "drop_dataset_dev",
    ),
    "test": ("test", "test_matched", "test_mismatched"),
}
SHARD = re.compile(r"-(\d{5})-of-(\d{5})(-[0-9a-f]+)?")  # train-00000-of-00002.parquet


@dataclass(frozen=True)
class Splits:
    """The labelled rows to train on, to choose the best step by, and to report on.

    left_out: of the splits with rows that have no label, how many those are and where
    """

    train: list[Row]
    dev: list[Row]
    test: list[Row]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def evaluation(self) -> tuple[str, list[Row]]:
        """The split to report on, by name: test, or dev where there is no test, or train."""
        for name, rows in (("test", self.test), ("dev", self.dev), ("train", self.train)):
            if rows:
                return name, rows
        return "test", []


class TrainDev(NamedTuple):
    """The rows to train on, and to choose the best step by."""

    train: list[Row]
    dev: list[Row]


# -- splits of a folder ----------------------------------------------------------------


def load_splits(task: Task, path: Path) -> Splits:
    """The splits in a folder, under the names that GLUE, SuperGLUE and others give them.

    path:    a folder, or a hub's with the files in data/; or one file, whose rows are then `train`
    returns: Splits of the rows with a label
    raises:  DataError for no such path or a folder without a split, and as `read_rows`
    """
    if not os.path.exists(path):
        raise DataError(
            f"{path}: no such file or folder", "--data takes the folder or file of rows"
        )
    files = {"train": [path]}
    if os.path.isdir(path):
        files = _split_files(path) or _split_files(path / "data")
    if not files:
        names = ", ".join(stem for stems in STEMS.values() for stem in stems)
        held = ", ".join(sorted(each.name for each in path.iterdir())[:5])
        found = f"{path} holds no data" + (f", only {held}" if held else "")
        raise DataError(found, f"name the files {names}, ending in {SUFFIXES}, not packed")
    splits = Splits([], [], [])
    for split, parts in files.items():
        _add_rows(splits, split, parts, task)
    return splits


def _split_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split that a folder has: one, or its shards in order."""
    found = {}
    for split, stems in STEMS.items():
        names = ((stem, suffix) for stem in stems for suffix in READERS)
        parts = next(filter(None, (_parts(folder, *name) for name in names)), None)
        if parts:
            found[split] = parts
        else:
            _say_packed(folder, stems)
    return found


def _say_packed(folder: Path, stems: Iterable[str]) -> None:
    """Say of the files of a split that is not there which ones are passed over."""
    for stem in stems:
        for path in folder.glob(f"{stem}.*.*"):
            if path.with_suffix("").suffix in READERS:
                say_once(f"{path} is not read: unpack it if its rows are wanted")


def _parts(folder: Path, stem: str, suffix: str) -> list[Path]:
    """The file of that name, or all its shards; raises DataError where one is missing."""
    whole = folder / (stem + suffix)
    if os.path.isfile(whole):
        return [whole]
    shards = {}
    for path in folder.glob(f"{stem}-*-of-*{suffix}"):
        if number := SHARD.fullmatch(path.stem.removeprefix(stem)):
            shards[int(number[1])] = path
            count = int(number[2])
    if shards and shards.keys() != set(range(count)):
        found = f"{len(shards)} of the {count} files {stem}-*-of-{count:05}{suffix}"
        raise DataError(f"{folder} has {found}", "download the others, or name one file")
    return [shards[number] for number in sorted(shards)]


def _add_rows(splits: Splits, split: str, parts: Sequence[Path], task: Task) -> None:
    """Read the files of a split: its labelled rows, and a word on the others."""
    rows = [row for part in parts for row in _read_flat(part, task)]
    labelled = [row for row in rows if task.is_labelled(row)]
    getattr(splits, split).extend(labelled)
    if len(labelled) < len(rows):
        first = next(row for row in rows if not task.is_labelled(row))
        found = f"{len(rows) - len(labelled)} of {len(rows)} rows have no {task.label_field}"
        columns = "" if labelled else f"; its columns are {', '.join(first)}"
        splits.left_out[split] = f"{first.where}: {found}, this one first{columns}"


def _read_flat(path: Path, task: Task) -> Iterator[Row]:
    """The rows of a file, one by one where the file nests them.

    raises: DataError as `read_rows` and `flat_rows`, and for nested rows that are far too many
    """
    size = os.path.getsize(path)
    count = 0
    for row in read_rows(path, task.columns, task.column_names):
        for flat in flat_rows(task.nesting, row):
            count += flat is not row
            check_room(path, size, count, count * len(flat))
            yield flat


# -- draws -----------------------------------------------------------------------------


def draw(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """The first `count` rows after one shuffle by NumPy's legacy generator, as published code has.

    The published test sets are `draw(rows, 1000, 42)` (RoBERTa) and `draw(rows, 1000, 0)` (OPT).
    differs: a generator of its own, so that NumPy's global one is neither read nor moved
    """
    order = np.random.RandomState(seed).permutation(len(rows))
    return [rows[index] for index in order[:count]]


def kshot(task: Task, rows: Sequence[Row], k: int, seed: int) -> TrainDev:
    """The k-shot split of Gao et al. 2021 (LM-BFF), which MeZO uses with seeds 13 21 42 87 100.

    returns: after one shuffle the first k rows of each label (train) and the next k (dev),
             labels in the order in which the shuffle brings them up
    raises:  DataError when a label has fewer than 2k rows, or the task has no labels
    differs: the published script takes fewer without a word (TREC at k=512 has 86 of ABBR)
    """
    if not task.labels:
        message = f"{task.name} has no labels, of which k={k} would take rows of each"
        raise DataError(message, "use --train-rows")
    groups: dict[int, list[Row]] = {}
    for row in draw(rows, len(rows), seed):
        groups.setdefault(task.label(row), []).append(row)
    for index, label in enumerate(task.labels):
        found = len(groups.get(index, []))
        if found < 2 * k:
            message = f"label {label!r} has {found} rows where k={k} takes {2 * k}, half for dev"
            raise DataError(f"{task.name}: {message}", f"use k <= {found // 2}, or more data")
    train = [row for group in groups.values() for row in group[:k]]
    dev = [row for group in groups.values() for row in group[k : 2 * k]]
    return TrainDev(train, dev)


def sample_opt(rows: Sequence[Row], n_train: int, n_dev: int, seed: int) -> TrainDev:
    """MeZO's rows for OPT: n_train + n_dev of one permutation, dev its end.

    raises: DataError when nothing is left to train on; fewer than n_train rows are all taken
    """
    drawn = draw(rows, n_train + n_dev, seed)
    cut = len(drawn) - n_dev
    if cut < 1:
        message = f"{len(drawn)} training rows, of which dev would take {n_dev}"
        raise DataError(message, "use a smaller dev set, or more data")
    return TrainDev(drawn[:cut], drawn[cut:])
