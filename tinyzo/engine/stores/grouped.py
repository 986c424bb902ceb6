"""Weights that stay in their file, of which matrices are handed out in groups.

    FileOfGroups   they are in groups in the file       as `tinyzo convert --dtype` writes it
    Quantised      they are floats there                and become groups whenever they are read

Both give the same bits.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping

import numpy as np

from tinyzo.checkpoints.groups import check_scales, group_count, quantise, scales_of, stored_shape
from tinyzo.checkpoints.sources import Source
from tinyzo.dtypes import STORAGE, widen
from tinyzo.engine.stores.resident import Resident
from tinyzo.engine.stores.streamed import Place, Streamed
from tinyzo.engine.tiles import split, tile_rows

Shapes = Mapping[str, tuple[int, ...]]
Types = Mapping[str, np.dtype]


class Grouped(Streamed):
    """A Store of tensors in a file, some of which are handed out in groups.

    A buffer has rows as they are in the file, then the same in groups.
    """

    def __init__(
        self, source: Source, names: dict[str, str], shapes: Shapes, groups: Types
    ) -> None:
        """names: as for Streamed; shapes: of each parameter; groups: the types of the matrices"""
        self._groups = groups
        self._shapes = shapes
        self._mapped: set[str] = set()  # matrices whose scales have been checked for good
        super().__init__(source, names)
        self.dtypes |= groups

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def _room_for(self, name: str) -> np.ndarray:
        dtype = self.dtypes[name]
        return np.empty(stored_shape(self.shapes[name], dtype), dtype)

    def load(self) -> Resident:
        loaded = super().load()
        loaded.shapes = self.shapes  # of numbers, not of groups
        return loaded

    def _block_bytes_of(self, name: str, tiles: int) -> int:
        if name not in self._groups:
            return super()._block_bytes_of(name, tiles)
        rows, columns = self.shapes[name]
        in_groups = group_count(columns) * self._groups[name].itemsize
        return min(rows, tiles * tile_rows((rows, columns))) * (self._file_bytes(name) + in_groups)

    def _file_bytes(self, name: str) -> int:
        """Bytes of a row in the file."""
        info = self._source.info(self._names[name])
        return math.prod(info.shape[1:]) * STORAGE[info.dtype].itemsize

    def _read(self, place: Place, buffer: np.ndarray | None = None) -> np.ndarray:
        if place.name not in self._groups:
            return super()._read(place, buffer)
        rows = place.stop - place.start
        file = self._names[place.name]
        info = self._source.info(file)
        raw: np.ndarray = np.ndarray((rows, *info.shape[1:]), STORAGE[info.dtype], buffer)
        self._source.read_into(file, raw, place.start)
        rest = None if buffer is None else buffer[raw.nbytes :]
        dtype = self._groups[place.name]
        shape = stored_shape((rows, self.shapes[place.name][1]), dtype)
        groups: np.ndarray = np.ndarray(shape, dtype, rest)
        self._fill(place, groups, raw)
        return groups

    @abstractmethod
    def _fill(self, place: Place, groups: np.ndarray, raw: np.ndarray) -> None:
        """Make the groups of some rows. raw: these rows as they are in the file."""


class FileOfGroups(Grouped):
    """Of a file that `tinyzo convert --dtype` has written."""

    def _check(self, name: str) -> None:
        if name not in self._groups:
            super()._check(name)

    def mapped_groups(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The codes and the scales of a matrix as pages of its file, which nobody copies.

        raises: CheckpointError where the file cannot be mapped, or for a scale that is no scale
        """
        file = self._names[name]
        codes, scales = (self._source.mapped(each) for each in (file, scales_of(file)))
        if name not in self._mapped:
            self._check_scales(name, scales)
            self._mapped.add(name)
        return codes, scales

    def _check_scales(self, name: str, scales: np.ndarray) -> None:
        check_scales(f"{self._source.path}: {name}", scales, "convert the model again")

    def _fill(self, place: Place, groups: np.ndarray, raw: np.ndarray) -> None:
        scales: np.ndarray = np.empty(groups.shape, np.float16)
        self._source.read_into(scales_of(self._names[place.name]), scales, place.start)
        self._check_scales(place.name, scales)
        groups["codes"] = raw
        groups["scale"] = scales


class Quantised(Grouped):
    """Of a file of floats."""

    def _fill(self, place: Place, groups: np.ndarray, raw: np.ndarray) -> None:
        for start, part in split(0, raw):
            groups[start : start + len(part)] = quantise(widen(part), groups.dtype)
        hint = "a model with such a weight cannot be quantised"
        check_scales(f"{self._source.path}: {place.name}", groups["scale"], hint)
