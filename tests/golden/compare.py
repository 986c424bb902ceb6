"""tinyzo's stages against the golden files: how much of the tolerance is used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
from seeded import Case

from tinyzo.checkpoints.directory import typed_config
from tinyzo.engine.numpy_engine import NumpyView
from tinyzo.engine.weights import Weights
from tinyzo.models.model import MODELS, Model
from tinyzo.text.batches import pack_sequences

TOLERANCE = 4  # times the error of the reference's own float32 run, at the same stage


def seeded_model(case: Case) -> Model:
    """The case as a model, its weights made in memory."""
    family = case.config["model_type"]
    config = typed_config(dict(case.config), MODELS[family].Config, MODELS[family].ALLOWED)
    tensors = {name: case.tensor(name, shape) for name, shape in MODELS[family].shapes(config)}
    return Model(family, config, Weights(tensors, NumpyView), Path(), "numpy")


def stages(model: Model, sequences: list[list[int]]) -> Iterator[tuple[str, np.ndarray]]:
    """What the model computes, stage by stage, as make_golden.py names them: f32[N, D]."""
    family: ModuleType = model.architecture
    theta, config, batch = model.weights.view(), model.config, pack_sequences(sequences)
    x = family.embed(theta, config, batch)
    yield "embed", x[0]
    for i in range(config.num_hidden_layers):
        x = family.layer(theta, config, i, x, batch)
        yield f"layer{i}", x[0]
    h = family.hidden(theta, config, batch)
    yield "head", (family.head(theta, config, h) if hasattr(family, "head") else h)[0]
    yield "logits", family.logits(theta, config, h)[0]


def used_shares(name: str, model: Model, sequences: list[list[int]]) -> dict[str, float]:
    """The largest error of each stage, as a share of its tolerance; not a number if it is none."""
    shares = {}
    with np.load(Path(__file__).with_name(f"{name}.npz")) as golden:
        for stage, found in stages(model, sequences):
            assert found.shape == golden[stage].shape
            error = np.abs(found - golden[stage]).max()
            shares[stage] = float(error / (TOLERANCE * golden[f"{stage}.error"]))
        assert {*golden} == {*shares, *(f"{stage}.error" for stage in shares)}
    return shares


def agrees(shares: dict[str, float]) -> bool:
    return all(share <= 1 for share in shares.values())
