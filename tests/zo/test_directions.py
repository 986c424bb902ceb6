"""Directions against their definition: z of low rank, and z only where weights are small."""

from __future__ import annotations

import numpy as np
import pytest
from streams import small_tiles  # noqa: F401 (used by all)
from tiny import ENGINES, MODELS, examples_for, masked, toy_task

import tinyzo
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.terms import Direction, Probe
from tinyzo.engine.weights import Weights
from tinyzo.models.model import Model
from tinyzo.zo.directions import RANK, SAMPLE, low_rank, magnitude_limits, renew
from tinyzo.zo.objectives import Objective

engines = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
EPS = 1e-2


def losses(model: Model, probes: list[Probe], loss: str = "classification") -> np.ndarray:
    objective = Objective(model, toy_task(model.family, loss))
    return objective(model.weights.view(probes), examples_for(model.family))


# -- z of low rank ---------------------------------------------------------------------------


def of_low_rank(name: str, dtype: str, engine=ENGINES["numpy"]) -> Model:
    model = MODELS[name](dtype, engine)
    low_rank(model.weights, 9)
    return model


def with_low_rank(weights: Weights, probe: Probe, v_seed: int) -> dict[str, np.ndarray]:
    """W + eps U V^T, and b + eps z of vectors: f32, in float64 before."""
    moved = {}
    for name in weights.saved:
        w, module = weights.read(name).astype(np.float64), name.removesuffix(".weight")
        if w.ndim == 1:
            moved[name] = w + probe.scale * tinyzo.noise(probe.seed, name, w.shape)
            continue
        u = tinyzo.noise(probe.seed, f"{module}.lora_B.weight", (len(w), RANK))
        v = tinyzo.noise(v_seed, f"{module}.lora_A.weight", (RANK, w.shape[1]))
        moved[name] = w + probe.scale * u.astype(np.float64) @ v
    return {name: w.astype(np.float32) for name, w in moved.items()}


@engines
@pytest.mark.parametrize("name", MODELS)
def test_low_rank_probes_are_w_plus_eps_u_v(name, engine):
    """In linears, embeddings, the tied scores of some rows and of all (lm)."""
    model = of_low_rank(name, "f32", engine)
    for loss in ("classification",) if name == "roberta" else ("classification", "lm"):
        found = losses(model, [Probe(7, EPS), Probe(8, -EPS)], loss)
        for probe, value in zip((Probe(7, EPS), Probe(8, -EPS)), found, strict=True):
            plain = MODELS[name]()
            plain.weights = Weights(with_low_rank(model.weights, probe, 9), NumpyEngine())
            assert value == pytest.approx(losses(plain, [Probe(0, 0.0)], loss)[0], rel=3e-6)


@engines
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_the_end_of_a_window_merges_and_renews(dtype, engine):
    model = of_low_rank("opt", dtype, engine)
    weights, before = model.weights, of_low_rank("opt", dtype).weights
    expected = with_low_rank(before, Probe(7, 0.125), 9)
    weights.add([(7, 0.125)])
    weights.write(lambda *_: None, list(weights.saved))
    renew(weights, 10)
    for name, w in expected.items():
        step = 2.0**-7 if dtype == "bf16" else 2.0**-21
        assert np.abs(weights.read(name) - w).max() <= step * np.abs(w).max()
    a, b = (f"model.decoder.embed_tokens.lora_{x}.weight" for x in "AB")
    assert not weights.read(b).any()
    assert np.array_equal(weights.read(a), tinyzo.noise(10, a, weights.shape(a)))
    plain = MODELS["opt"](dtype)
    plain.weights = Weights({n: weights.stored(n) for n in weights.saved}, NumpyEngine())
    found = losses(model, [Probe(0, 0.0)], "lm")
    assert found == pytest.approx(losses(plain, [Probe(0, 0.0)], "lm"), rel=2e-6)


# -- z only where weights are small ----------------------------------------------------------


def limited(engine) -> Model:
    model = MODELS["opt"]("f32", engine)
    model.weights.direction = Direction(limits=magnitude_limits(model.weights))
    return model


@engines
def test_z_is_0_where_weights_are_large_and_else_what_it_is(engine):
    model = limited(engine)
    weights, before = model.weights, {n: model.weights.read(n) for n in model.weights.names()}
    limits = weights.direction.limits
    explicit = {n: w + np.float32(0.01) * masked(3, n, w, limits[n]) for n, w in before.items()}
    plain = MODELS["opt"]()
    plain.weights = Weights(explicit, NumpyEngine())
    found, expected = (
        Objective(m, toy_task("opt", "lm"))(m.weights.view([probe]), examples_for("opt"))
        for m, probe in ((model, Probe(3, 0.01)), (plain, Probe(0, 0.0)))
    )
    assert found == pytest.approx(expected, rel=2e-6)
    weights.add([(3, 0.01)])
    for name, w in explicit.items():
        assert np.array_equal(weights.read(name), w)
        large = np.abs(before[name]) > limits[name]
        assert np.array_equal(weights.read(name)[large], before[name][large])


def test_a_quarter_of_each_tensor_is_small():
    shapes = {"exact": (64, 50), "sampled": (2048, 300), "vector": (1000,), "one": (1,)}
    values = {n: tinyzo.noise(1, n, shape).copy() for n, shape in shapes.items()}
    assert values["sampled"].size > SAMPLE
    for name, limit in magnitude_limits(Weights(values, NumpyEngine())).items():
        share = (np.abs(values[name]) <= limit).mean()
        # The sample of 2^18 has a deviation of 0.0009.
        close = {"sampled": 0.005, "one": 1.0}.get(name, 1 / values[name].size + 1e-9)
        assert abs(share - 0.25) < close
