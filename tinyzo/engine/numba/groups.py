"""Groups of small integers to float32, in Numba: the twin of checkpoints.groups.widen_groups."""

import numpy as np

from tinyzo.engine.numba.kernels import F, I, kernel
from tinyzo.engine.numba.storage import F16, widen

INT4, INT8 = 3, 4  # storage, beside those of storage.py
GROUP = 64  # of checkpoints/groups.py
SCALE = 2  # bytes, before the codes


@kernel
def widen_groups(raw, storage, row, start, w):
    """Elements start, ... of a row of raw, which is in groups. w: f32[n], written."""
    size = SCALE + (GROUP // 2 if storage == INT4 else GROUP)
    i = 0
    while i < w.size:
        group, first = (start + i) // GROUP, (start + i) % GROUP
        n = min(GROUP - first, w.size - i)
        at = group * size
        bits = np.uint16(raw[row, at]) | np.uint16(raw[row, at + 1]) << np.uint16(8)
        scale = widen(bits, F16)
        codes = raw[row, at + SCALE : at + size]
        if storage == INT8:
            for j in range(n):
                w[i + j] = F(I(codes[first + j]) - I(128)) * scale
        elif n == GROUP:
            for j in range(GROUP // 2):
                w[i + 2 * j] = F(I(codes[j] & 15) - I(8)) * scale
                w[i + 2 * j + 1] = F(I(codes[j] >> 4) - I(8)) * scale
        else:
            for j in range(n):
                k = first + j
                code = codes[k // 2] >> 4 if k % 2 else codes[k // 2] & 15
                w[i + j] = F(I(code) - I(8)) * scale
        i += n
