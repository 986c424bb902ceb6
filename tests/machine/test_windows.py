"""What Windows takes as a name, as its documents have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinyzo.machine import windows


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("NUL", "'NUL' is a device of Windows"),
        ("runs/con.txt", "'con.txt' is a device of Windows"),
        ("runs/Com1 .a.b/x", "'Com1 .a.b' is a device of Windows"),
        ("lpt\u00b9", "'lpt\u00b9' is a device of Windows"),
        ("runs/a.", "'a.' ends in '.', which Windows leaves out"),
        ("a /b", "'a ' ends in ' ', which Windows leaves out"),
        ("runs/12:30", "'12:30' has ':', which Windows takes in no name"),
        ("a?/b", "'a?' has '?', which Windows takes in no name"),
        ("a\nb", "'a\\nb' has '\\n', which Windows takes in no name"),
    ],
)
def test_names_that_windows_does_not_take(path: str, why: str) -> None:
    assert windows.why_no_name(Path(path)) == why


@pytest.mark.parametrize(
    "path", ["runs/a", "C:/runs/a", "../a", ".", "nulls", "a.nul", "COM0", "com10", "a b", "\u00e9"]
)
def test_names_that_windows_takes(path: str) -> None:
    assert windows.why_no_name(Path(path)) == ""
