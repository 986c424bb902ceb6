"""Padded rows, as an app has them, against the NumPy engine, which packs them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import MODELS, POSITIONS, VOCABULARY, WORDS

from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.onnx.graph import ANY, Graph, Value
from tinyzo.engine.onnx.padded import PaddedRows, PaddedView
from tinyzo.engine.onnx.protobuf import TYPES, Described
from tinyzo.engine.onnx.tensors import Floats
from tinyzo.engine.terms import Direction, Probe
from tinyzo.models.model import Model
from tinyzo.models.trainable import train_only
from tinyzo.text.packing import pack_sequences

onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not here")

SEEDS = (2**64 - 1, 12)
EPS = 1e-2
PROBES = [Probe(seed, sign * EPS) for seed in SEEDS for sign in (1, -1)]
# Four times that of one engine against float64 (test_conformance.py): two are compared, and the
# worst rows are looked for.
TOLERANCE = 64 * 2.0**-24
LONGEST = POSITIONS - 2  # RoBERTa counts from 2

Rows = list[list[int]]
ROWS: dict[str, Rows] = {
    "ragged": [[3, 4, 5], [6], [7, 8, 9, 10, 11], [12, 13]],
    "one token each": [[3], [4], [5]],
    "full": [[3, 4, 5], [6, 7, 8]],
    "one row": [[3, 4, 5, 6]],
    "the longest": [list(range(2, 2 + LONGEST)), [3]],
}


def padded(rows: Rows, side: str, more: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """ids and mask, i64[S, T] both; padding is any token, and some on both sides if asked."""
    length = max(map(len, rows)) + more
    random = np.random.RandomState(len(rows))
    ids = random.randint(0, VOCABULARY, (len(rows), length))
    mask = np.zeros_like(ids)
    for at, row in enumerate(rows):
        free = length - len(row)
        start = {"right": 0, "left": free, "both": random.randint(free + 1)}[side]
        ids[at, start : start + len(row)] = row
        mask[at, start : start + len(row)] = 1
    return ids.astype(np.int64), mask.astype(np.int64)


def graph_of(model: Model, what: str, is_perturbed: bool) -> bytes:
    """A model that computes all hidden states of padded rows, or the last ones' scores.

    Trained tensors, and seeds and scales, are inputs.
    """
    graph = Graph()
    ids, mask = (graph.given(name, "i8", ("S", "T")) for name in ("input_ids", "attention_mask"))
    rows = PaddedRows(ids, mask)
    weights = model.weights
    inputs = {}
    seeds, scales = None, None
    if is_perturbed:
        inputs = {name: graph.given(name, "f4", weights.shape(name)) for name in weights.trained}
        seeds = graph.given("seeds", "u8", (len(SEEDS),))
        scales = graph.given("scales", "f4", (len(PROBES),))

    def stored(name: str) -> Floats:
        return Floats(graph.constant(weights.read(name)), is_wide=True)

    view = PaddedView(weights, rows, stored, inputs, seeds, scales)
    batch = rows.batch(None if what == "states" else rows.last()[0])
    out = model.architecture.hidden(view, model.config, batch)
    if what == "words":
        out = model.architecture.logits(view, model.config, out, np.array(WORDS, np.int64))
    assert isinstance(out, Value)
    shape = tuple(f"n{axis}" if size == ANY else size for axis, size in enumerate(out.shape))
    kind = TYPES[np.dtype("f4")]
    return graph.model([Described(graph.name(out, "out"), kind, shape)])


def session(model: Model, what: str, is_perturbed: bool = False):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph_of(model, what, is_perturbed), options)


def expected(model: Model, rows: Rows, what: str, probes: list[Probe]) -> np.ndarray:
    """The same of packed rows, by the NumPy engine."""
    batch = pack_sequences(rows)
    if what == "words":
        batch = replace(batch, read=batch.starts[1:] - 1)
    theta = model.weights.view(probes)
    h = model.architecture.hidden(theta, model.config, batch)
    if what == "states":
        return h
    return model.architecture.logits(theta, model.config, h, np.array(WORDS, np.int64))


def check(found: np.ndarray, exact: np.ndarray) -> None:
    assert found.shape == exact.shape
    error = np.abs(found - exact) / np.maximum(1, np.abs(exact))
    print(f"used {error.max() / TOLERANCE:.0%}")
    assert error.max() < TOLERANCE


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("what", ["states", "words"])
def test_padding_changes_nothing(name, what):
    model = MODELS[name]()
    run = session(model, what).run
    for rows in ROWS.values():
        exact = expected(model, rows, what, [Probe(0, 0.0)])
        for side in ("right", "left", "both"):
            ids, mask = padded(rows, side)
            (found,) = run(None, {"input_ids": ids, "attention_mask": mask})
            check(found, exact)


@pytest.mark.parametrize("name", ["roberta", "opt"])
def test_any_rows_are_those_packed(name):
    model = MODELS[name]()
    run = session(model, "words").run
    token = st.integers(0, VOCABULARY - 1)
    row = st.lists(token, min_size=1, max_size=LONGEST)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(row, min_size=1, max_size=6), st.sampled_from(["left", "right", "both"]))
    def agree(rows, side):
        ids, mask = padded(rows, side, more=0)
        (found,) = run(None, {"input_ids": ids, "attention_mask": mask})
        check(found, expected(model, rows, "words", [Probe(0, 0.0)]))

    agree()


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
@pytest.mark.parametrize("train", ["full", "lora", "lora-fa", "prefix", "bias", "label-words"])
@pytest.mark.parametrize("name", ["roberta", "opt"])
def test_probes_are_those_of_seeds_that_are_inputs(name, train, kind):
    model = MODELS[name](engine=NumpyEngine())  # which has adapters
    train_only(model, train, 3, 2, 4.0, ids=WORDS)
    weights = model.weights
    weights.direction = Direction(kind)
    if weights.adapter_scale:
        weights.add([(7, 0.1)])  # so that no B is 0
    rows = ROWS["ragged"]
    ids, mask = padded(rows, "both")
    given = {name: weights.read(name) for name in weights.trained}
    given |= {"input_ids": ids, "attention_mask": mask, "seeds": np.array(SEEDS, np.uint64)}
    scales = np.array([probe.scale for probe in PROBES], np.float32)
    run = session(model, "words", is_perturbed=True).run
    (found,) = run(None, given | {"scales": scales})
    exact = expected(model, rows, "words", PROBES)
    check(found, exact)
    assert np.abs(exact[0] - exact[1]).max() > 100 * TOLERANCE
