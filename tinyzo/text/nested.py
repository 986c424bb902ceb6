"""The original files of WSC, MultiRC, ReCoRD, SQuAD and DROP as flat rows.

A passage there has several questions, and a question several answers. The rows are those that the
hub's exports have, in the same order, since published figures draw from that order.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeVar

from tinyzo.errors import DataError
from tinyzo.text.rows import Row

T = TypeVar("T")
Flat = Iterator[tuple[str, dict[str, object]]]  # where it is, row


class Part(NamedTuple):
    """An object within a row of a file. where: its place, in words."""

    where: str
    fields: Mapping[str, object]

    def get(self, name: str, kind: type[T], kind_name: str) -> T:
        """What is under a name; raises DataError that says where, for another type."""
        value = self.fields.get(name)
        if not isinstance(value, kind):
            found = f"{name!r} is {value!r:.40}" if name in self.fields else f"no {name!r}"
            hint = f"{name} is {kind_name} in the task's own files; or give flat rows"
            raise DataError(f"{self.where}: {found}", hint)
        return value

    def text(self, name: str) -> str:
        return self.get(name, str, "a text")

    def number(self, name: str) -> int:
        return self.get(name, int, "a number")

    def part(self, name: str) -> "Part":
        """The object under a name."""
        return Part(self.where, self.get(name, dict, "an object"))

    def parts(self, name: str) -> "Iterator[Part]":
        """The objects of a list."""
        for number, value in enumerate(self.get(name, list, "a list"), 1):
            where = f"{self.where} {name} {number}"
            yield Part(where, Part(where, {name: value}).get(name, dict, "a list of objects"))


def _wsc(row: Part) -> Flat:
    """The row itself, with each span as the text has it: that is the hub's wsc.fixed."""
    text = row.text("text")
    target = row.part("target")
    spans = {name: _mended(target.text(name), text) for name in ("span1_text", "span2_text")}
    yield row.where, {**row.fields, **spans}


def _mended(span: str, text: str) -> str:
    """A span that its text has in other letters: a small first one for a large one, the other way
    round, no full stop, or a space for the end of a line."""
    if span in text:
        return span
    bare = span.rstrip(".").replace("\n", " ")
    for first in (bare[:1], bare[:1].lower(), bare[:1].upper()):
        if first + bare[1:] in text:
            return first + bare[1:]
    return span  # names with words between them


def _multirc(row: Part) -> Flat:
    """A row for each answer of each question."""
    passage = row.part("passage")
    paragraph = passage.text("text")
    for question in passage.parts("questions"):
        for answer in question.parts("answers"):
            yield (
                answer.where,
                {
                    "paragraph": paragraph,
                    "question": question.text("question"),
                    "answer": answer.text("text"),
                    "label": answer.fields.get("label"),
                },
            )


def _record(row: Part) -> Flat:
    """A row for each query. An entity is a stretch of the passage, the end in it."""
    passage = row.part("passage")
    text = passage.text("text")
    spans = [(span.number("start"), span.number("end")) for span in passage.parts("entities")]
    entities = sorted({text[start : end + 1] for start, end in spans})
    for query in row.parts("qas"):
        answers: set[str] = set()
        if "answers" in query.fields:
            answers = {answer.text("text") for answer in query.parts("answers")}
        yield (
            query.where,
            {
                "passage": text,
                "query": query.text("query"),
                "entities": entities,
                "answers": sorted(answers),
            },
        )


def _squad(row: Part) -> Flat:
    """A row for each question on each paragraph of an article."""
    title = row.text("title")
    for paragraph in row.parts("paragraphs"):
        context = paragraph.text("context")
        for question in paragraph.parts("qas"):
            answers = [answer.text("text") for answer in question.parts("answers")]
            yield (
                question.where,
                {
                    "title": title,
                    "context": context,
                    "question": question.text("question"),
                    "answers": {"text": answers},
                },
            )


def _drop(row: Part) -> Flat:
    """A row for each question, whose gold answers are all that were given for it.

    The hub leaves out the ten questions with an answer of two kinds; here they have no answer.
    """
    passage = row.text("passage")
    for question in row.parts("qa_pairs"):
        answers = [_spans(answer) for answer in _answers_of_drop(question)]
        spans = [span for kinds in answers for kind in kinds for span in kind]
        if any(len(kinds) > 1 for kinds in answers):
            spans = []
        yield (
            question.where,
            {
                "passage": passage,
                "question": question.text("question"),
                "answers_spans": {"spans": spans},
            },
        )


def _answers_of_drop(question: Part) -> list[Part]:
    """Those of several people, which dev has, or else the one."""
    if question.fields.get("validated_answers"):
        return list(question.parts("validated_answers"))
    if "answer" in question.fields:
        return [question.part("answer")]
    return []


def _spans(answer: Part) -> list[list[str]]:
    """An answer as the kinds that there are of it: a number, a date, texts."""
    date = answer.part("date")
    days = [date.text(name) for name in ("day", "month", "year") if name in date.fields]
    kinds = [
        [answer.text("number")],
        [" ".join(days).strip()],
        answer.get("spans", list, "a list of texts"),
    ]
    return [kind for kind in kinds if any(kind)]


class Nesting(NamedTuple):
    """How the files of a task nest.

    mark, kind: a column of this type tells a nested row from a flat one
    rows:       the flat rows in one
    """

    mark: str
    kind: type
    rows: Callable[[Part], Flat]


NESTINGS = {
    "wsc": Nesting("target", dict, _wsc),
    "multirc": Nesting("passage", dict, _multirc),
    "record": Nesting("passage", dict, _record),
    "squad": Nesting("paragraphs", list, _squad),
    "drop": Nesting("qa_pairs", list, _drop),
}


def flat_rows(nesting: str, row: Row) -> Iterator[Row]:
    """The flat rows in a row; the row itself, if it is flat.

    nesting: a name of NESTINGS; "": the task's files do not nest
    raises:  DataError that says where, for an object that is not as the task's own files have it
    """
    how = NESTINGS.get(nesting)
    if how is None or not isinstance(row.get(how.mark), how.kind):
        yield row
        return
    for where, fields in how.rows(Part(row.where, row)):
        flat = Row(fields)
        flat.where = where
        yield flat
