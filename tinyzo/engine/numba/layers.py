"""What a layer does without weights, in Numba: the twin of the rest of NumpyView."""

import numpy as np

from tinyzo.engine.gelu import PHI_LIMIT, PHI_P, PHI_Q
from tinyzo.engine.numba.cache import kept
from tinyzo.engine.numba.kernels import F, kernel, ordered_freely, tasks
from tinyzo.engine.numba.matmul import LANES, ROWS, WIDTH, multiply, own, pack
from tinyzo.engine.numba.sizes import CHUNK

P0, P1, P2, P3, P4, P5 = (F(c) for c in PHI_P)
Q0, Q1, Q2, Q3, Q4, Q5 = (F(c) for c in PHI_Q)
LIMIT = F(PHI_LIMIT)


@ordered_freely
def softmax(x):
    """x <- e^x / sum e^x. x: f32[n], n > 0, in place."""
    top = x[0]
    for i in range(x.size):
        top = max(top, x[i])
    total = F(0)
    for i in range(x.size):
        x[i] = np.exp(x[i] - top)
        total += x[i]
    for i in range(x.size):
        x[i] /= total


@kept
@kernel
def gelu(x, scratch, counters):
    """NumpyView.gelu. x: f32[n], in place."""
    for task in tasks(counters, 0, (x.size + CHUNK - 1) // CHUNK, 1):
        part = x[task * CHUNK :][:CHUNK]
        for i in range(part.size):
            t = min(max(part[i], -LIMIT), LIMIT)
            s = t * t
            top = ((((P5 * s + P4) * s + P3) * s + P2) * s + P1) * s + P0
            low = ((((Q5 * s + Q4) * s + Q3) * s + Q2) * s + Q1) * s + Q0
            part[i] *= t * top / low + F(0.5)


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
            row = scratch[scores + t * s_padded : scores + (t + 1) * s_padded]
            softmax(row[:seen])
            row[seen:] = F(0)
        multiply(
            False, count, scratch, scores, s_padded, scratch, v_panels, n, 0, n, scratch, sums, wide
        )
        for t in range(count):
            out[p, t0 + t, h] = scratch[sums + t * wide : sums + t * wide + size]
