"""Added tokens and a text: both backends cut the same tokens out of it.

Not a file of tinyzo's: lines of a token each, its flags in the first character; then the text.
"""

from __future__ import annotations

from fuzz.backends import compare
from fuzz.reader import Reader

from small_bpe import IDS, MERGES  # isort: skip (fuzz.backends has the path)
from tinyzo.text.bpe import WHITE_SPACE, AddedToken
from tinyzo.text.vocabulary import Vocabulary

FEW = {piece: number for piece, number in IDS.items() if number < 270}
PAIRS = [pair for pair in MERGES if "".join(pair) in FEW]


def read(data: bytes) -> None:
    *lines, text = data.decode(errors="replace").split("\n")
    added = {line[1:]: _token(line) for line in lines if line[1:]}
    ids = FEW.copy()
    for content in added:
        ids.setdefault(content, len(ids))
    prefix_space = len(lines) % 2 == 1
    compare(Vocabulary(ids, PAIRS, [*added.values()], prefix_space, "<s>", "</s>", None), [text])


def _token(line: str) -> AddedToken:
    flags = [bool(ord(line[0]) & bit) for bit in (1, 2, 4, 8)]
    flags[0] &= not line[1:].startswith(tuple(WHITE_SPACE))  # else refused
    return AddedToken(line[1:], *flags)


READER = Reader(
    read,
    seeds=[
        "1<m>\n2<s>\n0<e>\nIt was <m> good.<s> \u3000the<e>\u00a0<m><e>".encode(),
        "4new\n8new \n<a\n0 a\nnew news  new a aa new_new\u0301 new".encode(),
        "3 \n7é\n=\u0301\n>a é\u0301 a\u200dé 日é \u24b6é".encode(),
    ],
    words=[
        " \t\u3000".encode(),
        b"\x1c",
        "\x85".encode(),
        "\u0301".encode(),
        b"\n0",
        b"<m>",
    ],
)
