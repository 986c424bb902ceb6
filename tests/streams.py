"""Models whose weights are in a file, and tiles so small that every matrix has several blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinyzo.checkpoints.safetensors import SafetensorsWriter, open_safetensors
from tinyzo.engine import tiles
from tinyzo.engine.stores.streamed import Streamed
from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights
from tinyzo.models.model import Model
from tinyzo.runs.snapshots import infos_of

PAIR = [Probe(5, 1e-2), Probe(5, -1e-2)]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 3 rows of width 8, so that every matrix has several blocks."""
    monkeypatch.setattr(tiles, "TILE", 24)


def streamed(model: Model, path: Path, tiles: int = 2) -> Model:
    """The same model, its weights in a file."""
    weights = model.weights
    with SafetensorsWriter(path, infos_of(weights, weights.saved)) as writer:
        weights.write(writer.write, writer.names())
    names = {name: name for name in weights.names()}
    store = Streamed(open_safetensors(path), names, tiles=tiles)
    there = Weights(store, weights.engine, weights.direction)
    return Model(model.family, model.config, there, model.directory)
