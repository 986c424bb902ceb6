"""Sums of directions, and Adam's steps from a window of seeds: on each engine the bits of their
definition, folded or pending, in memory or streamed."""

from __future__ import annotations

import numpy as np
import pytest
from streams import streamed
from tiny import ANY_STORE, ENGINES, MODELS, examples_for, masked, raw_bytes, toy_task

from tinyzo.dtypes import narrow, widen
from tinyzo.engine import noise, tiles
from tinyzo.engine.moments import Moments
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.terms import Direction, Probe, Update
from tinyzo.zo.directions import magnitude_limits
from tinyzo.zo.objectives import Objective

engines = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
F = np.float32
# Steps of two queries each, over a window of two; at the end of Adam's the rate.
ADAM = [[(5, 0.5), (6, -2.0), (5, 0.0), (6, 0.0), (5, 1e-3)],
        [(7, 1.5), (8, 0.25), (5, 0.5), (6, -2.0), (7, 1e-3)],
        [(9, 0.0), (4, 1e-3), (7, 1.5), (8, 0.25), (9, 2e-3)]]  # fmt: skip
SUMS = [[(5, 0.02), (6, -0.03)], [(7, 0.05)], []]


def setting(dtype: str, engine, limited: bool, path=None):
    model = MODELS["opt"](dtype, engine)
    model = streamed(model, path) if path else model
    limits = magnitude_limits(model.weights) if limited else {}
    model.weights.direction = Direction(limits=limits)
    return model


def moved(w, name: str, terms, decay: float, adam: bool, limit) -> np.ndarray:
    """One update by its definition, in float32 and in order; the mask is of w before it decays."""
    kept = F(1 - decay) if w.ndim > 1 else F(1)
    if not adam:
        for seed, c in terms or [(0, 0.0)]:
            w, kept = kept * w + F(c) * masked(seed, name, w, limit), F(1)
        return w
    m, v = np.zeros_like(w), np.zeros_like(w)
    *window, (_, lr) = terms
    for i, (seed, g) in enumerate(window):
        z, k = masked(seed, name, w, limit), i // 2
        m, v = m + F(0.7**k * g) * z, v + F(0.9**k * g * g) * (z * z)
    return kept * w + F(-100 * lr) * (m / (np.sqrt(v) + F(1e-5)))


@pytest.mark.parametrize("engine", ANY_STORE.values(), ids=ANY_STORE)
@pytest.mark.parametrize(("dtype", "decay"), [("f32", 0.25), ("bf16", 0.25), ("f16", 0.0)])
@pytest.mark.parametrize("adam", [True, False])
@pytest.mark.parametrize("limited", [True, False])
def test_updates_are_their_definition_folded_or_pending(
    tmp_path, monkeypatch, dtype, engine, decay, adam, limited
):
    monkeypatch.setattr(tiles, "TILE", 80)
    models = [setting(dtype, engine, limited) for _ in range(2)]
    models.append(setting(dtype, engine, limited, tmp_path / "w"))
    folded, pending, there = (model.weights for model in models)
    expected = {name: folded.stored(name).copy() for name in folded.names()}
    for terms in ADAM if adam else SUMS:
        update = Update(terms, decay)
        if adam:
            *window, (_, lr) = terms
            update = Update(window, decay, Moments(lr, 2))
        folded.apply(update)
        for weights in (pending, there):
            weights.apply(update, fold=False)
        for name, raw in expected.items():
            w = moved(widen(raw), name, terms, decay, adam, folded.direction.limits.get(name))
            salt = noise.key(terms[0][0] if terms else 0, name, "rounding")
            bits = noise.words(salt, noise.counters(0, raw.shape))
            expected[name] = narrow(w, raw.dtype, bits)
    assert raw_bytes(folded) == {name: raw.tobytes() for name, raw in expected.items()}
    for name in expected:
        for weights in (pending, there):
            assert np.array_equal(weights.read(name), folded.read(name)), name
    probes = [Probe(0, 0.0), Probe(11, 1e-2), Probe(12, -1e-2)]
    found = [Objective(m, toy_task("opt", "lm"))(m.weights.view(probes), examples_for("opt"))
             for m in models]  # fmt: skip
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    pending.fold()
    assert raw_bytes(pending) == raw_bytes(folded)


@engines
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_sum_and_adams_steps_may_be_pending_together(dtype, engine):
    sums = Update([(5, 0.02), (6, -0.03)], 0.25)
    adam = Update([(7, 1.5), (8, 0.25)], 0.25, Moments(1e-3, 2))
    pending, folded = (setting(dtype, engine, False, False).weights for _ in range(2))
    oracle = setting(dtype, NumpyEngine(), False, False).weights
    for update in (sums, adam, sums):
        pending.apply(update, fold=False)
        folded.apply(update)
        oracle.apply(update)
    pending.fold()
    assert raw_bytes(pending) == raw_bytes(folded) == raw_bytes(oracle)
