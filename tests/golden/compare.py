"""tinyzo's stages against the golden files, and what it means to agree with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from golden.seeded import Case
from tiny import EngineOf

from tinyzo.checkpoints.directory import typed_config
from tinyzo.engine.numpy_engine import NumpyView
from tinyzo.engine.weights import Weights
from tinyzo.models.model import MODELS, Model
from tinyzo.text.packing import pack_sequences

TOLERANCE = 4  # times the error of the reference's own float32 run, at the same stage


def seeded_model(case: Case, engine: Any = NumpyView) -> Model:
    """The case as a model, its weights made in memory."""
    family = case.config["model_type"]
    config = typed_config(dict(case.config), MODELS[family].Config, MODELS[family].ALLOWED)
    engine = EngineOf(engine) if isinstance(engine, type) else engine
    tensors = {name: case.tensor(name, shape) for name, shape in MODELS[family].shapes(config)}
    return Model(family, config, Weights(tensors, engine), Path())


def stages(model: Model, sequences: list[list[int]]) -> Iterator[tuple[str, np.ndarray]]:
    """What the model computes, stage by stage, as make_golden.py names them: f32[N, D]."""
    family, config = model.architecture, model.config
    theta, batch = model.weights.view(), model.check(pack_sequences(sequences))
    x = family.embed(theta, config, batch)
    yield "embed", np.asarray(x)[0]
    for i in range(config.num_hidden_layers):
        x = family.layer(theta, config, i, x, batch)
        yield f"layer{i}", np.asarray(x)[0]
    h = family.hidden(theta, config, batch)
    head = family.head(theta, config, h) if hasattr(family, "head") else h
    yield "head", np.asarray(head)[0]
    yield "logits", family.logits(theta, config, h)[0]


def used_shares(name: str, model: Model, sequences: list[list[int]]) -> dict[str, float]:
    """The largest error of each stage, as a share of its tolerance (nan if it is not a number)."""
    shares = {}
    with np.load(Path(__file__).with_name(f"{name}.npz")) as golden:
        for stage, found in stages(model, sequences):
            assert found.shape == golden[stage].shape
            error = np.abs(found - golden[stage]).max()
            shares[stage] = float(error / (TOLERANCE * golden[f"{stage}.error"]))
        assert {*golden} == {*shares, *(f"{stage}.error" for stage in shares)}
    return shares


def used_shares_of_logits(name: str, model: Model, case: Case) -> dict[str, float]:
    """The same of a model of real size, of which some columns of the logits are kept."""
    found = np.concatenate(model.logits(case.sequences))
    with np.load(Path(__file__).with_name(f"{name}.npz")) as golden:
        tolerance = TOLERANCE * golden["logits.error"]
        assert tolerance < 2e-5 * golden["peak"]
        error = np.abs(found[:, case.columns] - golden["logits"]).max()
        peak_error = np.abs(np.abs(found).max() - golden["peak"])
    return {"logits": float(error / tolerance), "peak": float(peak_error / tolerance)}


# -- planted faults: each must be seen -------------------------------------------------------


def scaled_queries(factor: float) -> Callable[..., np.ndarray]:
    """Attention with scores multiplied by a factor."""
    right = NumpyView.attention
    return lambda view, name, q, *o, **more: right(view, name, np.float32(factor) * q, *o, **more)


def norm_with(wrong_ln_eps: float) -> Callable[..., np.ndarray]:
    right = NumpyView.norm
    return lambda view, name, x, ln_eps: right(view, name, x, wrong_ln_eps)


def tanh_gelu(view: Any, x: np.ndarray) -> np.ndarray:
    """The approximation that GPT-2 uses; RoBERTa and OPT do not."""
    return x * (0.5 + 0.5 * np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


FAULTS_OF_VERBS = {
    "swapped sign of the scores": ("attention", scaled_queries(-1)),
    "no 1/sqrt(K)": ("attention", scaled_queries(math.sqrt(8))),
    "scores 0.1 % too large": ("attention", scaled_queries(1.001)),
    "another LayerNorm epsilon": ("norm", norm_with(1e-12)),
    "gelu by tanh": ("gelu", tanh_gelu),
}


def unseen_errors(name: str, model: Model, case: Case) -> set[str]:
    """The tensors that may be 0.1 % wrong without the comparison seeing it."""
    unseen = set()
    for tensor in model.weights.names():
        stored = model.weights.stored(tensor)
        right = stored.copy()
        stored *= np.float32(1.001)
        shares = used_shares(name, model, case.sequences)
        stored[...] = right
        if max(shares.values()) <= 1:
            unseen.add(tensor)
    return unseen
