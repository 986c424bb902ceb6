"""The kernels of the fast engine, in Numba: each is the twin of a verb of numpy_engine.py.

A kernel is serial and holds no lock; as many threads as there are call it at once with the same
arguments and a scratch array of their own, and share its tasks by a counter. What a task computes
does not depend on who takes it, so results do not depend on the number of threads.

z and what is folded with it are bit by bit those of noise.py and numpy_engine.py: no fast-math
there. Reductions over a row (norm, softmax) may be reordered by the compiler.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from tinyzo.engine import noise
from tinyzo.engine.numba_vectors import TILE, fetch_add, square_transpose, tile_multiplier
from tinyzo.engine.numpy_engine import PHI_LIMIT, PHI_P, PHI_Q
from tinyzo.engine.weights import FLOOR

LANES, ROWS, WIDTH = TILE.lanes, TILE.rows, TILE.width
DEPTH = 512  # words of k at once: a panel of X, and the rows of W that meet it, stay in L2
CHUNK = 1 << 14  # elements of a task that goes through memory once

F, I, U = np.float32, np.int32, np.uint32  # noqa: E741
OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy"}  # x / 0 is infinite, no exception
kernel = njit(**OPTIONS)
ordered_freely = njit(**OPTIONS, fastmath={"reassoc", "contract", "nsz", "arcp"})


class Terms(NamedTuple):
    """What is added to a tensor as it is read: what is pending, then one z for each probe.

    keys: u32[T + S, 2], noise.key of the pending terms, then of the probes' seeds
    kept, added: f32[T], w <- kept w + added z, in this order
    rounds: bool[T], whether an update ends there, after which w is rounded; salts: u32[T, 2]
    seeds: i64[C], for each copy of the weights the place of its z in keys, or -1; scales: f32[C]
    is_signs: whether z is rademacher; limit: z is 0 where |w| is larger
    moments: f32[T, 2], what Adam adds z^2 with, and at an update's end its rate; or f32[0, 2]
    """

    keys: np.ndarray
    kept: np.ndarray
    added: np.ndarray
    rounds: np.ndarray
    salts: np.ndarray
    seeds: np.ndarray
    scales: np.ndarray
    is_signs: bool
    moments: np.ndarray
    limit: float


# -- threads ---------------------------------------------------------------------------------

# counters: i64[3], the next task, how many of the first kind are done, the next of the second kind.


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
def widen_bfloat(word):
    return U(U(word) << U(16)).view(F)


@njit(inline="always")
def widen_half(word):
    """float16's exponent of 5 bits, moved to that of 8; 31 (infinite, NaN) to 255."""
    bits = U(U(word) & U(0x7FFF)) << U(13)
    value = U(bits).view(F) * F(2.0**112)
    special = U(0x7F800000) if bits >= U(0x0F800000) else U(0)
    return U(U(F(value).view(U) | special) | U(U(U(word) & U(0x8000)) << U(16))).view(F)


@njit(inline="always")
def nearest_bfloat(value):
    """The bfloat16 next to a float32, even for a tie, as its bits."""
    word = F(value).view(U)
    return np.uint16(U(U(word + U(0x7FFF)) + U(U(word >> U(16)) & U(1))) >> U(16))


@njit(inline="always")
def dithered_bfloat(value, bits):
    """One of the two bfloat16 beside a float32, at random, as float32: weights.narrow."""
    return U(U(F(value).view(U) + U(bits >> U(16))) & U(0xFFFF0000)).view(F)


@njit(inline="always")
def dithered_half(value, bits):
    """The same for float16."""
    exponent = U(F(value).view(U) & U(0x7F800000))
    ulp = U(max(exponent, U(113 << 23)) - U(10 << 23)).view(F)
    rounded = F(np.floor(value / ulp + F(I(bits >> U(19))) * F(2.0**-13)) * ulp)
    return rounded if abs(rounded) < F(65536) or rounded != rounded else rounded * F(np.inf)


@njit(inline="always")
def half_bits(value):
    """The bits of a float32 that float16 holds: its exponent of 8 bits, moved to that of 5."""
    word = F(value * F(2.0**-112)).view(U)
    return np.uint16(U(U(word >> U(13)) & U(0x7FFF)) | U(U(word >> U(16)) & U(0x8000)))


@njit(inline="always")
def widen_row(raw, storage, row, start, w):
    """w: f32[n] = elements start, ... of a row."""
    n = w.size
    if storage == F32:
        w[:] = raw[row, 4 * start : 4 * (start + n)].view(F)
        return
    halves = raw[row, 2 * start : 2 * (start + n)].view(np.uint16)
    if storage == BF16:
        for i in range(n):
            w[i] = widen_bfloat(halves[i])
    else:
        for i in range(n):
            w[i] = widen_half(halves[i])


@kernel
def add_adam(terms, t, w, z, m, v):
    """Weights.adam_change: one term more of its moments, and at the last one what it adds."""
    if t == 0 or terms.rounds[t - 1]:
        m[:], v[:] = F(0), F(0)
    added, kept, (square, rate) = terms.added[t], terms.kept[t], terms.moments[t]
    for i in range(w.size):
        m[i] = m[i] + added * z[i]
        v[i] = v[i] + square * (z[i] * z[i])
    if terms.rounds[t]:
        for i in range(w.size):
            w[i] = kept * w[i] + rate * (m[i] / (np.sqrt(v[i]) + FLOOR))


@njit(inline="always")
def add_pending(terms, storage, index, w, z, moments):
    """Weights.now: w <- kept w + added z for each term; index: the first element's number."""
    for t in range(terms.kept.size):
        fill_noise(terms, t, index, z, w)
        kept, added = terms.kept[t], terms.added[t]
        salt_0, salt_1 = terms.salts[t, 0], terms.salts[t, 1]
        if terms.moments.shape[0]:
            add_adam(terms, t, w, z, moments[: w.size], moments[w.size : 2 * w.size])
        else:
            for i in range(w.size):
                w[i] = kept * w[i] + added * z[i]
        if terms.rounds[t] and storage == BF16:
            for i in range(w.size):
                w[i] = dithered_bfloat(w[i], random_word(salt_0, salt_1, U(index + U(i))))
        if terms.rounds[t] and storage == F16:
            for i in range(w.size):
                w[i] = dithered_half(w[i], random_word(salt_0, salt_1, U(index + U(i))))


@kernel
def copy_rows(raw, storage, rows, start, terms, w, z, moments, copies, at, stride, apart, bf16):
    """Elements start, ... of some rows as each probe has them, w.size of each.

    raw: u8[R, bytes]; rows: i64[R], their numbers in the tensor
    Copy c of row r goes to copies[at + r stride + c apart], as float32 or, in words, as bfloat16.
    """
    for r in range(rows.size):
        widen_row(raw, storage, r, start, w)
        index = U(rows[r] * (raw.shape[1] // (4 if storage == F32 else 2)) + start)
        add_pending(terms, storage, index, w, z, moments)
        made = -1
        for c in range(terms.seeds.size):
            if terms.seeds[c] not in (-1, made):
                made = terms.seeds[c]
                fill_noise(terms, made, index, z, w)
            scale, first = terms.scales[c], at + r * stride + c * apart
            if terms.seeds[c] < 0 and not bf16:
                copies[first : first + w.size] = w
            elif not bf16:
                out = copies[first : first + w.size]
                for i in range(w.size):
                    out[i] = w[i] + scale * z[i]
            else:
                half = copies[first : first + (w.size + 1) // 2].view(np.uint16)
                half[-1] = 0
                if terms.seeds[c] < 0:
                    z[:], made = F(0), -1
                for i in range(w.size):
                    half[i] = nearest_bfloat(w[i] + scale * z[i])


@kernel
def fold(raw, storage, terms, first, scratch, counters):
    """What is pending into the bytes. raw: u8[1, bytes]; first: the first element's number."""
    n, step = raw.shape[1] // (4 if storage == F32 else 2), 1024
    task = fetch_add(counters, 0, CHUNK)
    while task < n:
        for start in range(task, min(n, task + CHUNK), step):
            size = min(step, n - start)
            w, z, index = scratch[:size], scratch[step : step + size], U(first + start)
            moments = scratch[2 * step :]
            if storage == F32:
                in_place = raw[0, 4 * start : 4 * (start + size)].view(F)
                add_pending(terms, storage, index, in_place, z, moments)
                continue
            widen_row(raw, storage, 0, start, w)
            add_pending(terms, storage, index, w, z, moments)
            halves = raw[0, 2 * start : 2 * (start + size)].view(np.uint16)
            for i in range(size):
                halves[i] = nearest_bfloat(w[i]) if storage == BF16 else half_bits(w[i])
        task = fetch_add(counters, 0, CHUNK)


# -- matmul ----------------------------------------------------------------------------------

multiply_tile, transpose = tile_multiplier(TILE), square_transpose(LANES)


@kernel
def multiply(bf16, width, n, w, w_at, w_stride, x, x_at, c, c_at, c_stride, steps, first):
    """n rows of C, rounded up to ROWS, by tiles as wide as the panel of X is."""
    for j in range(0, n, ROWS):
        wj, cj = w_at + j * w_stride, c_at + j * c_stride
        multiply_tile(bf16, width, w, wj, w_stride, x, x_at, c, cj, c_stride, steps, first)


@kernel
def pack(x, x_at, x_stride, count, steps, panel, at, width):
    """LANES tokens, of which `count` exist, side by side: panel[at + k width + i] = x[i, k]."""
    whole = steps - steps % LANES if count == LANES else 0
    for k in range(0, whole, LANES):
        transpose(x, x_at + k, x_stride, panel, at + k * width, width)
    for k in range(whole, steps):
        for i in range(LANES):
            panel[at + k * width + i] = x[x_at + i * x_stride + k] if i < count else F(0)


@kernel
def unpack(c, c_at, width, n, out, at, stride, count):
    """The way back: n columns of `count` tokens, out[at + i stride + j] = c[c_at + j width + i]."""
    whole = n - n % LANES if count == LANES else 0
    for j in range(0, whole, LANES):
        transpose(c, c_at + j * width, width, out, at + j, stride)
    for j in range(whole, n):
        for i in range(count):
            out[at + i * stride + j] = c[c_at + j * width + i]


@kernel
def pack_group(x, x_at, inner, count, words, bf16, packed, at, width, scratch):
    """Pack LANES tokens of f32 or, in pairs of k, of bfloat16."""
    if not bf16:
        pack(x, x_at, inner, count, words, packed, at, width)
        return
    half = scratch[: LANES * words].view(np.uint16)
    for i in range(count):
        row, source = half[2 * i * words :], x[x_at + i * inner :]
        row[2 * words - 1] = 0
        for k in range(inner):
            row[k] = nearest_bfloat(source[k])
    pack(scratch, 0, words, count, words, packed, at, width)


@njit(inline="always")
def panel(m, padded):
    """The first token and the width of the panel that token m is in."""
    first = m // WIDTH * WIDTH
    return first, min(WIDTH, padded - first)


@njit(inline="always")
def own(p, copies):
    """Probe p's among the copies, of which there may be one for all."""
    return copies[p if copies.shape[0] > 1 else 0]


@kernel
def linear(x, raw, storage, rows, terms, bias, residual, out, column, bf16, block, packed, scratch,
           counters):  # fmt: skip
    """out = x W^T + bias + residual for some rows of W, perturbed as they are read.

    x: f32[1 or P, M, K]; raw: u8[R, bytes]; rows: i64[R], their numbers in the tensor
    bias: f32[0 or 1 or P, N]; residual: f32[0 or 1 or P, M, N]; out: f32[P, M, N]
    column: of out (and bias and residual) where their products begin
    block: rows of W in a task; packed: f32[X's copies * M rounded up to LANES * words of k]
    """
    copies, count, columns = out.shape
    inner = x.shape[2]
    words = (inner + 1) // 2 if bf16 else inner
    padded = (count + LANES - 1) // LANES * LANES
    x_flat, out_flat = x.reshape(-1), out.reshape(-1)

    groups = x.shape[0] * (padded // LANES)
    g = fetch_add(counters, 0, 1)
    while g < groups:
        p, m = divmod(g * LANES, padded)
        first, width = panel(m, padded)
        at, source = (p * padded + first) * words + m - first, (p * count + m) * inner
        real = min(LANES, count - m)
        pack_group(x_flat, source, inner, real, words, bf16, packed, at, width, scratch)
        fetch_add(counters, 1, 1)
        g = fetch_add(counters, 0, 1)
    while fetch_add(counters, 1, 0) < groups:
        pass  # another thread is packing the last group

    depth = DEPTH * 2 if bf16 else DEPTH
    tiles = terms.seeds.size * block * DEPTH
    w, z = scratch[tiles : tiles + depth], scratch[tiles + depth : tiles + 2 * depth]
    moments, totals = scratch[tiles + 2 * depth :], tiles + 4 * depth
    blocks = (rows.size + block - 1) // block
    task = fetch_add(counters, 2, 1)
    while task < blocks:
        n = min(block, rows.size - task * block)
        some, numbers = raw[task * block :][:n], rows[task * block :][:n]
        for k0 in range(0, words, DEPTH):
            steps = min(DEPTH, words - k0)
            start = k0 * 2 if bf16 else k0
            size = min(depth, inner - start)
            copy_rows(some, storage, numbers, start, terms, w[:size], z[:size], moments, scratch, 0,
                      DEPTH, block * DEPTH, bf16)  # fmt: skip
            for p in range(copies):
                tile = (p if terms.seeds.size > 1 else 0) * block * DEPTH
                xp = p if x.shape[0] > 1 else 0
                for m in range(0, padded, WIDTH):
                    _, width = panel(m, padded)
                    x_at = (xp * padded + m) * words + k0 * width
                    c_at = totals + (p * padded + m) * block
                    multiply(bf16, width, n, scratch, tile, DEPTH, packed, x_at, scratch, c_at,
                             width, steps, k0 == 0)  # fmt: skip
        j0 = column + task * block
        for p in range(copies):
            for m in range(0, count, LANES):
                first, width = panel(m, padded)
                c_at = totals + (p * padded + first) * block + m - first
                at, real = (p * count + m) * columns + j0, min(LANES, count - m)
                unpack(scratch, c_at, width, n, out_flat, at, columns, real)
                for i in range(m, m + real):
                    row = out[p, i, j0 : j0 + n]
                    if bias.shape[0]:
                        row += own(p, bias)[j0 : j0 + n]
                    if residual.shape[0]:
                        row += own(p, residual)[i, j0 : j0 + n]
        task = fetch_add(counters, 2, 1)


# -- the rest of a layer ---------------------------------------------------------------------

P0, P1, P2, P3, P4, P5 = (F(c) for c in PHI_P)
Q0, Q1, Q2, Q3, Q4, Q5 = (F(c) for c in PHI_Q)
LIMIT = F(PHI_LIMIT)


@ordered_freely
def softmax(x):
    """x <- e^x / sum e^x, in place."""
    top = x[0]
    for i in range(x.size):
        top = max(top, x[i])
    total = F(0)
    for i in range(x.size):
        x[i] = np.exp(x[i] - top)
        total += x[i]
    for i in range(x.size):
        x[i] /= total


@ordered_freely
def norm(x, gain, bias, ln_eps, out, scratch, counters):
    """LayerNorm of each token. x: f32[1 or P, N, D]; gain, bias: f32[1 or P, D]."""
    copies, count, width = out.shape
    step = 8
    task = fetch_add(counters, 0, step)
    while task < copies * count:
        for t in range(task, min(copies * count, task + step)):
            p, i = t // count, t % count
            row, y = own(p, x)[i], out[p, i]
            mean = F(0)
            for d in range(width):
                mean += row[d]
            mean /= F(width)
            square = F(0)
            for d in range(width):
                square += (row[d] - mean) * (row[d] - mean)
            scale = F(1) / np.sqrt(square / F(width) + ln_eps)
            g, b = own(p, gain), own(p, bias)
            for d in range(width):
                y[d] = (row[d] - mean) * scale * g[d] + b[d]
        task = fetch_add(counters, 0, step)


@kernel
def gelu(x, scratch, counters):
    """NumpyView.gelu. x: f32[n]."""
    task = fetch_add(counters, 0, CHUNK)
    while task < x.size:
        part = x[task : task + CHUNK]
        for i in range(part.size):
            t = min(max(part[i], -LIMIT), LIMIT)
            s = t * t
            top = ((((P5 * s + P4) * s + P3) * s + P2) * s + P1) * s + P0
            low = ((((Q5 * s + Q4) * s + Q3) * s + Q2) * s + Q1) * s + Q0
            part[i] *= t * top / low + F(0.5)
        task = fetch_add(counters, 0, CHUNK)


@kernel
def attention(q, k, v, blocks, keys, places, causal, out, scratch, counters):
    """softmax(q k^T / sqrt(K)) v, a task for each block of queries, probe and head.

    q: f32[1 or P, M, H, K]; k, v: f32[1 or P, N, H, K]; out: f32[P, M, H, K]
    blocks: i64[B, 4], each block's queries and its part of keys: i64[.]; places: i64[M], each
    query's own place among its keys
    """
    copies, _, heads, size = out.shape
    wide = (size + LANES - 1) // LANES * LANES
    scale = F(1) / np.sqrt(F(size))
    task = fetch_add(counters, 0, 1)
    while task < blocks.shape[0] * copies * heads:
        b, rest = task // (copies * heads), task % (copies * heads)
        p, h = rest // heads, rest % heads
        t0, t1, s0, s1 = blocks[b]
        n, t_padded = s1 - s0, (t1 - t0 + ROWS - 1) // ROWS * ROWS
        s_padded = (n + LANES - 1) // LANES * LANES
        k_rows = 0
        k_panels = k_rows + n * size
        v_panels = k_panels + s_padded * size
        q_rows = v_panels + n * wide
        scores = q_rows + t_padded * size
        sums = scores + t_padded * s_padded
        for s in range(n):
            key, value = own(p, k)[keys[s0 + s], h], own(p, v)[keys[s0 + s], h]
            scratch[k_rows + s * size : k_rows + (s + 1) * size] = key
            for d in range(wide):
                d0 = d // WIDTH * WIDTH
                at = v_panels + d0 * n + s * min(WIDTH, wide - d0) + d - d0
                scratch[at] = value[d] if d < size else F(0)
        for s in range(0, n, LANES):
            first, width = panel(s, s_padded)
            at, real = k_panels + first * size + s - first, min(LANES, n - s)
            pack(scratch, k_rows + s * size, size, real, size, scratch, at, width)
        for t in range(t1 - t0):
            query = own(p, q)[t0 + t, h]
            for d in range(size):
                scratch[q_rows + t * size + d] = query[d] * scale
        for first in range(0, s_padded, WIDTH):
            _, width = panel(first, s_padded)
            multiply(False, width, t1 - t0, scratch, q_rows, size, scratch,
                     k_panels + first * size, scratch, scores + first, s_padded, size,
                     True)  # fmt: skip
        for t in range(t1 - t0):
            seen = min(n, places[t0 + t] + 1) if causal else n
            row = scratch[scores + t * s_padded : scores + (t + 1) * s_padded]
            softmax(row[:seen])
            row[seen:] = F(0)
        for first in range(0, wide, WIDTH):
            _, width = panel(first, wide)
            multiply(False, width, t1 - t0, scratch, scores, s_padded, scratch,
                     v_panels + first * n, scratch, sums + first, wide, n, True)  # fmt: skip
        for t in range(t1 - t0):
            out[p, t0 + t, h] = scratch[sums + t * wide : sums + t * wide + size]
        task = fetch_add(counters, 0, 1)
