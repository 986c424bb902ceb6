"""Every kind of data file as rows, and what is wrong with a file, by its line."""

from __future__ import annotations

import codecs
import importlib
import json
import sys
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
    assert [row.where.rpartition(" ")[2] for row in headerless] == ["1", "2", "4"]


def test_a_csv_without_a_header_may_have_one_all_the_same(write):
    path = write("a.csv", "text,coarse_label\na,1\n")
    assert read_rows(path, ("y", "x"), {"text"}) == [{"text": "a", "coarse_label": "1"}]
    assert len(read_rows(path, ("y", "x"), {"sentence"})) == 2


TABLE = [{"text": "one", "label": "1"}, {"text": 'two, or "three"', "label": "0"}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_csv_of_any_spreadsheet(write, end, separator, encoding):
    lines = [" text ,label,", "one,1,", '"two, or ""three""",0,', ",,", ""]
    text = end.join(lines).replace(",", separator).replace(f"two{separator}", "two,")
    assert read_rows(write("a.csv", text.encode(encoding))) == TABLE
    declared = f"sep={separator}{end}{text}".encode(encoding)
    rows = read_rows(write("b.CSV", declared))
    assert rows == TABLE and rows[1].where.endswith("line 4")


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("text\na b\n", [{"text": "a b"}]),
        ("text;label\na, b, c;1\n", [{"text": "a, b, c", "label": "1"}]),
        ("sep=,\ntext,a;b;c\nx,y\n", [{"text": "x", "a;b;c": "y"}]),
        (",text,label\n0,a,1\n1,b,0\n", [{"text": "a", "label": "1"}, {"text": "b", "label": "0"}]),
        ('text,"a;b"\n1,2', [{"text": "1", "a;b": "2"}]),
        ("text,label\na,1,,\n\n,\n", [{"text": "a", "label": "1"}]),
        ('text,label\n"",1\n', [{"text": "", "label": "1"}]),
        ('text,label\na "b" c,1\n', [{"text": 'a "b" c', "label": "1"}]),
        ('text,label\n"a\r\nb",1\n', [{"text": "a\r\nb", "label": "1"}]),
    ],
)
def test_separators_blank_columns_and_quotes(write, content, rows):
    assert read_rows(write("a.csv", content)) == rows


def test_a_csv_without_a_header_is_separated_into_as_many_cells_as_it_has_columns(write):
    path = write("a.csv", "3;wise, deadpan , humorous .\n")
    assert read_rows(path, ("label", "x")) == [{"label": "3", "x": "wise, deadpan , humorous ."}]


def test_a_cell_has_any_length(write):
    text = "x" * 200_000 + '"' + "y\n" * 100_000
    quoted = text.replace('"', '""')
    assert read_rows(write("a.csv", f'text,label\n"{quoted}",1\n'))[0]["text"] == text


def test_a_row_that_follows_quoted_lines_knows_its_own_line(write):
    content = 'text,label\n"a\n\nb",1\r\n"c""",0\n'
    assert [row.where[-6:] for row in read_rows(write("a.csv", content))] == ["line 2", "line 5"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_tsv_of_any_line_end(write, end):
    path = write("a.tsv", end.join(["text\tlabel\t", "a\t1\t", "", "b\t0"]).encode("utf-16"))
    assert read_rows(path) == [{"text": "a", "label": "1"}, {"text": "b", "label": "0"}]


FORMS = {
    "list": [{"a": "x", "b": 1}, {"a": "y", "b": None}],
    "data": {"version": "1", "data": [{"a": "x", "b": 1}, {"a": "y", "b": None}]},
    "columns": {"a": ["x", "y"], "b": [1, None]},
    "pandas": {"a": {"0": "x", "7": "y"}, "b": {"0": 1, "7": None}},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_table_in_json_has_many_forms(write, form, indent):
    rows = read_rows(write("a.json", json.dumps(FORMS[form], indent=indent)))
    assert rows == [{"a": "x", "b": 1}, {"a": "y", "b": None}]
    assert [row.where[-5:] for row in rows] == ["row 1", "row 2"]


def test_a_json_file_may_be_json_lines(write):
    rows = read_rows(write("a.json", '{"a": 1}\n\n{"a": [2]}\n'))
    assert rows == [{"a": 1}, {"a": [2]}] and rows[1].where.endswith("line 3")
    assert read_rows(write("a.json", '{"a": 1, "b": [2]}\n')) == [{"a": 1, "b": [2]}]


def test_parquet_is_read_by_pyarrow(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="reads Parquet, which pyarrow writes")
    parquet = importlib.import_module("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    columns = {"text": ["a", "b"], "label": [1, None], "in": [{"er": True}, {"er": None}]}
    parquet.write_table(pyarrow.table(columns), path)
    rows = read_rows(path)
    assert rows == [
        {"text": "a", "label": 1, "in": {"er": True}},
        {"text": "b", "label": None, "in": {"er": None}},
    ]
    assert rows[1].where == f"{path} row 2"
    path.write_bytes(path.read_bytes()[:-30])
    assert "a.parquet: not Parquet" in message(read_rows, path)
    count = 2_000_000
    parquet.write_table(pyarrow.table({"text": pyarrow.nulls(count)}), path)
    assert "a.parquet: 2,000,000 rows and" in message(read_rows, path)
    assert "none.parquet: No such file" in message(read_rows, tmp_path / "none.parquet")


def test_parquet_without_pyarrow_names_the_extra(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    text = message(read_rows, write("a.parquet", b"PAR1"))
    assert "a.parquet: reading Parquet needs pyarrow" in text and "tinyzo[parquet]" in text


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
        ("a.tsv", "text\tlabel\na\t1\nb\n", "a.tsv line 3: no cell for column 2, 'label'"),
        ("a.tsv", "text\tlabel\na\t1\t2\n", "a.tsv line 2: cell 3 has no column: '2'"),
        ("a.csv", "text,label\na\n", "the columns are text, label"),
        ("a.csv", "text,label\na,1\nb, c,1\n", "a.csv line 3: cell 3 has no column: '1'"),
        ("a.csv", "text,label,\na,1,oops\n", "a.csv line 2: cell 3 has no column: 'oops'"),
        ("a.csv", 'text,label\n"a" b,1\n', "a.csv line 2 column 4: ' b,1\\n' after the quote"),
        ("a.csv", 'text,label\n"a\nb",1\nc,"d\n', "a.csv line 4 column 3: a cell's quote is never"),
        ("a.csv", 'text,label\r\ra,1\r"b"c\r', "a.csv line 4 column 4: 'c\\r' after the quote"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', "a.jsonl line 2: not a JSON object: '{\"a\": '"),
        ("a.jsonl", "[1]\n", "a.jsonl line 1: not a JSON object: [1]"),
        ("a.jsonl", "[" * 100_000, "a.jsonl line 1: not a JSON object"),
        ("a.jsonl", '{"a": ' + "1" * 5000 + "}", "a.jsonl line 1: not a JSON object"),
        ("a.txt", "What is a caul ?\n", "a.txt line 1: not a TREC question: 'What is a caul ?'"),
        ("a.txt", "LOC:city\n", "a.txt line 1: not a TREC question: 'LOC:city'"),
        ("a.tsv", b"text\nok\nna\xefve\n", "a.tsv line 3 column 3: byte 0xEF is not UTF-8"),
        ("a.tsv", "", "a.tsv: it is empty"),
        ("a.csv", "\n\n", "a.csv: no rows"),
        ("a.jsonl", "", "a.jsonl: it is empty"),
        ("a.tsv", "text\tlabel\n", "a.tsv: no rows"),
        ("a.tsv", "text\ttext\na\tb\n", "a.tsv: columns 1 and 2 are both called 'text'"),
        ("a.csv", "text,, text \na,b,c\n", "a.csv: columns 1 and 3 are both called 'text'"),
        ("a.csv", "text\nok\n\nx\0y\n", "a.csv line 4 column 2: a NUL, so it is not text"),
        ("a.csv", "text\nabc\n".encode("utf-16-le"), "a.csv line 1 column 2: a NUL"),
        (
            "a.csv",
            codecs.BOM_UTF16_LE + b"a\0\n\0\0\xd8",
            "a.csv line 2 column 1: byte 0x00 is not",
        ),
        ("a.csv", "text\n", "a.csv: no rows"),
        ("a.jsonl", '{"a": "\\ud800"}\n', "a.jsonl line 1: not a JSON object"),
        ("a.jsonl", "3\n", "a.jsonl line 1: not a JSON object: 3"),
        ("a.json", "[1]", "a.json row 1: not a JSON object: 1"),
        ("a.json", '"text"', "a.json: not a JSON object: 'text'"),
        ("a.json", '[{"a": 1},\n {"a": }]', "a.json line 2 column 8: Expecting value"),
        ("a.json", '{"a": [1, 2], "b": [1]}', "a.json: column 'b' has other rows than 'a'"),
        ("a.json", '{"a": {"0": 1}, "b": {"1": 1}}', "column 'b' has other rows than 'a'"),
        ("a.json", '{"a": 1}\n{"a": \n', "a.json line 2: not a JSON object: '{\"a\": '"),
        ("a.json", "[" * 100_000, "a.json: maximum recursion depth exceeded"),
        ("a.json", "[]", "a.json: no rows"),
        ("a.json", "{}", "a.json: no rows"),
        ("a.jsonl", "version https://git-lfs.github.com/spec/v1\n", "a.jsonl: it is a git-lfs"),
        (
            "a.parquet",
            "version https://git-lfs.github.com/spec/v1\n",
            "a.parquet: it is a git-lfs pointer",
        ),
        ("a.jsonl", "{}\n" * 1_000_000, "would take"),
        ("a.csv", "a,b\n" * 1_000_000, "would take"),
        ("a.txt", "\n" * 1_500_000, "would take"),
        ("a.xls", "\xd0\xcf", "a.xls: not a kind of file that can be read"),
    ],
)
def test_a_bad_file_is_named_with_its_line(write, name, content, expected):
    assert expected in message(read_rows, write(name, content))


def test_a_missing_file_is_named(tmp_path):
    assert "none.tsv: No such file" in message(read_rows, tmp_path / "none.tsv")
    (tmp_path / "folder.tsv").mkdir()
    assert "folder.tsv: it is not a file" in message(read_rows, tmp_path / "folder.tsv")


@needs_data
def test_a_jsonl_row_is_what_json_says():
    path = DATA / "superglue/WSC/val.jsonl"
    assert read_rows(path)[0] == json.loads(path.read_text().split("\n")[0])


# -- names of columns ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "Text,LABEL,Other\na,good,1\n"),
        ("a.tsv", "Text\tLABEL\tOther\na\tgood\t1\n"),
        ("a.jsonl", '{"Text": "a", "LABEL": "good", "Other": "1"}\n'),
        ("a.json", '[{"Text": "a", "LABEL": "good", "Other": "1"}]'),
    ],
)
def test_a_column_may_be_called_in_another_case(write, name, content):
    (row,) = read_rows(write(name, content), names=("text", "label"))
    assert list(row.items()) == [("text", "a"), ("label", "good"), ("Other", "1")]


def test_a_name_that_is_there_as_it_is_comes_first(write):
    lines = '{"Text": "a", "text": "b"}\n{"Text": "c"}\n{"text": "d"}\n{"TEXT": "e", "Text": "f"}\n'
    rows = read_rows(write("a.jsonl", lines), names=("text",))
    both = [{"Text": "a", "text": "b"}, {"text": "c"}, {"text": "d"}, {"text": "e", "Text": "f"}]
    assert list(map(dict, rows)) == both
