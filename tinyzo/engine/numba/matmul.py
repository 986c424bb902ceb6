"""Products with weights, in Numba: the twin of NumpyView.linear.

Both operands are packed for the register tile (Goto & van de Geijn 2008): what a step of k needs of
them is contiguous. X is packed once, into groups of ROWS tokens; a tile of W, as each probe has it,
into panels of at most WIDTH rows, which stay in cache while all groups pass. The tile is added to
`out` where it lies, whose rows are tokens.

    x   [group][k][ROWS]     words; a group that is not full has zeros
    w   [panel][k][width]    words; the last LANES of a panel that is not full have zeros
"""

from numba import njit

from tinyzo.engine.numba.cache import kept
from tinyzo.engine.numba.kernels import F, U, kernel, tasks
from tinyzo.engine.numba.sizes import DEPTH
from tinyzo.engine.numba.storage import F32, itemsize, to_bfloat
from tinyzo.engine.numba.tensors import fill_noise, read
from tinyzo.engine.numba.vectors import TILE, fetch_add, prefetch, square_transpose, tile_multiplier

LINE = 64  # bytes of a cache line
LANES, ROWS, WIDTH = TILE.lanes, TILE.rows, TILE.width

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


def packer(lanes):
    """The kernel that packs `lanes` rows, of which `count` exist, as so many columns.

    packed[at + k width + i] = x[x_at + i x_stride + k], k < depth; x, packed: f32[.] of words
    """
    transpose = square_transpose(lanes)

    @kernel
    def pack(x, x_at, x_stride, count, depth, packed, at, width):
        whole = depth - depth % lanes if count == lanes else 0
        for k in range(0, whole, lanes):
            transpose(x, x_at + k, x_stride, packed, at + k * width, width)
        for k in range(whole, depth):
            for i in range(lanes):
                packed[at + k * width + i] = x[x_at + i * x_stride + k] if i < count else F(0)

    return pack


pack_group, pack_columns = packer(ROWS), packer(LANES)


@njit(inline="always")
def panel_width(columns):
    """The columns of the next panel, if so many are left: all panels are about as wide."""
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
            pack_columns(x, x_at + i * x_stride, x_stride, real, depth, packed, here, width)
        j += width


@kernel
def pack_groups(x, x_at, x_stride, count, depth, packed, at):
    """`count` rows of x as columns of groups. x, packed: f32[.] of words"""
    for m in range(0, count, ROWS):
        real = min(ROWS, count - m)
        here = at + m * depth
        pack_group(x, x_at + m * x_stride, x_stride, real, depth, packed, here, ROWS)


@kernel
def pack_tokens(x, g, words, groups, bf16, packed, scratch):
    """Group g of the tokens of x: f32[P, M, K], of which each probe has `groups`."""
    count, inner = x.shape[1], x.shape[2]
    p, m = divmod(g, groups)
    m *= ROWS
    real = min(ROWS, count - m)
    source, at = x.reshape(-1), (p * count + m) * inner
    if bf16:
        for i in range(real):
            to_bfloat(x[p, m + i], scratch, i * words)
        source, at = scratch, 0
    pack_group(source, at, words, real, words, packed, g * ROWS * words, ROWS)


@kernel
def add_scaled(w, scale, z, out):
    """out = w + scale z. w: f32[n]; z, out: f32[n or more]"""
    for i in range(w.size):
        out[i] = w[i] + scale * z[i]


@kernel
def pack_copies(
    raw, storage, terms, first, inner, start, size, bf16, work, panels, at_first, width, apart
):
    """LANES rows of W or fewer, as each probe has them, as columns of its panel.

    raw: u8[R, bytes]; first: i64, the first one's number in its tensor; inner: elements of a row,
    of which those from `start` on are taken, `size` of them
    work: f32[(4 + 4 LANES) size]; panels: f32[.], copy c's from at_first + c apart on
    """
    count = raw.shape[0]
    words = (size + 1) // 2 if bf16 else size
    if storage == F32 and not bf16 and terms.keys.size == 0:
        for c in range(terms.seeds.size):
            source = raw.reshape(-1).view(F)
            pack_columns(source, start, inner, count, words, panels, at_first + c * apart, width)
        return
    row = work[: 4 * size].reshape(4, size)
    all_rows = work[4 * size :][: 4 * LANES * size].reshape(4, LANES * size)
    w, z, copy, pairs = all_rows[0], all_rows[1], all_rows[2], all_rows[3]
    for r in range(count):
        read(raw, storage, r, start, terms, U(first + r * inner + start), row)
        w[r * size : (r + 1) * size] = row[0]
    made = -1
    for c in range(terms.seeds.size):
        seed, scale = terms.seeds[c], terms.scales[c]
        if seed >= 0 and seed != made:
            made = seed
            for r in range(count):
                at = r * size
                index = U(first + r * inner + start)
                fill_noise(terms, seed, index, z[at : at + size], w[at : at + size])
        copied = w
        if seed >= 0:
            copied = copy
            add_scaled(w[: count * size], scale, z, copy)
        if bf16:
            for r in range(count):
                to_bfloat(copied[r * size : (r + 1) * size], pairs, r * words)
            copied = pairs
        pack_columns(copied, 0, words, count, words, panels, at_first + c * apart, width)


# -- products --------------------------------------------------------------------------------


@kernel
def multiply(
    bf16, x, x_at, rows, depth, w, w_at, columns, steps, out, at, stride, first, edge, later, size, n
):
    """out[m, j] = sum over k of X[k, m] W[k, j], `steps` words of k: alone if `first`, or added.

    x: f32[.], groups, each `depth` words deep, of at least `rows` tokens, from x_at on
    w: f32[.], panels, each `steps` words deep, of at least `columns` columns, from w_at on
    out: f32[.], out[m, j] at `at` + m stride + j; edge: f32[ROWS WIDTH], for tiles not in it whole
    """
    flat = later.reshape(-1)
    lines = (size + LINE - 1) // LINE
    tiles = rounded_up(rows, ROWS) // ROWS * (rounded_up(columns, WIDTH) // WIDTH)
    share = (later.shape[0] * lines + tiles - 1) // tiles
    r, line = 0, 0
    for m in range(0, rows, ROWS):
        real = min(ROWS, rows - m)
        j = 0
        while j < columns:
            for _ in range(share):
                if r < later.shape[0]:
                    prefetch(flat, r * later.shape[1] + n + line * LINE)
                    line += 1
                    if line == lines:
                        r, line = r + 1, 0
            width = panel_width(columns - j)
            here, group, panel = at + m * stride + j, x_at + m * depth, w_at + j * steps
            ahead = group + ROWS * depth if j + width >= columns else group
            if real == ROWS and j + width <= columns:
                multiply_tile(bf16, width, x, group, w, panel, out, here, stride, steps, first, ahead)
            else:
                multiply_tile(bf16, width, x, group, w, panel, edge, 0, width, steps, True, ahead)
                for i in range(real):
                    for k in range(min(width, columns - j)):
                        old = F(0) if first else out[here + i * stride + k]
                        out[here + i * stride + k] = old + edge[i * width + k]
            j += width


@kernel
def add_columns(extra, j0, n, p, m, out):
    """Columns j0 .. j0 + n of bias or residual, to those of out, at token m of probe p.

    extra: f32[0 or 1 or P, 1 or M, N]; out: f32[P, M, N]
    """
    if extra.size:
        here = own(p, extra)[min(m, extra.shape[1] - 1)]
        for j in range(j0, j0 + n):
            out[p, m, j] += here[j]


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
    bf16: bool, words are pairs of bfloat16; block: i64, rows of W in a task, a multiple of LANES
    packed: f32[X's copies * M rounded up to ROWS * words of k], all threads'
    """
    copies, count, columns = out.shape
    inner = x.shape[2]
    words = (inner + 1) // 2 if bf16 else inner
    groups = (count + ROWS - 1) // ROWS

    total = x.shape[0] * groups
    for g in tasks(counters, 0, total, 1):
        pack_tokens(x, g, words, groups, bf16, packed, scratch)
        fetch_add(counters, 1, 1)
    while fetch_add(counters, 1, 0) < total:
        pass  # another thread is packing the last group

    # scratch: W's tile as each probe has it, what `pack_copies` works on, and an edge
    apart = block * DEPTH
    depth = DEPTH * 2 if bf16 else DEPTH
    work = scratch[terms.seeds.size * apart :]
    edge = work[(4 + 4 * LANES) * depth :]
    flat = out.reshape(-1)
    task, total = fetch_add(counters, 2, 1), (raw.shape[0] + block - 1) // block
    while task < total:
        following = fetch_add(counters, 2, 1)
        rows = raw[task * block :][:block]
        n = rows.shape[0]
        j0 = column + task * block
        for k in range(0, words, DEPTH):
            start = k * 2 if bf16 else k
            size, steps = min(depth, inner - start), min(DEPTH, words - k)
            j = 0
            while j < n:
                width = panel_width(n - j)
                for i in range(0, min(width, n - j), LANES):
                    number = first + (task * block + j + i) * inner
                    part = rows[j + i :][:LANES]
                    at = j * steps + i
                    pack_copies(
                        *(part, storage, terms, number, inner, start, size, bf16),
                        *(work, scratch, at, width, apart),
                    )
                j += width
            later, later_at = rows, (start + size) * itemsize(storage)
            if k + DEPTH >= words:
                later, later_at = raw[following * block :][:block], 0
            for p in range(copies):
                x_at = k * ROWS + (p * groups * ROWS * words if x.shape[0] > 1 else 0)
                w_at = p * apart if terms.seeds.size > 1 else 0
                at = p * count * columns + j0
                multiply(
                    *(bf16, packed, x_at, count, words, scratch, w_at, n, steps),
                    *(flat, at, columns, k == 0, edge),
                    *(later, min(depth*itemsize(storage), raw.shape[1]-later_at), later_at)
                )
                later = raw[:0]
        for p in range(copies):
            for m in range(count):
                add_columns(bias, j0, n, p, m, out)
                add_columns(residual, j0, n, p, m, out)
        task = following
