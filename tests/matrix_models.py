"""Models of the instructions that multiply matrices, for CPUs that have none.

    python tests/matrix_models.py amx|bfmmla [ARG ...]      # those of pytest

The engine's kernels are compiled with what stands here instead of the instructions: its packing,
its blocks and their edges, and every test of products, run as they would there. To be called in a
process of its own, before any kernel is compiled; none is kept.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyzo.engine.numba import files, products, vectors
from tinyzo.engine.numba.vectors import F32, Tile

WORDS = types.CPointer(types.float32)
SMALLEST = np.float32(2.0**-126)  # of normal numbers


@njit
def normal(value):
    """A float32, or 0 for a subnormal one."""
    return value if abs(value) >= SMALLEST else np.float32(0)


@njit
def bits(word):
    return np.float32(word).view(np.uint32)


@njit
def fused(x, w, total):
    """x w + total by one rounding, to float64's last place; x, w: as bits"""
    product = np.float64(normal(np.uint32(x).view(np.float32)))
    product *= np.float64(normal(np.uint32(w).view(np.float32)))
    return normal(np.float32(product + np.float64(total)))


def load_tile(tiles, number, place, stride):
    tile, rows = carray(tiles, (8, 16, 16)), carray(place, (15 * stride + 16,))
    for i in range(16):
        for j in range(16):
            tile[number, i, j] = rows[i * stride + j]


def store_tile(tiles, number, place, stride):
    tile, rows = carray(tiles, (8, 16, 16)), carray(place, (15 * stride + 16,))
    for i in range(16):
        for j in range(16):
            rows[i * stride + j] = tile[number, i, j]


def zero_tile(tiles, number):
    carray(tiles, (8, 16, 16))[number] = np.float32(0)


def multiply_tiles(tiles, c, x, w):
    """Intel's TDPBF16PS: sums of the even and the odd elements of k apart, each a chain of FMAs to
    nearest, then the sum of both, then that of C. Subnormal numbers are zeros, read or made."""
    tile = carray(tiles, (8, 16, 16))
    for i in range(16):
        for j in range(16):
            even = odd = np.float32(0)
            for k in range(16):
                xs, ws = bits(tile[x, i, k]), bits(tile[w, k, j])
                even = fused(xs << 16, ws << 16, even)
                odd = fused(xs & 0xFFFF0000, ws & 0xFFFF0000, odd)
            tile[c, i, j] = normal(normal(tile[c, i, j]) + normal(even + odd))


def model_amx() -> None:
    """Have AMX's instructions replaced, and be permitted to use them."""
    vectors.TILE = Tile(16, 8, 3, "", "amx")
    from tinyzo.engine.numba import amx

    def tiles(builder):
        """The tiles, which are of the function that is compiled: none are kept from call to call"""
        function = builder.function
        if not hasattr(function, "tiles"):
            function.tiles = cgutils.alloca_once(builder, ir.ArrayType(F32, 8 * 16 * 16))
        return builder.bitcast(function.tiles, F32.as_pointer())

    def call(context, builder, model, *arguments):
        kinds = [WORDS if isinstance(a.type, ir.PointerType) else types.int64 for a in arguments]
        context.compile_internal(builder, model, types.void(*kinds), arguments)
        return context.get_dummy_value()

    def moved(model):
        @intrinsic(prefer_literal=True)
        def move(_, tile, array, at, stride):
            def generate(context, builder, signature, arguments):
                place = context.make_array(array)(context, builder, arguments[1]).data
                place = builder.gep(place, [arguments[2]])
                number = ir.IntType(64)(tile.literal_value)
                return call(context, builder, model, tiles(builder), number, place, arguments[3])

            return types.void(tile, array, types.int64, types.int64), generate

        return move

    @intrinsic(prefer_literal=True)
    def zero(_, tile):
        def generate(context, builder, signature, arguments):
            number = ir.IntType(64)(tile.literal_value)
            return call(context, builder, zero_tile, tiles(builder), number)

        return types.void(tile), generate

    @intrinsic(prefer_literal=True)
    def multiply_add(_, c, x, w):
        def generate(context, builder, signature, arguments):
            numbers = [ir.IntType(64)(tile.literal_value) for tile in (c, x, w)]
            return call(context, builder, multiply_tiles, tiles(builder), *numbers)

        return types.void(c, x, w), generate

    @intrinsic
    def nothing(_):
        def generate(context, builder, signature, arguments):
            return context.get_dummy_value()

        return types.void(), generate

    amx.load, amx.store = moved(load_tile), moved(store_tile)
    amx.zero, amx.multiply_add, amx.begin, amx.end = zero, multiply_add, nothing, nothing
    products.may_use_amx = lambda: True


def model_bfmmla() -> None:
    """Have Arm's instruction replaced: each word of k is widened by shifts, two FMAs for each."""
    vectors.TILE = tile = Tile(4, 8, 2, "", "bfmmla")
    from tinyzo.engine.numba import bfmmla

    def multiply_add(code, x, w, square):
        for k in range(2):
            xs, ws = code.shuffle(x, x, [k, k, 2 + k, 2 + k]), code.shuffle(w, w, [k, 2 + k] * 2)
            square = code.multiply_add_pairs(tile, xs, ws, square)
        return square

    bfmmla.multiply_add = multiply_add


MODELS = {"amx": model_amx, "bfmmla": model_bfmmla}

if __name__ == "__main__":
    files.folders = list
    files.choose_folder = lambda: (None, "of a model")
    MODELS[sys.argv[1]]()
    from tinyzo.engine.numba import engine

    engine.ensure_compiled = lambda: None  # each when it is called, which few are
    sys.exit(pytest.main(sys.argv[2:]))
