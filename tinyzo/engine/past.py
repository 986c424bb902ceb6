"""Keys and values of tokens that were seen: a view that goes on from them, token by token.

    first pass       whole sequences; what attention reads of them is kept
    each next pass   one token a sequence, which sees its own sequence's past, and itself

A PastView stands in front of another view, whose verbs it has. Only attention differs, so a model's
file knows nothing of it, and adapters, perturbations and stores are those of the view behind.

    a layer's keys   f32[P, H, R, K], the rows of one sequence after those of the one before; a
                     sequence's own begin with the prefix of the layer, where there is one
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tinyzo.batch import Batch
from tinyzo.dtypes import Array, Integers, Rows
from tinyzo.engine.around import Around
from tinyzo.engine.numpy_engine import NumpyView
from tinyzo.engine.weights import Parameters

FLOAT_BYTES = 4


class Layer(NamedTuple):
    """What a layer has seen. keys, values: f32[P, H, R, K]"""

    keys: Array
    values: Array


class PastView(Around):
    """A view of growing sequences. `begin` says which of them the next pass is of."""

    view: NumpyView

    def __init__(self, view: NumpyView, sizes: Sequence[int]) -> None:
        """sizes: the most tokens that each sequence comes to"""
        super().__init__(view)
        self.prefix = prefix_rows(view.weights)
        ends = np.cumsum(np.array(sizes, np.int64) + self.prefix)
        self._total = int(ends[-1])
        self._first = np.concatenate([[0], ends[:-1]])  # the row where each sequence begins
        self._layers: dict[str, Layer] = {}
        self._attend = getattr(view, "attend", attend)  # the engine's own, if it has one
        self.begin(Batch(*np.zeros((4, 0), np.int64)), [])

    def begin(self, batch: Batch, numbers: Sequence[int]) -> None:
        """Let the next pass be of these sequences, each a segment of the batch.

        The tokens are the first ones of each, or else one each.
        """
        self._starts = self._first[np.array(numbers, np.int64)]
        starts = np.repeat(self._starts, np.diff(batch.starts))
        self._rows: Integers = starts + self.prefix + batch.positions  # of the tokens
        self._is_first = not batch.positions[batch.starts[:-1]].any()

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
        """As View's, over the tokens of the batch and those before them."""
        if self._is_first:
            layer = self._layer(name, k, v)
            self._keep_prefix(f"{name}.prefix.key", layer.keys)
            self._keep_prefix(f"{name}.prefix.value", layer.values)
        layer = self._layers[name]
        layer.keys[:, :, self._rows] = k.swapaxes(1, 2)
        layer.values[:, :, self._rows] = v.swapaxes(1, 2)
        if self._is_first:
            return self.view.attention(name, q, k, v, batch, causal, rows)
        last = slice(None) if rows is None else rows
        starts, stops = self._starts[last], self._rows[last] + 1
        found: Array = self._attend(q, layer.keys, layer.values, starts, stops)
        return found

    def _layer(self, name: str, k: Array, v: Array) -> Layer:
        """Room for the layer's keys and values, as many copies as k and v have, or the prefix."""
        if name not in self._layers:
            heads, width = k.shape[2:]
            rooms = [
                np.empty((max(len(x), self._copies(part)), heads, self._total, width), np.float32)
                for x, part in ((k, f"{name}.prefix.key"), (v, f"{name}.prefix.value"))
            ]
            self._layers[name] = Layer(*rooms)
        return self._layers[name]

    def _copies(self, name: str) -> int:
        return len(self.view.probes) if name in self.view.perturbed else 1

    def _keep_prefix(self, name: str, room: Array) -> None:
        """A layer's prefix before the tokens of each sequence that begins. room: f32[P, H, R, K]"""
        if name not in self.view.weights:
            return
        rows = self.view.whole(name)  # [P, R, D]
        heads = rows.reshape(*rows.shape[:2], room.shape[1], -1).swapaxes(1, 2)
        for start in self._starts:
            room[:, :, start : start + self.prefix] = heads


def prefix_rows(weights: Parameters) -> int:
    """The keys that a trained prefix puts before each sequence; 0 where there is none."""
    names = (name for name in weights.names() if name.endswith(".prefix.key"))
    return next((weights.shape(name)[0] for name in names), 0)


def attend(q: Array, keys: Array, values: Array, starts: Integers, stops: Integers) -> Array:
    """Attention of one query a sequence, softmax(q k^T / sqrt(K)) v, without a copy of the past.

    q: f32[P, B, H, K]; keys, values: f32[1 or P, H, R, K]; starts, stops: i64[B], the rows that
    each query sees; returns f32[P, B, H, K]
    """
    copies = max(len(q), len(keys), len(values))
    out = np.empty((copies, *q.shape[1:]), np.float32)
    scale = np.float32(q.shape[-1] ** -0.5)
    for b, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        score = keys[:, :, start:stop] @ (q[:, b, :, :, None] * scale)  # [P, H, S, 1]
        score -= score.max(axis=2, keepdims=True)
        share = np.exp(score, out=score)
        share /= share.sum(axis=2, keepdims=True)
        mixed = share.swapaxes(2, 3) @ values[:, :, start:stop]  # [P, H, 1, K]
        out[:, b] = mixed[:, :, 0]
    return out


def past_bytes(layers: int, width: int, tokens: int) -> int:
    """The memory of keys and values of so many tokens. width: D"""
    return 2 * FLOAT_BYTES * layers * width * tokens
