"""Models, data and runs that the commands work on; made once, and never changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from folders import finetune, write_model, write_reviews

from tinyzo.runs import report


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "plot", lambda path: "not drawn")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`data`, and of each family a model and a run: opt, opt-run, roberta, roberta-run."""
    home = tmp_path_factory.mktemp("home")
    write_reviews(home / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "plot", lambda path: "not drawn")
        for family in ("roberta", "opt"):
            write_model(home / family, family)
            assert finetune(home / family, home / "data", home / f"{family}-run") == 0
    yield home
