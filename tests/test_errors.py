"""What every error of ours says, whatever was in the file."""

from __future__ import annotations

import pytest

from tinyzo.errors import LONGEST, DataError, TinyzoError


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("Grüße, 你好 🙂", "Grüße, 你好 🙂"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("two\nlines\r\n", "two\\nlines\\r\\n"),
        ("\u202eright to left", "\\u202eright to left"),
        ("a file \udcff", "a file \\udcff"),
    ],
)
def test_a_message_is_one_line_that_a_terminal_can_show(found, said):
    error = DataError(found, found)
    assert (error.message, error.hint) == (said, said)
    assert str(error) == f"{said}\n  hint: {said}"


def test_a_long_message_is_cut_in_its_middle():
    said = str(TinyzoError("begin" + "x" * 10**6 + "end"))
    assert len(said) <= LONGEST + 10
    assert said.startswith("begin") and said.endswith("end")
