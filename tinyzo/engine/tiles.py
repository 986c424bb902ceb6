"""Tiles: so few rows of a tensor that they, their z and what is made of them stay in cache."""

import math
from collections.abc import Iterator

import numpy as np

Block = tuple[int, np.ndarray]  # the number of its first row, and its rows as they are stored
TILE = 1 << 16  # elements in work at once: 256 kB of float32


def tile_rows(shape: tuple[int, ...]) -> int:
    """The number of rows that are a tile of a tensor of this shape."""
    return max(1, TILE // math.prod(shape[1:]))


def split(start: int, raw: np.ndarray) -> Iterator[Block]:
    """Rows from row `start` on, in tiles: (first row, rows)."""
    step = tile_rows(raw.shape)
    for at in range(0, len(raw), step):
        yield start + at, raw[at : at + step]
