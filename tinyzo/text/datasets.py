"""Data files as rows, and the draws by which the papers chose some of them."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyzo.errors import DataError
from tinyzo.system import os_errors
from tinyzo.text.tasks import NO_FILE, Task

# The names of the file of a split, in GLUE, SuperGLUE, k-shot folders and elsewhere.
STEMS = {
    "train": ("train", "train_first1000_hf"),
    "dev": ("dev", "dev_matched", "dev32", "val", "valid", "validation"),
    "test": ("test", "test_matched"),
}
TREC_LINE = re.compile(r"([^ :]*):[^ :]* (.*)", re.DOTALL)  # LOC:city What city ... ?

Columns = Sequence[str]
Table = Iterator[tuple[int, list[str]]]  # line number, cells
Records = Iterator[tuple[int, dict[str, object]]]  # line number, row


class Row(dict[str, object]):
    """One row by its column names.

    where: its file and line, for messages
    """

    where: str = NO_FILE


@dataclass(frozen=True)
class Splits:
    """The rows to train on, to choose the best step by, and to report on; empty without a file."""

    train: list[Row]
    dev: list[Row]
    test: list[Row]

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
    """The splits in a folder, under the names GLUE, SuperGLUE and the k-shot sets give them.

    path:    a folder; or one file, whose rows are then `train`
    returns: Splits; a test file without labels (GLUE's and SuperGLUE's own) counts as none
    raises:  DataError for no such path or a folder without a split, and as `read_rows`
    """
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder", "--data takes the folder or file of rows"
        )
    if not path.is_dir():
        return Splits(read_rows(path, task.columns), [], [])
    splits = Splits(**{name: _read_split(path, name, task) for name in STEMS})
    _, found = splits.evaluation
    if not found:
        names = ", ".join(stem for stems in STEMS.values() for stem in stems)
        raise DataError(f"{path} holds no data", f"name the files {names}, ending in {SUFFIXES}")
    if splits.test and task.find(splits.test[0], task.label_field) is None:
        return replace(splits, test=[])
    return splits


def _read_split(folder: Path, split: str, task: Task) -> list[Row]:
    """The rows of the first file with a name for the split; none without one."""
    for stem in STEMS[split]:
        for suffix in READERS:
            path = folder / (stem + suffix)
            if path.is_file():
                return read_rows(path, task.columns)
    return []


# -- files -----------------------------------------------------------------------------


def read_rows(path: Path, columns: Columns | None = None) -> list[Row]:
    """Every row of a .tsv, .csv, .jsonl or TREC .txt file, in order.

    columns: names for a .csv without a header; everything else names its own
    returns: rows of str from tables, of anything from JSON
    raises:  DataError naming file and line: not UTF-8, not JSON, too few or many cells, no rows
    differs: a quote in a .tsv is a letter (GLUE has unbalanced ones); in a .csv it quotes
    """
    reader = READERS.get(path.suffix)
    if reader is None:
        raise DataError(f"{path}: not a kind of file that can be read", f"use {SUFFIXES}")
    rows = []
    for number, fields in reader(path, columns):
        row = Row(fields)
        row.where = f"{path} line {number}"
        rows.append(row)
    if not rows:
        raise _no_table(path, "no rows")
    return rows


def _read_tsv(path: Path, columns: Columns | None) -> Records:
    """GLUE's tables: a header always, and cells that tabs separate and nothing quotes."""
    table = ((number, text.split("\t")) for number, text in _lines(path))
    return _records(path, table, None)


def _read_csv(path: Path, columns: Columns | None) -> Records:
    """Tables whose first line is the header where no columns are given."""
    return _records(path, _csv_cells(path), columns)


def _csv_cells(path: Path) -> Table:
    """The cells of each row, and the number of its last line."""
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        message = f"{path} line {reader.line_num}: {error}"
        raise DataError(message, "double the quotes inside a quoted cell") from error


def _records(path: Path, table: Table, columns: Columns | None) -> Records:
    """The rows of a table by the names of its columns. columns: None: its first line has them."""
    header = list(columns or [])
    if not header:
        _, header = next(table, (1, []))
    hint = f"the columns are {', '.join(header)}"
    names = _without_annotators(header, header)
    for number, cells in table:
        values = _without_annotators(header, cells)
        if len(values) != len(names):
            raise _bad_line(path, number, "a row", cells, hint)
        yield number, dict(zip(names, values, strict=True))
    if len(set(header)) < len(header):
        raise _no_table(path, "two columns have one name")


def _without_annotators(header: list[str], cells: list[str]) -> list[str]:
    """A line of SNLI or MNLI without its annotators' labels.

    One to five of them, however many the header names, are followed by the gold one.
    """
    if "label1" not in header:
        return cells
    first = header.index("label1")
    return [*cells[:first], cells[-1]]


def _read_jsonl(path: Path, columns: Columns | None) -> Records:
    """A JSON object in each line."""
    for number, text in _lines(path):
        try:
            fields = {**json.loads(text)}
        except (ValueError, TypeError, RecursionError) as error:
            raise _bad_line(path, number, "a JSON object", text) from error
        yield number, fields


def _read_trec(path: Path, columns: Columns | None) -> Records:
    """TREC's own files: in each line a coarse label, a fine one, and the question."""
    for number, text in _lines(path):
        found = TREC_LINE.fullmatch(text)
        if found is None:
            raise _bad_line(path, number, "a TREC question", text)
        yield number, {"label": found[1], "sentence": found[2]}


Reader = Callable[[Path, Columns | None], Records]
READERS: dict[str, Reader] = {
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".txt": _read_trec,
}
SUFFIXES = ", ".join(READERS)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of every line that is not blank."""
    # Not str.splitlines: it also breaks at U+2028, U+0085 and others that sentences contain.
    for number, text in enumerate(_read_text(path).split("\n"), 1):
        if text.strip():
            yield number, text.removesuffix("\r")


def _read_text(path: Path) -> str:
    try:
        with os_errors(DataError, path, "check the path of the data"):
            return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path} line {number}: not UTF-8", "save the file as UTF-8") from error


def _bad_line(
    path: Path, number: int, wanted: str, found: object, hint: str = "correct the line"
) -> DataError:
    return DataError(f"{path} line {number}: not {wanted}: {str(found)[:60]!r}", hint)


def _no_table(path: Path, found: str) -> DataError:
    return DataError(f"{path}: {found}", "a table is a line of names and a line for each row")


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
    raises:  DataError when a label has fewer than 2k rows
    differs: the published script takes fewer without a word (TREC at k=512 has 86 of ABBR)
    """
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
