"""A journal: its header, its records, and the chain of their checksums."""

from __future__ import annotations

from fuzz.reader import Reader, place

from tinyzo.runs.journal import Header, read_journal, record_crc
from tinyzo.zo.mezo import Step


def read(data: bytes) -> None:
    path = place("journal", data)
    for step in range(len(read_journal(path).history.steps)):
        record_crc(path, step)


def file(header: Header, steps: int) -> bytes:
    data = header.pack()
    crc = int.from_bytes(data[-4:], "little")
    terms = tuple((2**53 - n, 0.5 * n) for n in range(header.terms))
    for number in range(1, steps + 1):
        step = Step((0.5,) * header.losses, 0.25, terms, decay=1e-9)
        record = header.pack_step(number, step, crc)
        crc = int.from_bytes(record[-4:], "little")
        data += record
    return data


READER = Reader(
    read,
    seeds=[
        file(Header(2, 1, "gaussian", "ab" * 32), 4),
        file(Header(1, 0, "gaussian", "00" * 32), 2),
        file(Header(9, 8, "rademacher", "cd" * 32), 1),
        file(Header(2, 1, "gaussian", "ab" * 32), 0),
    ],
    words=[b"tinyzo-j", b"\xff\xff"],
)
