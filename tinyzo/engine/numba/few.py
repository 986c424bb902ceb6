"""What one token a sequence asks of a model, in Numba: products with few rows, and one query.

Here W passes once for a handful of tokens, so nothing is packed: a row of W is read where it lies,
or made in cache, and multiplied there. Sums are in any order, but in one.
"""

import numpy as np

from tinyzo.engine.numba.cache import kept
from tinyzo.engine.numba.kernels import F, U, kernel, ordered_freely, tasks
from tinyzo.engine.numba.matmul import own
from tinyzo.engine.numba.sizes import FEW_ROWS
from tinyzo.engine.numba.softmax import row_softmax
from tinyzo.engine.numba.tensors import add_scaled, fill_noise, read
from tinyzo.engine.numba.terms import F32
from tinyzo.engine.numba.vectors import TILE, use_widest

softmax = row_softmax(TILE)


@ordered_freely
def dot(a, b):
    """The sum of a b. a, b: f32[n]"""
    found = F(0)
    for i in range(a.size):
        found += a[i] * b[i]
    return found


@kept
@kernel
def linear_of_few(x, raw, storage, first, terms, bias, residual, out, column, scratch, counters):
    """matmul.linear for few tokens, a task for some rows of W.

    x: f32[1 or P, M, K]; raw: u8[R, bytes]; first: i64, the number of raw's first row in W
    bias: f32[0 or 1 or P, 1, N]; residual: f32[0 or 1 or P, M, N]; out: f32[P, M, N], of which
    columns column, ... are written
    """
    use_widest()
    copies, count, _ = out.shape
    inner = x.shape[2]
    is_plain = storage == F32 and terms.keys.size == 0
    stored = raw.reshape(-1).view(F) if is_plain else scratch[:0]
    read_row, z, moved = scratch[:inner], scratch[inner : 2 * inner], scratch[2 * inner : 3 * inner]
    for r in tasks(counters, 0, raw.shape[0], FEW_ROWS):
        index, j = U((first + r) * inner), column + r
        w = stored[r * inner : (r + 1) * inner] if is_plain else read_row
        if not is_plain:
            read(raw, storage, r, 0, terms, index, w)
        made = -1
        for p in range(copies):
            c = p if terms.seeds.size > 1 else 0
            seed, scale = terms.seeds[c], terms.scales[c]
            if seed >= 0 and seed != made:
                made = seed
                fill_noise(terms, seed, index, z, w)
            copy = w
            if seed >= 0:
                add_scaled(w, scale, z, moved)
                copy = moved
            for m in range(count):
                y = dot(copy, own(p, x)[m])
                if bias.size:
                    y += own(p, bias)[0, j]
                if residual.size:
                    y += own(p, residual)[m, j]
                out[p, m, j] = y


@kept
@kernel
def attend(q, keys, values, starts, stops, out, scratch, counters):
    """past.attend, a task for each probe, query and head.

    q: f32[1 or P, B, H, K]; keys, values: f32[1 or P, H, R, K]; starts, stops: i64[B]
    out: f32[P, B, H, K], written
    """
    use_widest()
    copies, count, heads, size = out.shape
    scale = F(1) / np.sqrt(F(size))
    for task in tasks(counters, 0, copies * count * heads, 1):
        p, rest = divmod(task, count * heads)
        b, h = divmod(rest, heads)
        start, n = starts[b], stops[b] - starts[b]
        query, y = own(p, q)[b, h], out[p, b, h]
        k, v = own(p, keys)[h], own(p, values)[h]
        for s in range(n):
            scratch[s] = dot(query, k[start + s])
        softmax(scratch, 0, n, scale)
        for i in range(size):
            y[i] = F(0)
        for s in range(n):
            share, value = scratch[s], v[start + s]
            for i in range(size):
                y[i] += share * value[i]
