"""Where the published data and the real vocabularies are, for the tests that compare with them."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"
DATA = SHARED / "data"
VOCABULARIES = SHARED / "tokenizers"

needs_data = pytest.mark.skipif(
    not DATA.is_dir(),
    reason="compares our draws of rows with the published k-shot files; without ../shared/data",
)
needs_vocabularies = pytest.mark.skipif(
    not VOCABULARIES.is_dir(),
    reason="compares with ids that transformers gave for the vocabularies of RoBERTa and OPT; "
    "without ../shared/tokenizers",
)
