"""What the fast engine's layers do without weights: norms, gelu, the softmax of attention."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("numba", reason="the fast engine needs Numba")

import numba
from numba import types
from numba.extending import intrinsic

from tinyzo.engine.numba.engine import NumbaEngine
from tinyzo.engine.numba.layers import norm
from tinyzo.engine.numba.sizes import CHUNK
from tinyzo.engine.numba.softmax import LOWEST, Functions, row_softmax
from tinyzo.engine.numba.vectors import I64, TILE, Tile
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights

# LLVM splits vectors that are too long for this CPU, so every tile can be tried on any.
TILES = [Tile(4, 4, 2, ""), Tile(8, 4, 3, ""), Tile(16, 8, 3, "")]
tiles = pytest.mark.parametrize("tile", TILES, ids=lambda tile: str(tile.lanes))
HALF = 2.0**-24  # of a last place: the rounding of one operation
PAIR = [Probe(5, 1e-2), Probe(5, -1e-2)]


# -- softmax


def exponential(tile):
    """A kernel: x <- e^x, f32[n], n a multiple of the tile's lanes."""

    @intrinsic
    def change(_, x, at):
        def generate(context, builder, signature, arguments):
            code = Functions(context, builder, tile)
            place = (code.pointer(signature.args[0], *arguments), 0, I64(0))
            code.store(code.exp(code.load(*place)), *place)
            return context.get_dummy_value()

        return types.void(x, types.int64), generate

    @numba.njit
    def run(x):
        for at in range(0, x.size, tile.lanes):
            change(x, at)

    return run


@tiles
def test_exp_is_within_two_last_places(tile):
    x = np.linspace(LOWEST, 0, 1 << 17, dtype=np.float32)
    x[-4:] = -0.0, -1e-30, -math.log(2) / 2, LOWEST
    found, exact = x.copy(), np.exp(x.astype(np.float64))
    exponential(tile)(found)
    last_places = np.abs(found - exact) / np.spacing(exact.astype(np.float32))
    print(f"{last_places.max():.2f} last places")
    assert last_places.max() < 2 and (found[-4:-2] == 1).all()


@tiles
def test_exp_of_less_is_as_good_as_nothing_and_of_nan_is_nan(tile):
    x = np.full(tile.lanes, -np.inf, np.float32)
    x[1:3] = -1e30, np.nan
    exponential(tile)(x)
    assert np.isnan(x[2]) and (np.delete(x, 2) < 1e-37).all()


@tiles
def test_a_row_of_any_length_becomes_its_softmax(tile):
    """Beside it nothing changes, but that the last vector ends with zeros."""
    softmax, lanes = row_softmax(tile), tile.lanes
    run = numba.njit(lambda x, at, n, scale: softmax(x, at, n, scale))
    random = np.random.default_rng(0)
    for n in (1, 2, lanes - 1, lanes, lanes + 1, 5 * lanes - 2):
        whole = -(-n // lanes) * lanes
        x = random.normal(0, 9, whole + 7).astype(np.float32)
        found, y = x.copy(), 0.5 * x[3 : 3 + n].astype(np.float64)
        run(found, 3, n, np.float32(0.5))
        exact = np.exp(y - y.max())
        exact /= exact.sum()
        # an exponent's rounding, the polynomial, and a sum
        tolerance = (2 * np.abs(y - y.max()) + 2 * np.abs(y).max() + 8 + n) * HALF
        assert (np.abs(found[3 : 3 + n] / exact - 1) <= tolerance).all()
        assert not found[3 + n : 3 + whole].any()
        assert np.array_equal(found[:3], x[:3])
        assert np.array_equal(found[3 + whole :], x[3 + whole :])


@tiles
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_does_not_get_lost(tile, bad):
    softmax = row_softmax(tile)
    x = np.zeros(2 * tile.lanes, np.float32)
    x[1] = bad
    numba.njit(lambda x: softmax(x, 0, tile.lanes + 1, np.float32(1)))(x)
    assert np.isnan(x[0 if np.isnan(bad) else 1])


# -- norm and gelu


def norms(engine, width, probes, x, name):
    random = np.random.default_rng(1)
    vectors = random.standard_normal((2, width)).astype(np.float32)
    tensors = dict(zip(("n.weight", "n.bias"), vectors, strict=True))
    return Weights(tensors, engine).view(probes).norm(name, x, 1e-5)


@pytest.mark.parametrize("name", ["n", "none"])
@pytest.mark.parametrize(("probes", "copies"), [([Probe(0, 0.0)], 1), (PAIR, 1), (PAIR, 2)])
@pytest.mark.parametrize(("count", "width"), [(1, 1), (3, 8), (40, 1025), (2, CHUNK + 3)])
def test_norm_of_any_size_is_as_numpys(name, probes, copies, count, width):
    random = np.random.default_rng(0)
    x = random.normal(3, 1, (copies, count, width)).astype(np.float32)
    before = x.copy()
    expected = norms(NumpyEngine(), width, probes, x, name)
    found = [norms(NumbaEngine(threads), width, probes, x, name) for threads in (1, 3)]
    assert found[0].shape == expected.shape and np.array_equal(x, before)
    assert np.allclose(found[0], expected, rtol=0, atol=64 * HALF * np.abs(expected).max())
    assert np.array_equal(*found)


@pytest.mark.parametrize("count", [1, TILE.lanes + 1, CHUNK, 3 * CHUNK + 5])
def test_gelu_is_near_the_exact_one(count):
    x = np.random.default_rng(0).normal(0, 3, (1, 1, count)).astype(np.float32)
    x[..., :4] = np.array([-0.0, 7, -7, np.inf], np.float32)[:count]
    found = [Weights({}, NumbaEngine(threads)).view().gelu(x.copy()).ravel() for threads in (1, 3)]
    exact = [value * math.erfc(-value / math.sqrt(2)) / 2 for value in x.ravel().tolist()]
    assert np.array_equal(*found)
    assert np.allclose(found[0], exact, rtol=3e-7, atol=3e-7 * 7)


@pytest.mark.parametrize("width", [64, 200])
def test_the_bits_of_a_norm_do_not_hang_on_where_its_arrays_lie(width):
    """LLVM takes other loops for arrays that lie close to each other."""
    room = np.zeros(8 * width, np.float32)
    values = np.random.RandomState(0).standard_normal((1, 1, width)).astype(np.float32)
    nothing, counters = np.zeros((0, 1, width), np.float32), np.zeros(3, np.int64)
    results = set()
    for distance in (0, 1, 4, 16, 60, 2 * width):
        x, out = (room[at:][:width].reshape(1, 1, -1) for at in (0, width + distance))
        for source, target in ((x, out), (out, x)):
            source[...] = values
            counters[:] = 0
            norm(source, nothing, nothing, np.float32(1e-5), target, room[:0], counters)
            results.add(target.tobytes())
    assert len(results) == 1
