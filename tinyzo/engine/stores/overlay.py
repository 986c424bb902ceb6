"""A few tensors in memory, in front of a checkpoint that is only read."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tinyzo.checkpoints.safetensors import open_safetensors
from tinyzo.dtypes import Integers
from tinyzo.engine.protocols import Store
from tinyzo.engine.stores.resident import Resident
from tinyzo.engine.tiles import Block


class Overlay:
    """A Store with tensors of its own in front of another store's.

    Only its own, which are in memory, are written. The other store may be streamed.
    """

    is_resident = True

    def __init__(self, base: Store, own: dict[str, np.ndarray]) -> None:
        self.base = base
        self.own = Resident(own)
        self.shapes = base.shapes | self.own.shapes
        self.dtypes = base.dtypes | self.own.dtypes

    def of(self, name: str) -> Store:
        """The store that has a tensor."""
        return self.own if name in self.own.tensors else self.base

    def read(self, name: str) -> np.ndarray:
        return self.of(name).read(name)

    def blocks(
        self, name: str, start: int = 0, stop: int | None = None, sweep: str = ""
    ) -> Iterator[Block]:
        return self.of(name).blocks(name, start, stop, sweep)

    def gather(self, name: str, rows: Integers) -> np.ndarray:
        return self.of(name).gather(name, rows)

    def load(self) -> "Overlay":
        return Overlay(self.base.load(), self.own.tensors)

    def resize(self, tiles: int) -> None:
        self.base.resize(tiles)

    def block_bytes(self, tiles: int) -> int:
        own = sum(tensor.nbytes for tensor in self.own.tensors.values())
        return self.base.block_bytes(tiles) + own // 2  # a plan counts two blocks

    def move(self, path: Path) -> None:
        """Take the trained tensors of a snapshot, and all others if it has them.

        raises: CheckpointError when it cannot be opened; nothing has changed then
        """
        with open_safetensors(path) as file:
            found = set(file.names())
            is_whole = self.base.shapes.keys() <= found
            if is_whole or isinstance(self.base, Overlay):
                self.base.move(path)
            for name in self.own.tensors.keys() & found:
                self.own.tensors[name][...] = file.read(name)

    def close(self) -> None:
        self.base.close()


def owner(store: Store, name: str) -> Store:
    """The store behind all overlays that has a tensor."""
    while isinstance(store, Overlay):
        store = store.of(name)
    return store
