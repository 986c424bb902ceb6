"""Reads the message of a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tinyzo.errors import DataError, TinyzoError


def message(call: Callable, *arguments: Any, kind: type[TinyzoError] = DataError) -> str:
    """The whole message of the error that a call raises, which must have a hint."""
    with pytest.raises(kind) as caught:
        call(*arguments)
    assert caught.value.hint
    return str(caught.value)
