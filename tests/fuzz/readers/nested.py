"""A file of a task whose questions nest in passages; its first byte says which."""

from __future__ import annotations

from fuzz.reader import Reader, place

from tinyzo.text.datasets import load_splits
from tinyzo.text.tasks import get_task

TASKS = [get_task(name, "opt") for name in ("MultiRC", "ReCoRD", "SQuAD", "DROP", "WSC")]


def read(data: bytes) -> None:
    kind, content = data[:1] or b"0", data[1:]
    task = TASKS[kind[0] % len(TASKS)]
    for row in load_splits(task, place("nested.json", content)).train[:3]:
        task.gold(row)
        answers = task.answers(row) if task.is_generated else ()
        task.filled(task.template, row)
        task.endings(row, answers)


def seed(task: str, content: str) -> bytes:
    return bytes([[each.name for each in TASKS].index(task)]) + content.encode()


ANSWER = '{"number": "", "date": {"day": "", "month": "May", "year": "1900"}, "spans": []}'
READER = Reader(
    read,
    seeds=[
        seed("MultiRC", '[{"passage": {"text": "a", "questions": [{"question": "b", "answers": ['
             '{"text": "c", "label": 1}, {"text": "d", "label": 0}]}]}}]'),
        seed("ReCoRD", '[{"passage": {"text": "Ann met", "entities": [{"start": 0, "end": 2}]}, '
             '"qas": [{"query": "@placeholder a", "answers": [{"text": "Ann"}]}]}]'),
        seed("ReCoRD", '[{"passage": "a", "query": "@placeholder", "entities": ["b"], '
             '"answers": ["b"]}]'),
        seed("SQuAD", '{"data": [{"title": "a", "paragraphs": [{"context": "b", "qas": ['
             '{"question": "c", "answers": [{"text": "d"}]}]}]}]}'),
        seed("DROP", '{"a": {"passage": "b", "qa_pairs": [{"question": "c", "answer": '
             f'{ANSWER}, "validated_answers": [{ANSWER}]}}]}}}}'),
        seed("DROP", '[{"passage": "a", "question": "b", "answers_spans": {"spans": ["c"]}}]'),
        seed("WSC", '[{"text": "a b", "target": {"span1_text": "A", "span2_text": "b"}, '
             '"label": true}]'),
    ],
    words=[
        b'"text"', b'"answers"', b'"qa_pairs"', b'"spans"', b"null", b"true", b"-1", b"1e400",
        b"[]", b"{}", b"9999999999999999", b'"@placeholder"', b'"validated_answers"', b'"number"',
    ],
)  # fmt: skip
