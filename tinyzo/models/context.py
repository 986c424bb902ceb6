"""A model that has read something: all that it is given comes after some tokens, read once.

What attention needs of tokens that came before are their keys and values in each layer, and these
are a prefix (engine/adapters.py), though one that nobody trains. What then comes has the positions
that follow, so the table of positions begins there. The result is a model like any other: every
engine computes it, and adapters, packing and generation know nothing of it.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from tinyzo.batch import Batch
from tinyzo.dtypes import Array, Rows
from tinyzo.engine.around import Around
from tinyzo.engine.numpy_engine import NumpyEngine, NumpyView
from tinyzo.engine.protocols import View
from tinyzo.engine.stores.overlay import Overlay
from tinyzo.engine.weights import Weights
from tinyzo.errors import ConfigError
from tinyzo.models import opt
from tinyzo.models.model import Model
from tinyzo.text.packing import pack_sequences


def after(model: Model, ids: Sequence[int]) -> Model:
    """The model as it is now, after it has read `ids`: of what follows, the first position is 0.

    It shares the weights, and is good until they change.
    returns: the same model where there is nothing to read
    raises: ConfigError for a model that does not read from left to right; DataError for more tokens
        than it has positions
    """
    if model.family != "opt":
        hint = "take an OPT model, as opt-tiny"
        raise ConfigError(f"{model.family} does not read on from a text before", hint)
    if not ids:
        return model
    with model.weights.lock:
        tensors = read(model, ids)
        positions = model.weights.read(opt.POSITIONS)
        tensors[opt.POSITIONS] = positions[len(ids) :]
        weights = in_front_of(model.weights, tensors)
    left = model.config.max_length - len(ids)
    known = cast(opt.Config, model.config)  # by its family
    config = replace(known, max_position_embeddings=left)
    return Model(model.family, config, weights, model.directory)


def in_front_of(weights: Weights, tensors: dict[str, Array]) -> Weights:
    """The same weights with other tensors in front, which z does not reach."""
    found = copy.copy(weights)
    found.store = Overlay(weights.store, tensors)
    found.trained = dict.fromkeys(weights.trained)
    for name in tensors:
        found.trained.pop(name, None)
    if weights.adapter_scale is None:
        found.adapter_scale = 1.0  # by which an engine tells that there are adapters
    return found


def read(model: Model, ids: Sequence[int]) -> dict[str, Array]:
    """The keys and values of each layer, with the prefix that it has: f32[R, D] each."""
    weights = model.weights
    batch = model.check(pack_sequences([ids]))
    batch = replace(batch, read=batch.starts[1:] - 1)
    theta = weights.view()
    if not isinstance(theta, NumpyView) or weights.engine.name == "onnx":
        theta = NumpyEngine().view(weights, theta.probes)  # a graph has no values to keep
    reader = Reader(theta)
    with np.errstate(under="ignore"):
        model.architecture.hidden(cast(View, reader), model.config, batch)
    seen = reader.seen
    for name in seen:
        if name in weights:
            both = [weights.read(name), seen[name]]
            seen[name] = np.concatenate(both)
    return seen


class Reader(Around):
    """A view that keeps all keys and values."""

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.seen: dict[str, Array] = {}

    def attention(
        self,
        name: str,
        q: Array,
        k: Array,
        v: Array,
        batch: Batch,
        causal: bool,
        rows: Rows = None,
    ) -> Array:
        """As View's."""
        self.keep(f"{name}.prefix.key", k)
        self.keep(f"{name}.prefix.value", v)
        return self.view.attention(name, q, k, v, batch, causal, rows)

    def keep(self, name: str, x: Array) -> None:
        """x: f32[1, R, H, K]"""
        rows = x.reshape(x.shape[1], -1)
        self.seen[name] = rows.copy()
