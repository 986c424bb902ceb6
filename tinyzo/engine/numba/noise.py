"""z in Numba, bit by bit that of engine/noise.py."""

from numba import njit

from tinyzo.engine import noise
from tinyzo.engine.numba.kernels import F, I, U, kernel

ROUND_1, ROUND_2, FIELDS = U(noise.ROUND_1), U(noise.ROUND_2), U(noise.FIELDS)
CENTRE, SCALE = U(noise.CENTRE), F(noise.SCALE)
C0, C1, C2, C3, C4 = (F(c) for c in noise.COEFFICIENTS)
LOW = U(0xFFFF)


@njit(inline="always")
def random_word(key_0, key_1, index):
    """noise.words; every sum and product is cut to 32 bits, or Numba would widen it to 64."""
    x = U(index + key_0)
    x = U(U(x ^ (x >> U(16))) * ROUND_1)
    x = U(U(U(x ^ (x >> U(15))) + key_1) * ROUND_2)
    return U(x ^ (x >> U(16)))


@kernel
def fill_gaussian(key_0, key_1, start, z):
    """noise.gaussian of the elements start, start + 1, ..."""
    for i in range(z.size):
        word = random_word(key_0, key_1, U(start + U(i)))
        more = U(word * FIELDS)
        total = U(U(U(word & LOW) + U(word >> U(16))) + U(U(more & LOW) + U(more >> U(16))))
        x = F(F(I(total - CENTRE)) * SCALE)
        square = x * x
        z[i] = ((((C4 * square + C3) * square + C2) * square + C1) * square + C0) * x


@kernel
def fill_signs(key_0, key_1, start, z):
    """noise.rademacher of the elements start, start + 1, ...; a bit becomes the sign of 1.

    A word is made anew for each of its 32 elements: that is faster than to share it.
    """
    for i in range(z.size):
        at = U(start + U(i))
        word = random_word(key_0, key_1, U(at >> U(5)))
        bit = U(U(word << U(U(31) - U(at & U(31)))) & U(0x80000000))
        z[i] = U(bit | U(0x3F800000)).view(F)
