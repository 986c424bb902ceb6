"""A small byte-level vocabulary, learnt from a few lines by a slow merge loop, the definition."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from tinyzo.text.bpe import BYTE_OF, Merges, word_pattern

CHARACTER = {byte: character for character, byte in BYTE_OF.items()}
CORPUS = """It was great. The film isn't terrible; they've said it's the best of 1999, and we'll
 see. I'd watch the 3rd one again!!  Naïve café scenes, “quoted” … 日本語 and the 😀 too.
"""


def spell(text: str) -> str:
    """A text in the characters that spell its bytes."""
    return "".join(CHARACTER[byte] for byte in text.encode())


def merge_slowly(pieces: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """The definition: the lowest rank first, the leftmost of equals first, one merge at a time."""
    while len(pieces) > 1:
        pairs = list(pairwise(pieces))
        best = min(range(len(pairs)), key=lambda i: (ranks.get(pairs[i], 1 << 60), i))
        if pairs[best] not in ranks:
            break
        pieces = [*pieces[:best], "".join(pairs[best]), *pieces[best + 2 :]]
    return pieces


def train(corpus: str, count: int) -> tuple[dict[str, int], Merges]:
    """A small vocabulary: RoBERTa's specials, the 256 bytes, `count` merges, <mask> at the end."""
    words = [spell(word) for word in word_pattern().findall(corpus)]
    merges: Merges = []
    for _ in range(count):
        ranks = {pair: rank for rank, pair in enumerate(merges)}
        split = [merge_slowly(list(word), ranks) for word in words]
        pairs = Counter(pair for word in split for pair in pairwise(word))
        merges.append(max(pairs, key=lambda pair: (pairs[pair], pair)))
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted(BYTE_OF)]
    pieces += [left + right for left, right in merges]
    pieces.append("<mask>")
    return {piece: index for index, piece in enumerate(pieces)}, merges


IDS, MERGES = train(CORPUS, 60)
