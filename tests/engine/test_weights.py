"""The owner of theta: exact reading, stochastic rounding, folds that do not depend on tiles."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import pytest
from tiny import DTYPE_NAMES, ENGINES, MODELS, raw_bytes

import tinyzo
from tinyzo.dtypes import DTYPES, narrow, widen
from tinyzo.engine import noise, tiles
from tinyzo.engine.numpy_engine import NumpyEngine, NumpyView
from tinyzo.engine.terms import Direction, Probe
from tinyzo.engine.weights import Weights
from tinyzo.errors import NumericError
from tinyzo.text.packing import pack_sequences


def make(dtype: str = "f32", kind: str = "gaussian") -> Weights:
    random = np.random.RandomState(1)
    shapes = {"matrix": (33, 7), "vector": (19,), "other": (5, 40)}
    values = {name: random.standard_normal(shape) * 0.05 for name, shape in shapes.items()}
    stored = {
        name: narrow(v.astype(np.float32), np.dtype(DTYPES[dtype]), None)
        for name, v in values.items()
    }
    return Weights(stored, NumpyEngine(), Direction(kind))


# -- reading -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_reading_is_float32_and_a_copy(dtype):
    weights = make(dtype)
    before = raw_bytes(weights)
    for name in weights.names():
        copy = weights.read(name)
        assert copy.dtype == np.float32 and copy.shape == weights.shape(name)
        copy += 1
    assert raw_bytes(weights) == before
    assert weights.names() == ["matrix", "vector", "other"]
    assert "vector" in weights and "bias" not in weights
    assert weights.dtype("matrix") == np.dtype(DTYPES[dtype])
    assert weights.nbytes() == (33 * 7 + 19 + 5 * 40) * (4 if dtype == "f32" else 2)


@pytest.mark.parametrize("tile", [1, 7, 50, 1 << 16])
def test_tiles_rows_gather_and_index_agree(monkeypatch, tile):
    monkeypatch.setattr(tiles, "TILE", tile)
    weights = make("bf16")
    for name in weights.names():
        whole, shape = weights.read(name), weights.shape(name)
        numbers = np.arange(whole.size, dtype=np.uint32).reshape(shape)
        ranges = [(start, start + len(raw), raw) for start, raw in weights.tiles(name)]
        every = [row for start, stop, _ in ranges for row in range(start, stop)]
        assert every == [*range(shape[0])]
        for start, stop, raw in ranges:
            assert stop - start == 1 or whole[start:stop].size <= tile
            assert np.array_equal(widen(raw), whole[start:stop])
            assert np.array_equal(weights.index(name, start, stop), numbers[start:stop])
        picked = np.array([2, 0, 2])
        assert np.array_equal(weights.gather(name, picked), whole[picked])


# -- folding -------------------------------------------------------------------------------


def test_a_fold_is_its_formula_in_float32():
    weights, f = make(), np.float32
    before = {name: weights.read(name) for name in weights.names()}
    weights.add([(3, 0.01), (4, -2e-4)], decay=0.125)
    for name, w in before.items():
        z1, z2 = (tinyzo.noise(seed, name, w.shape) for seed in (3, 4))
        kept = w * f(1 - 0.125) if w.ndim > 1 else w
        expected = (kept + f(0.01) * z1) + f(-2e-4) * z2
        assert np.array_equal(weights.read(name), expected)


def test_signs_can_be_the_direction():
    weights = make(kind="rademacher")
    before = weights.read("matrix")
    weights.add([(3, 0.25)])
    assert np.allclose(np.abs(weights.read("matrix") - before), 0.25, atol=1e-7)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_a_fold_into_16_bits_rounds_with_the_words_of_its_first_seed(dtype):
    weights = make(dtype)
    stored = {name: weights.stored(name).copy() for name in weights.names()}
    weights.add([(3, 1e-3), (4, 1e-3)])
    for name, raw in stored.items():
        z1, z2 = (tinyzo.noise(seed, name, raw.shape) for seed in (3, 4))
        w = widen(raw) + np.float32(1e-3) * z1 + np.float32(1e-3) * z2
        bits = noise.words(noise.key(3, name, "rounding"), noise.counters(0, raw.shape))
        assert weights.stored(name).tobytes() == narrow(w, raw.dtype, bits).tobytes()


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_a_fold_does_not_depend_on_the_tiles(monkeypatch, dtype):
    results = []
    for tile in (1, 7, 64, 1 << 16):
        monkeypatch.setattr(tiles, "TILE", tile)
        weights = make(dtype)
        weights.add([(3, 0.01), (4, -0.02)], decay=0.01)
        results.append(raw_bytes(weights))
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("decay", [0.0, float("nan")])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e39])
def test_an_update_that_float32_cannot_hold_changes_nothing(bad, decay):
    weights = make()
    before = raw_bytes(weights)
    with pytest.raises(NumericError, match=r"update that is not finite.*\n.*smaller lr or a clip"):
        weights.add([(3, 0.01), (4, bad)], decay)
    assert raw_bytes(weights) == before


def folds(dtype: str, nearest: bool) -> float:
    """The share of 64 equal updates of 1e-6 that arrives in weights of size 0.05."""
    w0 = np.float32(0.05) * tinyzo.noise(1, "start", (1 << 16,))
    weights = Weights({"w": narrow(w0, np.dtype(DTYPES[dtype]), None)}, NumpyEngine())
    z, start = tinyzo.noise(77, "w", w0.shape), weights.read("w")
    for step in range(64):
        if nearest:
            stored = weights.stored("w")
            stored[...] = narrow(widen(stored) + np.float32(1e-6) * z, stored.dtype, None)
        else:
            weights.add([(step, 0.0), (77, 1e-6)])  # the first seed makes the rounding's words
    moved = (weights.read("w") - start).astype(np.float64)
    return float(moved @ z) / (64 * 1e-6 * float(z @ z))


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_updates_far_below_half_a_step_arrive(dtype):
    # One rounding adds a variance of about 1e-6 times the step, at most 2^-9 (bf16) for |w| < 0.3;
    # over 64 folds and 2^16 elements the share then has a deviation of 0.02 at the very most.
    share = folds(dtype, nearest=False)
    print(f"{dtype}: {share:.4f} of the update arrives, used {abs(share - 1) / 0.1:.0%}")
    assert abs(share - 1) < 0.1


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_rounding_to_nearest_as_published_loses_them(dtype):
    assert folds(dtype, nearest=True) < 0.1


# -- theta is exact ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_probes_leave_theta_exact(build, dtype):
    model = build(dtype)
    before = raw_bytes(model.weights)
    batch = pack_sequences([[3, 4, 5], [6, 7]])
    for seed in range(50):
        theta = model.weights.view([Probe(seed, 1e-2), Probe(seed, -1e-2)])
        h = model.architecture.hidden(theta, model.config, batch)
        model.architecture.logits(theta, model.config, h)
    assert raw_bytes(model.weights) == before


def test_an_exception_within_a_loss_leaves_theta_exact(monkeypatch):
    model = MODELS["opt"]()
    before = raw_bytes(model.weights)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(NumpyView, "relu", interrupt)
    batch = pack_sequences([[3, 4, 5]])
    with pytest.raises(KeyboardInterrupt):
        theta = model.weights.view([Probe(0, 1.0)])
        model.architecture.hidden(theta, model.config, batch)
    assert raw_bytes(model.weights) == before


class Interrupted:
    """An engine that a signal reaches as it folds the third tensor."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.folds = engine, 0

    def fold(self, *arguments: Any) -> None:
        self.folds += 1
        if self.folds == 3:
            signal.raise_signal(signal.SIGINT)
        self.engine.fold(*arguments)


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_an_interrupt_within_a_fold_comes_after_it(engine, dtype):
    """Else some tensors would have the update in their bytes and among what is pending."""
    whole, stopped = (MODELS["roberta"](dtype, engine).weights for _ in range(2))
    whole.add([(3, 0.1)])
    stopped.engine = Interrupted(engine)
    with pytest.raises(KeyboardInterrupt):
        stopped.add([(3, 0.1)])
    assert not stopped.pending
    assert raw_bytes(stopped) == raw_bytes(whole)
