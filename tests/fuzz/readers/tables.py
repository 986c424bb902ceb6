"""A table: its first byte says which kind of file it is; its rows are then put into a template."""

from __future__ import annotations

from fuzz.reader import Reader, place

from tinyzo.text.rows import READERS, read_rows
from tinyzo.text.tasks import get_task

SUFFIXES = [suffix for suffix in READERS if suffix != ".parquet"]  # which pyarrow reads
TASKS = [get_task(*name) for name in (("TREC", "roberta"), ("RTE", "roberta"), ("WSC", "opt"))]


def read(data: bytes) -> None:
    kind, content = data[:1] or b"0", data[1:]
    suffix = SUFFIXES[kind[0] % len(SUFFIXES)]
    task = TASKS[kind[0] // len(SUFFIXES) % len(TASKS)]
    for row in read_rows(place("rows" + suffix, content), task.columns, task.column_names)[:3]:
        list(task.fill(task.template, row))
        if task.is_labelled(row):
            task.label(row)


def seed(suffix: str, task: str, content: str, encoding: str = "utf-8") -> bytes:
    number = [task.name for task in TASKS].index(task) * len(SUFFIXES) + SUFFIXES.index(suffix)
    return bytes([number]) + content.encode(encoding)


ROW = '{"premise": "A b.", "hypothesis": 1.5, "label": 0}'
WSC = '{"text": "\\u00e9", "target": {"span1_text": "x", "span2_text": true}, "label": false}'
READER = Reader(
    read,
    seeds=[
        seed(".tsv", "RTE", "index\tsentence1\tsentence2\tlabel\n0\ta b\tc\tentailment\n"),
        seed(".csv", "RTE", 'premise,hypothesis,label,\r\n"a ""b"",\r\nc",d,1,\r\n', "utf-16"),
        seed(".csv", "RTE", 'sep=;\n premise ;hypothesis;label\r"a\rb";c;-1\r'),
        seed(".csv", "TREC", '3,"who, then ?"\n4,where ?\n', "utf-8-sig"),
        seed(".csv", "TREC", "text|coarse_label|fine_label\nwho ?|3.0|7\n"),
        seed(".jsonl", "RTE", ROW + "\n" + ROW + "\n"),
        seed(".jsonl", "WSC", WSC),
        seed(".txt", "TREC", "HUM:desc Who was Galileo ?\nLOC:city What city ?\n"),
        seed(".json", "RTE", f'{{"data": [{ROW}, {ROW}]}}'),
        seed(".json", "WSC", f"[{WSC}]"),
        seed(".json", "RTE", '{"premise": ["a"], "hypothesis": [1.5], "label": [NaN]}'),
        seed(".json", "RTE", '{"premise": {"0": "a"}, "hypothesis": {"0": 2}, "label": {"0": 1}}'),
    ],
    words=[
        b"sep=|\n", b"label", b"labels", b"gold_label", b"label1", b"coarse_label", b"premise",
        b"entailment", b"\r", b'""', b",,", b";", b"|", b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff",
        b"version https://git-lfs", b"-1.0", b"\\u0000", b"\xf0\x9f\x98\x80", b'"data": [',
    ],
)  # fmt: skip
