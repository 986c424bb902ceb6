"""Shows how much of its tolerance each comparison with the reference has used."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))


@pytest.fixture
def within(record_property):
    """Asserts that every share of a tolerance is at most 1, and keeps the largest to be shown."""

    def within(shares: dict[str, float]) -> None:
        record_property("used share", max(shares.values()))
        assert all(share <= 1 for share in shares.values()), shares

    return within


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "used share":
                test = report.nodeid.rpartition("::")[2]
                terminalreporter.write_line(f"{value:6.1%} of the tolerance used by {test}")
