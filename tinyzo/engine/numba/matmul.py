"""Products with weights, in Numba: the twin of NumpyView.linear."""

from numba import njit

from tinyzo.engine.numba.cache import kept
from tinyzo.engine.numba.kernels import F, kernel, tasks
from tinyzo.engine.numba.sizes import DEPTH
from tinyzo.engine.numba.storage import to_bfloat
from tinyzo.engine.numba.tensors import copy_rows
from tinyzo.engine.numba.vectors import TILE, fetch_add, square_transpose, tile_multiplier

LANES, ROWS, WIDTH = TILE.lanes, TILE.rows, TILE.width

multiply_tile, transpose = tile_multiplier(TILE), square_transpose(LANES)


@kernel
def multiply(bf16, n, w, w_at, w_stride, x, x_at, depth, k, steps, c, c_at, padded):
    """C[j, m] = sum over k of W[j, k] X[k, m], `steps` of k from `k` on: the first, or added.

    n: rows of C and W, which both have room for a multiple of ROWS; steps: words
    w: f32[.] of words in rows, of which the first of a row is W[j, k]; c: f32[.] of sums
    x: f32[.], packed: panels of WIDTH tokens, or fewer at the end, of `padded`, `depth` words deep
    """
    for first in range(0, padded, WIDTH):
        width = min(WIDTH, padded - first)
        here = x_at + first * depth + k * width
        for j in range(0, n, ROWS):
            wj, cj = w_at + j * w_stride, c_at + j * padded + first
            multiply_tile(bf16, width, w, wj, w_stride, x, here, c, cj, padded, steps, k == 0)


@kernel
def pack(x, x_at, x_stride, count, depth, packed, at, m, padded):
    """LANES tokens, of which `count` exist, to tokens m, ... of the panels that `multiply` reads.

    x: f32[.], a token's `depth` words in a row; packed: f32[.], from `at` on, for `padded` tokens
    """
    first = m // WIDTH * WIDTH
    width, at = min(WIDTH, padded - first), at + first * depth + m - first
    whole = depth - depth % LANES if count == LANES else 0
    for k in range(0, whole, LANES):
        transpose(x, x_at + k, x_stride, packed, at + k * width, width)
    for k in range(whole, depth):
        for i in range(LANES):
            packed[at + k * width + i] = x[x_at + i * x_stride + k] if i < count else F(0)


@kernel
def unpack(c, c_at, padded, n, out, at, stride, count):
    """The way back: n rows of `count` tokens, out[at + i stride + j] = c[c_at + j padded + i].

    c, out: f32[.]
    """
    whole = n - n % LANES if count == LANES else 0
    for j in range(0, whole, LANES):
        transpose(c, c_at + j * padded, padded, out, at + j, stride)
    for j in range(whole, n):
        for i in range(count):
            out[at + i * stride + j] = c[c_at + j * padded + i]


@njit(inline="always")
def own(p, copies):
    """Probe p's among the copies, of which there may be one for all."""
    return copies[p if copies.shape[0] > 1 else 0]


@kernel
def pack_tokens(x, g, words, padded, bf16, packed, scratch):
    """The g-th group of LANES tokens of x: f32[P, M, K], as `multiply` reads it. packed: f32[.]"""
    count, inner = x.shape[1], x.shape[2]
    p, m = divmod(g * LANES, padded)
    real = min(LANES, count - m)
    source, at = x.reshape(-1), (p * count + m) * inner
    if bf16:
        for i in range(real):
            to_bfloat(x[p, m + i], scratch, i * words)
        source, at = scratch, 0
    pack(source, at, words, real, words, packed, p * padded * words, m, padded)


@kernel
def add_columns(extra, j0, n, p, m, out):
    """Columns j0 .. j0 + n of bias or residual, to those of out, at token m of probe p.

    extra: f32[0 or 1 or P, 1 or M, N]; out: f32[P, M, N]
    """
    if extra.size:
        here = own(p, extra)[min(m, extra.shape[1] - 1)]
        out[p, m, j0 : j0 + n] += here[j0 : j0 + n]


@kept
@kernel
def linear(
    x,
    raw,
    storage,
    first,
    terms,
    bias,
    residual,
    out,
    column,
    bf16,
    block,
    packed,
    scratch,
    counters,
):
    """out = x W^T + bias + residual for some rows of W, perturbed as they are read.

    x: f32[1 or P, M, K]; first: i64, the number of raw's first row
    bias: f32[0 or 1 or P, 1, N]; residual: f32[0 or 1 or P, M, N]; out: f32[P, M, N], written
    column: i64, of out (and bias and residual) where the products begin
    bf16: bool, words are pairs of bfloat16; block: i64, rows of W in a task
    packed: f32[X's copies * M rounded up to LANES * words of k], all threads'
    """
    copies, count, columns = out.shape
    inner = x.shape[2]
    words = (inner + 1) // 2 if bf16 else inner
    padded = (count + LANES - 1) // LANES * LANES

    groups = x.shape[0] * (padded // LANES)
    for g in tasks(counters, 0, groups, 1):
        pack_tokens(x, g, words, padded, bf16, packed, scratch)
        fetch_add(counters, 1, 1)
    while fetch_add(counters, 1, 0) < groups:
        pass  # another thread is packing the last group

    # scratch: copies of W's tile, what `copy_rows` works on, and the sums
    tile = block * DEPTH
    work_at = terms.seeds.size * tile
    totals = work_at + 8 * DEPTH
    work = scratch[work_at:]
    depth = DEPTH * 2 if bf16 else DEPTH
    flat = out.reshape(-1)
    for task in tasks(counters, 2, (raw.shape[0] + block - 1) // block, 1):
        rows = raw[task * block :][:block]
        n = rows.shape[0]
        number = (first + task * block) * inner
        for k in range(0, words, DEPTH):
            start = k * 2 if bf16 else k
            size = min(depth, inner - start)
            copy_rows(rows, storage, terms, number, start, size, work, scratch, DEPTH, tile, bf16)
            for p in range(copies):
                w_at = p * tile if terms.seeds.size > 1 else 0
                x_at = p * padded * words if x.shape[0] > 1 else 0
                c_at = totals + p * padded * block
                steps = min(DEPTH, words - k)
                multiply(
                    bf16,
                    n,
                    scratch,
                    w_at,
                    DEPTH,
                    packed,
                    x_at,
                    words,
                    k,
                    steps,
                    scratch,
                    c_at,
                    padded,
                )
        j0 = column + task * block
        for p in range(copies):
            for m in range(0, count, LANES):
                c_at = totals + p * padded * block + m
                real = min(LANES, count - m)
                at = (p * count + m) * columns + j0
                unpack(scratch, c_at, padded, n, flat, at, columns, real)
                for i in range(m, m + real):
                    add_columns(bias, j0, n, p, i, out)
                    add_columns(residual, j0, n, p, i, out)
