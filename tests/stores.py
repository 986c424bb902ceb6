"""Models whose weights stay in a file."""

from __future__ import annotations

from pathlib import Path

from tinyzo.checkpoints.safetensors import SafetensorsWriter, open_safetensors
from tinyzo.engine.stores.streamed import Streamed
from tinyzo.engine.weights import Weights
from tinyzo.models.model import Model
from tinyzo.runs.snapshots import infos_of


def streamed(model: Model, path: Path, tiles: int = 2) -> Model:
    """The same model, its weights in a file."""
    weights = model.weights
    with SafetensorsWriter(path, infos_of(weights, weights.saved)) as writer:
        weights.write(writer.write, writer.names())
    names = {name: name for name in weights.names()}
    store = Streamed(open_safetensors(path), names, tiles=tiles)
    there = Weights(store, weights.engine, weights.direction)
    return Model(model.family, model.config, there, model.directory)
