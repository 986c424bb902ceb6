"""What every engine owes: the same losses for many probes as for each alone, the same bytes after.

A new engine is one more entry of tiny.ENGINES.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny import DTYPE_NAMES, ENGINES, MODELS, Float64View, examples_for, raw_bytes, toy_task

import tinyzo
from tinyzo.dtypes import narrow, widen
from tinyzo.engine import noise, tiles
from tinyzo.engine.numpy_engine import NumpyEngine, NumpyView
from tinyzo.engine.terms import Direction, Probe
from tinyzo.engine.weights import Weights
from tinyzo.errors import ShapeError
from tinyzo.models.model import Model
from tinyzo.zo.objectives import Objective

EPS = 1e-2
SEEDS = (0, 12, 2**53 - 1)
PROBES = {
    "unperturbed": [Probe(0, 0.0)],
    "pair": [Probe(5, EPS), Probe(5, -EPS)],
    "three pairs": [Probe(seed, sign * EPS) for seed in SEEDS for sign in (1, -1)],
    "and itself": [Probe(0, 0.0), Probe(5, EPS), Probe(6, EPS)],
}
# Against float64, for a chain of some thirty float32 sums of width 8 to 29, whose roundings mostly
# cancel: 16 halves of a last place. NumPy's share is printed: up to 30 %.
TOLERANCE = 16 * 2.0**-24

engines = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
models = pytest.mark.parametrize("name", MODELS)
dtypes = pytest.mark.parametrize("dtype", DTYPE_NAMES)


def losses(model: Model, probes: list[Probe], loss: str = "classification") -> np.ndarray:
    objective = Objective(model, toy_task(model.family, loss))
    return objective(model.weights.view(probes), examples_for(model.family))


def explicitly(model: Model, probe: Probe) -> Model:
    """The model with the perturbation written into its weights, in float32."""
    tensors = {}
    for name in model.weights.names():
        z = tinyzo.noise(probe.seed, name, model.weights.shape(name), model.weights.direction.kind)
        tensors[name] = model.weights.read(name) + np.float32(probe.scale) * z
    weights = Weights(tensors, NumpyEngine(), model.weights.direction)
    return Model(model.family, model.config, weights, model.directory)


def check_losses(name: str, dtype: str, engine: Any, probes: list[Probe]) -> float:
    """Many at once = one by one = written out = float64; returns the used share."""
    model, exact = MODELS[name](dtype, engine), MODELS[name](dtype, Float64View)
    used = 0.0
    for loss in ("classification",) if name == "roberta" else ("classification", "lm"):
        found = losses(model, probes, loss)
        assert found.dtype == np.float64 and found.shape == (len(probes),)
        alone = [losses(model, [probe], loss)[0] for probe in probes]
        written = [losses(explicitly(model, probe), [Probe(0, 0.0)], loss)[0] for probe in probes]
        for expected in (alone, written, losses(exact, probes, loss)):
            error = np.abs(found - expected) / np.maximum(1, np.abs(expected))
            used = max(used, error.max() / TOLERANCE)
    assert used < 1, f"{used:.0%} of the tolerance"
    return used


@engines
@models
@dtypes
@pytest.mark.parametrize("probes", PROBES.values(), ids=PROBES)
def test_losses(name, dtype, engine, probes):
    print(f"used {check_losses(name, dtype, engine, probes):.0%}")


@engines
@models
@pytest.mark.parametrize("tile", [1, 24])
def test_losses_in_small_tiles(monkeypatch, name, engine, tile):
    """A tile of 1 is one row, of 24 is 3 or 4: the softmax over the vocabulary is put together."""
    monkeypatch.setattr(tiles, "TILE", tile)
    check_losses(name, "f32", engine, PROBES["pair"])


class SignLost(NumpyView):
    def __init__(self, weights, probes):
        super().__init__(weights, [Probe(p.seed, abs(p.scale)) for p in probes])


class VectorsUnperturbed(NumpyView):
    def vector(self, name):
        return self.weights.read(name)[None, None]


class OneSeed(NumpyView):
    def __init__(self, weights, probes):
        super().__init__(weights, [Probe(probes[0].seed, p.scale) for p in probes])


class ScaleOff(NumpyView):
    def __init__(self, weights, probes):
        super().__init__(weights, [Probe(p.seed, p.scale * 1.001) for p in probes])


@pytest.mark.parametrize("fault", [SignLost, VectorsUnperturbed, OneSeed, ScaleOff])
@models
def test_a_faulty_engine_is_caught(name, fault):
    with pytest.raises(AssertionError, match="of the tolerance"):
        check_losses(name, "f32", fault, PROBES["three pairs"])


TERMS = {
    "one": ([(5, 1e-3)], 0.0),
    "three, decayed": ([(seed, 1e-3) for seed in SEEDS], 1e-2),
}


@engines
@models
@dtypes
@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
@pytest.mark.parametrize(("terms", "decay"), TERMS.values(), ids=TERMS)
def test_folded_bytes(name, dtype, engine, kind, terms, decay):
    weights = MODELS[name](dtype, engine).weights
    weights.direction = Direction(kind)
    expected = {}
    for tensor in weights.names():
        raw = weights.stored(tensor)
        w = widen(raw)
        if w.ndim > 1:
            w = w * np.float32(1 - decay)
        for seed, coefficient in terms:
            w = w + np.float32(coefficient) * tinyzo.noise(seed, tensor, raw.shape, kind)
        bits = noise.words(noise.key(terms[0][0], tensor, "rounding"), noise.counters(0, raw.shape))
        expected[tensor] = narrow(w, raw.dtype, bits).tobytes()
    weights.add(terms, decay)
    assert raw_bytes(weights) == expected


PENDING = (([(5, 1e-3), (6, -2e-3)], 1e-2), ([(7, 1e-3)], 0.0))


@engines
@models
@dtypes
def test_pending_updates_count_before_they_are_in_the_bytes(name, dtype, engine):
    """In float32 to the bit; in 16 bits they are rounded once, when all are folded."""
    model, folded, reference = (MODELS[name](dtype, e) for e in (engine, engine, NumpyView))
    before = raw_bytes(model.weights)
    for terms, decay in PENDING:
        folded.weights.add(terms, decay)
        for weights in (model.weights, reference.weights):
            weights.add(terms, decay, fold=False)
    assert raw_bytes(model.weights) == before != raw_bytes(folded.weights)
    for tensor in model.weights.names():
        assert np.array_equal(model.weights.read(tensor), reference.weights.read(tensor))
        if dtype == "f32":
            assert np.array_equal(model.weights.read(tensor), folded.weights.read(tensor))
    probes = PROBES["three pairs"]
    found, written = losses(model, probes), explicitly(model, Probe(0, 0.0))
    assert np.allclose(found, losses(written, probes), rtol=TOLERANCE, atol=TOLERANCE)
    if dtype == "f32":
        assert np.array_equal(found, losses(folded, probes))
    for weights in (model.weights, reference.weights):
        weights.add([(8, 1e-3)])
        assert weights.pending == []
    assert raw_bytes(model.weights) == raw_bytes(reference.weights) != before


@engines
@models
def test_unperturbed_copies_cost_nothing(name, engine):
    """The probe axis stays 1 while nothing is perturbed, and has one entry a probe after that."""
    model = MODELS[name](engine=engine)
    table = model.weights.names()[0]
    ids = np.array([3, 4, 3])
    for probes, copies in ((PROBES["unperturbed"], 1), (PROBES["three pairs"], 6)):
        x = model.weights.view(probes).embed(table, ids)
        assert len(x) == copies and np.asarray(x).shape == (
            copies,
            3,
            model.weights.shape(table)[1],
        )


@engines
def test_a_width_that_does_not_fit_is_refused(engine):
    theta = MODELS["opt"](engine=engine).weights.view()
    message = r"fc1\.weight \[12, 8\] does not take width 7\n.*config\.json"
    with pytest.raises(ShapeError, match=message):
        theta.linear("model.decoder.layers.0.fc1", np.zeros((1, 3, 7), np.float32))
