"""Products with weights, in Numba: the twin of NumpyView.linear.

A tile of W, as each probe has it, is packed into panels of at most WIDTH rows (Goto & van de Geijn
2008), so that what a step of k needs of it is contiguous, and stays in cache while all tokens pass.
X is read where it lies, ROWS tokens at once, and so is `out` written.

    w   [panel][k][width]    words; the last LANES of a panel that is not full have zeros

Where matrices of bfloat16 are multiplied by an instruction, matrix.py says what differs.
"""

from numba import njit

from tinyzo.engine.numba.cache import kept
from tinyzo.engine.numba.kernels import F, U, add_edge, kernel, tasks
from tinyzo.engine.numba.matrix import (
    COLUMNS,
    IS_AMX,
    SPREAD,
    UNIT,
    begin,
    end,
    multiply_rows,
    multiply_squares,
)
from tinyzo.engine.numba.sizes import DEPTH, FLOATS, MATRIX, PAIRS
from tinyzo.engine.numba.storage import to_bfloat
from tinyzo.engine.numba.tensors import add_scaled, fill_noise, read
from tinyzo.engine.numba.terms import F32
from tinyzo.engine.numba.vectors import TILE, fetch_add, square_transpose, tile_multiplier

LANES, ROWS, WIDTH = TILE.lanes, TILE.rows, TILE.width

STRIP = 8 * ROWS  # tokens whose sums are made one after another

multiply_tile = tile_multiplier(TILE)


@njit(inline="always")
def rounded_up(n, multiple):
    """n, or the next multiple."""
    return (n + multiple - 1) // multiple * multiple


@njit(inline="always")
def own(p, copies):
    """Probe p's among the copies, of which there may be one for all."""
    return copies[p if copies.shape[0] > 1 else 0]


# -- packing ---------------------------------------------------------------------------------


transpose = square_transpose(LANES)


@kernel
def pack_columns(x, x_at, x_stride, z, scale, count, depth, packed, at, width):
    """LANES rows of words + scale z, of which `count` exist, as so many columns.

    packed[at + k width + i] = x[x_at + i x_stride + k] + scale z[i x_stride + k], k < depth
    x, z, packed: f32[.]; scale: f32, or 0 for rows as they are
    """
    whole = depth - depth % LANES if count == LANES else 0
    for k in range(0, whole, LANES):
        transpose(x, x_at + k, x_stride, z, k, scale, packed, at + k * width, width)
    for i in range(LANES):
        row = i * x_stride
        for k in range(whole, depth):
            value = x[x_at + row + k] if i < count else F(0)
            if i < count and scale != F(0):
                value = value + scale * z[row + k]
            packed[at + k * width + i] = value


@kernel
def pack_wide_columns(x, x_at, x_stride, count, depth, packed, at, width):
    """The same with SPREAD words of k side by side, of which `depth` is a multiple."""
    for k in range(0, depth, SPREAD):
        for i in range(LANES):
            for h in range(SPREAD):
                word = x[x_at + i * x_stride + k + h] if i < count else F(0)
                packed[at + k * width + i * SPREAD + h] = word


@njit(inline="always")
def words_of(size, kind):
    """Words of k that `size` elements take; those that are left over are zeros."""
    if kind == FLOATS:
        return size
    return rounded_up((size + 1) // 2, UNIT if kind == MATRIX else 1)


@njit(inline="always")
def round_row(values, out, at, words):
    """f32[n] as `words` words of bfloat16: out[at], ..."""
    to_bfloat(values, out, at)
    for i in range(at + (values.size + 1) // 2, at + words):
        out[i] = F(0)


@njit(inline="always")
def panel_width(columns, kind=FLOATS):
    """The columns of the next panel, if so many are left: all panels are about as wide."""
    if COLUMNS > 0 and kind == MATRIX:
        return COLUMNS
    vectors = (columns + LANES - 1) // LANES
    panels = (vectors + TILE.vectors - 1) // TILE.vectors
    return (vectors + panels - 1) // panels * LANES


@kernel
def pack_panels(x, x_at, x_stride, count, depth, packed, at):
    """`count` rows of x as columns of panels. x, packed: f32[.] of words"""
    j = 0
    while j < count:
        width = panel_width(count - j)
        for i in range(j, min(j + width, count), LANES):
            real = min(LANES, count - i)
            here = at + j * depth + i - j
            pack_columns(
                *(x, x_at + i * x_stride, x_stride, x, F(0), real, depth, packed, here, width)
            )
        j += width


@kernel
def round_token(x, i, words, rounded):
    """A token of x: f32[P, M, K], the i-th of all, as words of bfloat16. rounded: f32[.]"""
    p, m = divmod(i, x.shape[1])
    round_row(x[p, m], rounded, i * words, words)


@kernel
def pack_copies(
    raw,
    storage,
    terms,
    first,
    inner,
    start,
    size,
    kind,
    words,
    work,
    panels,
    at_first,
    width,
    apart,
):
    """LANES rows of W or fewer, as each probe has them, as columns of its panel.

    raw: u8[R, bytes]; first: i64, the first one's number in its tensor; inner: elements of a row,
    of which those from `start` on are taken, `size` of them, as `words` words
    work: f32[size + 3 LANES max(size, words)]; panels: f32[.], copy c's from at_first + c apart on
    """
    count = raw.shape[0]
    if storage == F32 and kind == FLOATS and terms.keys.size == 0:
        for c in range(terms.seeds.size):
            source = raw.reshape(-1).view(F)
            at = at_first + c * apart
            pack_columns(source, start, inner, source, F(0), count, words, panels, at, width)
        return
    copy = work[:size]
    all_rows = work[size:][: 3 * LANES * max(size, words)].reshape(3, -1)
    w, z, pairs = all_rows[0], all_rows[1], all_rows[2]
    for r in range(count):
        index, here = U(first + r * inner + start), r * size
        read(raw, storage, r, start, terms, index, w[here : here + size])
    made = -1
    for c in range(terms.seeds.size):
        seed, scale, at = terms.seeds[c], terms.scales[c], at_first + c * apart
        if seed >= 0 and seed != made:
            made = seed
            for r in range(count):
                index, here = U(first + r * inner + start), r * size
                fill_noise(terms, seed, index, z[here : here + size], w[here : here + size])
        if kind == FLOATS:
            pack_columns(w, 0, size, z, scale, count, words, panels, at, width)
            continue
        for r in range(count):
            here = r * size
            add_scaled(w[here : here + size], scale, z[here : here + size], copy)
            round_row(copy, pairs, r * words, words)
        if SPREAD > 1 and kind == MATRIX:
            pack_wide_columns(pairs, 0, words, count, words, panels, at, width)
        else:
            pack_columns(pairs, 0, words, pairs, F(0), count, words, panels, at, width)


# -- products --------------------------------------------------------------------------------


@njit(inline="always")
def multiply_full(kind, width, x, x_at, x_stride, w, w_at, c, c_at, c_stride, steps, first):
    """A tile of `out` by a panel's `width`, of which all is there: `tile_multiplier`."""
    if kind == MATRIX:
        multiply_squares(width, x, x_at, x_stride, w, w_at, c, c_at, c_stride, steps, first)
    else:
        multiply_tile(
            kind == PAIRS, width, x, x_at, x_stride, w, w_at, c, c_at, c_stride, steps, first
        )


@kernel
def multiply(kind, x, x_at, x_stride, rows, w, w_at, columns, steps, out, at, stride, first, edge):
    """out[m, j] = sum over k of X[m, k] W[k, j], `steps` words of k: alone if `first`, or added.

    x: f32[.], X[m, k] at x_at + m x_stride + k; w: f32[.], panels, from w_at on
    out: f32[.], out[m, j] at `at` + m stride + j
    edge: f32[ROWS (steps + WIDTH)], for the tokens and the sums of tiles that are not full
    """
    for m in range(0, rows, ROWS):
        real = min(ROWS, rows - m)
        source, here, apart = x, x_at + m * x_stride, x_stride
        if real < ROWS:
            source, here, apart = edge, ROWS * WIDTH, steps
            for i in range(ROWS):
                for k in range(steps):
                    token = x_at + (m + i) * x_stride
                    edge[here + i * steps + k] = x[token + k] if i < real else F(0)
        j = 0
        while j < columns:
            width = panel_width(columns - j, kind)
            panel, place = w_at + j * steps, at + m * stride + j
            if real == ROWS and j + width <= columns:
                multiply_full(
                    kind, width, source, here, apart, w, panel, out, place, stride, steps, first
                )
            else:
                multiply_full(
                    kind, width, source, here, apart, w, panel, edge, 0, width, steps, True
                )
                wide = min(width, columns - j)
                add_edge(edge, width, real, wide, out, place, stride, first)
            j += width


@kernel
def add_part(extra, p, m, start, y):
    """y <- y + bias or residual from column `start` on, at token m of probe p. y: f32[n]

    extra: f32[0 or 1 or P, 1 or M, N]
    """
    if extra.size:
        part = own(p, extra)[min(m, extra.shape[1] - 1)][start : start + y.size]
        for j in range(y.size):
            y[j] += part[j]


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
    kind,
    block,
    rounded,
    scratch,
    counters,
):
    """out = x W^T + bias + residual for some rows of W, perturbed as they are read.

    x: f32[1 or P, M, K]; first: i64, the number of raw's first row
    bias: f32[0 or 1 or P, 1, N]; residual: f32[0 or 1 or P, M, N]; out: f32[P, M, N], written
    column: i64, of out (and bias and residual) where the products begin
    kind: i64, of products, as FLOATS; block: i64, rows of W in a task, a multiple of LANES
    rounded: f32[(X's copies * M + ROOM) * words of k], all threads', unless it is FLOATS
    """
    copies, count, columns = out.shape
    inner = x.shape[2]
    words = words_of(inner, kind)
    tokens = x.reshape(-1)
    if kind != FLOATS:
        tokens, total = rounded, x.shape[0] * count
        start = fetch_add(counters, 0, ROWS)
        while start < total:
            for i in range(start, min(total, start + ROWS)):
                round_token(x, i, words, rounded)
                fetch_add(counters, 1, 1)
            start = fetch_add(counters, 0, ROWS)
        while fetch_add(counters, 1, 0) < total:
            pass  # another thread is at the last tokens

    # scratch: W's tile as each probe has it, what `pack_copies` works on, and an edge
    apart = block * DEPTH
    depth = DEPTH if kind == FLOATS else DEPTH * 2
    work = scratch[terms.seeds.size * apart :]
    edge = work[(1 + 3 * LANES) * depth :]
    flat = out.reshape(-1)
    if kind == MATRIX:
        begin()
    for task in tasks(counters, 2, (raw.shape[0] + block - 1) // block, 1):
        rows = raw[task * block :][:block]
        n = rows.shape[0]
        j0 = column + task * block
        for k in range(0, words, DEPTH):
            start = k if kind == FLOATS else k * 2
            size, steps = min(depth, inner - start), min(DEPTH, words - k)
            j = 0
            while j < n:
                width = panel_width(n - j, kind)
                for i in range(0, width, LANES):
                    number = (first + task * block + j + i) * inner
                    part = rows[j + i :][:LANES]
                    at = j * steps + i * (SPREAD if kind == MATRIX else 1)
                    pack_copies(
                        *(part, storage, terms, number, inner, start, size),
                        *(kind, steps, work, scratch, at, width, apart),
                    )
                j += width
            for p in range(copies):
                w_at = p * apart if terms.seeds.size > 1 else 0
                for m in range(0, count, STRIP):
                    real = min(STRIP, count - m)
                    x_at = k + (p * count + m if x.shape[0] > 1 else m) * words
                    at = (p * count + m) * columns + j0
                    if IS_AMX and kind == MATRIX:
                        multiply_rows(
                            *(tokens, x_at, real, words, scratch, w_at, n, steps),
                            *(flat, at, columns, k == 0, edge),
                        )
                    else:
                        multiply(
                            *(kind, tokens, x_at, words, real, scratch, w_at, n, steps),
                            *(flat, at, columns, k == 0, edge),
                        )
                    if k + DEPTH >= words:  # while the sums are in cache
                        for i in range(m, m + real):
                            y = out[p, i, j0 : j0 + n]
                            add_part(bias, p, i, j0, y)
                            add_part(residual, p, i, j0, y)
    if kind == MATRIX:
        end()
