"""A zeroth-order step as one graph, for an inference engine that knows nothing of training.

    losses   l_p = L(theta + s_p z_u)                          2 q copies in one pass (P-RGE)
    g_u      = (l_u+ - l_u-) / (2 eps)                          n-SPSA: estimators.two_sided
    theta    = theta - sum_u lr g_u / q z_u                     updates.sgd

z is made in the graph from the seeds, with the bits of engine/noise.py. Losses and what follows
from them are float64, as zo/mezo.py has them, and the terms are added one after another in
float32, as a fold does: so a journal of seeds and coefficients gives the same theta again.

Rows are filled up on either side, by any token where their mask is 0. A label of -1 is of an
example that fills a batch up, whose rows may be nothing else; it counts for nothing. What a
graph cannot be asked is NaN, and with it the losses: a row without the mask token, of candidates
one without a target, and a batch of no examples. Of two mask tokens the first is read. A target
that begins its row, or is filling, is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np

from tinyzo.dtypes import Integers
from tinyzo.engine.onnx.graph import ANY, Graph, Value
from tinyzo.engine.onnx.padded import PaddedRows, PaddedView, count_up, nonzero
from tinyzo.engine.onnx.protobuf import TYPES, Described, Dimension
from tinyzo.engine.onnx.tensors import Tensor
from tinyzo.engine.protocols import View
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
    """Queries of a step, and sizes of a batch: numbers, or names of what may be any."""

    queries: int
    examples: Dimension = "examples"
    rows: Dimension = "rows"
    tokens: Dimension = "tokens"


class Written(NamedTuple):
    """A graph as a file, and what it takes and gives."""

    data: bytes
    inputs: list[Described]
    outputs: list[Described]


Stored = Callable[[Graph, str], Tensor]


class Pass:
    """A forward pass in a graph: scores of the examples' candidates, and their loss."""

    def __init__(
        self, graph: Graph, model: Model, reading: Reading, sizes: Sizes, stored: Stored
    ) -> None:
        shape = (sizes.rows, sizes.tokens)
        ids = graph.given("input_ids", "i8", shape)
        mask = graph.given("attention_mask", "i8", shape)
        self.graph = graph
        self._examples = sizes.examples
        self._model = model
        self._reading = reading
        self._rows = PaddedRows(ids, mask)
        if reading.kind != WORDS:
            self._targets = graph.given("targets", "i8", shape)
        self.trained: dict[str, Value] = {}
        for name in model.weights.trained:
            self.trained[name] = graph.given(name, "f4", model.weights.shape(name))
        self._stored = lambda name: stored(graph, name)

    def view(self, seeds: Value | None = None, scales: Value | None = None) -> PaddedView:
        """theta, or theta at + and - of each seed's z."""
        weights = self._model.weights
        return PaddedView(weights, self._rows, self._stored, self.trained, seeds, scales)

    def scores(self, view: PaddedView) -> Value:
        """The score of each candidate: f64[P, B, C] of WORDS, else f64[P, S] of each row."""
        if self._reading.kind == WORDS:
            return self._word_scores(view)
        sums, counts = self._nll(view)
        return sums / counts * np.float64(-1)

    def _word_scores(self, view: PaddedView) -> Value:
        """The logit of each word: f64[P, B, C]."""
        model = self._model
        reading = self._reading
        if reading.mask_id is None:
            read, is_there = self._rows.last()
        else:
            read, is_there = self._rows.first(reading.mask_id)
        theta = cast(View, view)  # a model asks for its verbs alone
        h = model.architecture.hidden(theta, model.config, self._rows.batch(read))
        words = np.array(reading.words, np.int64)
        scores = cast(Value, model.architecture.logits(theta, model.config, h, words))
        return is_there.reshape(1, -1, 1).where(scores.cast("f8"), np.float64(np.nan))

    def _nll(self, view: PaddedView) -> tuple[Value, Value]:
        """The sum over each row's targets of -log p, f64[P, S], and their number, f64[S]."""
        model = self._model
        rows = self._rows
        theta = cast(View, view)
        h = model.architecture.hidden(theta, model.config, rows.batch())
        targets = rows.after_another(self._targets)
        places = nonzero(targets.reshape(-1))  # through [S, T]
        packed = rows.packed.reshape(-1).gather(places)
        at = cast(Integers, packed - 1)  # a token is read off the one before it
        ids = cast(Integers, rows.ids.reshape(-1).gather(places))
        nll = cast(Value, model.architecture.nll(theta, model.config, h, at, ids))
        is_of_row = self._are_of_rows(places)
        return nll.cast("f8") @ is_of_row, is_of_row.sum(0)

    def _are_of_rows(self, places: Value) -> Value:
        """1 where a place is one of a row's, and 0. places: i64[K]; f64[K, S]."""
        row = self.graph.binary("Div", places, self._rows.size(1))
        rows = count_up(self._rows.size(0))
        return row.reshape(-1, 1).equals(rows).cast("f8")

    def losses(self, view: PaddedView) -> Value:
        """The loss of each probe: f64[P]."""
        if self._reading.kind == GOLD:
            sums, counts = self._nll(view)
            return sums.sum(1) / counts.sum(0)
        labels = self.graph.given("labels", "i8", (self._examples,))
        log_p = self._log_p(self.scores(view), labels)
        is_example = labels >= 0
        log_p = is_example.reshape(1, -1).where(log_p, np.float64(0))
        count = is_example.cast("f8").sum(0)
        return log_p.sum(1) / count * np.float64(-1)

    def _log_p(self, scores: Value, labels: Value) -> Value:
        """log p of each example's gold candidate, or of any where it is -1: f64[P, B].

        scores: f64[P, B, C], or of candidates f64[P, rows]
        """
        graph = self.graph
        copies = scores.shape[0]
        if self._reading.kind == CANDIDATES:
            scores = self._by_example(scores, labels)
        # LogSoftmax of the runtime gives numbers where a score is NaN; this sum does not.
        total = graph.op("ReduceLogSumExp", scores, np.array([2]), shape=(copies, ANY), keepdims=0)
        label = graph.op("Max", labels, np.array([0]), shape=labels.shape)
        index = label.reshape(1, -1, 1).expand(copies, scores.size(1), 1)
        gold = graph.op("GatherElements", scores, index, shape=index.shape, axis=2)
        return gold.reshape(copies, -1) - total

    def _by_example(self, scores: Value, labels: Value) -> Value:
        """The scores of rows, f64[P, B C], by the example that each is of: f64[P, B, C]."""
        return scores.reshape(len(scores), labels.size(0), -1)


def step_graph(
    model: Model, reading: Reading, sizes: Sizes, stored: Stored, metadata: dict[str, str]
) -> Written:
    """A step of n-SPSA on what of the model is trained.

    inputs:  input_ids, attention_mask i64[S, T]; targets i64[S, T], of CANDIDATES and GOLD; labels
             i64[B], but for GOLD; the trained tensors, f32; seeds i64[q]; lr, eps f64[]
    outputs: losses f64[q, 2], at +eps and at -eps; projected_gradients f64[q]; each trained tensor
             after the step, as <name>.next
    """
    graph = Graph()
    q = sizes.queries
    one = Pass(graph, model, reading, sizes, stored)
    seeds = graph.given("seeds", "i8", (q,)).cast("u8")  # Java makes no tensor of u64
    lr = graph.given("lr", "f8", ())
    eps = graph.given("eps", "f8", ())
    signs = np.array([+1.0, -1.0] * q)
    view = one.view(seeds, scales=(eps * signs).cast("f4"))
    losses = one.losses(view).reshape(q, 2)
    plus = losses.gather(0, axis=1)
    minus = losses.gather(1, axis=1)
    width = eps * np.float64(2)
    projected_gradients = (plus - minus) / width
    mean = projected_gradients / np.float64(q)
    descent = lr * np.float64(-1)
    coefficients = (descent * mean).cast("f4")
    outputs = {"losses": losses, "projected_gradients": projected_gradients}
    for name, w in one.trained.items():
        index = view.index(name)
        z = view.z(name, index, w)
        outputs[name + NEXT] = moved(w, coefficients, z)
    return finished(graph, outputs, metadata)


def moved(w: Value, coefficients: Value, z: Value) -> Value:
    """w + sum_u c_u z_u, one after another. coefficients: f32[q]; z: f32[q, 1, ...]; f32[...]."""
    for query in range(coefficients.shape[0]):
        direction = z.gather(query).reshape(*w.shape)
        step = coefficients.gather(query) * direction
        w = w + step
    return w


def eval_graph(
    model: Model, reading: Reading, sizes: Sizes, stored: Stored, metadata: dict[str, str]
) -> Written:
    """The scores of rows.

    inputs:  as of the step, but for labels, seeds, lr and eps
    outputs: scores f64[B, C] of WORDS, and f64[S] of rows that are candidates
    """
    graph = Graph()
    one = Pass(graph, model, reading, sizes, stored)
    scores = one.scores(one.view())
    scores = scores.reshape(*scores.shape[1:])
    return finished(graph, {"scores": scores}, metadata, sizes.rows)


def finished(
    graph: Graph, outputs: dict[str, Value], metadata: dict[str, str], rows: Dimension = "rows"
) -> Written:
    """The graph as an ONNX file, with its outputs by name. rows: the size of an axis that is any"""
    described = []
    for name, value in outputs.items():
        named = graph.name(value, name)
        kind = F4 if name.endswith(NEXT) else F8
        shape = tuple(rows if size == ANY else size for size in value.shape)
        described.append(Described(named, kind, shape))
    return Written(graph.model(described, metadata), list(graph.inputs.values()), described)
