"""The instruction of this CPU that multiplies matrices of bfloat16, as matmul.py calls it.

A CPU that has none has functions that do nothing, and which it never calls.

    UNIT     words of k that it takes at once: what is left of a row is zero
    COLUMNS  those of a panel of W, or 0: as the other kernels have them
    SPREAD   words of k that lie side by side in a panel
"""

from numba import njit

from tinyzo.engine.numba import amx, bfmmla
from tinyzo.engine.numba.sizes import UNITS
from tinyzo.engine.numba.vectors import TILE

IS_AMX, IS_BFMMLA = TILE.matrix == "amx", TILE.matrix == "bfmmla"
UNIT = UNITS[TILE.matrix]
COLUMNS = amx.BOTH if IS_AMX else 0
SPREAD = bfmmla.STEP if IS_BFMMLA else 1


@njit
def nothing(*arguments):
    """What a CPU without such an instruction does instead of it."""


begin, end = (amx.begin, amx.end) if IS_AMX else (nothing, nothing)
multiply_rows = amx.multiply_rows if IS_AMX else nothing
multiply_squares = bfmmla.square_multiplier(TILE) if IS_BFMMLA else nothing
