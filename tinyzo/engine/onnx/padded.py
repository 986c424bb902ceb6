"""A graph's view of rows as an app has them: token ids filled up to one length, and a mask.

The model files read packed tokens, so the graph packs them itself: no operator but attention ever
works on padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np

from tinyzo.batch import Batch
from tinyzo.dtypes import Integers, Rows
from tinyzo.engine.onnx import noise
from tinyzo.engine.onnx.graph import ANY, Value, concat
from tinyzo.engine.onnx.layout import HIDDEN, Layout
from tinyzo.engine.onnx.tensors import Floats, Tensor
from tinyzo.engine.onnx.view import Directions, GraphView
from tinyzo.engine.weights import Parameters


class PaddedRows:
    """S rows of at most T tokens, of which some are real; N of these there are in all.

    ids:       i64[S, T]; mask: i64[S, T], 1 for a token and 0 for padding
    real:      i64[N], the places of the tokens, counted through [S, T]
    packed:    i64[S, T], which of the N tokens is at each place; of padding, any
    positions: i64[S, T], the place of each token among those of its row
    """

    def __init__(self, ids: Value, mask: Value) -> None:
        self.ids = ids
        self.mask = mask
        flat = mask.reshape(-1)
        self.real = nonzero(flat)
        number = self.at_least_0(cumulative(flat, axis=0) - 1)
        self.packed = number.reshape(ids.size(0), ids.size(1))
        self.positions = cumulative(mask, axis=1) - 1

    def size(self, axis: int) -> Value:
        """S or T: i64[]."""
        return self.ids.sizes().gather(axis)

    def with_more(self, places: Value, count: int) -> Value:
        """Each row with the numbers N, N + 1, ... after its own. [S, T]; [S, T + count]."""
        tokens = self.real.size(0)
        numbers = tokens + np.arange(count).reshape(1, count)
        more = numbers.expand(self.ids.size(0), 1)
        return concat(places, more, axis=1)

    def of_tokens(self, places: Value) -> Value:
        """What [S, T] has at the N tokens."""
        return places.reshape(-1).gather(self.real)

    # -- one token of each row: which of the N, i64[S], and whether the row has it, bool[S]; where
    # -- it has not, the token is any

    def last(self) -> tuple[Value, Value]:
        """The last token."""
        lengths = self.mask.sum(1)
        ends = cumulative(lengths, axis=0)
        return self.at_least_0(ends - 1), self._is_any(lengths)

    def first(self, token: int) -> tuple[Value, Value]:
        """The first that is a certain one."""
        graph = self.ids.graph
        is_it = self.ids.equals(token).cast("i8") * self.mask
        at = graph.op("ArgMax", is_it.cast("i4"), shape=(ANY, 1), axis=1, keepdims=1)
        found = graph.op("GatherElements", self.packed, at, shape=(ANY, 1), axis=1)
        return found.reshape(-1), self._is_any(is_it.sum(1))

    def after_another(self, places: Value) -> Value:
        """Those places that are tokens after the first of their row: i64[S, T]."""
        is_after = self.positions > 0
        return places * self.mask * is_after.cast("i8")

    def at_least_0(self, x: Value) -> Value:
        return x.graph.op("Max", x, np.array([0]), shape=x.shape)

    def _is_any(self, counts: Value) -> Value:
        return counts > 0

    def batch(self, read: Value | None = None) -> Batch:
        """The packed tokens, as the model files take them. read: i64[M]; None: all."""
        return Batch(
            cast(Integers, self.of_tokens(self.ids)),
            cast(Integers, self.of_tokens(self.positions)),
            starts=cast(Integers, None),  # only attention asks, and that asks the view
            parents=cast(Integers, None),
            read=cast(Rows, read),
        )


class PaddedView(GraphView):
    """The verbs on padded rows, of which one token each is read, the last of a causal one, or all.

    stored: a tensor as the file has it, of those that are no inputs
    inputs: the tensors that are inputs, f32
    """

    def __init__(
        self,
        weights: Parameters,
        rows: PaddedRows,
        stored: Callable[[str], Tensor],
        inputs: dict[str, Value],
        seeds: Value | None = None,
        scales: Value | None = None,
    ) -> None:
        directions = Directions(seeds.shape[0], scales) if seeds and scales else None
        super().__init__(rows.ids.graph, weights, directions)
        self._rows = rows
        self._stored = stored
        self._inputs = inputs
        self._seeds = seeds

    def stored(self, name: str) -> Tensor:
        if name in self._inputs:
            return Floats(self._inputs[name], is_wide=True)
        return self._stored(name).through(self._unfolded)

    def _unfolded(self, raw: Value) -> Value:
        """A tensor of a file, by a node that needs the rows.

        Of what is known before there are rows, a runtime makes float32 copies, or packed ones,
        which take as much memory as the weights do. This node takes none.
        """
        if len(raw.shape) == 1:
            return raw
        ids = self._rows.ids.reshape(-1)
        nothing = ids.gather(np.array([0])) * 0
        shape = nothing + np.array(raw.shape)
        return self.graph.op("Reshape", raw, shape, shape=raw.shape)

    def keys(self, name: str) -> Value:
        return noise.keys(cast(Value, self._seeds), name, self.weights.direction.kind)

    def layout(self, batch: Batch, rows: Rows, prefix: int, causal: bool) -> Layout:
        padded = self._rows
        graph = self.graph
        is_padding = padded.mask.equals(0)
        hidden = is_padding.where(HIDDEN, np.float32(0))
        hidden = hidden.reshape(hidden.shape[0], 1, 1, -1)
        queries, places = padded.packed, padded.real
        if rows is not None:  # the one of each row that is read, which sees all of it
            places = count_up(padded.size(0))
            queries = places.reshape(-1, 1)
        elif causal:
            at = count_up(padded.size(1))
            is_later = at.reshape(-1, 1) < at
            hidden = hidden + is_later.where(HIDDEN, np.float32(0))
        else:
            hidden = hidden.expand(1, 1, padded.ids.size(1), 1)  # all queries of a row see the same
        keys = padded.packed
        if prefix:  # which follows the tokens, and nobody is to see less of
            keys = padded.with_more(keys, prefix)
            more = np.array([0] * 7 + [prefix])
            hidden = graph.op("Pad", hidden, more, shape=(ANY, 1, hidden.shape[2], ANY))
        return Layout(queries, keys, hidden, places)


def cumulative(x: Value, axis: int) -> Value:
    return x.graph.op("CumSum", x, axis, shape=x.shape)


def count_up(stop: Value) -> Value:
    """0, 1, ... stop - 1. stop: i64[]; i64[stop]."""
    return stop.graph.op("Range", 0, stop, 1, shape=(ANY,))


def nonzero(x: Value) -> Value:
    """The places of what is not 0. x: [N]; i64[M]."""
    return x.graph.op("NonZero", x, shape=(1, ANY)).reshape(-1)
