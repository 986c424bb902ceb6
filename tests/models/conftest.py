"""Shows how much of its tolerance each comparison with the reference has used."""

from __future__ import annotations

import pytest

USED = "used share of the tolerance"


@pytest.fixture
def within(record_property):
    """Asserts that no share of a tolerance is above 1, and keeps the largest to be shown."""

    def within(shares: dict[str, float]) -> None:
        assert all(share <= 1 for share in shares.values()), shares
        record_property(USED, max(shares.values()))

    return within


def pytest_terminal_summary(terminalreporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, share in report.user_properties:
            if name == USED:
                terminalreporter.write_line(f"{share:4.0%} {name}: {report.nodeid}")
