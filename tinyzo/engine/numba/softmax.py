"""The softmax of a row, in vectors that Numba cannot say: rows of attention are short.

    e^x = 2^n e^r,  n = round(x / ln 2),  r = x - n ln 2,  |r| <= ln 2 / 2

e^r is Cephes' polynomial (Moshier 1992, expf). The code writers here hold LLVM's values, of the
function that is being compiled, not numbers.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyzo.engine.numba.vectors import I32, I64, Tile, _Code

LOWEST = -87.0  # e^x is not subnormal from here on
ROUNDING = 1.5 * 2.0**23  # added to a float32, leaves it whole, in the last bits of its word
LN_2 = (0.693359375, -2.12194440e-4)  # the first times n is exact
EXP = (1.0, 1.0, 5.0000001201e-1, 1.6666665459e-1, 4.1665795894e-2, 8.3334519073e-3,
       1.3981999507e-3, 1.9875691500e-4)  # fmt: skip


class Functions(_Code):
    """Writes functions of vectors of float32."""

    def __init__(self, context: Any, builder: Any, tile: Tile) -> None:
        super().__init__(context, builder, tile.lanes)
        self.tile = tile

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c; numbers stand for vectors of them."""
        a, b, c = (self.vector(x) if isinstance(x, float) else x for x in (a, b, c))
        return self.multiply_add(self.tile, a, b, c)

    def exp(self, x: Any) -> Any:
        """e^x for x <= 0, where e^x below e^LOWEST is that; NaN of NaN."""
        builder, words = self.builder, ir.VectorType(I32, self.lanes)
        lowest = self.vector(LOWEST)
        x = builder.select(builder.fcmp_ordered("<", x, lowest), lowest, x)
        whole = self.fused(x, 1 / math.log(2), ROUNDING)
        exponent = builder.shl(builder.bitcast(whole, words), words(23))
        power = builder.bitcast(builder.add(exponent, words(127 << 23)), self.vector)
        n = builder.fsub(whole, self.vector(ROUNDING))
        r = self.fused(n, -LN_2[1], self.fused(n, -LN_2[0], x))
        y = self.vector(EXP[-1])
        for coefficient in EXP[-2::-1]:
            y = self.fused(y, r, coefficient)
        return builder.fmul(y, power)

    def reduced(self, combine: Callable[[Any, Any], Any], vector: Any) -> Any:
        """All lanes combined, in all lanes."""
        by = self.lanes // 2
        while by:
            other = self.shuffle(vector, vector, [lane ^ by for lane in range(self.lanes)])
            vector = combine(vector, other)
            by //= 2
        return vector

    def larger(self, a: Any, b: Any) -> Any:
        """The larger of two; a, where b is NaN."""
        return self.builder.select(self.builder.fcmp_ordered(">", b, a), b, a)


class _Row(NamedTuple):
    """n floats from a pointer on, in whole vectors."""

    code: Functions
    first: Any
    n: Any

    @contextmanager
    def vectors(self) -> Iterator[tuple[Any, Any]]:
        """In a loop, the place of each vector, and which of its lanes are in the row."""
        builder, lanes = self.code.builder, self.code.lanes
        count = builder.udiv(builder.add(self.n, I64(lanes - 1)), I64(lanes))
        with cgutils.for_range(builder, count) as loop:
            at = builder.mul(loop.index, I64(lanes))
            left = builder.trunc(builder.sub(self.n, at), I32)
            words = ir.VectorType(I32, lanes)
            first = builder.insert_element(words(ir.Undefined), left, I32(0))
            left = builder.shuffle_vector(first, first, words([0] * lanes))
            is_in = builder.icmp_signed("<", words(list(range(lanes))), left)
            yield (builder.gep(self.first, [at]), 0, I64(0)), is_in


def row_softmax(tile: Tile) -> Any:
    """The intrinsic (x, at, n, scale): y <- e^(scale y) / sum e^(scale y), y = x[at : at + n].

    x: f32[.], where a row of a multiple of the tile's lanes begins at `at`; what its last lanes
    have after y becomes 0. at, n > 0: i64; scale: f32
    """

    @intrinsic
    def softmax(_, x, at, n, scale):
        def generate(context, builder, signature, arguments):
            x, at, n, scale = arguments
            code = Functions(context, builder, tile)
            row, scale = _Row(code, code.pointer(signature.args[0], x, at), n), code.spread(scale)
            top = cgutils.alloca_once_value(builder, code.vector(-math.inf))
            total = cgutils.alloca_once_value(builder, code.zero)
            with row.vectors() as (place, is_in):
                value = builder.select(is_in, code.load(*place), code.vector(-math.inf))
                builder.store(code.larger(builder.load(top), value), top)
            highest = builder.fmul(code.reduced(code.larger, builder.load(top)), scale)
            with row.vectors() as (place, is_in):
                power = code.exp(builder.fsub(builder.fmul(code.load(*place), scale), highest))
                power = builder.select(is_in, power, code.zero)
                code.store(power, *place)
                builder.store(builder.fadd(builder.load(total), power), total)
            share = builder.fdiv(code.vector(1.0), code.reduced(builder.fadd, builder.load(total)))
            with row.vectors() as (place, _is_in):
                code.store(builder.fmul(code.load(*place), share), *place)
            return context.get_dummy_value()

        return types.void(x, types.int64, types.int64, types.float32), generate

    return softmax
