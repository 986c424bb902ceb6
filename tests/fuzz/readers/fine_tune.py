"""A fine-tune as a file: its head, its settings, its numbers, and what a run makes of them."""

from __future__ import annotations

import hashlib
from contextlib import suppress

import numpy as np
from fuzz.reader import Reader, place

from tinyzo.errors import RunError, shown
from tinyzo.runs.fine_tune import KEPT
from tinyzo.runs.fine_tune_file import DIGEST, FIELDS, START, Contents, pack
from tinyzo.runs.sums import open_sum


def read(data: bytes) -> None:
    """As it is, and as if its SHA-256 and the length of its head were right."""
    for each in (data, sealed(data)):
        path = place("one.tinyzo", each)
        found = open_sum("one", [(path, 1.0)])
        assert shown(found.missing_base()).isprintable() and found.models
        found.way(None)
        with suppress(RunError):  # some are no part of a sum
            open_sum("one", [(path, -0.5)]).way(None)


def sealed(data: bytes) -> bytes:
    body = data[:-DIGEST]
    magic, version, _ = START.unpack(body[: START.size].ljust(START.size, b"\0"))
    end = body.find(b"}\n")  # the heads of these seeds end in a line's end
    body = START.pack(magic, version, max(0, end + 2 - START.size)) + body[START.size :]
    return body + hashlib.sha256(body).digest()


def file(steps: list[list[int]], terms: int, decay: float, has_seeds: bool, **settings) -> bytes:
    count = sum(last - first + 1 for first, last in steps)
    head = {
        "tinyzo": "0.2.0",
        "name": "roberta-tiny",
        "family": "roberta",
        "base": "ab" * 32,
        "data": "cd" * 32,
        "data_ships": True,
        "settings": {"seed": 3, "data_seed": 42, **settings},
        "scores": {"dev": {"examples": 48, "accuracy": 0.75, "loss": 0.5}},
        "z": "rademacher" if settings.get("method") == "fzoo" else "gaussian",
        "steps": steps,
    }
    numbers = np.linspace(-1, 1, count * terms).reshape(count, terms)
    seeds = np.full((count, terms), 1 << 53, np.uint64) if has_seeds else None
    factors = np.ones(3, np.float32)
    data = pack(Contents(head, factors, np.full(count, decay), seeds, numbers))
    size = START.unpack_from(data)[2]
    return sealed(data[: START.size + size] + b"\n" + data[START.size + size :])


OWN = {"template": "{text} It was <mask>.", "label_words": ["bad", "good"]}
READER = Reader(
    read,
    seeds=[
        file([[1, 4]], 1, 0.0, False, task="topics", method="mezo"),
        file(
            [[1, 2], [5, 5]],
            31,
            1e-9,
            False,
            method="adamezo",
            queries=3,
            train="lora-fa",
            window=10,
        ),
        file([[7, 8]], 2, 0.0, True, method="fzoo", queries=2, lora_targets=["query"]),
        file([], 1, 0.0, False, method="mezo", **OWN),
    ],
    words=[
        b"tinyzo-f",
        b"\xff\xff",
        b"\x00\x00\xc0\x7f",
        *(f'"{name}":'.encode() for name in (*FIELDS, *KEPT)),
        *(b"[[1,4]]", b"4294967295", b"true", b"1e999", b"\\u001b", b'"../"'),
    ],
)
