"""Fixtures of the tests of runs."""

import pytest

from tinyzo.runs import report


@pytest.fixture(autouse=True)
def no_plot(request, monkeypatch):
    """No run draws its losses, but in the tests of that."""
    if "test_report" not in request.node.nodeid:
        monkeypatch.setattr(report, "plot", lambda path: "not drawn")
