"""Byte-level byte-pair encoding in plain Python, for where the `tokenizers` package cannot be had.

A text is cut into words by GPT-2's pattern, a word into bytes, and the bytes are merged pair by
pair, the earliest learnt pair first. A vocabulary spells each byte as one printable character.
"""

import re
import unicodedata
from array import array
from functools import cache, lru_cache
from heapq import heapify, heappop, heappush

# Unicode White_Space. Python's own \s and str.strip() also take U+001C to U+001F.
_WIDE_SPACES = "".join(map(chr, range(0x2000, 0x200B)))
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + _WIDE_SPACES
Merges = list[tuple[str, str]]
LONGEST_CACHED_WORD = 64  # characters: so that 16,384 cached words stay a few megabytes

# GPT-2's alphabet (Radford et al. 2019, section 2.2): printable Latin-1 bytes are themselves, the
# others follow from U+0100.
_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
BYTE_OF = {chr(byte): byte for byte in sorted(_PRINTABLE)}
BYTE_OF |= {chr(0x100 + i): byte for i, byte in enumerate(sorted({*range(256)} - _PRINTABLE))}


@cache
def word_pattern() -> re.Pattern[str]:
    """GPT-2's pattern of contractions, letters, numbers, other signs and space, for `re`.

    differs: from `tokenizers` on letters and numbers newer than this Python's unicodedata.
             Python 3.11 (Unicode 14) lacks 9,272 letters and 120 numbers of tokenizers 0.23
             (Unicode 16) and takes them for signs; every character it knows is classed the same
    """
    # No letter or number lies above plane 3; the planes 4 to 13 are unassigned.
    kinds = "".join([unicodedata.category(chr(code))[0] for code in range(0x40000)])
    runs = (re.finditer(kind, kinds) for kind in ("L+", "N+"))
    letter, number = ("".join(f"{chr(r.start())}-{chr(r.end() - 1)}" for r in run) for run in runs)
    space = WHITE_SPACE
    signs, spaces = f" ?[^{space}{letter}{number}]+", f"[{space}]+(?![^{space}])|[{space}]+"
    return re.compile(f"'(?:s|t|re|ve|m|ll|d)| ?[{letter}]+| ?[{number}]+|{signs}|{spaces}")


class BytePairEncoder:
    """Text to ids by byte-pair merges (Sennrich et al. 2016, section 3.2).

    ids:      vocabulary item -> id, with all 256 byte characters in it
    merges:   pairs of items, the first learnt first; their concatenations are items too
    specials: strings cut out of the text before all else -> whether they swallow the white space
              on their left, as RoBERTa's <mask> does
    """

    def __init__(self, ids: dict[str, int], merges: Merges, specials: dict[str, bool]) -> None:
        self._byte_ids = [ids[char] for char in sorted(BYTE_OF, key=BYTE_OF.__getitem__)]
        self._ranks = {ids[a] << 32 | ids[b]: rank for rank, (a, b) in enumerate(merges)}
        self._merged = array("I", [ids[a + b] for a, b in merges])
        self._ids, self._strips = ids, {text for text, strips in specials.items() if strips}
        longest_first = "|".join(map(re.escape, sorted(specials, key=len, reverse=True)))
        self._special_pattern = re.compile(f"({longest_first or '(?!)'})")
        self._cached_merge = lru_cache(maxsize=16_384)(self._merge)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; specials inside it become their own id, and none are added."""
        ids: list[int] = []
        parts = self._special_pattern.split(text)  # text, special, text, special, ..., text
        for stretch, special in zip(parts[::2], [*parts[1::2], ""], strict=True):
            stretch = stretch.rstrip(WHITE_SPACE) if special in self._strips else stretch
            for word in word_pattern().findall(stretch):
                cached = len(word) <= LONGEST_CACHED_WORD
                ids += self._cached_merge(word) if cached else self._merge(word)
            if special:
                ids.append(self._ids[special])
        return ids

    def _merge(self, word: str) -> list[int]:
        """Merges through a heap over a linked list: n log n, since a word can be a whole file."""
        ids = [self._byte_ids[byte] for byte in word.encode()]
        end = len(ids)
        ids.append(-1)  # -1: merged away, or beyond either end. A pair with it has a negative key
        following, preceding = list(range(1, end + 1)), list(range(-1, end))

        def rank_at(left: int) -> int | None:
            return self._ranks.get(ids[left] << 32 | ids[following[left]])

        heap = [(rank, left) for left in range(end) if (rank := rank_at(left)) is not None]
        heapify(heap)
        while heap:
            rank, left = heappop(heap)
            if rank_at(left) != rank:
                continue  # a neighbour was merged since
            right = following[left]
            ids[left], ids[right] = self._merged[rank], -1
            following[left] = following[right]
            preceding[following[left]] = left
            for start in (preceding[left], left):
                if (new_rank := rank_at(start)) is not None:
                    heappush(heap, (new_rank, start))
        return [token for token in ids if token >= 0]
