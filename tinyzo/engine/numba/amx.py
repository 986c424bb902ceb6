"""Products of bfloat16 by AMX's tiles, in Numba (Intel, Software Developer's Manual 1, chapter 18).

A tile is one of eight registers of 16 rows of 16 words. `tdpbf16ps` adds to a tile of C the product
of one of X, 16 tokens of 16 words of k in rows, and one of W, 16 words of k of 16 columns:

    C[i, j] += sum over k of X[i, k] W[k, j],  a word being two bfloat16 that are neighbours in k

So W's panels are as the other kernels have them, and X is not packed at all: its rows are as they
are in memory, in bfloat16. Four tiles of C, 32 tokens by 32 columns, use each tile of X and of W
twice. Tiles are state of a thread, which the system keeps for it from the first use on and has to
save at each change of threads until they are released. `products` asks for permission.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyzo.engine.numba.kernels import add_edge, kernel
from tinyzo.engine.numba.sizes import UNITS

SIDE = UNITS["amx"]  # rows of a tile, and words of a row
BOTH = 2 * SIDE  # tokens and columns of a block


# -- instructions ----------------------------------------------------------------------------


def configuration() -> bytes:
    """What `ldtilecfg` reads: eight tiles of 16 rows of 64 bytes, of palette 1."""
    row_bytes = b"".join((4 * SIDE).to_bytes(2, "little") for _ in range(8))
    return bytes([1]).ljust(16, b"\0") + row_bytes.ljust(32, b"\0") + bytes([SIDE] * 8 + [0] * 8)


I8, I64, POINTER = ir.IntType(8), ir.IntType(64), ir.IntType(8).as_pointer()


def _call(builder, name, *arguments):
    """An instruction that LLVM knows by name, and that gives nothing back."""
    kind = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}")
    builder.call(function, arguments)


def _place(context, builder, kind, array, at):
    """To element `at` of a Numba array, as LLVM's instructions take it."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), POINTER)


@intrinsic
def begin(_):
    """Configure the tiles of this thread."""

    def generate(context, builder, signature, arguments):
        content = configuration()
        place = cgutils.global_constant(
            builder, "tiles", ir.Constant(ir.ArrayType(I8, len(content)), bytearray(content))
        )
        _call(builder, "ldtilecfg", builder.bitcast(place, POINTER))
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def end(_):
    """Release the tiles of this thread: the system need not save them any more."""

    def generate(context, builder, signature, arguments):
        _call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic(prefer_literal=True)
def zero(_, tile):
    """Tile = 0. tile: a literal, as in all of these"""

    def generate(context, builder, signature, arguments):
        _call(builder, "tilezero", I8(tile.literal_value))
        return context.get_dummy_value()

    return types.void(tile), generate


def _mover(name):
    """The intrinsic (tile, array, at, stride) that moves a tile from or to an f32[.]: there its
    rows begin at `at`, `stride` elements from each other."""

    @intrinsic(prefer_literal=True)
    def move(_, tile, array, at, stride):
        def generate(context, builder, signature, arguments):
            place = _place(context, builder, array, *arguments[1:3])
            stride_bytes = builder.mul(arguments[3], I64(4))
            _call(builder, name, I8(tile.literal_value), place, stride_bytes)
            return context.get_dummy_value()

        return types.void(tile, array, types.int64, types.int64), generate

    return move


load, store = _mover("tileloadd64"), _mover("tilestored64")


@intrinsic(prefer_literal=True)
def multiply_add(_, c, x, w):
    """Tile c += tile x times tile w."""

    def generate(context, builder, signature, arguments):
        _call(builder, "tdpbf16ps", *(I8(tile.literal_value) for tile in (c, x, w)))
        return context.get_dummy_value()

    return types.void(c, x, w), generate


# -- products --------------------------------------------------------------------------------


@kernel
def multiply_block(tokens, x, x_at, x_stride, w, w_at, steps, c, c_at, c_stride, first):
    """C[i, j] = sum over k of X[i, k] W[k, j], alone if `first`, or added; i < tokens, j < BOTH.

    tokens: BOTH or SIDE; steps: words of k, a multiple of SIDE
    x, w, c: f32[.] of words, from x_at, w_at, c_at on, in rows x_stride, BOTH, c_stride apart
    """
    below, c_below = x_at + SIDE * x_stride, c_at + SIDE * c_stride
    if first:
        zero(0)
        zero(1)
        zero(2)
        zero(3)
    else:
        load(0, c, c_at, c_stride)
        load(1, c, c_at + SIDE, c_stride)
        if tokens == BOTH:
            load(2, c, c_below, c_stride)
            load(3, c, c_below + SIDE, c_stride)
    for k in range(0, steps, SIDE):
        load(4, x, x_at + k, x_stride)
        load(6, w, w_at + k * BOTH, BOTH)
        load(7, w, w_at + k * BOTH + SIDE, BOTH)
        multiply_add(0, 4, 6)
        multiply_add(1, 4, 7)
        if tokens == BOTH:
            load(5, x, below + k, x_stride)
            multiply_add(2, 5, 6)
            multiply_add(3, 5, 7)
    store(0, c, c_at, c_stride)
    store(1, c, c_at + SIDE, c_stride)
    if tokens == BOTH:
        store(2, c, c_below, c_stride)
        store(3, c, c_below + SIDE, c_stride)


@kernel
def multiply_rows(x, x_at, count, depth, w, w_at, columns, steps, out, at, stride, first, edge):
    """out[m, j] = sum over k of X[m, k] W[k, j], `steps` words of k: alone if `first`, or added.

    x: f32[.], rows of `depth` words from x_at on, with room for a multiple of SIDE of them
    w: f32[.], panels of BOTH columns, each `steps` words deep, from w_at on
    out: f32[.], out[m, j] at `at` + m stride + j; edge: f32[BOTH BOTH], for blocks not in it whole
    """
    for m in range(0, count, BOTH):
        real = min(BOTH, count - m)
        tokens = BOTH if real > SIDE else SIDE
        rows = x_at + m * depth
        for j in range(0, columns, BOTH):
            wide = min(BOTH, columns - j)
            here, panel = at + m * stride + j, w_at + j * steps
            if real == tokens and wide == BOTH:
                multiply_block(tokens, x, rows, depth, w, panel, steps, out, here, stride, first)
                continue
            multiply_block(tokens, x, rows, depth, w, panel, steps, edge, 0, BOTH, True)
            add_edge(edge, BOTH, real, wide, out, here, stride, first)
