"""The machine's limits: what is counted, not how fast it is."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="the limits are those of the fast engine")

from tinyzo.engine.numba import products, roofline
from tinyzo.engine.numba.engine import NumbaEngine
from tinyzo.engine.numba.sizes import CHUNK, FLOATS, MATRIX, PAIRS
from tinyzo.engine.numba.vectors import TILE

SUMS = TILE.rows * TILE.vectors


@pytest.fixture
def a_second(monkeypatch):
    """Every task takes a second, on one thread or two."""
    monkeypatch.setattr(roofline, "best", lambda task: 1.0)


def test_rates_are_what_was_done_in_a_second(a_second):
    of_fma = 2 * roofline.STEPS * SUMS * TILE.lanes / 1e9
    product = 2 * roofline.TOKENS * roofline.WIDTH**2 / 1e9
    fma, *others = roofline.ways(2)
    chosen = NumbaEngine().way
    assert fma == ("f32 fma", of_fma, 2 * of_fma, product, True)
    peaks = {FLOATS: (of_fma, 2 * of_fma), PAIRS: (2 * of_fma, 4 * of_fma), MATRIX: (0, 0)}
    assert others == [
        (f"bf16 {way}", *peaks[kind], product, way == chosen)
        for way, kind in products.ways().items()
    ]
    engine, billions = NumbaEngine(2), 4 * roofline.ELEMENTS / 1e9
    assert roofline.bandwidth(engine) == (billions, 2 * billions)
    assert roofline.fold(engine) == billions / 4


@pytest.mark.parametrize("bf16", [False, True])
def test_every_sum_gets_every_product(bf16):
    """Of 1 by 1; of pairs of bfloat16, 1 is the upper half of a word, and the lower one is 0."""
    x = np.zeros((2 + SUMS) * TILE.lanes, np.float32)
    x[: 2 * TILE.lanes] = 1
    run = roofline.kernel(lambda x, steps: roofline.multiply_registers(bf16, x, steps))
    run(x, 7)
    assert (x[: 2 * TILE.lanes] == 1).all() and (x[2 * TILE.lanes :] == 7).all()


def test_all_of_memory_is_read_and_copied():
    x = np.random.default_rng(0).standard_normal(3 * CHUNK).astype(np.float32)
    sums, copy = np.zeros(3, np.float32), np.zeros_like(x)
    engine = NumbaEngine(2)
    engine.run(roofline.adding, x, sums)
    engine.run(roofline.moving, x, copy)
    assert np.allclose(sums, x.reshape(3, -1).sum(axis=1), atol=1e-2)
    assert np.array_equal(copy, x)


def test_the_best_turn_counts(monkeypatch):
    times = iter([3.0, 1.0] + [2.0] * roofline.TURNS)
    calls: list[int] = []
    monkeypatch.setattr(roofline, "timeit", lambda task, number: next(times))
    assert roofline.best(lambda: calls.append(1)) == 1.0 and calls == [1]
