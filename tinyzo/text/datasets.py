"""Reading the files people have, and drawing from them the rows that the papers used."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyzo.errors import DataError
from tinyzo.system import os_errors
from tinyzo.text.tasks import Task

# What the files of a split are called: in GLUE, in SuperGLUE, in k-shot folders, by other people.
STEMS = {"train": ("train", "train_first1000_hf"),
         "dev": ("dev", "dev_matched", "dev32", "val", "valid", "validation"),
         "test": ("test", "test_matched")}  # fmt: skip
KINDS = {".tsv": "a row", ".csv": "a row", ".jsonl": "a JSON object", ".txt": "a TREC question"}
SUFFIXES = ", ".join(KINDS)


class Row(dict[str, Any]):
    """One row by its column names; `where`, if it has one, is its file and line, for messages."""


TrainDev = tuple[list[Row], list[Row]]


@dataclass(frozen=True)
class Splits:
    """The rows to train on, to choose by, and to report; a split that has no file is empty."""

    train: list[Row]
    dev: list[Row]
    test: list[Row]

    @property
    def evaluation(self) -> tuple[str, list[Row]]:
        """The split to report on, by name: test, or dev where there is no test, or train."""
        last_first = reversed(vars(self).items())
        return next(((name, rows) for name, rows in last_first if rows), ("test", []))


def read_rows(path: Path, columns: Sequence[str] | None = None) -> list[Row]:
    """Every row of a .tsv, .csv, .jsonl or TREC .txt file, in order.

    columns: names for a .csv without a header; everything else names its own
    returns: rows of str from tables, of anything from JSON
    raises:  DataError naming file and line: not UTF-8, not JSON, too few or many cells, no rows
    differs: a quote in a .tsv is a letter (GLUE has unbalanced ones); in a .csv it quotes
    """
    records, rows, header = _records(path), [], ()
    if path.suffix in (".tsv", ".csv"):
        header = columns if columns and path.suffix == ".csv" else next(records, (1, []))[1]
    for line, content in records:
        try:
            rows.append(Row(_parse(path.suffix, content, header)))
        except (ValueError, TypeError, RecursionError) as error:
            found = f"{path} line {line}: not {KINDS[path.suffix]}: {str(content)[:60]!r}"
            expected = f"the columns are {', '.join(header)}" if header else "correct the line"
            raise DataError(found, expected) from error
        rows[-1].where = f"{path} line {line}"
    if not rows or len(set(header)) < len(header):
        found = "two columns have one name" if rows else "no rows"
        raise DataError(f"{path}: {found}", "a table is a line of names and a line for each row")
    return rows


def load_splits(task: Task, path: Path) -> Splits:
    """The splits in a folder, under the names GLUE, SuperGLUE and the k-shot sets give them.

    path:    a folder; or one file, whose rows are then `train`
    returns: Splits; a test file without labels (GLUE's and SuperGLUE's own) counts as none
    raises:  DataError when the folder holds no split, and as `read_rows` does
    """
    if not path.is_dir():
        return Splits(read_rows(path, task.columns), [], [])
    found: dict[str, list[Row]] = {}
    for split, stems in STEMS.items():
        files = [f for stem in stems for end in KINDS if (f := path / (stem + end)).is_file()]
        found[split] = read_rows(files[0], task.columns) if files else []
    if not any(found.values()):
        names = ", ".join(stem for stems in STEMS.values() for stem in stems)
        raise DataError(f"{path} holds no data", f"name the files {names}, ending in {SUFFIXES}")
    if found["test"] and task.find(found["test"][0], task.label_field) is None:
        found["test"] = []
    return Splits(**found)


def draw(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """The first `count` rows after one shuffle by NumPy's legacy generator, as published code has.

    The published test sets are `draw(rows, 1000, 42)` (RoBERTa) and `draw(rows, 1000, 0)` (OPT).
    differs: a generator of its own, so that NumPy's global one is neither read nor moved
    """
    return [rows[index] for index in np.random.RandomState(seed).permutation(len(rows))[:count]]


def kshot(task: Task, rows: Sequence[Row], k: int, seed: int) -> TrainDev:
    """The k-shot split of Gao et al. 2021 (LM-BFF), which MeZO uses with seeds 13 21 42 87 100.

    returns: train, dev: after one shuffle the first k rows of each label and the next k,
             labels in the order in which the shuffle brings them up
    raises:  DataError when a label has fewer than 2k rows
    differs: the published script takes fewer without a word (TREC at k=512 has 86 of ABBR)
    """
    groups: dict[int, list[Row]] = {}
    for row in draw(rows, len(rows), seed):
        groups.setdefault(task.label(row), []).append(row)
    for index, label in enumerate(task.labels):
        if (found := len(groups.get(index, ()))) < 2 * k:
            message = f"label {label!r} has {found} rows where k={k} takes {2 * k}, half for dev"
            raise DataError(f"{task.name}: {message}", f"use k <= {found // 2}, or more data")
    train = [row for group in groups.values() for row in group[:k]]
    return train, [row for group in groups.values() for row in group[k : 2 * k]]


def sample_opt(rows: Sequence[Row], n_train: int, n_dev: int, seed: int) -> TrainDev:
    """MeZO's rows for OPT: n_train + n_dev of one permutation, dev its end.

    raises:  DataError when nothing is left to train on; fewer than n_train rows are all taken
    """
    drawn = draw(rows, n_train + n_dev, seed)
    cut = len(drawn) - n_dev
    if cut < 1:
        message = f"{len(drawn)} training rows, of which dev would take {n_dev}"
        raise DataError(message, "use a smaller dev set, or more data")
    return drawn[:cut], drawn[cut:]


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, content) of what is not blank: cells of a table, or the line."""
    text = _read_text(path)
    if path.suffix == ".csv":
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            yield from ((reader.line_num, cells) for cells in reader if cells)
        except csv.Error as error:
            message = f"{path} line {reader.line_num}: {error}"
            raise DataError(message, "double the quotes inside a quoted cell") from error
        return
    # Not str.splitlines: it also breaks at U+2028, U+0085 and others that sentences contain.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            line = line.removesuffix("\r")
            yield number, line.split("\t") if path.suffix == ".tsv" else line


def _read_text(path: Path) -> str:
    if path.suffix not in KINDS:
        raise DataError(f"{path}: not a kind of file that can be read", f"use {SUFFIXES}")
    try:
        with os_errors(DataError, path, "check the path of the data"):
            return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path} line {line}: not UTF-8", "save the file as UTF-8") from error


def _parse(suffix: str, content: Any, header: Sequence[str]) -> dict[str, Any]:
    if suffix == ".jsonl":
        return {**json.loads(content)}
    if suffix == ".txt":
        label, question = content.split(" ", 1)
        coarse, _fine = label.split(":")
        return {"label": coarse, "sentence": question}
    if "label1" in header:  # SNLI, MNLI: one to five annotators' labels, then the gold one
        first = header.index("label1")
        header, content = [*header[:first], header[-1]], [*content[:first], content[-1]]
    return dict(zip(header, content, strict=True))
