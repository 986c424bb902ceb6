"""Both backends of the tokenizer on one folder; ids of one and not of the other are a fault."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from tinyzo.text import tokenizer as backends
from tinyzo.text.bpe import BytePairEncoder
from tinyzo.text.vocabulary import Vocabulary, read_vocabulary

HAS_PACKAGE = find_spec("tokenizers") is not None
TEXTS = [
    "It was<mask>. <s>a</s>\u00a0\n <e1>\u3000the  <e1>",
    "\x1c<e1> newé\u0301<e1>9 \ufffd😀'll\r\n<pad><unk>",
]
BESIDE = ("", " ", "\t\u3000", "a", "_", "<")

sys.path.append(str(Path(__file__).resolve().parents[1] / "text"))  # the builders of folders


def compare_folder(directory: Path) -> None:
    """raises: AssertionError where the ids differ; TokenizerError for a folder that is refused"""
    vocabulary = read_vocabulary(directory)
    contents = [token.content for token in vocabulary.added[:8]]
    beside = (f"{s}{text}{text[::-1]}{text}{s}" for text in contents for s in BESIDE)
    compare(vocabulary, [*TEXTS, *beside])


def compare(vocabulary: Vocabulary, texts: Iterable[str]) -> None:
    parts = vocabulary.ids, vocabulary.merges, vocabulary.added, vocabulary.prefix_space
    own = BytePairEncoder(*parts).encode
    packaged = (HAS_PACKAGE and backends._package_encode(vocabulary)) or own
    for text in texts:
        ids = own(text)
        assert ids == packaged(text), f"{text!r}: {ids}"
        assert all(0 <= number < len(vocabulary.ids) for number in ids)
