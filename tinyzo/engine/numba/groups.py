"""Groups of small integers to float32, in Numba: the twin of checkpoints.groups.widen_groups."""

from numba import njit

from tinyzo.engine.numba.kernels import F, I, U, kernel
from tinyzo.engine.numba.terms import INT4, INT8

GROUP = 64  # of checkpoints/groups.py
SCALE = 2  # bytes, before the codes


@njit(inline="always")
def from_half(low, high):
    """The float32 of a positive float16, given as two bytes."""
    bits = U(U(U(low) | U(U(high) << U(8))) << U(13))
    if bits < U(1 << 23):  # subnormal there
        return U(bits + U(113 << 23)).view(F) - F(2.0**-14)
    return U(bits + U(112 << 23)).view(F)


@njit(inline="always")
def code_at(codes, k, storage):
    """The k-th code of a group."""
    if storage == INT8:
        return I(codes[k])
    pair = I(codes[k // 2])
    return I(pair >> I(4)) if k % 2 else I(pair & I(15))


@kernel
def widen_groups(raw, storage, row, start, w):
    """Elements start, ... of a row of raw, which is in groups. w: f32[n], written."""
    size = SCALE + (GROUP // 2 if storage == INT4 else GROUP)
    zero = I(8) if storage == INT4 else I(128)
    groups, stop = raw[row], start + w.size
    for group in range(start // GROUP, (stop + GROUP - 1) // GROUP):
        at, number = group * size, group * GROUP  # of its first byte, and element
        scale = from_half(groups[at], groups[at + 1])
        codes = groups[at + SCALE : at + size]
        if number < start or number + GROUP > stop:
            for i in range(max(start, number), min(stop, number + GROUP)):
                w[i - start] = F(I(code_at(codes, i - number, storage) - zero)) * scale
            continue
        out = w[number - start : number - start + GROUP]
        if storage == INT8:
            for j in range(GROUP):
                out[j] = F(I(I(codes[j]) - zero)) * scale
        else:
            for j in range(GROUP // 2):
                pair = I(codes[j])
                out[2 * j] = F(I(I(pair & I(15)) - zero)) * scale
                out[2 * j + 1] = F(I(I(pair >> I(4)) - zero)) * scale
