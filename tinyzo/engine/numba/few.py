"""What one token a sequence asks of a model, in Numba: products with few rows, and one query.

Here W passes once for a handful of tokens, so nothing is packed: rows of W are read where they lie,
or made in cache, and multiplied there. Sums are in any order, but in one, which does not depend on
the other rows.
"""

import numpy as np
from numba import njit

from tinyzo.engine.numba.cache import kept
from tinyzo.engine.numba.kernels import F, U, kernel, ordered_freely, tasks
from tinyzo.engine.numba.matmul import own
from tinyzo.engine.numba.sizes import FEW_ROWS
from tinyzo.engine.numba.softmax import row_softmax
from tinyzo.engine.numba.tensors import add_scaled, fill_noise, read
from tinyzo.engine.numba.terms import BF16, F32
from tinyzo.engine.numba.vectors import TILE, use_widest

# Places of four rows in scratch: as all probes read them, and as one has them.
MADE = (0, 1, 2, 3)
MOVED = (8, 9, 10, 11)

softmax = row_softmax(TILE)


@ordered_freely
def dot(a, b):
    """The sum of a b. a, b: f32[n]"""
    found = F(0)
    for i in range(a.size):
        found += a[i] * b[i]
    return found


def row_products(widened):
    """The function (w, rows, x): the sums of w x for four rows of w, given by their numbers.

    w: [R n], elements that `widened` takes to f32; rows: i64s; x: f32[n]; returns f32s
    Four rows at once come from memory faster than one, and x is loaded once for all of them.
    """

    @ordered_freely
    def products(w, rows, x):
        n = x.size
        a = w[rows[0] * n :][:n]
        b = w[rows[1] * n :][:n]
        c = w[rows[2] * n :][:n]
        d = w[rows[3] * n :][:n]
        of_a = F(0)
        of_b = F(0)
        of_c = F(0)
        of_d = F(0)
        for i in range(n):
            of_a += widened(a[i]) * x[i]
            of_b += widened(b[i]) * x[i]
            of_c += widened(c[i]) * x[i]
            of_d += widened(d[i]) * x[i]
        return of_a, of_b, of_c, of_d

    return products


@njit(inline="always")
def as_it_is(w):
    return w


@njit(inline="always")
def from_bfloat(w):
    return U(U(w) << U(16)).view(F)


products_of_floats, products_of_bfloats = row_products(as_it_is), row_products(from_bfloat)


@njit(inline="always")
def rows_apart(i, start, count):
    """Row i of each quarter of `count` rows from `start` on; the last one again where it has none.

    A CPU foresees what a stream of neighbours reads next, and several of them at once.
    """
    part = (count + 3) // 4
    last = start + count - 1
    a = start + i
    b = min(a + part, last)
    c = min(b + part, last)
    d = min(c + part, last)
    return a, b, c, d


@kernel
def make_rows(raw, storage, rows, first, terms, made):
    """Rows of W as they are now. rows: their four numbers in raw; made: f32[4, K], written"""
    for i in range(4):
        index = U((first + rows[i]) * made.shape[1])
        read(raw, storage, rows[i], 0, terms, index, made[i])


@kernel
def perturb_rows(rows, first, terms, copy, made, z, moved):
    """The same rows as a probe has them. made, z, moved: f32[4, K], the last of which is written.

    z: of the copy before, which is made anew where this one has another seed
    """
    seed = terms.seeds[copy]
    for i in range(4):
        if copy == 0 or seed != terms.seeds[copy - 1]:
            fill_noise(terms, seed, U((first + rows[i]) * z.shape[1]), z[i], made[i])
        add_scaled(made[i], terms.scales[copy], z[i], moved[i])


@kernel
def write_sums(sums, rows, p, m, bias, residual, column, out):
    """out[p, m, column + rows[k]] = sums[k] + bias + residual, for four rows."""
    for k in range(4):
        y = sums[k]
        j = column + rows[k]
        if bias.size:
            y += own(p, bias)[0, j]
        if residual.size:
            y += own(p, residual)[m, j]
        out[p, m, j] = y


@kept
@kernel
def linear_of_few(x, raw, storage, first, terms, bias, residual, out, column, scratch, counters):
    """matmul.linear for few tokens, a task for FEW_ROWS rows of W, of which four pass at once.

    x: f32[1 or P, M, K]; raw: u8[R, bytes]; first: i64, the number of raw's first row in W
    bias: f32[0 or 1 or P, 1, N]; residual: f32[0 or 1 or P, M, N]; out: f32[P, M, N], of which
    columns column, ... are written
    """
    use_widest()
    copies, count, _ = out.shape
    inner = x.shape[2]
    total = raw.shape[0]
    is_made = terms.keys.size > 0 or storage > BF16
    parts = scratch[: 12 * inner].reshape(3, 4, inner)
    made = parts[0]
    z = parts[1]
    moved = parts[2]
    floats = scratch
    bfloats = scratch[:0].view(np.uint16)
    if not is_made and storage == F32:
        floats = raw.reshape(-1).view(F)
    if not is_made and storage == BF16:
        bfloats = raw.reshape(-1).view(np.uint16)
    for task in tasks(counters, 0, (total + FEW_ROWS - 1) // FEW_ROWS, 1):
        start = task * FEW_ROWS
        size = min(FEW_ROWS, total - start)
        for i in range((size + 3) // 4):
            rows = rows_apart(i, start, size)
            if is_made:
                make_rows(raw, storage, rows, first, terms, made)
            for p in range(copies):
                copy = p if terms.seeds.size > 1 else 0
                here = MADE if is_made else rows
                if terms.seeds[copy] >= 0:
                    perturb_rows(rows, first, terms, copy, made, z, moved)
                    here = MOVED
                for m in range(count):
                    token = own(p, x)[m]
                    if bfloats.size:
                        sums = products_of_bfloats(bfloats, here, token)
                    else:
                        sums = products_of_floats(floats, here, token)
                    write_sums(sums, rows, p, m, bias, residual, column, out)


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
        start = starts[b]
        n = stops[b] - start
        query = own(p, q)[b, h]
        k = own(p, keys)[h]
        v = own(p, values)[h]
        y = out[p, b, h]
        for s in range(n):
            scratch[s] = dot(query, k[start + s])
        softmax(scratch, 0, n, scale)
        for i in range(size):
            y[i] = F(0)
        for s in range(n):
            share = scratch[s]
            value = v[start + s]
            for i in range(size):
                y[i] += share * value[i]
