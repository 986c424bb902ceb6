"""A zeroth-order step as one graph, for an inference engine that knows nothing of training.

    losses   l_p = L(theta + s_p z_u)                          2 q copies in one pass (P-RGE)
    g_u      = (l_u+ - l_u-) / (2 eps)                          n-SPSA: estimators.two_sided
    theta    = theta - sum_u lr g_u / q z_u                     updates.sgd

z is made in the graph from the seeds, with the bits of engine/noise.py. Losses and what follows
from them are float64, as zo/mezo.py has them, and the terms are added one after another in
float32, as a fold does: so a journal of seeds and coefficients gives the same theta again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from tinyzo.dtypes import Integers
from tinyzo.engine.onnx.graph import ANY, Graph, Value
from tinyzo.engine.onnx.padded import PaddedRows, PaddedView, count_up, nonzero
from tinyzo.engine.onnx.protobuf import TYPES, Described, Dimension
from tinyzo.engine.onnx.tensors import Tensor
from tinyzo.models.model import Model

WORDS = "words"  # an example is one row, and each label one token
CANDIDATES = "candidates"  # an example is as many rows as it has candidates
GOLD = "gold"  # an example is the row of its gold candidate, whose tokens are the loss
F8 = TYPES[np.dtype("f8")]
F4 = TYPES[np.dtype("f4")]
NEXT = ".next"  # what a tensor's name ends in, as an output


@dataclass(frozen=True)
class Reading:
    """What of its rows a model is asked.

    kind:    WORDS, CANDIDATES or GOLD
    words:   the label words, of WORDS
    mask_id: the token at which these are scored; None: each row's last token
    """

    kind: str
    words: tuple[int, ...] = ()
    mask_id: int | None = None


@dataclass(frozen=True)
class Sizes:
    """Queries of a step, and rows and tokens of a batch: numbers, or names of what is not fixed."""

    queries: int
    rows: Dimension = "rows"
    tokens: Dimension = "tokens"


Stored = Callable[[Graph, str], Tensor]


class Pass:
    """A forward pass in a graph: scores of the examples' candidates, and their loss."""

    def __init__(
        self, graph: Graph, model: Model, reading: Reading, sizes: Sizes, stored: Stored
    ) -> None:
        shape = (sizes.rows, sizes.tokens)
        self.graph = graph
        self._model = model
        self._reading = reading
        self._rows = PaddedRows(
            graph.given("input_ids", "i8", shape), graph.given("attention_mask", "i8", shape)
        )
        if reading.kind != WORDS:
            self._targets = graph.given("targets", "i8", shape)
        weights = model.weights
        self.trained = {
            name: graph.given(name, "f4", weights.shape(name)) for name in weights.trained
        }
        self._stored = lambda name: stored(graph, name)

    def view(self, seeds: Value | None = None, scales: Value | None = None) -> PaddedView:
        return PaddedView(
            self._model.weights, self._rows, self._stored, self.trained, seeds, scales
        )

    def scores(self, view: PaddedView) -> Value:
        """The score of each candidate: f64[P, B, C] of WORDS, else f64[P, S] of each row."""
        if self._reading.kind == WORDS:
            return self._word_scores(view)
        sums, counts = self._nll(view)
        return sums / counts * np.float64(-1)

    def _word_scores(self, view: PaddedView) -> Value:
        model, rows = self._model, self._rows
        if self._reading.mask_id is None:
            read = rows.last()
        else:
            is_mask = self.graph.op("Equal", rows.of_tokens(rows.ids), self._reading.mask_id)
            read = nonzero(is_mask)
        h = model.architecture.hidden(view, model.config, rows.batch(read))
        words = np.array(self._reading.words, np.int64)
        scores = model.architecture.logits(view, model.config, h, words)
        return cast(Value, scores).cast("f8")

    def _nll(self, view: PaddedView) -> tuple[Value, Value]:
        """The sum over each row's targets of -log p, f64[P, S], and their number, f64[S]."""
        model, rows, graph = self._model, self._rows, self.graph
        h = model.architecture.hidden(view, model.config, rows.batch())
        places = nonzero(self._targets.reshape(-1))  # through [S, T]
        at = rows.packed.reshape(-1).gather(places) - 1  # a token is read off the one before it
        ids = rows.ids.reshape(-1).gather(places)
        nll = model.architecture.nll(view, model.config, h, cast(Integers, at), cast(Integers, ids))
        row_of = graph.binary("Div", places, rows.size(1))
        numbers = count_up(rows.size(0))
        is_of_row = graph.op("Equal", row_of.reshape(-1, 1), numbers, shape=(ANY, ANY)).cast("f8")
        counts = graph.op("ReduceSum", is_of_row, np.array([0]), shape=(ANY,), keepdims=0)
        sums = cast(Value, nll).cast("f8") @ is_of_row
        return sums, counts

    def losses(self, view: PaddedView) -> Value:
        """The loss of each probe: f64[P]."""
        graph = self.graph
        if self._reading.kind == GOLD:
            sums, counts = self._nll(view)
            total = graph.op("ReduceSum", sums, np.array([-1]), shape=(ANY,), keepdims=0)
            return total / graph.op("ReduceSum", counts, shape=(), keepdims=0)
        labels = graph.given("labels", "i8", ("examples",))
        scores = self.scores(view)
        copies = scores.shape[0]
        count = graph.op("Shape", labels, shape=(1,))
        if self._reading.kind == CANDIDATES:
            shape = graph.op(
                "Concat", np.array([copies]), count, np.array([-1]), shape=(3,), axis=0
            )
            scores = graph.op("Reshape", scores, shape, shape=(copies, ANY, ANY))
        log_p = graph.op("LogSoftmax", scores, shape=scores.shape, axis=-1)
        index = graph.op("Expand", labels.reshape(1, -1, 1), np.array([copies, 1, 1]))
        gold = graph.op("GatherElements", log_p, index, shape=(copies, ANY, 1), axis=2)
        total = graph.op("ReduceSum", gold, np.array([1, 2]), shape=(copies,), keepdims=0)
        return total / count.cast("f8") * np.float64(-1)


def step_graph(
    model: Model, reading: Reading, sizes: Sizes, stored: Stored, metadata: dict[str, str]
) -> bytes:
    """A step of n-SPSA on what of the model is trained.

    inputs:  input_ids, attention_mask i64[S, T]; targets i64[S, T], of CANDIDATES and GOLD; labels
             i64[B], but for GOLD; the trained tensors, f32; seeds u64[q]; lr, eps f64[]
    outputs: losses f64[q, 2], at +eps and at -eps; projected_gradients f64[q]; each trained tensor
             after the step, as <name>.next
    """
    graph = Graph()
    q = sizes.queries
    one = Pass(graph, model, reading, sizes, stored)
    seeds = graph.given("seeds", "u8", (q,))
    lr = graph.given("lr", "f8", ())
    eps = graph.given("eps", "f8", ())
    scales = (eps * np.array([+1.0, -1.0] * q)).cast("f4")
    view = one.view(seeds, scales)
    losses = one.losses(view).reshape(q, 2)
    plus, minus = (losses.gather(side, axis=1) for side in (0, 1))
    projected_gradients = (plus - minus) / (eps * np.float64(2))
    coefficients = (lr * np.float64(-1) * (projected_gradients / np.float64(q))).cast("f4")
    outputs = {"losses": losses, "projected_gradients": projected_gradients}
    for name, w in one.trained.items():
        z = view.z(name, view.index(name), w)
        moved = w
        for query in range(q):
            moved = moved + coefficients.gather(query) * z.gather(query).reshape(*w.shape)
        outputs[name + NEXT] = moved
    return finished(graph, outputs, metadata)


def eval_graph(
    model: Model, reading: Reading, sizes: Sizes, stored: Stored, metadata: dict[str, str]
) -> bytes:
    """The scores of rows.

    inputs:  as of the step, but for labels, seeds, lr and eps
    outputs: scores f64[B, C] of WORDS, and f64[S] of rows that are candidates
    """
    graph = Graph()
    one = Pass(graph, model, reading, sizes, stored)
    scores = one.scores(one.view())
    return finished(graph, {"scores": scores.reshape(*scores.shape[1:])}, metadata)


def finished(graph: Graph, outputs: dict[str, Value], metadata: dict[str, str]) -> bytes:
    """The graph as an ONNX file, with its outputs by name."""
    described = []
    for name, value in outputs.items():
        named = graph.name(value, name)
        kind = F4 if name.endswith(NEXT) else F8
        shape = tuple(f"{name}_{at}" if s == ANY else s for at, s in enumerate(value.shape))
        described.append(Described(named, kind, shape))
    return graph.model(described, metadata)
