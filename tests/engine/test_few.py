"""Products with so few tokens that W is not packed: as NumPy's, whatever W is and what is added."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="the fast engine needs Numba")

from tinyzo.dtypes import DTYPES, narrow
from tinyzo.engine.numba import engine as numba_engine
from tinyzo.engine.numba import objects
from tinyzo.engine.numba.engine import NumbaEngine
from tinyzo.engine.numba.sizes import FEW, FEW_ROWS
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights

PROBES = {
    "itself": [Probe(0, 0.0)],
    "pair": [Probe(5, 1e-2), Probe(5, -1e-2)],
    "two and itself": [Probe(5, 1e-2), Probe(0, 0.0), Probe(6, 1e-2)],
}
SIZES = [(1, 1), (3, 7), (FEW_ROWS, 64), (2 * FEW_ROWS + 1, 33)]


def products(engine, size, dtype, probes, copies, has_more, is_pending) -> np.ndarray:
    rows, width = size
    random = np.random.RandomState(0)
    matrix = narrow(random.standard_normal(size).astype(np.float32), np.dtype(DTYPES[dtype]), None)
    tensors = {"w.weight": matrix}
    if has_more:
        tensors["w.bias"] = random.standard_normal(rows).astype(np.float32)
    weights = Weights(tensors, engine)
    if is_pending:
        weights.add([(3, 0.5), (4, -0.25)], 0.1, fold=False)
    x = random.standard_normal((copies, FEW, width)).astype(np.float32)
    residual = random.standard_normal((len(probes), FEW, rows)).astype(np.float32)
    return weights.view(probes).linear("w", x, residual if has_more else None)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("has_more", [False, True])
@pytest.mark.parametrize("is_pending", [False, True])
def test_a_product_of_few_tokens_is_as_numpys(size, dtype, name, has_more, is_pending):
    probes = PROBES[name]
    for copies in {1, len(probes)}:
        given = (size, dtype, probes, copies, has_more, is_pending)
        found = products(NumbaEngine(2, bf16=True), *given)
        wanted = products(NumpyEngine(), *given)
        assert found.shape == wanted.shape
        tolerance = (size[1] + 8) * 2.0**-24 * 4 * np.sqrt(size[1])
        assert np.abs(found - wanted).max() <= tolerance


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(dtype, threads):
    """As in blocks of a file, which begin anywhere."""
    random = np.random.RandomState(1)
    w = random.standard_normal((2 * FEW_ROWS + 5, 77)).astype(np.float32)
    w = narrow(w, np.dtype(DTYPES[dtype]), None)
    x = random.standard_normal((1, FEW, 77)).astype(np.float32)

    def product(rows):
        return Weights({"w.weight": rows}, NumbaEngine(threads)).view().linear("w", x)

    whole = product(w)
    assert np.array_equal(np.roll(whole, 3, axis=-1), product(np.roll(w, 3, axis=0)))
    assert np.array_equal(whole[..., :7], product(w[:7].copy()))


def test_only_few_tokens_go_that_way(monkeypatch):
    called = []
    right = objects.linear_of_few
    few = lambda *given: called.append(given) or right(*given)  # noqa: E731
    monkeypatch.setattr(numba_engine.objects, "linear_of_few", few)
    view = Weights({"w.weight": np.ones((4, 8), np.float32)}, NumbaEngine(1)).view()
    view.linear("w", np.ones((1, FEW + 1, 8), np.float32))
    assert called == []
    view.linear("w", np.ones((1, FEW, 8), np.float32))
    assert len(called) == 1
