"""Stored numbers to float32 and back, in Numba: the twin of dtypes.py."""

import numpy as np
from numba import njit

from tinyzo.engine.numba.kernels import F, I, U
from tinyzo.engine.numba.terms import BF16, F32


@njit(inline="always")
def itemsize(storage):
    """Bytes of an element."""
    return 4 if storage == F32 else 2


@njit(inline="always")
def widen(word, storage):
    """16 bits to float32. float16's exponent of 5 bits is moved to that of 8; 31 to 255.

    No subnormal float32 is made on the way, which another library may have the CPU take for 0.
    """
    if storage == BF16:
        return U(U(word) << U(16)).view(F)
    bits = U(U(U(word) & U(0x7FFF)) << U(13))
    subnormal = U(bits + U(113 << 23)).view(F) - F(2.0**-14)
    value = subnormal if bits < U(1 << 23) else U(bits + U(112 << 23)).view(F)
    special = U(0x7F800000) if bits >= U(0x0F800000) else U(0)  # infinite, NaN
    return U(U(F(value).view(U) | special) | U(U(U(word) & U(0x8000)) << U(16))).view(F)


@njit(inline="always")
def nearest_bfloat(value):
    """The bfloat16 next to a float32, even for a tie, as its bits."""
    word = F(value).view(U)
    return np.uint16(U(U(word + U(0x7FFF)) + U(U(word >> U(16)) & U(1))) >> U(16))


@njit(inline="always")
def dithered(value, bits, storage):
    """One of the two 16-bit numbers beside a float32, at random, as float32: dtypes.narrow."""
    if storage == BF16:
        return U(U(F(value).view(U) + U(bits >> U(16))) & U(0xFFFF0000)).view(F)
    exponent = U(F(value).view(U) & U(0x7F800000))
    ulp = U(max(exponent, U(113 << 23)) - U(10 << 23)).view(F)
    rounded = F(np.floor(value / ulp + F(I(bits >> U(19))) * F(2.0**-13)) * ulp)
    return rounded if abs(rounded) < F(65536) or rounded != rounded else rounded * F(np.inf)


@njit(inline="always")
def half_bits(value):
    """The bits of a float32 that float16 holds: its exponent of 8 bits, moved to that of 5."""
    size, sign = abs(value), U(U(F(value).view(U) >> U(16)) & U(0x8000))
    subnormal = U(F(size + F(0.5)).view(U) - F(0.5).view(U))  # how often 2^-24, the last place
    normal = U(U(F(size * F(2.0**-112)).view(U) >> U(13)) & U(0x7FFF))  # of 255, 31
    return np.uint16(U(subnormal if size < F(2.0**-14) else normal) | sign)


@njit(inline="always")
def to_bfloat(values, out, at):
    """f32[n] as pairs of bfloat16 into words out[at], ...; the last one may be half empty."""
    half = out[at : at + (values.size + 1) // 2].view(np.uint16)
    half[-1] = 0
    for i in range(values.size):
        half[i] = nearest_bfloat(values[i])
