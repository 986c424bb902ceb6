"""Models in groups of small integers, and the same numbers as floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from folders import write_tensors

from tinyzo.checkpoints.groups import GROUP_TYPES
from tinyzo.checkpoints.safetensors import open_safetensors
from tinyzo.engine.groups import GroupedWeights
from tinyzo.engine.weights import Weights
from tinyzo.models.model import Model
from tinyzo.models.quantised import open_grouped

KINDS = tuple(GROUP_TYPES)


def with_weights(model: Model, weights: Weights) -> Model:
    return Model(model.family, model.config, weights, model.directory)


def in_groups(model: Model, path: Path, kind: str, is_streamed: bool = False) -> Model:
    """The model's weights, quantised as they are read from a file of floats."""
    weights = model.weights
    write_tensors(path, {name: weights.stored(name) for name in weights.names()})
    shapes = {name: weights.shape(name) for name in weights.names()}
    names = {name: name for name in shapes}
    source = open_safetensors(path)
    made = open_grouped(source, names, shapes, model.architecture.TABLES, kind)
    made.store.resize(2)
    store = made.store if is_streamed else made.store.load()
    return with_weights(model, GroupedWeights(store, weights.engine))


def as_floats(model: Model) -> Model:
    """The same numbers in float32."""
    weights = model.weights
    tensors = {name: np.ascontiguousarray(weights.read(name)) for name in weights.names()}
    return with_weights(model, Weights(tensors, weights.engine))


def groups_of(rows: int, count: int, dtype: np.dtype, seed: int = 1) -> np.ndarray:
    """Groups of any codes and scales that a file may have: groups[rows, count]."""
    random: Any = np.random.default_rng(seed)
    groups = np.frombuffer(random.bytes(rows * count * dtype.itemsize), dtype).copy()
    groups["scale"] = random.integers(0, 0x7C00, len(groups)).astype(np.uint16).view(np.float16)
    groups["scale"][:2] = 0, 6e-8
    return groups.reshape(rows, count)
