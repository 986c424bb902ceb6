"""Vector code that Numba cannot say: three instructions of ours, written as LLVM IR.

    multiply_tile  C[rows, width] (+)= W[rows, steps] X[steps, width], all accumulators in registers
    transpose      a square of floats, by shuffles
    fetch_add      a counter that threads share

Vector length and register tile follow from the CPU (Goto & van de Geijn 2008 on why a tile).
A word is 32 bits: one float32, or two bfloat16 that are neighbours in k. So bfloat16 has the same
loops, half the words, and another multiply-add: dpbf16ps, bfdot, or widening by shifts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


class Tile(NamedTuple):
    """A register tile: rows x (vectors * lanes) accumulators, and how bfloat16 is multiplied."""

    lanes: int
    rows: int
    vectors: int
    has_fma: bool
    bf16: str  # "avx512bf16", "bfdot", or "" where the CPU has no such instruction

    @property
    def width(self) -> int:
        return self.lanes * self.vectors


def cpu_features() -> set[str]:
    """The features that Numba compiles for: this CPU's, or those of NUMBA_CPU_FEATURES."""
    if config.CPU_FEATURES is not None:
        return {f[1:] for f in config.CPU_FEATURES.split(",") if f.startswith("+")}
    if config.CPU_NAME == "generic":
        return set()
    return {name for name, has in llvm.get_host_cpu_features().items() if has}


def choose_tile(features: set[str], triple: str) -> Tile:
    """The tile for a CPU: 24 of 32 registers accumulate (AVX-512), 16 of 32 (NEON), 12 of 16."""
    if triple.startswith(("aarch64", "arm64")):
        return Tile(4, 8, 2, True, "bfdot" if "bf16" in features else "")
    if "avx512f" in features:
        return Tile(16, 8, 3, True, "avx512bf16" if "avx512bf16" in features else "")
    if {"avx2", "fma"} <= features:
        return Tile(8, 4, 3, True, "")
    return Tile(4, 4, 2, False, "")


TILE = choose_tile(cpu_features(), llvm.get_process_triple())


class _Bfloat(ir.Type):  # llvmlite has no name for it
    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bfloat)

    def __hash__(self) -> int:
        return hash(_Bfloat)


def _call(builder: Any, name: str, *arguments: Any) -> Any:
    """A call of an LLVM intrinsic whose result is of its first argument's type."""
    kinds = [a.type for a in arguments]
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kinds[0], kinds), name
    )
    return builder.call(function, arguments)


def _multiply_add(builder: Any, tile: Tile, bf16: bool, a: Any, b: Any, total: Any) -> Any:
    """total + a * b for vectors of words."""

    def add_product(x: Any, y: Any, total: Any) -> Any:
        if tile.has_fma:  # the first argument gives _call the type of the result
            return _call(builder, f"llvm.fma.v{tile.lanes}f32", x, y, total)
        return builder.fadd(total, builder.fmul(x, y))

    if not bf16:
        return add_product(a, b, total)
    if tile.bf16:
        name = {
            "avx512bf16": "llvm.x86.avx512bf16.dpbf16ps.512",
            "bfdot": "llvm.aarch64.neon.bfdot.v4f32.v8bf16",
        }[tile.bf16]
        pairs = ir.VectorType(_Bfloat(), 2 * tile.lanes)
        return _call(builder, name, total, builder.bitcast(a, pairs), builder.bitcast(b, pairs))
    words = ir.VectorType(I32, tile.lanes)
    a, b = builder.bitcast(a, words), builder.bitcast(b, words)
    shift, mask = (ir.Constant(words, [n] * tile.lanes) for n in (16, -65536))
    for half in (lambda v: builder.shl(v, shift), lambda v: builder.and_(v, mask)):
        total = add_product(*(builder.bitcast(half(v), total.type) for v in (a, b)), total)
    return total


def _pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [at])


def tile_multiplier(tile: Tile, vectors: int, bf16: bool) -> Any:
    """The intrinsic (w, w_at, w_stride, x, x_at, c, c_at, c_stride, steps, first) for one tile.

    C[i, j] = sum over k of W[i, k] X[k, j], added to what C holds unless `first`; f32 arrays of
    words, each with the index of its first word and of its rows; X's rows are as wide as the tile.
    """
    vector = ir.VectorType(F32, tile.lanes)
    width = tile.lanes * vectors

    @intrinsic
    def multiply_tile(_, w, w_at, w_stride, x, x_at, c, c_at, c_stride, steps, first):
        def generate(context, builder, signature, arguments):
            w, w_at, w_stride, x, x_at, c, c_at, c_stride, steps, first = arguments
            kinds = signature.args
            w = _pointer(context, builder, kinds[0], w, w_at)
            x = _pointer(context, builder, kinds[3], x, x_at)
            c = _pointer(context, builder, kinds[5], c, c_at)

            def number(n: int) -> Any:
                return ir.Constant(I64, n)

            def load(base: Any, at: Any) -> Any:
                place = builder.bitcast(builder.gep(base, [at]), vector.as_pointer())
                return builder.load(place, align=4)

            entry, loop, done = (
                builder.block, builder.append_basic_block("k"), builder.append_basic_block("done"),
            )  # fmt: skip
            builder.branch(loop)
            builder.position_at_end(loop)
            k = builder.phi(I64)
            k.add_incoming(number(0), entry)
            totals = [[builder.phi(vector) for _ in range(vectors)] for _ in range(tile.rows)]
            xs = [
                load(x, builder.add(builder.mul(k, number(width)), number(j * tile.lanes)))
                for j in range(vectors)
            ]
            sums = []
            for i in range(tile.rows):
                at = builder.add(builder.mul(w_stride, number(i)), k)
                word = builder.load(builder.gep(w, [at]))
                blank = ir.Constant(vector, ir.Undefined)
                spread = builder.shuffle_vector(
                    builder.insert_element(blank, word, ir.Constant(I32, 0)), blank,
                    ir.Constant(ir.VectorType(I32, tile.lanes), [0] * tile.lanes),
                )  # fmt: skip
                sums.append([
                    _multiply_add(builder, tile, bf16, spread, xs[j], totals[i][j])
                    for j in range(vectors)
                ])  # fmt: skip
            next_k = builder.add(k, number(1))
            k.add_incoming(next_k, builder.block)
            zero = ir.Constant(vector, [0.0] * tile.lanes)
            for i in range(tile.rows):
                for j in range(vectors):
                    totals[i][j].add_incoming(zero, entry)
                    totals[i][j].add_incoming(sums[i][j], builder.block)
            builder.cbranch(builder.icmp_signed("<", next_k, steps), loop, done)
            builder.position_at_end(done)
            for i in range(tile.rows):
                for j in range(vectors):
                    at = builder.add(builder.mul(c_stride, number(i)), number(j * tile.lanes))
                    old = builder.select(first, zero, load(c, at))
                    place = builder.bitcast(builder.gep(c, [at]), vector.as_pointer())
                    builder.store(builder.fadd(old, sums[i][j]), place, align=4)
            return context.get_dummy_value()

        i64 = types.int64
        return types.void(w, i64, i64, x, i64, c, i64, i64, i64, types.boolean), generate

    return multiply_tile


def square_transpose(lanes: int) -> Any:
    """The intrinsic (a, a_at, a_stride, b, b_at, b_stride): b[j, i] = a[i, j], i, j < lanes."""
    vector = ir.VectorType(F32, lanes)

    @intrinsic
    def transpose(_, a, a_at, a_stride, b, b_at, b_stride):
        def generate(context, builder, signature, arguments):
            a, a_at, a_stride, b, b_at, b_stride = arguments
            a = _pointer(context, builder, signature.args[0], a, a_at)
            b = _pointer(context, builder, signature.args[3], b, b_at)

            def row(base: Any, stride: Any, i: int) -> Any:
                place = builder.gep(base, [builder.mul(stride, ir.Constant(I64, i))])
                return builder.bitcast(place, vector.as_pointer())

            rows = [builder.load(row(a, a_stride, i), align=4) for i in range(lanes)]
            s = 1
            while s < lanes:  # swap the off-diagonal squares of size s of each square of 2 s
                low = [i if not i & s else lanes + i - s for i in range(lanes)]
                high = [i + s if not i & s else lanes + i for i in range(lanes)]
                masks = (ir.Constant(ir.VectorType(I32, lanes), m) for m in (low, high))
                low, high = masks
                for i in (i for i in range(lanes) if not i & s):
                    pair = rows[i], rows[i + s]
                    rows[i] = builder.shuffle_vector(*pair, low)
                    rows[i + s] = builder.shuffle_vector(*pair, high)
                s *= 2
            for i in range(lanes):
                builder.store(rows[i], row(b, b_stride, i), align=4)
            return context.get_dummy_value()

        i64 = types.int64
        return types.void(a, i64, i64, b, i64, i64), generate

    return transpose


@intrinsic
def fetch_add(_, counters, at, n):
    """The value of counters[at], to which n is added at once; no two threads get the same."""

    def generate(context, builder, signature, arguments):
        counters, at, n = arguments
        place = _pointer(context, builder, signature.args[0], counters, at)
        return builder.atomic_rmw("add", place, n, "seq_cst")

    return types.int64(counters, types.int64, types.int64), generate
