"""Data files as rows: TSV, CSV, JSON, JSON lines, Parquet, and TREC's own text."""

import codecs
import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from tinyzo.errors import DataError
from tinyzo.system import START, os_errors, read_file
from tinyzo.text.csv_cells import csv_records, csv_separator

TREC_LINE = re.compile(r"([^ :]*):[^ :]* (.*)", re.DOTALL)  # LOC:city What city ... ?
MARKS = {  # with which a file says what its text is encoded in
    codecs.BOM_UTF32_LE: "utf-32",  # first, since that of UTF-16 begins it
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

# A file may take MOST_GROWTH times its size in memory, and any file LEAST_ROOM.
MOST_GROWTH = 10
LEAST_ROOM = 256 << 20
ROW_BYTES = 250  # about what a row takes, and each of its values besides its text
VALUE_BYTES = 60

Columns = Sequence[str]
Table = Iterator[tuple[int, list[str]]]  # line number, cells
Records = Iterator[tuple[str, dict[str, object]]]  # "line 3", row


class Row(dict[str, object]):
    """One row by its column names.

    where: its file and line, for messages; unset where there is no file
    """

    __slots__ = ("where",)
    where: str


class Layout:
    """What is known of a file's columns before it is read.

    columns: names for a .csv without a header; none: its first line has them
    names:   what a header would have: a first line with one of these is a header all the same
    """

    def __init__(self, columns: Columns | None = None, names: Collection[str] = ()) -> None:
        self.columns = list(columns or [])
        self.names = set(names)

    def is_header(self, cells: Sequence[str]) -> bool:
        """Whether the first line of a .csv names its columns."""
        has_name = any(cell.strip() in self.names for cell in cells)
        return not self.columns or has_name


class Renamed:
    """The names of a file's columns as the task has them, where they differ by case alone.

    names: those that the task knows
    """

    def __init__(self, names: Collection[str]) -> None:
        self._known = {name.lower(): name for name in names}
        self._columns: list[str] = []  # of the last row, which the next one shares most often
        self._changes: dict[str, str] = {}

    def fields(self, fields: dict[str, object]) -> dict[str, object]:
        """A row under the task's names, in the same order; the same one if nothing differs."""
        if self._columns != list(fields):
            self._columns = list(fields)
            first: dict[str, str] = {}
            for name in fields:
                first.setdefault(self._known.get(name.lower(), name), name)
            self._changes = {name: own for own, name in first.items() if own not in fields}
        if not self._changes:
            return fields
        return {self._changes.get(name, name): value for name, value in fields.items()}


def read_rows(path: Path, columns: Columns | None = None, names: Collection[str] = ()) -> list[Row]:
    """Every row of a file, in order; its suffix says what it is.

    columns, names: of a .csv without a header, see Layout; everything else names its own
    returns: rows of str from tables, of anything from JSON and Parquet
    raises:  DataError naming file and line: not text, not JSON, too few or many cells, no rows
    differs: a quote in a .tsv is a letter (GLUE has unbalanced ones); in a .csv it quotes
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        _read_bytes(path, START)  # a file that is compressed is named as such
        raise DataError(f"{path}: not a kind of file that can be read", f"use {SUFFIXES}")
    rows = []
    file = str(path)
    renamed = Renamed(names)
    for place, fields in reader(path, Layout(columns, names)):
        row = Row(renamed.fields(fields))
        row.where = f"{file} {place}"
        rows.append(row)
    if not rows:
        raise _no_table(path, "no rows")
    return rows


# -- tables ----------------------------------------------------------------------------


def _read_tsv(path: Path, layout: Layout) -> Records:
    """GLUE's tables: a header always, and cells that tabs separate and nothing quotes."""
    text = _read_text(path)
    check_room(path, len(text), text.count("\n"), text.count("\t"))
    table = ((number, line.split("\t")) for number, line in _lines(text))
    return _records(path, table, [], "in a .tsv quotes are letters; a .csv can quote a tab")


def _read_csv(path: Path, layout: Layout) -> Records:
    """Tables of any spreadsheet, whose first line is the header where no columns are given."""
    text = _read_text(path)
    separator, start = csv_separator(text, len(layout.columns))
    check_room(path, len(text), text.count("\n") + text.count("\r"), text.count(separator))
    table = csv_records(path, text, separator, start)
    _, first = next(csv_records(path, text, separator, start), (1, []))
    columns = [] if layout.is_header(first) else layout.columns
    return _records(path, table, columns, f"quote a cell that holds {separator!r}")


def _records(path: Path, table: Table, columns: Columns, hint: str) -> Records:
    """The rows of a table by the names of its columns. columns: none: its first line has them."""
    header = list(columns) or [name.strip() for name in next(table, (1, []))[1]]
    names = _named(path, _without_annotators(header, header))
    has_annotators = "label1" in header
    for number, cells in table:
        if has_annotators:
            cells = _without_annotators(header, cells)
        if len(cells) != len(names) and (fault := _misfit(names, cells)):
            hint = f"the columns are {', '.join(names[:20])}; {hint}"
            raise DataError(f"{path} line {number}: {fault}", hint)
        fields: dict[str, object] = dict(zip(names, cells, strict=False))
        fields.pop("", None)  # a column without a name, as pandas writes its index
        yield f"line {number}", fields


def _named(path: Path, names: list[str]) -> list[str]:
    """The names of a header, without the empty ones at its end.

    raises: DataError for two columns of one name
    """
    count = max((index for index, name in enumerate(names, 1) if name), default=0)
    first: dict[str, int] = {}
    for index, name in enumerate(names[:count], 1):
        if name and first.setdefault(name, index) < index:
            raise _no_table(path, f"columns {first[name]} and {index} are both called {name!r}")
    return names[:count]


def _misfit(names: list[str], cells: list[str]) -> str:
    """Why a line's cells are not a row; "" if they are. Empty cells at its end are no matter."""
    if len(cells) < len(names):
        return f"no cell for column {len(cells) + 1}, {names[len(cells)]!r}"
    for index, cell in enumerate(cells[len(names) :], len(names) + 1):
        if cell.strip():
            return f"cell {index} has no column: {cell[:40]!r}"
    return ""


def _without_annotators(header: list[str], cells: list[str]) -> list[str]:
    """A line of SNLI or MNLI without its annotators' labels.

    One to five of them, however many the header names, are followed by the gold one.
    """
    if "label1" not in header:
        return cells
    first = header.index("label1")
    return [*cells[:first], cells[-1]]


def _read_trec(path: Path, layout: Layout) -> Records:
    """TREC's own files: in each line a coarse label, a fine one, and the question."""
    text = _read_text(path)
    check_room(path, len(text), text.count("\n"), 0)
    for number, line in _lines(text):
        found = TREC_LINE.fullmatch(line)
        if found is None:
            raise _bad_line(path, number, "a TREC question", line)
        yield f"line {number}", {"label": found[1], "sentence": found[2]}


# -- JSON ------------------------------------------------------------------------------


def _read_jsonl(path: Path, layout: Layout) -> Records:
    """A JSON object in each line."""
    return _json_lines(path, _read_json_text(path))


def _json_lines(path: Path, text: str) -> Records:
    for number, line in _lines(text):
        place = f"line {number}"
        try:
            value = _parse(line)
        except (ValueError, RecursionError) as error:
            raise _bad_line(path, number, "a JSON object", line, str(error)) from error
        yield place, _json_object(value, f"{path} {place}")


def _read_json(path: Path, layout: Layout) -> Records:
    """A JSON document that is a table in one of its forms, or else JSON lines.

    A list of objects, one under "data", or an object of columns: lists, or (pandas) objects.
    """
    text = _read_json_text(path)
    try:
        document = _parse(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            yield from _json_lines(path, text)
            return
        place = f"line {error.lineno} column {error.colno}"
        raise DataError(f"{path} {place}: {error.msg}", "correct the JSON there") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {error}", "correct the JSON") from error
    for number, row in enumerate(_json_rows(document, path), 1):
        yield f"row {number}", _json_object(row, f"{path} row {number}")


def _json_rows(document: Any, path: Path) -> Sequence[object]:
    """The rows of a JSON document; raises DataError for columns of several lengths."""
    if isinstance(document, list):
        return document
    columns = _json_object(document, str(path))
    if isinstance(columns.get("data"), list):
        return columns["data"]
    if not all(isinstance(column, list | dict) for column in columns.values()):
        return [document]  # JSON lines with one line
    if columns and all("qa_pairs" in column for column in columns.values()):
        return list(columns.values())  # DROP's own file: an object of passages
    keyed = [(name, _by_key(column)) for name, column in columns.items()]
    keys = keyed[0][1].keys() if keyed else {}
    for name, column in keyed:
        if column.keys() != keys:
            found = f"{path}: column {name!r} has other rows than {keyed[0][0]!r}"
            raise DataError(found, "give each column a value for each row")
    return [{name: column[key] for name, column in keyed} for key in keys]


def _by_key(column: Any) -> dict[Any, object]:
    return column if isinstance(column, dict) else dict(enumerate(column))


def _json_object(value: object, where: str) -> dict[str, Any]:
    """The value, its names shared with other rows; raises DataError if it is no object."""
    if not isinstance(value, dict):
        hint = "a table in JSON is a list of objects, one under data, or an object of columns"
        raise DataError(f"{where}: not a JSON object: {value!r:.60}", hint)
    return {sys.intern(name): each for name, each in value.items()}


def _parse(text: str) -> object:
    """raises: ValueError for text that is not JSON or holds half a surrogate pair"""
    value = json.loads(text)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _read_json_text(path: Path) -> str:
    text = _read_text(path)
    values = sum(text.count(mark) for mark in "[{,")
    check_room(path, len(text), text.count("\n"), values)
    return text


# -- Parquet ---------------------------------------------------------------------------


def _read_parquet(path: Path, layout: Layout) -> Records:
    """A table of pyarrow's, batch by batch."""
    read_file(path, DataError, _PARQUET_HINT, START, rb"PAR1")
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        message = f"{path}: reading Parquet needs pyarrow: {error}"
        raise DataError(message, "pip install 'tinyzo[parquet]', or export JSON or CSV") from error
    try:
        with os_errors(DataError, path, _PARQUET_HINT), ParquetFile(path) as file:
            size = path.stat().st_size * PARQUET_RATIO
            rows = file.metadata.num_rows
            check_room(path, size, rows, rows * file.metadata.num_columns)
            number = 0
            for batch in file.iter_batches(1024):
                for fields in batch.to_pylist():
                    number += 1
                    yield f"row {number}", fields
    except (ArrowException, ValueError) as error:
        raise DataError(f"{path}: not Parquet: {error!s:.200}", _PARQUET_HINT) from error


_PARQUET_HINT = "download or export it again"
PARQUET_RATIO = 8  # how many times larger the same table is as text


Reader = Callable[[Path, Layout], Records]
READERS: dict[str, Reader] = {
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".txt": _read_trec,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
SUFFIXES = ", ".join(READERS)


# -- text ------------------------------------------------------------------------------


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, text) of every line that is not blank."""
    # Not str.splitlines: it also breaks at U+2028, U+0085 and others that sentences contain.
    end = "\n" if "\n" in text else "\r"
    number = 0
    start = 0
    while start < len(text):
        number += 1
        stop = text.find(end, start)
        if stop < 0:
            stop = len(text)
        line = text[start:stop]
        start = stop + 1
        if line and not line.isspace():
            yield number, line.removesuffix("\r")


def _read_text(path: Path) -> str:
    """The text of a file: UTF-8, or what its mark says.

    raises: DataError naming line and column, for what is not text
    """
    data = _read_bytes(path)
    encoding = next((MARKS[mark] for mark in MARKS if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "replace")
        fault = f"byte 0x{data[error.start]:02X} is not {encoding.removesuffix('-sig').upper()}"
        hint = f"save it as UTF-8; from Windows: iconv -f CP1252 -t UTF-8 {path.name} > NEW"
        raise DataError(f"{path} {_place(before)}: {fault}", hint) from error
    if "\0" in text:
        before = text[: text.index("\0")]
        hint = "save the file as UTF-8; a spreadsheet itself has to be exported as CSV"
        raise DataError(f"{path} {_place(before)}: a NUL, so it is not text", hint)
    return text


def _place(before: str) -> str:
    """Where in a text something is, by what stands before it."""
    before = before.removeprefix("\ufeff")
    column = len(before) - before.rfind("\n")
    return f"line {before.count(chr(10)) + 1} column {column}"


def _read_bytes(path: Path, most: int = -1) -> bytes:
    """A file's bytes, or the first of them; raises DataError."""
    return read_file(path, DataError, "check the path of the data", most)


def check_room(path: Path, size: int, rows: int, values: int) -> None:
    """raises: DataError for a file whose rows would take far more memory than it is long"""
    room = rows * ROW_BYTES + values * VALUE_BYTES
    if room > max(MOST_GROWTH * size, LEAST_ROOM):
        found = f"{rows:,} rows and {values:,} values, which would take {room >> 20:,} MB"
        raise DataError(f"{path}: {found}", "give fewer rows or columns, or several files")


def _bad_line(
    path: Path, number: int, wanted: str, found: str, reason: str = "correct the line"
) -> DataError:
    return DataError(f"{path} line {number}: not {wanted}: {found[:60]!r}", reason)


def _no_table(path: Path, found: str) -> DataError:
    return DataError(f"{path}: {found}", "a table is a line of names and a line for each row")
