"""Templates of prompts: text with columns of the data in it.

`{field}` is a column, `{field:edit:edit}` an edited one, `{{` a brace. In byte-level BPE a space
belongs to the word after it, so the space before a field is encoded with the field.
"""

from collections.abc import Callable
from functools import lru_cache
from string import Formatter
from typing import NamedTuple

from tinyzo.errors import DataError

CONJUNCTIONS = {"cause": "because", "effect": "so"}  # COPA's questions


def _lower_word(text: str) -> str:
    """The first word in lower case, unless it is "I"."""
    word, space, rest = text.partition(" ")
    if word == "I":
        return text
    return word.lower() + space + rest


def _ask(text: str) -> str:
    return text if text.endswith("?") else text + "?"


EDITS: dict[str, Callable[[str], str]] = {
    "strip": str.strip,
    "lower": str.lower,
    "lower_first": lambda text: text[:1].lower() + text[1:],
    "lower_word": _lower_word,
    "upper_first": lambda text: text[:1].upper() + text[1:],
    "chop": lambda text: text[:-1],
    "unstop": lambda text: text.rstrip().removesuffix("."),
    "unquote": lambda text: text.strip('"'),
    "ask": _ask,
    "bullets": lambda text: text.replace("@highlight\n", "- "),  # ReCoRD's summary of the passage
    "conjunction": lambda text: CONJUNCTIONS.get(text, text),
}


class Piece(NamedTuple):
    """A part of a template: some text, and the field after it.

    literal: the text, without a space just before the field
    space:   that space, " " or ""
    field:   the name of a column; "" where only text is left
    edits:   names of EDITS, to apply in this order
    """

    literal: str
    space: str = ""
    field: str = ""
    edits: tuple[str, ...] = ()

    def fill(self, text: str) -> str:
        """The text that stands for the field when its column holds `text`."""
        for edit in self.edits:
            text = EDITS[edit](text)
        return self.space + text


@lru_cache
def parse_template(template: str) -> tuple[Piece, ...]:
    """A template as its pieces.

    raises: DataError for a brace left open, a field without a name, an unknown edit
    """
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise _unreadable(template, str(error)) from error
    pieces = []
    for literal, name, spec, conversion in parsed:
        if name is None:
            pieces.append(Piece(literal))
            continue
        edits = tuple(spec.split(":")) if spec else ()
        if not name or conversion or not EDITS.keys() >= set(edits):
            raise _unreadable(template, f"cannot read {{{name}:{spec}}}")
        text = literal.removesuffix(" ")
        pieces.append(Piece(text, literal[len(text) :], name, edits))
    return tuple(pieces)


def _unreadable(template: str, problem: str) -> DataError:
    hint = f"{{{{ is a brace, {{field:edit}} a column edited by {', '.join(EDITS)}"
    return DataError(f"template {template!r}: {problem}", hint)
