"""z(seed, tensor, element): the frozen bits of format 1, and that they are good enough noise."""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

import tinyzo
from tinyzo.engine import noise
from tinyzo.errors import ConfigError, ShapeError

VECTORS = json.loads(Path(__file__).with_name("vectors_v1.json").read_text())
CHUNK = 1 << 16

# -- format 1 in whole numbers of Python: written from noise.py's docstring, no NumPy in it

MASK64, MASK32 = (1 << 64) - 1, (1 << 32) - 1
KINDS = {"gaussian": 1, "rademacher": 2, "rounding": 3}
POLYNOMIAL = (3.336087226867676, 0.3156604468822479, 1.386687994003296, -3.3264057636260986,
              3.5673537254333496)  # fmt: skip


def f32(x: float) -> float:
    """The nearest float32. Of a sum or product of two float32 in float64 it is IEEE's own."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def plain_splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK64
    return x ^ x >> 31


def plain_word(seed: int, tensor: str | int, kind: str, element: int) -> int:
    if isinstance(tensor, str):
        number = 0xCBF29CE484222325
        for byte in tensor.encode():
            number = (number ^ byte) * 0x100000001B3 & MASK64
    else:
        number = tensor
    key = plain_splitmix64(plain_splitmix64(plain_splitmix64(seed) ^ KINDS[kind]) ^ number)
    x = element + key & MASK32
    x = (x ^ x >> 16) * 0x7FEB352D & MASK32
    x = (x ^ x >> 15) + (key >> 32) & MASK32
    x = x * 0x846CA68B & MASK32
    return x ^ x >> 16


def plain_gaussian(seed: int, tensor: str | int, element: int) -> float:
    word = plain_word(seed, tensor, "gaussian", element)
    more = word * 0xC2B2AE35 & MASK32
    total = (word & 0xFFFF) + (word >> 16) + (more & 0xFFFF) + (more >> 16)
    x = f32((total - 131070) / 2**17)
    square = f32(x * x)
    z = f32(POLYNOMIAL[4])
    for c in POLYNOMIAL[3::-1]:
        z = f32(f32(z * square) + f32(c))
    return f32(z * x)


def plain_rademacher(seed: int, tensor: str | int, element: int) -> float:
    word = plain_word(seed, tensor, "rademacher", element >> 5)
    return 1.0 - 2.0 * (word >> (element & 31) & 1)


PLAIN = {"gaussian": plain_gaussian, "rademacher": plain_rademacher}


def hexadecimal(values: np.ndarray) -> list[str]:
    return [f"{word:08x}" for word in values.view(np.uint32)]


# -- exact bits --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_z_has_the_frozen_bits(kind):
    assert VECTORS["format"] == noise.FORMAT == 1
    for row in VECTORS[kind]:
        index = noise.counters(row["start"], (len(row["f32"]),))
        z = noise.at(row["seed"], row["tensor"], index, kind)
        assert z.dtype == np.float32
        assert hexadecimal(z) == row["f32"], row


def test_rounding_words_have_the_frozen_bits():
    for row in VECTORS["rounding"]:
        index = noise.counters(row["start"], (len(row["u32"]),))
        words = noise.words(noise.key(row["seed"], row["tensor"], "rounding"), index)
        assert hexadecimal(words) == row["u32"], row


def test_step_seeds_have_the_frozen_values():
    for row in VECTORS["step_seed"]:
        assert noise.step_seed(row["seed"], row["step"]) == row["value"] < 1 << 53, row


def test_the_vectors_cover_the_corners():
    for kind in ("gaussian", "rademacher", "rounding"):
        rows = VECTORS[kind]
        assert {row["seed"] for row in rows} == {0, 1, 42, 2**53 - 1, 2**64 - 1}
        assert {type(row["tensor"]) for row in rows} == {str, int}
        assert {row["start"] for row in rows} == {0, 2**31 - 4, 2**32 - 8}


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("tensor", ["lm_head.bias", "größe", 0, 3])
@pytest.mark.parametrize("seed", [0, 2**32 + 17, 2**64 - 1])
def test_numpy_equals_plain_python_bit_by_bit(kind, tensor, seed):
    for start in (0, 2**31 - 150, 2**32 - 300):
        z = noise.at(seed, tensor, noise.counters(start, (300,)), kind)
        plain = [PLAIN[kind](seed, tensor, start + i) for i in range(300)]
        assert hexadecimal(z) == hexadecimal(np.array(plain, np.float32))


def test_seed_0_is_a_seed_like_any_other():
    zero = tinyzo.noise(0, "w", (64,))
    assert np.array_equal(zero, tinyzo.noise(0, "w", (64,)))
    assert not np.array_equal(zero, tinyzo.noise(1, "w", (64,)))


# -- random access -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLAIN)
def test_a_tile_is_a_slice_of_the_whole(kind):
    whole = tinyzo.noise(9, "w", (37, 11), kind)
    for start, stop in ((0, 5), (5, 6), (6, 37)):
        index = noise.counters(start * 11, (stop - start, 11))
        assert np.array_equal(noise.at(9, "w", index, kind), whole[start:stop])


@pytest.mark.parametrize("kind", PLAIN)
def test_elements_in_any_order_and_more_than_once(kind):
    whole = tinyzo.noise(9, "w", (1000,), kind)
    index = np.random.RandomState(0).randint(0, 1000, (20, 30))
    assert np.array_equal(noise.at(9, "w", index.astype(np.uint32), kind), whole[index])


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3, 4)])
def test_noise_has_the_shape_asked_for(shape):
    z = tinyzo.noise(5, 0, shape)
    assert z.shape == shape and z.dtype == np.float32
    assert np.array_equal(z.ravel(), tinyzo.noise(5, 0, (24,))[: z.size])


def test_the_last_element_is_2_to_the_32_minus_1():
    assert noise.counters(2**32 - 2, (2,)).tolist() == [2**32 - 2, 2**32 - 1]
    with pytest.raises(ShapeError, match=r"element 4294967297: z counts to 2\^32\n.*split"):
        noise.counters(2**32 - 2, (3,))
    with pytest.raises(ShapeError, match="element 4295032832"):
        tinyzo.noise(0, "w", (65536, 65537))


def test_bad_requests_are_refused():
    with pytest.raises(ConfigError, match=r"kind of noise 'uniform'\n.*gaussian, rademacher"):
        tinyzo.noise(0, "w", (1,), kind="uniform")
    for seed in (-1, 2**64):
        with pytest.raises(ConfigError, match=f"seed {seed} is out of range\n.*0 to 2\\^64 - 1"):
            tinyzo.noise(seed, "w", (1,))


# -- the distribution --------------------------------------------------------------------

N = 153 * CHUNK  # 1.003e7 draws; everything is deterministic, so these tests cannot flicker
BINS = 1 << 17


def draws(n: int, seed: int = 0, tensor: str | int = "w", kind: str = "gaussian") -> np.ndarray:
    """noise() in chunks that stay in cache: several times faster than in one piece."""
    key = noise.key(seed, tensor, kind)
    make = {"gaussian": noise.gaussian, "rademacher": noise.rademacher, "rounding": noise.words}
    out = np.empty(n, np.uint32 if kind == "rounding" else np.float32)
    for start in range(0, n, CHUNK):
        stop = min(start + CHUNK, n)
        out[start:stop] = make[kind](key, noise.counters(start, (stop - start,)))
    return out


@pytest.fixture(scope="module")
def sample() -> tuple[dict[int, float], np.ndarray]:
    """Moments of 10^7 draws, and their counts in bins of width 12 / BINS from -6 to 6."""
    sums, counts = dict.fromkeys((1, 2, 3, 4, 6), 0.0), np.zeros(BINS, np.int64)
    key = noise.key(42, "w")
    for start in range(0, N, CHUNK):
        z = noise.gaussian(key, noise.counters(start, (CHUNK,)))
        square = z * z
        fourth = square * square
        sums[1] += float(z.sum())
        for a, b, power in ((z, z, 2), (z, square, 3), (square, square, 4), (square, fourth, 6)):
            sums[power] += float(a @ b)
        z += np.float32(6)
        z *= np.float32(BINS / 12)
        counts += np.bincount(z.astype(np.int32), minlength=BINS)
    return {power: total / N for power, total in sums.items()}, counts


def test_moments(sample):
    moments, _ = sample
    expected = {1: 0.0, 2: 1.0, 3: 0.0, 4: 2.9995, 6: 14.996}  # of all 2^32 words: noise.py
    variances = {1: 1, 2: 2, 3: 15, 4: 96, 6: 10170}  # of z^p: E z^2p - (E z^p)^2
    for power, value in moments.items():
        bound = 5 * math.sqrt(variances[power] / N)
        print(f"E z^{power} = {value:.5f}, used {abs(value - expected[power]) / bound:.0%}")
        assert abs(value - expected[power]) < bound


def test_distribution_function(sample):
    _, counts = sample
    normal = NormalDist()
    edges = [normal.cdf(-6 + 12 * (i + 1) / BINS) for i in range(BINS)]
    distance = np.abs(np.cumsum(counts) / N - np.array(edges)).max()
    # 1.1e-4 is documented; 2.69 / sqrt(n) is Kolmogorov's bound at p = 1e-6; between two edges
    # the function can rise by at most 12 / BINS times the density's 0.4.
    bound = 1.1e-4 + 2.69 / math.sqrt(N) + 12 / BINS * 0.4
    print(f"distance {distance:.2e}, used {distance / bound:.0%}")
    assert distance < bound


@pytest.mark.parametrize(("sigmas", "ratio"), [(2, 1.0044), (3, 0.9815), (4, 1.1047)])
def test_tails(sample, sigmas, ratio):
    _, counts = sample
    centres = np.abs((np.arange(BINS) + 0.5) * 12 / BINS - 6)
    expected = N * 2 * NormalDist().cdf(-sigmas) * ratio  # the ratio of all 2^32 words
    found = counts[centres > sigmas].sum()
    bound = 5 * math.sqrt(expected)
    error = abs(found - expected)
    print(f"beyond {sigmas}: {found}, expected {expected:.0f}, used {error / bound:.0%}")
    assert error < bound
    assert counts[centres > 5.2801].sum() == 0


# -- independence ------------------------------------------------------------------------

LONG = 1 << 22
SEEDS = (0, 1, 2, 3, 41, 42, 2**53 - 1, 2**64 - 1)
TENSORS = ("layer.0.weight", "layer.1.weight", "layer.1.bias", 0, 1)


def largest_correlation(streams: list[np.ndarray]) -> float:
    """The largest |correlation| of two streams, of z or of z^2, in units of 1 / sqrt(n)."""
    z, n = np.stack(streams), len(streams[0])
    found = 0.0
    for values in (z, (z * z - 1) / np.float32(math.sqrt(2))):
        matrix = values @ values.T / n
        found = max(found, np.abs(matrix - np.diag(np.diag(matrix))).max() * math.sqrt(n))
    return found


def streams_of_seeds() -> list[np.ndarray]:
    return [draws(1 << 18, seed, "w") for seed in SEEDS]


def streams_of_tensors() -> list[np.ndarray]:
    return [draws(1 << 18, 7, tensor) for tensor in TENSORS]


def test_seeds_are_independent():
    assert largest_correlation(streams_of_seeds()) < 5


def test_tensors_are_independent():
    assert largest_correlation(streams_of_tensors()) < 5


def test_a_stream_started_again_for_each_tensor_is_caught(monkeypatch):
    monkeypatch.setattr(noise, "tensor_id", lambda tensor: 0)
    assert largest_correlation(streams_of_tensors()) > 500


def test_a_seed_that_is_not_mixed_in_is_caught(monkeypatch):
    original = noise.key
    monkeypatch.setattr(noise, "key", lambda seed, *rest: original(seed | 1, *rest))
    assert largest_correlation(streams_of_seeds()) > 500


def pairs(z: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Elements some distance apart: lags, powers of two, and indices that differ in one bit."""
    for lag in (*range(1, 65), *(2**k for k in range(7, 13))):
        yield f"lag {lag}", z[:-lag], z[lag:]
    for k in range(22):
        halves = z.reshape(-1, 2, 1 << k)
        yield f"xor {1 << k}", halves[:, 0].ravel(), halves[:, 1].ravel()


@pytest.mark.parametrize("kind", PLAIN)
def test_elements_are_independent(kind):
    z = draws(LONG, 3, "w", kind)
    for what, a, b in pairs(z):
        assert abs(float(a @ b)) < 5 * math.sqrt(len(a)), what


def test_squares_of_elements_are_independent():
    z = draws(1 << 20, 3, "w")
    z = (z * z - 1) / np.float32(math.sqrt(2))
    for lag in (1, 2, 3, 16, 64, 256, 1024, 4096):
        assert abs(float(z[:-lag] @ z[lag:])) < 5 * math.sqrt(len(z)), lag


def test_signs_are_fair_and_independent():
    streams = [draws(1 << 20, seed, "w", "rademacher") for seed in (0, 1, 42)]
    assert set(np.unique(streams[0])) == {-1.0, 1.0}
    for z in streams:
        assert abs(float(z.sum())) < 5 * math.sqrt(len(z))
    for a, b in itertools.combinations(streams, 2):
        assert abs(float(a @ b)) < 5 * math.sqrt(len(a))


def test_rounding_knows_nothing_of_z():
    n = 1 << 20
    u = draws(n, 3, "w", "rounding") / 2.0**32 - 0.5
    assert abs(u.mean()) < 5 * math.sqrt(1 / 12 / n)
    assert abs((u * u).mean() - 1 / 12) < 5 * math.sqrt(1 / 180 / n)
    for z in (draws(n, 3, "w"), draws(n, 3, "w", "rademacher")):
        assert abs(u @ z) < 5 * math.sqrt(n / 12)
