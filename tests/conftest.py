"""What all tests share as pytest collects them."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)  # before pytest leaves the exhaustive tests out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of each test that runs on every engine, the last case alone runs on ONNX Runtime.

    All other cases of it are exhaustive: almost each would open a session of its own.
    """
    of_onnx = [item for item in items if engine_of(item) == "onnx"]
    last = {item.function: item for item in of_onnx}
    for item in of_onnx:
        if item is not last[item.function]:
            item.add_marker(pytest.mark.exhaustive)


def engine_of(item: Any) -> str | None:
    """The engine that a test is given, by its name or as such."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    engine = parameters.get("engine")
    return getattr(engine, "name", engine)
