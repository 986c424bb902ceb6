"""z(seed, tensor, element): the random direction, as a pure function with random access.

MeZO (Malladi et al. 2023, algorithm 1) re-seeds a generator and draws z again in the same order.
Here z has no order: any element of any tensor can be made at any time, alone, in tiles, by several
threads, on another machine, and is always the same bits.

    key   = 64 bits of (seed, tensor, kind)    splitmix64, scalar, once a tensor
    word  = 32 bits of (key, element)          a counter, two multiply-xorshift rounds
    z     = f(word)                            integers, and IEEE float32 + and * in a fixed order

No libm, no fast-math, no fused multiply-add, no table: so NumPy, Numba, x86 and Arm agree bit by
bit. FORMAT 1 is frozen by the test vectors in tests/engine/test_noise.py; a change is FORMAT 2.

gaussian: four 16-bit fields of the word and of one more product are summed (Irwin-Hall of four)
and bent onto the normal quantile by an odd polynomial, z = x (c0 + c1 x^2 + ... + c4 x^8). Over
all 2^32 words: variance 1 + 2e-8, kurtosis 2.9995, sixth moment 14.996, distance to the normal
distribution function 1.1e-4, largest |z| 5.28. docs/decisions.md says what else was tried.
rademacher: one bit of a word serves one element, 32 elements a word.
"""

import functools
import math

import numpy as np

from tinyzo.dtypes import Array
from tinyzo.errors import ConfigError, ShapeError

FORMAT = 1
BLOCK = 1 << 16  # elements of a whole tensor are made so many at once, in cache
KINDS = {"gaussian": 1, "rademacher": 2, "rounding": 3}

MASK64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
ROUND_1, ROUND_2, FIELDS = 0x7FEB352D, 0x846CA68B, 0xC2B2AE35
CENTRE, SCALE = 131070, 2.0**-17
COEFFICIENTS = (3.336087226867676, 0.3156604468822479, 1.386687994003296, -3.3264057636260986,
                3.5673537254333496)  # fmt: skip


def splitmix64(x: int) -> int:
    """One step of Steele, Lea & Flood's generator: 64 bits in, 64 well-mixed bits out."""
    x = (x + GOLDEN) & MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


@functools.lru_cache(maxsize=4096)
def tensor_id(tensor: str | int) -> int:
    """The number of a tensor: an index as it is, a name by FNV-1a 64 of its UTF-8 bytes."""
    if not isinstance(tensor, str):
        return int(tensor) & MASK64
    h = 0xCBF29CE484222325
    for byte in tensor.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK64
    return h


def step_seed(seed: int, step: int) -> int:
    """The seed of one step of a run: 53 bits, so that any JSON reader keeps it whole."""
    return splitmix64(splitmix64(seed) ^ step) >> 11


def key(seed: int, tensor: str | int, kind: str = "gaussian") -> tuple[int, int]:
    """Two 32-bit keys of a tensor's noise.

    raises: ConfigError when the kind is unknown or the seed is not in 0 .. 2^64 - 1
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown kind of noise {kind!r}", f"one of {', '.join(KINDS)}")
    if not 0 <= int(seed) <= MASK64:
        raise ConfigError(f"seed {seed} is out of range", "take a whole number from 0 to 2^64 - 1")
    h = splitmix64(splitmix64(splitmix64(int(seed)) ^ KINDS[kind]) ^ tensor_id(tensor))
    return h & 0xFFFFFFFF, h >> 32


def words(key: tuple[int, int], index: np.ndarray) -> np.ndarray:
    """32 random bits for each counter. index: u32[...], overwritten; returns it: u32[...]."""
    x = index
    t = np.empty_like(x)
    x += np.uint32(key[0])
    x ^= np.right_shift(x, 16, out=t)
    x *= np.uint32(ROUND_1)
    x ^= np.right_shift(x, 15, out=t)
    x += np.uint32(key[1])
    x *= np.uint32(ROUND_2)
    x ^= np.right_shift(x, 16, out=t)
    return x


def polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """c0 + c1 x + c2 x^2 + ... by Horner's rule, in float32: a new array."""
    total = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        total *= x
        total += np.float32(c)
    return total


def gaussian(key: tuple[int, int], index: np.ndarray) -> Array:
    """Standard normal z of the elements. index: u32[...], overwritten; returns f32[...]."""
    word = words(key, index)
    total = word & np.uint32(0xFFFF)
    t = np.right_shift(word, 16)
    total += t
    word *= np.uint32(FIELDS)
    total += np.bitwise_and(word, np.uint32(0xFFFF), out=t)
    total += np.right_shift(word, 16, out=t)
    total -= np.uint32(CENTRE)
    x = total.view(np.int32).astype(np.float32)
    x *= np.float32(SCALE)
    square = np.multiply(x, x, out=t.view(np.float32))
    z = polynomial(COEFFICIENTS, square)
    z *= x
    return z


def rademacher(key: tuple[int, int], index: np.ndarray) -> Array:
    """Signs z in {-1, +1} of the elements. index: u32[...], kept; returns f32[...]."""
    word = words(key, np.right_shift(index, 5))
    bit = (word >> (index & np.uint32(31))) & np.uint32(1)
    return np.float32(1) - np.float32(2) * bit.astype(np.float32)


def at(seed: int, tensor: str | int, index: np.ndarray, kind: str = "gaussian") -> Array:
    """z of the elements with these flat indices: f32[...]. index: u32[...], may be overwritten.

    raises: ConfigError as `key`
    """
    make = rademacher if kind == "rademacher" else gaussian
    return make(key(seed, tensor, kind), index)


def counters(start: int, shape: tuple[int, ...]) -> np.ndarray:
    """The flat indices start, start + 1, ... of a tile: u32[shape].

    raises: ShapeError beyond element 2^32 (no tensor of RoBERTa or OPT comes near)
    """
    stop = _check_count(start + math.prod(shape))
    return np.arange(start, stop, dtype=np.uint32).reshape(shape)


def _check_count(stop: int) -> int:
    """The number after the last element's, if z counts so far."""
    if stop > 1 << 32:
        raise ShapeError(f"a tensor with element {stop}: z counts to 2^32", "split the tensor")
    return stop


def noise(
    seed: int, name_or_index: str | int, shape: tuple[int, ...], kind: str = "gaussian"
) -> Array:
    """The z that every engine uses, for one whole tensor: f32[shape].

    seed:   0 .. 2^64 - 1 (0 is a seed like any other)
    kind:   "gaussian" or "rademacher"
    raises: ConfigError for another seed or kind, ShapeError beyond element 2^32
    """
    z = np.empty(_check_count(math.prod(shape)), np.float32)
    for start in range(0, z.size, BLOCK):
        part = z[start : start + BLOCK]
        part[:] = at(seed, name_or_index, counters(start, part.shape), kind)
    return z.reshape(shape)
