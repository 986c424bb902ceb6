"""Weights in memory, changed in place. streamed.py leaves them in their file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tinyzo.dtypes import Integers
from tinyzo.engine.tiles import Block


class Resident:
    """A Store whose bytes are arrays, which belong to it. tensors: name -> f32, f16 or u16."""

    is_resident = True

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.tensors = tensors
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in tensors.items()}

    def read(self, name: str) -> np.ndarray:
        return self.tensors[name]

    def blocks(
        self, name: str, start: int = 0, stop: int | None = None, sweep: str = ""
    ) -> Iterator[Block]:
        """One block: the rows themselves."""
        yield start, self.tensors[name][start:stop]

    def gather(self, name: str, rows: Integers) -> np.ndarray:
        return self.tensors[name][rows]

    def load(self) -> "Resident":
        return self

    def resize(self, tiles: int) -> None:
        """Nothing: a block is a whole tensor."""

    def block_bytes(self, tiles: int) -> int:
        return 0  # a block is no copy

    def move(self, path: Path) -> None:
        """Nothing: what has been written is in memory too."""

    def close(self) -> None:
        """Nothing is open."""
