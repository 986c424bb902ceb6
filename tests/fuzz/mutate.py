"""Damaged files: each made from another by a few random changes, of bytes or of words."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

EDGES = (0, 1, 0x7F, 0x80, 0xFF)  # bytes at which numbers change their sign or their length
WORDS = (
    b"-1", b"0", b"1e309", b"NaN", b"null", b"true", b'""', b"[]", b"{}", b"18446744073709551616",
    b"9" * 400, b"[" * 2000, b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\r\n", b"\t", b'"',
    b"\\ud800",
)  # fmt: skip
LONGEST = 1 << 16  # bytes of a damaged file


def mutate(data: bytes, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> bytes:
    """One to eight changes, mostly few."""
    changed = bytearray(data)
    changes = 1
    while changes < 8 and random.random() < 0.5:
        changes += 1
    for _ in range(changes):
        CHANGES[random.randrange(len(CHANGES))](changed, others, words, random)
    return bytes(changed[:LONGEST])


def _flip(data: bytearray, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _edge(data: bytearray, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> None:
    if data:
        data[random.randrange(len(data))] = random.choice(EDGES)


def _cut(data: bytearray, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> None:
    """Without its end, as a copy that stopped."""
    del data[random.randrange(len(data) + 1) :]


def _drop(data: bytearray, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> None:
    start = random.randrange(len(data) + 1)
    del data[start : start + _few(random)]


def _repeat(
    data: bytearray, others: Sequence[bytes], words: Sequence[bytes], random: Random
) -> None:
    start = random.randrange(len(data) + 1)
    data[start:start] = data[start : start + _few(random)] * random.randrange(1, 4)


def _splice(
    data: bytearray, others: Sequence[bytes], words: Sequence[bytes], random: Random
) -> None:
    """A piece of another file."""
    other = random.choice(others)
    start = random.randrange(len(other) + 1)
    place = random.randrange(len(data) + 1)
    data[place : place + random.choice((0, 8))] = other[start : start + _few(random)]


def _word(data: bytearray, others: Sequence[bytes], words: Sequence[bytes], random: Random) -> None:
    place = random.randrange(len(data) + 1)
    data[place : place + random.choice((0, 0, 1, 4))] = random.choice((*WORDS, *words))


def _few(random: Random) -> int:
    return 1 << random.randrange(8)


CHANGES = (_flip, _edge, _cut, _drop, _repeat, _splice, _word)
