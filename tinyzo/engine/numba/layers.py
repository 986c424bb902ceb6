"""What a layer does without weights, in Numba: the twin of the rest of NumpyView."""

import numpy as np

from tinyzo.engine.gelu import PHI_LIMIT, PHI_P, PHI_Q
from tinyzo.engine.numba.cache import kept
from tinyzo.engine.numba.kernels import CHUNK, F, contracted, kernel, ordered_freely, tasks
from tinyzo.engine.numba.matmul import LANES, ROWS, WIDTH, multiply, own, pack
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


@ordered_freely
def total(x):
    """The sum of x: f32[n]."""
    found = F(0)
    for i in range(x.size):
        found += x[i]
    return found


@ordered_freely
def moved(x, by, out):
    """out <- x + by; returns the sum of its squares. x, out: f32[n]"""
    squares = F(0)
    for i in range(out.size):
        value = x[i] + by
        out[i] = value
        squares += value * value
    return squares


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
            squares = moved(source, -total(source) / F(width), y)
            factor = F(1) / np.sqrt(squares / F(width) + ln_eps)
            if weight.shape[0]:
                w, b = own(p, weight)[0], own(p, bias)[0]
                for i in range(width):
                    y[i] = y[i] * factor * w[i] + b[i]
            else:
                for i in range(width):
                    y[i] *= factor


@kept
@kernel
def attention(q, k, v, blocks, keys, places, causal, out, scratch, counters):
    """NumpyView.attention: softmax(q k^T / sqrt(K)) v, a task for each block, probe and head.

    q: f32[1 or P, M, H, K]; k, v: f32[1 or P, N, H, K]; out: f32[P, M, H, K], written
    blocks: i64[B, 4], each block's queries and its part of keys: i64[.]; places: i64[M], each
    query's own place among its keys, which bounds what it sees if `causal`: bool
    """
    copies, _, heads, size = out.shape
    wide = (size + LANES - 1) // LANES * LANES
    scale = F(1) / np.sqrt(F(size))
    for task in tasks(counters, 0, blocks.shape[0] * copies * heads, 1):
        b, rest = divmod(task, copies * heads)
        p, h = divmod(rest, heads)
        t0, t1, s0, s1 = blocks[b]
        n = s1 - s0  # keys
        count = t1 - t0  # queries
        s_padded = (n + LANES - 1) // LANES * LANES
        t_padded = (count + ROWS - 1) // ROWS * ROWS
        k_panels = n * size
        v_panels = k_panels + s_padded * size
        q_rows = v_panels + n * wide
        scores = q_rows + t_padded * size
        sums = scores + t_padded * s_padded
        for s in range(n):
            key, value = own(p, k)[keys[s0 + s], h], own(p, v)[keys[s0 + s], h]
            scratch[s * size : (s + 1) * size] = key
            for d in range(wide):
                d0 = d // WIDTH * WIDTH
                at = v_panels + d0 * n + s * min(WIDTH, wide - d0) + d - d0
                scratch[at] = value[d] if d < size else F(0)
        for s in range(0, n, LANES):
            real = min(LANES, n - s)
            pack(scratch, s * size, size, real, size, scratch, k_panels, s, s_padded)
        for t in range(count):
            query = own(p, q)[t0 + t, h]
            for d in range(size):
                scratch[q_rows + t * size + d] = query[d] * scale
        multiply(
            False,
            count,
            scratch,
            q_rows,
            size,
            scratch,
            k_panels,
            size,
            0,
            size,
            scratch,
            scores,
            s_padded,
        )
        for t in range(count):
            seen = min(n, places[t0 + t] + 1) if causal else n
            row = scores + t * s_padded
            softmax(scratch, row, seen, F(1))
            scratch[row + seen : row + s_padded] = F(0)
        multiply(
            False, count, scratch, scores, s_padded, scratch, v_panels, n, 0, n, scratch, sums, wide
        )
        for t in range(count):
            out[p, t0 + t, h] = scratch[sums + t * wide : sums + t * wide + size]
