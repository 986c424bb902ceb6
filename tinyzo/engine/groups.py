"""Weights of which the matrices are in groups of small integers (checkpoints/groups.py).

Those only stand still: what is trained lies beside them. All that reads them reads float32, as of
any other storage type.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from tinyzo.checkpoints.groups import is_grouped, stored_shape, type_tag, widen_groups
from tinyzo.dtypes import Array
from tinyzo.engine.protocols import View
from tinyzo.engine.terms import Probe, Update
from tinyzo.engine.tiles import Block, tile_rows
from tinyzo.engine.weights import ITSELF, Parameters, Weights
from tinyzo.errors import ConfigError

BESIDE = "train what lies beside: lora, lora-fa, prefix, label-words, or bias"


def grouped(weights: Parameters, names: Iterable[str]) -> list[str]:
    """Those of some tensors that are in groups."""
    return [name for name in names if is_grouped(weights.dtype(name))]


def check_still(weights: Parameters, names: Iterable[str]) -> None:
    """raises: ConfigError when one of the tensors, which are to change, is in groups"""
    for name in grouped(weights, names):
        tag = type_tag(weights.dtype(name))
        raise ConfigError(f"{name} is {tag}, and what is quantised stands still", BESIDE)


class GroupedWeights(Weights):
    """Weights of which some matrices are in groups, and refuse to change."""

    def nbytes(self) -> int:
        return sum(self._size(name) for name in self.names())

    def _size(self, name: str) -> int:
        dtype = self.dtype(name)
        return math.prod(stored_shape(self.shape(name), dtype)) * dtype.itemsize

    def tiles(self, name: str) -> Iterator[Block]:
        rows = tile_rows(self.shape(name))
        for start, raw in self.store.blocks(name):
            for at in range(0, len(raw), rows):
                yield start + at, raw[at : at + rows]

    def now(self, name: str, raw: np.ndarray, index: np.ndarray) -> Array:
        if is_grouped(raw.dtype):
            return widen_groups(raw, self.shape(name)[1])
        return super().now(name, raw, index)

    def view(self, probes: Sequence[Probe] = ITSELF) -> View:
        if any(probe.scale for probe in probes):
            check_still(self, self.trained)
        return super().view(probes)

    def apply(self, update: Update, fold: bool = True) -> None:
        check_still(self, self.trained)
        super().apply(update, fold)

    def write(self, write: Callable[[str, np.ndarray], None], names: Sequence[str]) -> None:
        check_still(self, names)
        super().write(write, names)
