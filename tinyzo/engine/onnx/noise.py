"""z(seed, tensor, element) of engine/noise.py as nodes: the same integers, so the same bits.

Every operator here is exact (integers modulo 2^32 or 2^64) or one correctly rounded float32
operation, and each is a node of its own, so no runtime contracts two of them.

keys: u32[U, 2], the two words of `noise.key` for each of U seeds
index: u32[...], flat numbers of elements
"""

import numpy as np

from tinyzo.engine import noise
from tinyzo.engine.onnx.graph import Graph, Value

Seeds = Value  # u64[U]


def words(keys: Value, index: Value) -> Value:
    """32 random bits for each seed and counter: u32[U, ...]."""
    seeds = keys.shape[0]
    one_each = (seeds, *(1 for _ in index.shape))
    low, high = (keys.gather(np.array([half]), axis=1).reshape(*one_each) for half in (0, 1))
    x = index + low
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(noise.ROUND_1)
    x = x ^ (x >> np.uint32(15))
    x = x + high
    x = x * np.uint32(noise.ROUND_2)
    return x ^ (x >> np.uint32(16))


def gaussian(keys: Value, index: Value) -> Value:
    """Standard normal z: f32[U, ...]."""
    word = words(keys, index)
    half = np.uint32(0xFFFF)
    fields = word * np.uint32(noise.FIELDS)
    total = (word & half) + (word >> np.uint32(16))
    total = total + (fields & half) + (fields >> np.uint32(16))
    x = (total.cast("i4") - np.int32(noise.CENTRE)).cast("f4") * np.float32(noise.SCALE)
    square = x * x
    z = square * np.float32(noise.COEFFICIENTS[-1]) + np.float32(noise.COEFFICIENTS[-2])
    for c in noise.COEFFICIENTS[-3::-1]:
        z = z * square + np.float32(c)
    return z * x


def rademacher(keys: Value, index: Value) -> Value:
    """Signs z in {-1, +1}: f32[U, ...]."""
    word = words(keys, index >> np.uint32(5))
    bit = (word >> (index & np.uint32(31))) & np.uint32(1)
    return np.float32(1) + bit.cast("f4") * np.float32(-2)


KINDS = {"gaussian": gaussian, "rademacher": rademacher}


def counters(graph: Graph, stop: int) -> Value:
    """0, 1, ... stop - 1: u32[stop]."""
    return graph.op("Range", 0, stop, 1, shape=(stop,)).cast("u4")


def splitmix64(x: Value) -> Value:
    """As noise.splitmix64. x: u64[...]; the same."""
    x = x + np.uint64(noise.GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keys(seeds: Seeds, tensor: str, kind: str = "gaussian") -> Value:
    """As noise.key, of each seed: u32[U, 2]."""
    mixed = splitmix64(splitmix64(splitmix64(seeds) ^ np.uint64(noise.KINDS[kind])) ^ _id(tensor))
    mixed = mixed.reshape(-1, 1)
    halves = [(mixed & np.uint64(0xFFFFFFFF)).cast("u4"), (mixed >> np.uint64(32)).cast("u4")]
    return seeds.graph.op("Concat", *halves, shape=(seeds.shape[0], 2), axis=1)


def _id(tensor: str) -> np.uint64:
    return np.uint64(noise.tensor_id(tensor))
