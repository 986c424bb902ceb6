"""What a layer does without weights, in Numba: the twin of the rest of NumpyView."""

import numpy as np

from tinyzo.engine.gelu import PHI_LIMIT, PHI_P, PHI_Q
from tinyzo.engine.numba.cache import kept
from tinyzo.engine.numba.kernels import F, kernel, ordered_freely, tasks
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
    scale = F(1) / np.sqrt(F(size))
    queries, flat, step = q.reshape(-1), out.reshape(-1), heads * size
    for task in tasks(counters, 0, blocks.shape[0] * copies * heads, 1):
        b, rest = divmod(task, copies * heads)
        p, h = divmod(rest, heads)
        t0, t1, s0, s1 = blocks[b]
        n = s1 - s0  # keys
        count = t1 - t0  # queries
        width = rounded_up(n, LANES)
        k_panels = ROWS * (max(size, n) + WIDTH)  # after the edge
        v_panels = k_panels + width * size
        scores = v_panels + n * rounded_up(size, LANES)
        key, value = own(p, k), own(p, v)
        for s in range(n):
            for d in range(size):
                scratch[scores + s * size + d] = key[keys[s0 + s], h, d] * scale
        pack_panels(scratch, scores, size, n, size, scratch, k_panels)
        j = 0
        while j < size:
            wide = panel_width(size - j)
            for s in range(n):
                at = v_panels + j * n + s * wide
                for d in range(j, j + wide):
                    scratch[at + d - j] = value[keys[s0 + s], h, d] if d < size else F(0)
            j += wide
        at = t0 * step + h * size
        q_at = at + (p * q.shape[1] * step if q.shape[0] > 1 else 0)
        multiply(
            *(FLOATS, queries, q_at, step, count, scratch, k_panels, n, size),
            *(scratch, scores, width, True, scratch),
        )
        for t in range(count):
            seen = min(n, places[t0 + t] + 1) if causal else n
            row = scratch[scores + t * width :][:n]
            softmax(row[:seen])
            row[seen:] = F(0)
        multiply(
            *(FLOATS, scratch, scores, width, count, scratch, v_panels, size, n),
            *(flat, at + p * out.shape[1] * step, step, True, scratch),
        )
