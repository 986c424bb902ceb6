"""A template of the user's own and its label words, a line each, filled from one row."""

from __future__ import annotations

from fuzz.reader import Reader

from tinyzo.text.tasks import custom_task

ROW = {"text": "a b", "n": 3, "in": {"er": "c"}, "none": None, "list": [1], "label": "no"}


def read(data: bytes) -> None:
    template, _, words = data.decode("utf-8", "replace").partition("\n")
    for family in ("roberta", "opt"):
        task = custom_task(template, words.split(","), family, "label")
        list(task.fill(task.template, ROW))
        task.label(ROW)


READER = Reader(
    read,
    seeds=[
        b"{text} It was <mask>.\nyes,no",
        b" {{{in.er:strip:lower}}} <mask> {n}\nno,yes",
        b"{text:ask:upper_first}\n1,no,3",
    ],
    words=[
        b"{text}", b"{none}", b"{list}", b"{label}", b"{text!r}", b"{text.__class__}", b"{text[0]}",
        b"{text:{n}}", b"{{", b"}}", b"{", b"}", b":strip", b"<mask>", b"{0}", b"{:}",
        b"lower_first",
    ],
)  # fmt: skip
