"""Byte-level byte-pair encoding in plain Python, for where the `tokenizers` package cannot be had.

A text is cut into words by GPT-2's pattern, and a word into bytes. The bytes are merged pair by
pair, the earliest learnt pair first. A vocabulary spells each byte as one printable character.
"""

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from heapq import heapify, heappop, heappush
from typing import NamedTuple

Merges = list[tuple[str, str]]

CACHED_WORDS = 16_384
LONGEST_CACHED_WORD = 64  # characters: so that the cache stays within a few megabytes
GONE = -1  # in place of a token's id: merged into its neighbour, or beyond the word's end

# White_Space as Unicode has it. Python's own \s and str.strip() also take U+001C to U+001F.
WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)

_ANY_SPACE = re.compile(f"[{WHITE_SPACE}]*")


def _byte_alphabet() -> dict[str, int]:
    """The character that spells a byte -> the byte (Radford et al. 2019, section 2.2).

    Printable Latin-1 bytes spell themselves; the others follow from U+0100.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    for place, byte in enumerate(others):
        alphabet[chr(0x100 + place)] = byte
    return alphabet


BYTE_OF = _byte_alphabet()


def _word_signs() -> str:
    """What \\w has beyond letters, marks, digits and connectors: joiners, letters in circles."""
    ranges = ((0x200C, 2), (0x24B6, 52), (0x1F130, 26), (0x1F150, 26), (0x1F170, 26))
    return "".join(chr(first + place) for first, count in ranges for place in range(count))


_WORD_SIGNS = _word_signs()


@cache
def word_pattern() -> re.Pattern[str]:
    """GPT-2's pattern of contractions, letters, numbers, other signs and space, for `re`.

    differs: from `tokenizers` on letters and numbers newer than this Python's unicodedata.
             Python 3.11 (Unicode 14) lacks 9,272 letters and 120 numbers of tokenizers 0.23
             (Unicode 16) and takes them for signs; every character it knows is classed the same
    """
    # No letter or number lies above plane 3; the planes 4 to 13 are unassigned.
    kinds = "".join([unicodedata.category(chr(code))[0] for code in range(0x40000)])
    letter = _character_ranges("L", kinds)
    number = _character_ranges("N", kinds)
    space = WHITE_SPACE
    alternatives = (
        "'(?:s|t|re|ve|m|ll|d)",
        f" ?[{letter}]+",
        f" ?[{number}]+",
        f" ?[^{space}{letter}{number}]+",
        f"[{space}]+(?![^{space}])",
        f"[{space}]+",
    )
    return re.compile("|".join(alternatives))


def _character_ranges(kind: str, kinds: str) -> str:
    """The characters of one kind, as they stand in a set of `re`; kinds: the kind of each code."""
    runs = re.finditer(f"{kind}+", kinds)
    return "".join(f"{chr(run.start())}-{chr(run.end() - 1)}" for run in runs)


class AddedToken(NamedTuple):
    """A string that is cut out of a text before all else, and is one id.

    lstrip, rstrip: it swallows the white space on its left, as RoBERTa's <mask> does; on its right
    single_word:    only where no letter, digit or _ touches it
    normalized:     looked for in what those that are not have left
    """

    content: str
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


class BytePairEncoder:
    """Text to ids by byte-pair merges (Sennrich et al. 2016, section 3.2).

    ids:          vocabulary item -> id, with all 256 byte characters in it
    merges:       pairs of items, the first learnt first; their concatenations are items too
    added:        cut out of a text before its words; they have ids too
    prefix_space: whether a stretch between them that begins without a space gets one
    """

    def __init__(
        self,
        ids: dict[str, int],
        merges: Merges,
        added: Iterable[AddedToken] = (),
        prefix_space: bool = False,
    ) -> None:
        self._ids = ids
        spelling = sorted(BYTE_OF, key=BYTE_OF.__getitem__)
        self._byte_ids = [ids[character] for character in spelling]
        self._merged_ids = array("I", [ids[left + right] for left, right in merges])
        # A pair of ids is one integer, since a dictionary of tuples takes twice the memory.
        self._ranks: dict[int, int] = {}
        for rank, (left, right) in enumerate(merges):
            self._ranks[ids[left] << 32 | ids[right]] = rank
        added = list(added)
        rounds = ([token for token in added if token.normalized is late] for late in (False, True))
        self._rounds = [_Cutter(tokens) for tokens in rounds if tokens]
        self._prefix_space = prefix_space
        self._cached_merge = lru_cache(CACHED_WORDS)(self._merge)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; added tokens inside it are their own id, and none are put around."""
        parts: Iterable[str | AddedToken] = [text]
        for cutter in self._rounds:
            parts = cutter.cut(parts)
        ids: list[int] = []
        for part in parts:
            if isinstance(part, AddedToken):
                ids.append(self._ids[part.content])
            else:
                ids += self._encode_stretch(part)
        return ids

    def _encode_stretch(self, text: str) -> list[int]:
        if self._prefix_space and text[:1] not in ("", " "):
            text = " " + text
        ids: list[int] = []
        for word in word_pattern().findall(text):
            merge = self._merge if len(word) > LONGEST_CACHED_WORD else self._cached_merge
            ids += merge(word)
        return ids

    def _merge(self, word: str) -> list[int]:
        """The ids of a word: the pair learnt first is merged, until no pair is known.

        A heap over a linked list takes n log n steps, since a word can be a whole file.
        """
        tokens = _LinkedTokens([self._byte_ids[byte] for byte in word.encode()])
        ranks = [self._ranks.get(tokens.pair_at(left)) for left in range(len(tokens.following))]
        heap = [(rank, left) for left, rank in enumerate(ranks) if rank is not None]
        heapify(heap)
        while heap:
            rank, left = heappop(heap)
            if self._ranks.get(tokens.pair_at(left)) != rank:
                continue  # a neighbour was merged since
            tokens.merge_at(left, self._merged_ids[rank])
            for start in (tokens.preceding[left], left):
                new_rank = self._ranks.get(tokens.pair_at(start))
                if new_rank is not None:
                    heappush(heap, (new_rank, start))
        return [token for token in tokens.ids if token != GONE]


class _LinkedTokens:
    """The tokens of a word as a linked list, in which two neighbours become one.

    A token keeps its place; where it was merged into the one before, GONE stands.
    """

    __slots__ = ("following", "ids", "preceding")

    def __init__(self, ids: list[int]) -> None:
        self.ids = [*ids, GONE]  # the last stands for what is beyond either end
        self.following = list(range(1, len(ids) + 1))
        self.preceding = list(range(-1, len(ids)))

    def pair_at(self, left: int) -> int:
        """A token and the next as one integer, as the encoder's ranks are kept; with GONE < 0."""
        return self.ids[left] << 32 | self.ids[self.following[left]]

    def merge_at(self, left: int, merged: int) -> None:
        right = self.following[left]
        after = self.following[right]
        self.ids[left] = merged
        self.ids[right] = GONE
        self.following[left] = after
        self.preceding[after] = left


class _Cutter:
    """Finds added tokens, the longest of those that begin at one place."""

    def __init__(self, tokens: list[AddedToken]) -> None:
        self._tokens = {token.content: token for token in tokens}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def cut(self, parts: Iterable[str | AddedToken]) -> Iterator[str | AddedToken]:
        """The same text in more parts: tokens, and the stretches between them."""
        for part in parts:
            if isinstance(part, AddedToken):
                yield part
            else:
                yield from self._cut_stretch(part)

    def _cut_stretch(self, text: str) -> Iterator[str | AddedToken]:
        end = 0
        for match in self._pattern.finditer(text):
            token = self._tokens[match[0]]
            if token.single_word and _is_inside_a_word(text, *match.span()):
                continue
            before = text[end : match.start()]
            before = before.rstrip(WHITE_SPACE) if token.lstrip else before
            if before:
                yield before
            yield token
            end = match.end()
            if token.rstrip:
                end = _ANY_SPACE.match(text, end).end()  # type: ignore[union-attr]  # of none too
        if end < len(text):
            yield text[end:]


def _is_inside_a_word(text: str, start: int, end: int) -> bool:
    beside = text[max(start - 1, 0) : start] + text[end : end + 1]
    return any(map(_is_of_a_word, beside))


def _is_of_a_word(character: str) -> bool:
    """Whether Unicode has a character in its \\w; Python's own differs."""
    category = unicodedata.category(character)
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc") or character in _WORD_SIGNS
