"""Products of bfloat16 by Arm's `bfmmla`, written as LLVM IR (Arm Architecture Reference, BFMMLA).

It adds to a 2 x 2 square of float32 the product of two rows of four bfloat16 with two others:

    C[i, j] += sum over k < 4 of X[i, k] W[j, k]

So W's panels have two words of k side by side, where the other kernels have one:

    w   [panel][k / 2][width][2]
"""

import itertools
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinyzo.engine.numba.sizes import UNITS
from tinyzo.engine.numba.vectors import BFLOAT, F32, I32, I64, Tile, _Code, _Operands, _Rows

STEP = UNITS["bfmmla"]
LANES = 4


def multiply_add(code: _Code, x: Any, w: Any, square: Any) -> Any:
    """The instruction. x, w: vectors of 4 words, square: of 4 floats, of which it gives new ones"""
    rows = ir.VectorType(BFLOAT, 2 * LANES)
    x, w = code.builder.bitcast(x, rows), code.builder.bitcast(w, rows)
    return code.call("llvm.aarch64.neon.bfmmla", square, x, w)


def two_tokens(code: _Code, first: Any, second: Any, k: Any) -> Any:
    """Words k and k + 1 of two tokens side by side. first, second: pointers to their words"""
    builder, half = code.builder, ir.VectorType(F32, STEP)
    places = [builder.bitcast(builder.gep(t, [k]), half.as_pointer()) for t in (first, second)]
    words = [builder.load(place, align=4) for place in places]
    return builder.shuffle_vector(*words, ir.VectorType(I32, LANES)([0, 1, 2, 3]))


def _multiply(code: _Code, rows: int, width: int, of: _Operands, steps: Any, first: Any) -> None:
    """The loop for a tile of rows x width. steps: i64, words, an even number; first: i1"""
    builder = code.builder
    squares = list(itertools.product(range(rows // 2), range(width // 2)))
    tokens = [code.element(of.x.data, i, of.x.stride, I64(0)) for i in range(rows)]
    before, loop = builder.block, builder.append_basic_block("k")
    after = builder.append_basic_block("sum")
    builder.branch(loop)
    builder.position_at_end(loop)
    k, w = builder.phi(I64), builder.phi(of.w.type)
    totals = {ij: builder.phi(code.vector) for ij in squares}
    xs = [two_tokens(code, tokens[i], tokens[i + 1], k) for i in range(0, rows, 2)]
    ws = [code.load(w, 0, I64(0), LANES * j) for j in range(width // 2)]
    sums = {(i, j): multiply_add(code, xs[i], ws[j], totals[i, j]) for i, j in squares}
    k_next = builder.add(k, I64(STEP))
    for phi, start, following in (
        (k, I64(0), k_next),
        (w, of.w, builder.gep(w, [I64(STEP * width)])),
        *((totals[ij], code.zero, sums[ij]) for ij in squares),
    ):
        phi.add_incoming(start, before)
        phi.add_incoming(following, builder.block)
    builder.cbranch(builder.icmp_signed("<", k_next, steps), loop, after)
    builder.position_at_end(after)
    for i, j in itertools.product(range(rows), range(0, width, LANES)):
        two = sums[i // 2, j // 2], sums[i // 2, j // 2 + 1]
        low = 2 * (i % 2)  # the row of the squares that is C's row i
        total = code.shuffle(*two, [low, low + 1, LANES + low, LANES + low + 1])
        place = (of.c.data, i, of.c.stride, j)
        with builder.if_else(first) as (alone, added):
            with alone:
                code.store(total, *place)
            with added:
                code.store(builder.fadd(code.load(*place), total), *place)


def square_multiplier(tile: Tile) -> Any:
    """The intrinsic (width, x, x_at, x_stride, w, w_at, c, c_at, c_stride, steps, first).

    C[i, j] = sum over k of X[i, k] W[j, k], added to what C holds unless `first`, for the tile's
    rows i and j < width, a multiple of LANES. x, w, c: f32[.] of words, each with the index of its
    first one and the words from row to row, i64; steps: i64, even; first: bool.
    """

    @intrinsic
    def multiply_squares(_, width, x, x_at, x_stride, w, w_at, c, c_at, c_stride, steps, first):
        def generate(context, builder, signature, arguments):
            width, x, x_at, x_stride, w, w_at, c, c_at, c_stride, steps, first = arguments
            code, kinds = _Code(context, builder, LANES), signature.args
            of = _Operands(
                _Rows(code.pointer(kinds[1], x, x_at), x_stride),
                code.pointer(kinds[4], w, w_at),
                _Rows(code.pointer(kinds[6], c, c_at), c_stride),
            )
            for vectors in range(1, tile.vectors + 1):
                sized = builder.icmp_signed("==", width, I64(vectors * LANES))
                with builder.if_then(sized):
                    _multiply(code, tile.rows, vectors * LANES, of, steps, first)
            return context.get_dummy_value()

        i64 = types.int64
        kinds = (i64, x, i64, i64, w, i64, c, i64, i64, i64, types.boolean)
        return types.void(*kinds), generate

    return multiply_squares
