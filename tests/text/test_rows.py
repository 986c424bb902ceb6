"""Every kind of data file as rows, and what is wrong with a file, by its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published import DATA, needs_data
from refusals import message

from tinyzo.text.rows import read_rows


@pytest.fixture
def write(tmp_path):
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_tsv_keeps_quotes_spaces_and_odd_line_separators(write):
    path = write("a.tsv", '\ufefftext\tlabel\r\n"one \t1\r\n\n two\u2028 \x85x" \t0\n')
    rows = read_rows(path)
    assert rows == [{"text": '"one ', "label": "1"}, {"text": ' two\u2028 \x85x" ', "label": "0"}]
    assert [row.where for row in rows] == [f"{path} line 2", f"{path} line 4"]


def test_csv_unquotes_and_reads_its_own_header_or_the_given_one(write):
    path = write("a.csv", 'label,text\n1,"a, ""b""\nc"\n0,d\n')
    assert read_rows(path) == [{"label": "1", "text": 'a, "b"\nc'}, {"label": "0", "text": "d"}]
    headerless = read_rows(path, ("y", "x"))
    assert headerless[0] == {"y": "label", "x": "text"} and len(headerless) == 3
    assert headerless[2].where.endswith("line 4")


def test_columns_are_only_for_csv(write):
    assert read_rows(write("a.tsv", "x\ty\n1\t2\n"), ("p", "q")) == [{"x": "1", "y": "2"}]


def test_jsonl_keeps_types(write):
    path = write("a.jsonl", '{"text": "é", "label": true, "in": {"er": 1}}\n\n{"text": ""}\n')
    assert read_rows(path) == [{"text": "é", "label": True, "in": {"er": 1}}, {"text": ""}]


def test_trec_text_becomes_coarse_label_and_question(write):
    path = write("a.txt", "LOC:city What city : or town ?\nNUM:dist How far ?\n")
    assert read_rows(path)[0] == {"label": "LOC", "sentence": "What city : or town ?"}


def test_annotators_labels_may_be_fewer_or_more_than_the_header_says(write):
    header = "index\tsentence1\tsentence2\tlabel1\tgold_label\n"
    rows = read_rows(write("a.tsv", header + "0\ta\tb\tn\te\n1\tc\td\te\tn\tn\tc\n2\tx\ty\tc\n"))
    assert [row["gold_label"] for row in rows] == ["e", "c", "c"]
    assert rows[1] == {"index": "1", "sentence1": "c", "sentence2": "d", "gold_label": "c"}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.tsv", "text\tlabel\na\t1\nb\n", "a.tsv line 3: not a row: \"['b']\""),
        ("a.tsv", "text\tlabel\na\t1\t2\n", "a.tsv line 2: not a row: \"['a', '1', '2']\""),
        ("a.csv", "text,label\na\n", "the columns are text, label"),
        ("a.csv", 'text,label\n"a" b,1\n', "a.csv line 2: ',' expected after '\"'"),
        ("a.csv", 'text,label\n"a,1\n', "unexpected end of data"),
        ("a.csv", 'text\n"' + "x" * 200_000 + '"\n', "field larger than field limit"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', "a.jsonl line 2: not a JSON object: '{\"a\": '"),
        ("a.jsonl", "[1]\n", "a.jsonl line 1: not a JSON object: '[1]'"),
        ("a.jsonl", "[" * 100_000, "a.jsonl line 1: not a JSON object"),
        ("a.jsonl", '{"a": ' + "1" * 5000 + "}", "a.jsonl line 1: not a JSON object"),
        ("a.txt", "What is a caul ?\n", "a.txt line 1: not a TREC question: 'What is a caul ?'"),
        ("a.txt", "LOC:city\n", "a.txt line 1: not a TREC question: 'LOC:city'"),
        ("a.tsv", b"text\nok\nna\xefve\n", "a.tsv line 3: not UTF-8"),
        ("a.tsv", "", "a.tsv: no rows"),
        ("a.csv", "\n\n", "a.csv: no rows"),
        ("a.jsonl", "", "a.jsonl: no rows"),
        ("a.tsv", "text\tlabel\n", "a.tsv: no rows"),
        ("a.tsv", "text\ttext\na\tb\n", "a.tsv: two columns have one name"),
        ("a.xlsx", "", "a.xlsx: not a kind of file that can be read"),
    ],
)
def test_a_bad_file_is_named_with_its_line(write, name, content, expected):
    assert expected in message(read_rows, write(name, content))


def test_a_missing_file_is_named(tmp_path):
    assert "none.tsv: No such file" in message(read_rows, tmp_path / "none.tsv")
    (tmp_path / "folder.tsv").mkdir()
    assert "folder.tsv: Is a directory" in message(read_rows, tmp_path / "folder.tsv")


@needs_data
def test_a_jsonl_row_is_what_json_says():
    path = DATA / "superglue/WSC/val.jsonl"
    assert read_rows(path)[0] == json.loads(path.read_text().split("\n")[0])
