"""Rows in the files that datasets are exported to."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


def write_columns(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    (folder / "train.json").write_text(json.dumps(columns))


def write_parquet_file(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A file of Parquet; the test is skipped where nothing writes it."""
    pyarrow = pytest.importorskip("pyarrow", reason="reads Parquet, which pyarrow writes")
    parquet = importlib.import_module("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
