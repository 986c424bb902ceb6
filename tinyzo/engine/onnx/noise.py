"""z(seed, tensor, element) of engine/noise.py as nodes: the same integers, so the same bits.

Every operator here is exact (integers modulo 2^32 or 2^64) or one correctly rounded float32
operation, and each is a node of its own, so no runtime contracts two of them.

keys: u32[U, 2], the two words of `noise.key` for each of U seeds
index: u32[...], flat numbers of elements
"""

import numpy as np

from tinyzo.engine import noise
from tinyzo.engine.onnx.graph import Graph, Value, concat


def words(keys: Value, index: Value) -> Value:
    """32 random bits for each seed and counter: u32[U, ...]."""
    low = _key(keys, 0, index)
    high = _key(keys, 1, index)
    x = index + low
    x = shifted_xor(x, np.uint32(16))
    x = x * np.uint32(noise.ROUND_1)
    x = shifted_xor(x, np.uint32(15))
    x = x + high
    x = x * np.uint32(noise.ROUND_2)
    return shifted_xor(x, np.uint32(16))


def _key(keys: Value, half: int, index: Value) -> Value:
    """One of the two words of each key, to be added to an index: u32[U, 1, ...]."""
    ones = (1,) * len(index.shape)
    word = keys.gather(np.array([half]), axis=1)
    return word.reshape(keys.shape[0], *ones)


def shifted_xor(x: Value, bits: np.unsignedinteger) -> Value:
    """x ^ (x >> bits)."""
    return x ^ (x >> bits)


def gaussian(keys: Value, index: Value) -> Value:
    """Standard normal z: f32[U, ...]."""
    word = words(keys, index)
    more = word * np.uint32(noise.FIELDS)
    total = fields(word) + fields(more)
    x = total.cast("i4") - np.int32(noise.CENTRE)
    x = x.cast("f4") * np.float32(noise.SCALE)
    return polynomial(noise.COEFFICIENTS, x * x) * x


def fields(word: Value) -> Value:
    """The sum of the two halves of each word: u32[...]."""
    low = word & np.uint32(0xFFFF)
    high = word >> np.uint32(16)
    return low + high


def polynomial(coefficients: tuple[float, ...], x: Value) -> Value:
    """As noise.polynomial: c0 + c1 x + c2 x^2 + ... by Horner's rule."""
    *rest, last = map(np.float32, coefficients)
    total = x * last + rest.pop()
    for c in reversed(rest):
        total = total * x
        total = total + c
    return total


def rademacher(keys: Value, index: Value) -> Value:
    """Signs z in {-1, +1}: f32[U, ...]."""
    word = words(keys, index >> np.uint32(5))
    place = index & np.uint32(31)
    bit = (word >> place) & np.uint32(1)
    return bit.cast("f4") * np.float32(-2) + np.float32(1)


KINDS = {"gaussian": gaussian, "rademacher": rademacher}


def counters(graph: Graph, stop: int) -> Value:
    """0, 1, ... stop - 1: u32[stop]."""
    return graph.op("Range", 0, stop, 1, shape=(stop,)).cast("u4")


def splitmix64(x: Value) -> Value:
    """As noise.splitmix64. x: u64[...]; the same."""
    x = x + np.uint64(noise.GOLDEN)
    x = shifted_xor(x, np.uint64(30))
    x = x * np.uint64(0xBF58476D1CE4E5B9)
    x = shifted_xor(x, np.uint64(27))
    x = x * np.uint64(0x94D049BB133111EB)
    return shifted_xor(x, np.uint64(31))


def keys(seeds: Value, tensor: str, kind: str = "gaussian") -> Value:
    """As noise.key, of each seed. seeds: u64[U]; u32[U, 2]."""
    h = splitmix64(seeds)
    h = splitmix64(h ^ np.uint64(noise.KINDS[kind]))
    h = splitmix64(h ^ np.uint64(noise.tensor_id(tensor)))
    h = h.reshape(-1, 1)
    low = h & np.uint64(0xFFFFFFFF)
    high = h >> np.uint64(32)
    return concat(low.cast("u4"), high.cast("u4"), axis=1)
