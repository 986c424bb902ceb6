"""CSV as spreadsheets write it: text into cells (RFC 4180, and other separators).

differs: from Python's csv, a cell has any length, no setting is shared with other programs of the
    process, and a fault is named by its line and column
"""

import re
from collections.abc import Iterator
from pathlib import Path

from tinyzo.errors import DataError

SEPARATORS = ",;\t|"  # in this order where several would do
DECLARED = re.compile(r"sep=(.)(?:\r\n|\n|\r)")  # a first line, which Excel writes and reads
LINE_END = re.compile(r"\r\n|\n|\r|\Z")


def csv_separator(text: str, columns: int = 0) -> tuple[str, int]:
    """What separates the cells, and where the table begins.

    It is what the first line says or, outside of quotes, has most of.

    columns: how many there are without a header; 0: unknown
    """
    declared = DECLARED.match(text)
    if declared:
        return declared[1], declared.end()
    start = len(text) - len(text.lstrip("\r\n"))
    line = re.sub(r'"[^"]*"', "", text[start : _line_end(text, start)])
    fitting = [each for each in SEPARATORS if line.count(each) == columns - 1]
    return max(fitting or SEPARATORS, key=line.count), start


def csv_records(
    path: Path, text: str, separator: str, start: int = 0
) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, cells) of each row that is not blank.

    raises: DataError naming line and column, for a quote without an end or with text behind it
    """
    plain = re.compile(rf"[^{re.escape(separator)}\r\n]*")
    number = _lines_before(text, 0, start) + 1
    while start < len(text):
        stop = _line_end(text, start)
        lines = 1
        if text.find('"', start, stop) < 0:
            cells = text[start:stop].split(separator)
        else:
            cells, stop = _quoted_cells(path, text, start, separator, plain)
            lines += _lines_before(text, start, stop)
        if not _is_blank(cells):
            yield number, cells
        number += lines
        start = stop + 2 if text.startswith("\r\n", stop) else stop + 1


def _is_blank(cells: list[str]) -> bool:
    return not any(cells) or not any(map(str.strip, cells))


def _quoted_cells(
    path: Path, text: str, start: int, separator: str, plain: re.Pattern[str]
) -> tuple[list[str], int]:
    """The cells of a row that has quotes, and where it ends."""
    cells = []
    while True:
        if text.startswith('"', start):
            stop = _closing_quote(path, text, start)
            cells.append(text[start + 1 : stop].replace('""', '"'))
            start = stop + 1
        else:
            stop = _end_of(plain, text, start)
            cells.append(text[start:stop])
            start = stop
        if not text.startswith(separator, start):
            break
        start += 1
    if start < len(text) and text[start] not in "\r\n":
        fault = f"{text[start : start + 20]!r} after the quote that ends a cell"
        raise _fault(path, text, start, fault)
    return cells, start


def _closing_quote(path: Path, text: str, start: int) -> int:
    """Where the cell whose quote opens at `start` is closed; doubled quotes do not close it."""
    stop = text.find('"', start + 1)
    while text.startswith('""', stop) and stop >= 0:
        stop = text.find('"', stop + 2)
    if stop < 0:
        raise _fault(path, text, start, "a cell's quote is never closed")
    return stop


def _fault(path: Path, text: str, at: int, fault: str) -> DataError:
    number = _lines_before(text, 0, at) + 1
    begin = max(text.rfind("\n", 0, at), text.rfind("\r", 0, at))
    place = f"line {number} column {at - begin}"
    return DataError(f"{path} {place}: {fault}", "double the quotes inside a quoted cell")


def _line_end(text: str, start: int) -> int:
    found = LINE_END.search(text, start)
    return found.start() if found else len(text)


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return found.end() if found else start


def _lines_before(text: str, start: int, stop: int) -> int:
    """How many lines end between two places."""
    both = text.count("\r\n", start, stop)
    return text.count("\n", start, stop) + text.count("\r", start, stop) - both
