"""z, storage and updates in vectors: the bits of noise.py and dtypes.py, whatever the CPU."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinyzo.dtypes import narrow, widen
from tinyzo.engine import noise
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.terms import Direction, Update
from tinyzo.engine.weights import Weights

numba = pytest.importorskip("numba", reason="the fast engine needs Numba")

from tinyzo.engine.numba import tensors  # noqa: E402
from tinyzo.engine.numba import terms as kinds  # noqa: E402
from tinyzo.engine.numba.arguments import as_bytes, make_terms  # noqa: E402
from tinyzo.engine.numba.storage import F32  # noqa: E402
from tinyzo.engine.numba.terms import Terms  # noqa: E402
from tinyzo.engine.numba.wide import WIDE  # noqa: E402

SIZES = [1, 5, 31, 32, 33, WIDE - 1, WIDE, WIDE + 1, 3 * WIDE + 7]
FLOAT = np.dtype("<f4")
DTYPES = {"BF16": np.dtype("<u2"), "F16": np.dtype("<f2")}
SEED, NAME = 9, "w"


@numba.njit(error_model="numpy")
def move(*arguments):
    tensors.move(*arguments)


def pending(update: Update, dtype: np.dtype = FLOAT, kind: str = "gaussian") -> Weights:
    weights = Weights({NAME: np.zeros((2, 2), dtype)}, NumpyEngine(), Direction(kind))
    weights.pending = [update]
    return weights


def terms_of(update: Update, dtype: np.dtype = FLOAT, kind: str = "gaussian") -> Terms:
    return make_terms(pending(update, dtype, kind), NAME, ())


NO_TERMS = make_terms(Weights({NAME: np.zeros((2, 2), FLOAT)}, NumpyEngine()), NAME, ())


def moved(values: np.ndarray, source: int, terms: Terms, kind: str, start: int) -> np.ndarray:
    """Values after terms, of the elements from `start` on, as bits of 16-bit storage."""
    out = np.zeros(values.size, np.uint16)
    storage = getattr(kinds, kind)
    raw = values.view(np.uint8)
    move(raw, source, terms, storage, np.uint32(start), out.view(np.uint8), storage)
    return out


# -- z ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
@pytest.mark.parametrize("start", [0, 1, 31, 32, 2**16 - 7, 2**31 - 40, 2**32 - 3 * WIDE - 7])
def test_z_of_any_stretch(kind, start):
    terms = terms_of(Update([(SEED, 1.0)]), FLOAT, kind)
    for size in SIZES:
        z = np.full(size + 1, 7, np.float32)
        tensors.fill_noise(terms, 0, np.uint32(start), z[:size], np.zeros(size, np.float32))
        expected = noise.at(SEED, NAME, noise.counters(start, (size,)), kind)
        assert z[:size].tobytes() == expected.tobytes() and z[size] == 7


def element_of(key: tuple[int, int], word: int) -> int:
    """The element whose word that is: noise.words from its end to its beginning."""
    mask = 0xFFFFFFFF
    x = (word ^ word >> 16) * pow(noise.ROUND_2, -1, 1 << 32) & mask
    x = x - key[1] & mask
    x = (x ^ x >> 15 ^ x >> 30) * pow(noise.ROUND_1, -1, 1 << 32) & mask
    return (x ^ x >> 16) - key[0] & mask


@pytest.mark.parametrize("word", [0, 1, 0x8000, 0x80000000, 0xFFFF0000, 0xFFFFFFFF])
def test_z_of_words_with_rare_sums(word):
    """Word 0 has the least sum that there is."""
    terms = terms_of(Update([(SEED, 1.0)]))
    index = np.array([element_of(noise.key(SEED, NAME), word)], np.uint32)
    assert noise.words(noise.key(SEED, NAME), index.copy())[0] == word
    z = np.zeros(1, np.float32)
    tensors.fill_noise(terms, 0, index[0], z, z.copy())
    assert z.tobytes() == noise.at(SEED, NAME, index).tobytes()


def test_z_of_many_elements():
    n = 1 << 22
    terms = terms_of(Update([(SEED, 1.0)]))
    z = np.zeros(n, np.float32)
    tensors.fill_noise(terms, 0, np.uint32(5), z, z)
    assert np.array_equal(z, noise.at(SEED, NAME, noise.counters(5, (n,))))


# -- storage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DTYPES)
def test_every_16_bit_number_is_widened_and_narrowed(kind):
    stored = np.arange(1 << 16, dtype=np.uint16)
    wide = np.zeros(1 << 16, np.float32)
    arguments = (NO_TERMS, getattr(kinds, kind), np.uint32(0))
    move(stored.view(np.uint8), getattr(kinds, kind), *arguments, wide.view(np.uint8), F32)
    exact = widen(stored.view(DTYPES[kind]))
    number = ~np.isnan(exact)
    assert np.isnan(wide[~number]).all()
    assert wide[number].tobytes() == exact[number].tobytes()
    back = moved(wide, F32, NO_TERMS, kind, 0)
    assert np.array_equal(back[number], stored[number])
    assert np.isnan(widen(back[~number].view(DTYPES[kind]))).all()


def floats_of_all_sizes() -> np.ndarray:
    """Of every exponent, and the neighbours of where a type's numbers begin or end to be normal."""
    random = np.random.RandomState(0)
    words = random.randint(0, 1 << 32, 1 << 20, np.uint64).astype(np.uint32)
    edges = np.float32([0, 2**-24, 2**-15, 2**-14, 65504, 65520, 65536, 2**115, np.inf])
    near = edges.view(np.uint32)[:, None] + np.arange(-40, 41)
    near = np.concatenate([near.ravel(), near.ravel() | 0x80000000]).astype(np.uint32)
    halves = random.randint(0x38000000, 0x47800000, 1 << 20, np.int64).astype(np.uint32)
    signs = random.randint(0, 2, 1 << 20, np.int64).astype(np.uint32) << 31
    values = np.concatenate([words, halves | signs, np.repeat(near, 50)]).view(np.float32)
    return values[~np.isnan(values)]


@pytest.mark.parametrize("kind", DTYPES)
def test_floats_of_all_sizes_are_dithered(kind):
    """An update of nothing: w + 0 z, rounded."""
    values, start = floats_of_all_sizes(), 12345
    terms = terms_of(Update([(SEED, 0.0)]), DTYPES[kind])
    found = moved(values, F32, terms, kind, start)
    index = noise.counters(start, values.shape)
    nothing = np.float32(0) * noise.at(SEED, NAME, index.copy())
    bits = noise.words(noise.key(SEED, NAME, "rounding"), index)
    with np.errstate(all="ignore"):
        expected = narrow(values + nothing, DTYPES[kind], bits)
    assert np.array_equal(found, expected.view(np.uint16))
    wide, raw = np.zeros_like(values), values.view(np.uint8)
    storage = getattr(kinds, kind)
    move(raw, F32, terms, storage, np.uint32(start), wide.view(np.uint8), F32)
    number = ~np.isnan(widen(expected))
    assert wide[number].tobytes() == widen(expected)[number].tobytes()


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
@pytest.mark.parametrize("dtype", ["<f4", "<u2", "<f2"])
def test_a_stretch_of_any_size_and_place_is_folded_alone(dtype, kind):
    """From an address that no vector would choose; what lies around it stays."""
    width = np.dtype(dtype).itemsize
    update = Update([(SEED, 1e-2), (SEED + 1, 1e-3)], decay=0.25)
    weights = pending(update, np.dtype(dtype), kind)
    storage, terms = as_bytes(np.zeros(1, dtype))[1], make_terms(weights, NAME, ())
    for size in SIZES:
        around = np.full(width * (size + 2) + 1, 99, np.uint8)
        raw = around[1 + width : 1 + width * (size + 1)]
        values = np.linspace(-1, 1, size, dtype=np.float32)
        bits = np.zeros(size, np.uint32)
        start = narrow(values, np.dtype(dtype), bits)
        raw[:] = start.view(np.uint8)
        tensors.fold(raw[None], storage, terms, 70, np.zeros(0, "f4"), np.zeros(3, np.int64))
        now = weights.now(NAME, start, noise.counters(70, (size,)))
        assert raw.tobytes() == narrow(now, np.dtype(dtype), bits).tobytes()
        assert (around[: 1 + width] == 99).all() and (around[1 + width * (size + 1) :] == 99).all()


# -- other CPUs ------------------------------------------------------------------------------------

AVX2 = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2"
CPUS = {"haswell": AVX2, "generic": ""}
OTHER_TESTS = (
    "test_every_16_bit_number_is_folded_as_by_numpy",
    "test_no_subnormal_float32_is_needed_for_16_bit_weights",
)


@pytest.mark.exhaustive  # all of the above are compiled and run again
@pytest.mark.skipif(platform.machine() != "x86_64", reason="LLVM here compiles for x86 only")
@pytest.mark.skipif("NUMBA_CPU_NAME" in os.environ, reason="this is another CPU already")
@pytest.mark.parametrize("cpu", CPUS)
def test_another_cpu_has_the_same_bits(cpu, tmp_path):
    environment = {
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": CPUS[cpu],
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    command += [f"tests/engine/test_numba.py::{test}" for test in OTHER_TESTS]
    done = subprocess.run(
        command,
        env=os.environ | environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
