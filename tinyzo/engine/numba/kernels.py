"""The kernels of the fast engine, in Numba: each is the twin of a verb of numpy_engine.py.

A kernel is serial and holds no lock; as many threads as there are call it at once with the same
arguments and a scratch array of their own, and share its tasks by a counter. What a task computes
does not depend on who takes it, so results do not depend on the number of threads.

z and what is folded with it are bit by bit those of noise.py and numpy_engine.py: no fast-math
there. The sum of a softmax may be reordered by the compiler.

In all kernels, unless it is said:

    terms     Terms, what is added to a tensor as it is read
    raw       u8[R, bytes], rows of a tensor as they are stored; storage: i64, as F32, BF16 or F16
    first     i64, the number of raw's first element in its tensor; index: u32, of any element
    scratch   f32[.], this thread's own
    counters  i64[3], all threads': the next task, how many of the first kind are done, and the
              next of the second kind
    x_at, ..  i64, where something begins in a flat array; x_stride: words from row to row
    word      32 bits of such an array: one float32, or two bfloat16 that are neighbours in k
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from tinyzo.engine import noise
from tinyzo.engine.gelu import PHI_LIMIT, PHI_P, PHI_Q
from tinyzo.engine.moments import FLOOR
from tinyzo.engine.numba.cache import kept
from tinyzo.engine.numba.sizes import DEPTH
from tinyzo.engine.numba.vectors import TILE, fetch_add, square_transpose, tile_multiplier

LANES, ROWS, WIDTH = TILE.lanes, TILE.rows, TILE.width
CHUNK = 1 << 14  # elements of a task that goes through memory once

F, I, U = np.float32, np.int32, np.uint32  # noqa: E741
OPTIONS = {"nogil": True, "error_model": "numpy"}  # x / 0 is infinite, no exception
kernel = njit(**OPTIONS)
# Inlined in any case: a copy of its own may be compiled to another order, and would be called in
# the process that compiles, but not in those that load what was compiled.
ordered_freely = njit(**OPTIONS, forceinline=True, fastmath={"reassoc", "contract", "nsz", "arcp"})


class Terms(NamedTuple):
    """The terms that are added to a tensor as it is read: pending ones, then a z for each probe.

    keys: u32[T + S, 2], noise.key of the pending terms, then of the probes' seeds
    kept, added: f32[T], w <- kept w + added z, in this order
    rounds: bool[T], an update ends there, after which w is rounded; salts: u32[T, 2], for that
    seeds: i64[C], for each copy of the weights the place of its z in keys, or -1; scales: f32[C]
    is_signs: z is rademacher; limit: z is 0 where |w| is larger
    is_moment: bool[T], the term is AdaMeZO's, and not one of a sum
    moments: f32[T, 2], AdaMeZO's factor of z^2, and at its update's end the rate
    """

    keys: np.ndarray
    kept: np.ndarray
    added: np.ndarray
    rounds: np.ndarray
    salts: np.ndarray
    seeds: np.ndarray
    scales: np.ndarray
    is_signs: bool
    is_moment: np.ndarray
    moments: np.ndarray
    limit: float


# -- threads ---------------------------------------------------------------------------------


@njit
def tasks(shared, which, count, step):
    """Those of the numbers below `count` that this thread takes, `step` at once, by a counter."""
    start = fetch_add(shared, which, step)
    while start < count:
        for task in range(start, min(count, start + step)):  # noqa: UP028 (no such in Numba)
            yield task
        start = fetch_add(shared, which, step)


# -- noise -----------------------------------------------------------------------------------

ROUND_1, ROUND_2, FIELDS = U(noise.ROUND_1), U(noise.ROUND_2), U(noise.FIELDS)
CENTRE, SCALE = U(noise.CENTRE), F(noise.SCALE)
C0, C1, C2, C3, C4 = (F(c) for c in noise.COEFFICIENTS)
LOW = U(0xFFFF)


@njit(inline="always")
def random_word(key_0, key_1, index):
    """noise.words; every sum and product is cut to 32 bits, or Numba would widen it to 64."""
    x = U(index + key_0)
    x = U(U(x ^ (x >> U(16))) * ROUND_1)
    x = U(U(U(x ^ (x >> U(15))) + key_1) * ROUND_2)
    return U(x ^ (x >> U(16)))


@kernel
def fill_gaussian(key_0, key_1, start, z):
    """noise.gaussian of the elements start, start + 1, ..."""
    for i in range(z.size):
        word = random_word(key_0, key_1, U(start + U(i)))
        more = U(word * FIELDS)
        total = U(U(U(word & LOW) + U(word >> U(16))) + U(U(more & LOW) + U(more >> U(16))))
        x = F(F(I(total - CENTRE)) * SCALE)
        square = x * x
        z[i] = ((((C4 * square + C3) * square + C2) * square + C1) * square + C0) * x


@kernel
def fill_signs(key_0, key_1, start, z):
    """noise.rademacher of the elements start, start + 1, ...; a bit becomes the sign of 1.

    A word is made anew for each of its 32 elements: that is faster than to share it.
    """
    for i in range(z.size):
        at = U(start + U(i))
        word = random_word(key_0, key_1, U(at >> U(5)))
        bit = U(U(word << U(U(31) - U(at & U(31)))) & U(0x80000000))
        z[i] = U(bit | U(0x3F800000)).view(F)


@kernel
def fill_noise(terms, t, start, z, w):
    """Parameters.z of the elements start, ... from terms.keys[t]. z: f32[n], written; w: f32[n]."""
    if terms.is_signs:
        fill_signs(terms.keys[t, 0], terms.keys[t, 1], start, z)
    else:
        fill_gaussian(terms.keys[t, 0], terms.keys[t, 1], start, z)
    if terms.limit < np.inf:
        for i in range(z.size):
            z[i] = F(0) if abs(w[i]) > terms.limit else z[i]


# -- storage: bytes, and what they are -----------------------------------------------------------

F32, BF16, F16 = 0, 1, 2  # a kernel is compiled once for all of them: raw is u8[rows, bytes]


@njit(inline="always")
def itemsize(storage):
    """Bytes of an element."""
    return 4 if storage == F32 else 2


@njit(inline="always")
def widen(word, storage):
    """16 bits to float32. float16's exponent of 5 bits is moved to that of 8; 31 to 255.

    No subnormal float32 is made on the way, which another library may have the CPU take for 0.
    """
    if storage == BF16:
        return U(U(word) << U(16)).view(F)
    bits = U(U(U(word) & U(0x7FFF)) << U(13))
    subnormal = U(bits + U(113 << 23)).view(F) - F(2.0**-14)
    value = subnormal if bits < U(1 << 23) else U(bits + U(112 << 23)).view(F)
    special = U(0x7F800000) if bits >= U(0x0F800000) else U(0)  # infinite, NaN
    return U(U(F(value).view(U) | special) | U(U(U(word) & U(0x8000)) << U(16))).view(F)


@njit(inline="always")
def nearest_bfloat(value):
    """The bfloat16 next to a float32, even for a tie, as its bits."""
    word = F(value).view(U)
    return np.uint16(U(U(word + U(0x7FFF)) + U(U(word >> U(16)) & U(1))) >> U(16))


@njit(inline="always")
def dithered(value, bits, storage):
    """One of the two 16-bit numbers beside a float32, at random, as float32: dtypes.narrow."""
    if storage == BF16:
        return U(U(F(value).view(U) + U(bits >> U(16))) & U(0xFFFF0000)).view(F)
    exponent = U(F(value).view(U) & U(0x7F800000))
    ulp = U(max(exponent, U(113 << 23)) - U(10 << 23)).view(F)
    rounded = F(np.floor(value / ulp + F(I(bits >> U(19))) * F(2.0**-13)) * ulp)
    return rounded if abs(rounded) < F(65536) or rounded != rounded else rounded * F(np.inf)


@njit(inline="always")
def half_bits(value):
    """The bits of a float32 that float16 holds: its exponent of 8 bits, moved to that of 5."""
    size, sign = abs(value), U(U(F(value).view(U) >> U(16)) & U(0x8000))
    subnormal = U(F(size + F(0.5)).view(U) - F(0.5).view(U))  # how often 2^-24, the last place
    normal = U(U(F(size * F(2.0**-112)).view(U) >> U(13)) & U(0x7FFF))  # of 255, 31
    return np.uint16(U(subnormal if size < F(2.0**-14) else normal) | sign)


@njit(inline="always")
def to_bfloat(values, out, at):
    """f32[n] as pairs of bfloat16 into words out[at], ...; the last one may be half empty."""
    half = out[at : at + (values.size + 1) // 2].view(np.uint16)
    half[-1] = 0
    for i in range(values.size):
        half[i] = nearest_bfloat(values[i])


@kernel
def add_moment(terms, t, w, z, m, v):
    """moments.Moments.change: one more term of the moments; the last one moves w.

    w, z, m, v: f32[n]; m and v are kept from term to term
    """
    if t == 0 or terms.rounds[t - 1]:
        m[:] = F(0)
        v[:] = F(0)
    added, kept = terms.added[t], terms.kept[t]
    square, rate = terms.moments[t]
    for i in range(w.size):
        m[i] = m[i] + added * z[i]
        v[i] = v[i] + square * (z[i] * z[i])
    if terms.rounds[t]:
        for i in range(w.size):
            w[i] = kept * w[i] + rate * (m[i] / (np.sqrt(v[i]) + FLOOR))


@njit(inline="always")
def read(raw, storage, row, start, terms, index, work):
    """Parameters.now: elements start, ... of a row, w <- kept w + added z for each pending term.

    index: the first element's number; work: f32[4, n], w, which is the result, z and two moments
    """
    w, z = work[0], work[1]
    size = itemsize(storage)
    part = raw[row, size * start : size * (start + w.size)]
    if storage == F32:
        w[:] = part.view(F)
    else:
        halves = part.view(np.uint16)
        for i in range(w.size):
            w[i] = widen(halves[i], storage)
    for t in range(terms.kept.size):
        fill_noise(terms, t, index, z, w)
        kept, added = terms.kept[t], terms.added[t]
        if terms.is_moment[t]:
            add_moment(terms, t, w, z, work[2], work[3])
        else:
            for i in range(w.size):
                w[i] = kept * w[i] + added * z[i]
        if terms.rounds[t] and storage != F32:
            salt_0, salt_1 = terms.salts[t, 0], terms.salts[t, 1]
            for i in range(w.size):
                w[i] = dithered(w[i], random_word(salt_0, salt_1, U(index + U(i))), storage)


@kernel
def copy_rows(raw, storage, terms, first, start, size, work, copies, stride, apart, bf16):
    """`size` elements from `start` on of each row of raw: u8[R, bytes], as each probe has them.

    work: f32[4 size]; copies: f32[.]
    Copy c of row r goes to copies[r stride + c apart], as float32 or, in words, as bfloat16.
    """
    work = work[: 4 * size].reshape(4, size)
    w, z = work[0], work[1]
    for r in range(raw.shape[0]):
        index = U(first + r * (raw.shape[1] // itemsize(storage)) + start)
        read(raw, storage, r, start, terms, index, work)
        made = -2
        for c in range(terms.seeds.size):
            if terms.seeds[c] != made:
                made = terms.seeds[c]
                if made < 0:
                    z[:] = F(0)
                else:
                    fill_noise(terms, made, index, z, w)
            scale, at = terms.scales[c], r * stride + c * apart
            out = work[2] if bf16 else copies[at : at + size]
            for i in range(size):
                out[i] = w[i] + scale * z[i]
            if bf16:
                to_bfloat(out, copies, at)


@kept
@kernel
def fold(raw, storage, terms, first, scratch, counters):
    """NumpyEngine.fold: what is pending into the bytes. raw: u8[1, bytes], changed."""
    n = raw.shape[1] // itemsize(storage)
    step = 1024  # elements at once
    for task in tasks(counters, 0, (n + step - 1) // step, CHUNK // step):
        start, size = task * step, min(step, n - task * step)
        work = scratch[: 4 * size].reshape(4, size)
        w, part = work[0], raw[0, itemsize(storage) * start :]
        read(raw, storage, 0, start, terms, U(first + start), work)
        if storage == F32:
            part[: 4 * size].view(F)[:] = w
        else:
            halves = part[: 2 * size].view(np.uint16)
            for i in range(size):
                halves[i] = nearest_bfloat(w[i]) if storage == BF16 else half_bits(w[i])


# -- matmul ----------------------------------------------------------------------------------

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


# -- the rest of a layer ---------------------------------------------------------------------

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
