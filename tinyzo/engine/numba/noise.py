"""z in Numba, bit by bit that of engine/noise.py, for 32 elements at once."""

import numpy as np
from numba import njit

from tinyzo.engine import noise
from tinyzo.engine.numba.kernels import U
from tinyzo.engine.numba.wide import gaussian, signs, small_only

ROUND_1, ROUND_2 = U(noise.ROUND_1), U(noise.ROUND_2)
U64 = np.uint64


@njit(inline="always")
def random_word(key_0, key_1, index):
    """noise.words; every sum and product is cut to 32 bits, or Numba would widen it to 64."""
    x = U(index + key_0)
    x = U(U(x ^ (x >> U(16))) * ROUND_1)
    x = U(U(U(x ^ (x >> U(15))) + key_1) * ROUND_2)
    return U(x ^ (x >> U(16)))


@njit(inline="always")
def sign_bits(key_0, key_1, index):
    """The bits of the elements index, index + 1, ..., which are in two words."""
    first = U(index >> U(5))
    low, high = random_word(key_0, key_1, first), random_word(key_0, key_1, U(first + U(1)))
    return U((U64(low) | (U64(high) << U64(32))) >> U64(index & U(31)))


@njit(inline="always")
def draw(key_0, key_1, is_signs, index, w, limit):
    """Parameters.z of the elements index, ..., which are now w."""
    if is_signs:
        z = signs(sign_bits(key_0, key_1, index))
    else:
        z = gaussian(key_0, key_1, index)
    if limit < np.inf:
        z = small_only(z, w, limit)
    return z
