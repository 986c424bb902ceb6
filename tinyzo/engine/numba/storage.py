"""Stored numbers to float32 and back, in Numba: the twin of dtypes.py."""

import numpy as np
from numba import njit

from tinyzo.engine.numba.kernels import F, U
from tinyzo.engine.numba.terms import BF16, F32
from tinyzo.engine.numba.wide import (
    dithered_bfloat,
    dithered_half,
    load_bfloats,
    load_floats,
    load_halves,
    store_bfloats,
    store_floats,
    store_halves,
)


@njit(inline="always")
def itemsize(storage):
    """Bytes of an element."""
    return 4 if storage == F32 else 2


@njit(inline="always")
def load(raw, i, count, storage):
    """Numbers i, ... of raw: u8[.], as float32: `count` of them, or WIDE."""
    if storage == F32:
        return load_floats(raw, i, count)
    if storage == BF16:
        return load_bfloats(raw, i, count)
    return load_halves(raw, i, count)


@njit(inline="always")
def store(w, raw, i, count, storage):
    """The way back, of numbers that this storage holds."""
    if storage == F32:
        store_floats(w, raw, i, count)
    elif storage == BF16:
        store_bfloats(w, raw, i, count)
    else:
        store_halves(w, raw, i, count)


@njit(inline="always")
def dithered(w, salt_0, salt_1, index, storage):
    """dtypes.narrow at random, as float32. index: of w's first element"""
    if storage == F32:
        return w
    if storage == BF16:
        return dithered_bfloat(w, salt_0, salt_1, index)
    return dithered_half(w, salt_0, salt_1, index)


@njit(inline="always")
def nearest_bfloat(value):
    """The bfloat16 next to a float32, even for a tie, as its bits."""
    word = F(value).view(U)
    return np.uint16(U(U(word + U(0x7FFF)) + U(U(word >> U(16)) & U(1))) >> U(16))


@njit(inline="always")
def to_bfloat(values, out, at):
    """f32[n] as pairs of bfloat16 into words out[at], ...; the last one may be half empty."""
    half = out[at : at + (values.size + 1) // 2].view(np.uint16)
    half[-1] = 0
    for i in range(values.size):
        half[i] = nearest_bfloat(values[i])
