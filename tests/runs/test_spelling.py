"""What a misspelt name most likely means."""

from __future__ import annotations

from tinyzo.runs.spelling import closest


def test_closest() -> None:
    assert closest("STEBS", ["batch_size", "Steps"]) == "Steps"
    assert closest("nonsense", ["steps"]) is None
    assert closest("", []) is None
