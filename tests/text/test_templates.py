"""Templates in pieces, the edits of their fields, and what cannot be read."""

from __future__ import annotations

import pytest
from refusals import message

from tinyzo.text.templates import EDITS, Piece, parse_template


def test_a_template_in_pieces():
    assert parse_template("It is {a}. So {b:strip:lower}<mask>") == (
        Piece("It is", " ", "a", ()),
        Piece(". So", " ", "b", ("strip", "lower")),
        Piece("<mask>"),
    )
    assert parse_template("{a}  {b}") == (Piece("", "", "a"), Piece(" ", " ", "b"))
    assert parse_template("plain ") == (Piece("plain "),)
    assert parse_template("") == ()


def test_doubled_braces_are_braces():
    assert parse_template("{{{text}}} <mask>") == (
        Piece("{"),
        Piece("", "", "text"),
        Piece("}"),
        Piece(" <mask>"),
    )


def test_a_field_is_edited_in_order_and_keeps_its_space():
    (piece,) = parse_template(" {a:chop:upper_first}")
    assert piece.fill("end.") == " End"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{text It was <mask>.", "expected '}' before end of string"),
        ("{text} } <mask>", "Single '}' encountered"),
        ("{} <mask>", "cannot read {:}"),
        ("{text:shout} <mask>", "cannot read {text:shout}"),
        ("{text:strip:} <mask>", "cannot read {text:strip:}"),
        ("{text!r} <mask>", "cannot read {text:}"),
        ("{text:{x}} <mask>", "cannot read {text:{x}}"),
    ],
)
def test_a_template_that_cannot_be_read_is_quoted(template, expected):
    text = message(parse_template, template)
    assert text.startswith(f"template {template!r}: {expected}")
    assert "hint: {{ is a brace, {field:edit} a column edited by strip, lower" in text


def test_edits():
    table = {
        "strip": (" a b ", "a b"),
        "lower": ("It IS", "it is"),
        "lower_first": ("AB C", "aB C"),
        "lower_word": ("THE Cat Sat", "the Cat Sat"),
        "upper_first": ("ab c", "Ab c"),
        "chop": ("end.", "end"),
        "unstop": ("end. ", "end"),
        "unquote": ('"a, b"', "a, b"),
        "ask": ("why", "why?"),
        "conjunction": ("effect", "so"),
        "bullets": ("a\n@highlight\nb\n@highlight\nc", "a\n- b\n- c"),
    }
    assert table.keys() == EDITS.keys()
    assert {name: EDITS[name](given) for name, (given, _) in table.items()} == {
        name: wanted for name, (_, wanted) in table.items()
    }
    assert EDITS["ask"]("why?") == "why?" and EDITS["unstop"]("end") == "end"
    assert EDITS["conjunction"]("cause") == "because"
    words = ("I am", "I", "I'm In", "It", " The", "")
    assert [EDITS["lower_word"](w) for w in words] == ["I am", "I", "i'm In", "it", " The", ""]
    assert [EDITS[e]("") for e in ("chop", "lower_first", "upper_first")] == ["", "", ""]
