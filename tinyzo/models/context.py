"""A model that has read something: all that it is given comes after some tokens, read once.

What attention needs of tokens that came before are their keys and values in each layer, and these
are a prefix (engine/adapters.py), though one that nobody trains. What then comes has the positions
that follow, so the table of positions begins there. The result is a model like any other: every
engine computes it, and adapters, packing and generation know nothing of it.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from tinyzo.dtypes import Array
from tinyzo.engine.numpy_engine import NumpyEngine, NumpyView
from tinyzo.engine.protocols import View
from tinyzo.engine.stores.overlay import Overlay
from tinyzo.errors import ConfigError
from tinyzo.models import opt
from tinyzo.models.model import Model
from tinyzo.text.packing import pack_sequences

TENSOR = "{0}.prefix.{1}"  # of a layer's attention: its keys, or its values


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
        tensors[opt.POSITIONS] = model.weights.read(opt.POSITIONS)[len(ids) :]
        weights = copy.copy(model.weights)
        weights.store = Overlay(weights.store, tensors)
        if weights.adapter_scale is None:
            weights.adapter_scale = 1.0  # an engine asks that whether there are adapters at all
        weights.trained = {name: None for name in weights.trained if name not in tensors}
    left = model.config.max_length - len(ids)
    config = cast(Any, replace(cast(Any, model.config), max_position_embeddings=left))
    return Model(model.family, config, weights, model.directory)


def read(model: Model, ids: Sequence[int]) -> dict[str, Array]:
    """The keys and values of each layer, with the prefix that it has: f32[R, D] each."""
    batch = replace(model.check(pack_sequences([ids])), read=np.array([len(ids) - 1]))
    weights = model.weights
    theta = weights.view()
    if not isinstance(theta, NumpyView) or weights.engine.name == "onnx":
        theta = NumpyEngine().view(weights, theta.probes)  # a graph has no values to keep
    reader = Reader(theta)
    with np.errstate(under="ignore"):
        model.architecture.hidden(cast(View, reader), model.config, batch)
    for name in reader.seen.keys() & set(weights.names()):
        reader.seen[name] = np.concatenate([weights.read(name), reader.seen[name]])
    return reader.seen


class Reader:
    """A view that keeps all keys and values. Its other verbs are those of the view behind it."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.seen: dict[str, Array] = {}

    def __getattr__(self, verb: str) -> Any:
        return getattr(self.view, verb)

    def attention(self, name: str, q: Array, k: Array, v: Array, *rest: Any, **more: Any) -> Array:
        """As View's."""
        self.seen[TENSOR.format(name, "key")] = k.reshape(k.shape[1], -1).copy()
        self.seen[TENSOR.format(name, "value")] = v.reshape(v.shape[1], -1).copy()
        return self.view.attention(name, q, k, v, *rest, **more)
