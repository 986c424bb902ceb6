"""Where the published data and the real vocabularies are, for the tests that compare with them."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
DATA = SHARED / "data"
VOCABULARIES = SHARED / "tokenizers"

needs_data = pytest.mark.skipif(
    not DATA.is_dir(),
    reason="compares our draws of rows with the published k-shot files; without ../shared/data",
)
MERGES = 456_318  # bytes of GPT-2's merges.txt, which RoBERTa and OPT have too


def are_published(folder: Path) -> bool:
    """Whether a folder has the vocabularies of RoBERTa and OPT, and no others by their names."""
    files = [folder / name / "merges.txt" for name in ("roberta", "opt")]
    return all(file.is_file() and file.stat().st_size == MERGES for file in files)


needs_vocabularies = pytest.mark.skipif(
    not are_published(VOCABULARIES),
    reason="compares with ids that transformers gave for the vocabularies of RoBERTa and OPT; "
    "without them in ../shared/tokenizers",
)
