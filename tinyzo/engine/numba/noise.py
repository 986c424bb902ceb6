"""z in Numba, bit by bit that of engine/noise.py, for WIDE elements at once."""

import numpy as np
from numba import njit

from tinyzo.engine.numba.wide import gaussian, signs, small_only


@njit(inline="always")
def draw(key_0, key_1, is_signs, index, w, limit):
    """Parameters.z of the elements index, ..., which are now w."""
    z = signs(key_0, key_1, index) if is_signs else gaussian(key_0, key_1, index)
    if limit < np.inf:
        z = small_only(z, w, limit)
    return z
