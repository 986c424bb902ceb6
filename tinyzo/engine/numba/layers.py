"""What a layer does without weights, in Numba: the twin of the rest of NumpyView."""

import numpy as np
from numba import njit

from tinyzo.engine.gelu import PHI_LIMIT, PHI_P, PHI_Q
from tinyzo.engine.numba.cache import kept
from tinyzo.engine.numba.kernels import F, contracted, kernel, ordered_freely, tasks
from tinyzo.engine.numba.matmul import (
    LANES,
    ROWS,
    WIDTH,
    multiply,
    own,
    pack_panels,
    panel_width,
    rounded_up,
)
from tinyzo.engine.numba.sizes import CHUNK, FLOATS
from tinyzo.engine.numba.softmax import row_softmax
from tinyzo.engine.numba.vectors import TILE, use_widest

P0, P1, P2, P3, P4, P5 = (F(c) for c in PHI_P)
Q0, Q1, Q2, Q3, Q4, Q5 = (F(c) for c in PHI_Q)
LIMIT = F(PHI_LIMIT)


softmax = row_softmax(TILE)


@contracted
def gelu_of(x):
    """x Phi(x), as gelu.normal_distribution has Phi."""
    t = min(max(x, -LIMIT), LIMIT)
    s = t * t
    top = ((((P5 * s + P4) * s + P3) * s + P2) * s + P1) * s + P0
    low = ((((Q5 * s + Q4) * s + Q3) * s + Q2) * s + Q1) * s + Q0
    return x * (t * top / low + F(0.5))


@kept
@kernel
def gelu(x, scratch, counters):
    """NumpyView.gelu. x: f32[n], in place."""
    use_widest()
    for task in tasks(counters, 0, (x.size + CHUNK - 1) // CHUNK, 1):
        part = x[task * CHUNK :][:CHUNK]
        for i in range(part.size):
            part[i] = gelu_of(part[i])


# What may be summed in any order reads one array and writes none. Beside a store, LLVM takes
# vectors only if arrays lie far enough from each other, which is seen at run time; where they do
# not, it sums in another order, and bits would hang on addresses.


@ordered_freely
def total(x):
    """The sum of x: f32[n]."""
    found = F(0)
    for i in range(x.size):
        found += x[i]
    return found


@ordered_freely
def total_square(x):
    """The sum of x^2: f32[n]."""
    found = F(0)
    for i in range(x.size):
        found += x[i] * x[i]
    return found


@kept
@kernel
def norm(x, weight, bias, ln_eps, out, scratch, counters):
    """NumpyView.norm: a task for some of the rows.

    x: f32[1 or P, M, D]; weight, bias: f32[0 or 1 or P, 1, D]; ln_eps: f32; out: f32[P, M, D],
    written
    """
    use_widest()
    copies, count, width = out.shape
    rows = max(1, CHUNK // width)  # of a task
    for task in tasks(counters, 0, (copies * count + rows - 1) // rows, 1):
        for row in range(task * rows, min((task + 1) * rows, copies * count)):
            p, m = divmod(row, count)
            source, y = own(p, x)[m], out[p, m]
            mean = total(source) / F(width)
            for i in range(width):
                y[i] = source[i] - mean
            factor = F(1) / np.sqrt(total_square(y) / F(width) + ln_eps)
            if weight.shape[0]:
                w, b = own(p, weight)[0], own(p, bias)[0]
                for i in range(width):
                    y[i] = y[i] * factor * w[i] + b[i]
            else:
                for i in range(width):
                    y[i] *= factor


@kernel
def pack_rows(x, x_at, x_stride, rows, columns, packed, at):
    """`columns` of some rows as columns of panels, which are steps of their `multiply`.

    x: f32[.]; rows: i64[R], which ones; packed: f32[.], from `at` on
    """
    j = 0
    while j < columns:
        width = panel_width(columns - j)
        real = min(width, columns - j)
        for row in rows:
            source = x_at + row * x_stride + j
            for i in range(real):
                packed[at + i] = x[source + i]
            for i in range(real, width):
                packed[at + i] = F(0)
            at += width
        j += width


@kernel
def pack_keys(x, x_at, x_stride, rows, depth, packed, at, staged):
    """Some rows of x as columns of panels; those that are not neighbours are `staged` before.

    x: f32[.]; rows: i64[R], which ones; packed: f32[.], from `at` on, as from `staged`
    """
    n = rows.size
    if rows[n - 1] - rows[0] == n - 1:
        pack_panels(x, x_at + rows[0] * x_stride, x_stride, n, depth, packed, at)
        return
    for s in range(n):
        source = x_at + rows[s] * x_stride
        for d in range(depth):
            packed[staged + s * depth + d] = x[source + d]
    pack_panels(packed, staged, depth, n, depth, packed, at)


@njit(inline="always")
def start_of(p, x):
    """Where probe p's begin in x: f32[1 or P, N, H, K], as a flat array."""
    return p * (x.size // x.shape[0]) if x.shape[0] > 1 else 0


@kept
@kernel
def attention(q, k, v, blocks, keys, places, causal, out, scratch, counters):
    """NumpyView.attention: softmax(q k^T / sqrt(K)) v, a task for each block, probe and head.

    q: f32[1 or P, M, H, K]; k, v: f32[1 or P, N, H, K]; out: f32[P, M, H, K], written
    blocks: i64[B, 4], each block's queries and its part of keys: i64[.]; places: i64[M], each
    query's own place among its keys, which bounds what it sees if `causal`: bool
    """
    copies, _, heads, size = out.shape
    scale = F(1) / np.sqrt(F(size))
    step = heads * size
    all_q, all_k, all_v, all_out = q.reshape(-1), k.reshape(-1), v.reshape(-1), out.reshape(-1)
    for task in tasks(counters, 0, blocks.shape[0] * copies * heads, 1):
        b, rest = divmod(task, copies * heads)
        p, h = divmod(rest, heads)
        t0, t1, s0, s1 = blocks[b]
        n = s1 - s0  # keys
        count = t1 - t0  # queries
        at, seen_keys = h * size, keys[s0:s1]
        width = rounded_up(n, LANES)
        k_panels = ROWS * (max(size, n) + WIDTH)  # after the edge
        v_panels = k_panels + width * size
        scores = v_panels + n * rounded_up(size, LANES)
        k_at, v_at, query = start_of(p, k) + at, start_of(p, v) + at, t0 * step + at
        pack_keys(all_k, k_at, step, seen_keys, size, scratch, k_panels, scores)
        pack_rows(all_v, v_at, step, seen_keys, size, scratch, v_panels)
        multiply(
            *(FLOATS, all_q, start_of(p, q) + query, step, count, scratch, k_panels, n, size),
            *(scratch, scores, width, True, scratch),
        )
        for t in range(count):
            seen = min(n, places[t0 + t] + 1) if causal else n
            row = scores + t * width
            softmax(scratch, row, seen, scale)
            for s in range(seen, n):
                scratch[row + s] = F(0)
        multiply(
            *(FLOATS, scratch, scores, width, count, scratch, v_panels, size, n),
            *(all_out, start_of(p, out) + query, step, True, scratch),
        )
