"""Our reader of CSV against Python's own, on random tables and on random text."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from random import Random

import pytest

from tinyzo.errors import DataError
from tinyzo.text.csv_cells import csv_records, csv_separator

LETTERS = ["a", "b ", " ", '"', '""', ",", ";", "\n", "\r\n", "\u2028", "é", "😀", ""]


def ours(text: str, separator: str = ",") -> list[list[str]] | None:
    try:
        return [cells for _, cells in csv_records(Path("a.csv"), text, separator)]
    except DataError:
        return None


def pythons(text: str, separator: str = ",") -> list[list[str]] | None:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    try:
        return [cells for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error:
        return None


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    ("end", "quoting"),
    [("\n", csv.QUOTE_MINIMAL), ("\r\n", csv.QUOTE_MINIMAL), ("\r", csv.QUOTE_ALL)],
)
def test_what_python_writes_is_read(separator, end, quoting):
    random = Random(f"{separator}{end}{quoting}")
    table = [["".join(random.choices(LETTERS, k=5)) for _ in range(4)] for _ in range(200)]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator, lineterminator=end, quoting=quoting).writerows(table)
    wanted = [row for row in table if any(cell.strip() for cell in row)]
    assert ours(file.getvalue(), separator) == wanted


def test_any_text_is_read_or_refused_as_python_does():
    random = Random(4)
    refused = 0
    for _ in range(5000):
        text = "".join(random.choices(LETTERS, k=random.randrange(12)))
        found = ours(text)
        refused += found is None
        assert found == pythons(text), repr(text)
    assert 500 < refused < 4500


@pytest.mark.parametrize(
    ("text", "separator", "start"),
    [
        ("a,b;c,d", ",", 0),
        ("a;b;c,d", ";", 0),
        ("a;b,c", ",", 0),
        ("\r\n\na\tb", "\t", 3),
        ("sep=|\r\na;b", "|", 7),
        ('"a;b;c",d', ",", 0),
        ("text", ",", 0),
        ("", ",", 0),
    ],
)
def test_the_separator_is_what_the_first_line_says_or_has_most_of(text, separator, start):
    assert csv_separator(text) == (separator, start)


def test_where_the_number_of_columns_is_known_the_separator_makes_so_many():
    assert csv_separator("3;a, b, c", 2) == (";", 0)
    assert csv_separator("3,a; b; c", 2) == (",", 0)
    assert csv_separator("3 a", 2) == (",", 0)
    assert csv_separator("text|coarse_label|fine_label", 2) == ("|", 0)
