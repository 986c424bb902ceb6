"""Vector code that Numba cannot say: instructions of ours, written as LLVM IR.

    multiply_tile  C[rows, width] (+)= X[rows, steps] W[steps, width], all accumulators in registers
    transpose      a square of floats, by shuffles
    fetch_add      a counter that threads share
    look           at such a counter, again and again
    use_widest     no instruction, but a word to LLVM about those of a kernel

Vector length and register tile follow from the CPU (Goto & van de Geijn 2008 on why a tile).
A word is 32 bits: one float32, or two bfloat16 that are neighbours in k. So bfloat16 has the same
loops, half the words, and another multiply-add: dpbf16ps, bfdot, or widening by shifts.

The code writers here hold LLVM's values, of the function that is being compiled, not numbers.
They are part of what `cache.py` takes for the content of a kernel.
"""

import itertools
from typing import Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

IS_ARM = llvm.get_process_triple().startswith(("aarch64", "arm64"))
F32, I8, I32, I64 = ir.FloatType(), *(ir.IntType(bits) for bits in (8, 32, 64))
# The instruction of a loop that waits, as LLVM knows it, and what it is given.
PAUSE = ("llvm.aarch64.hint", [I32(1)]) if IS_ARM else ("llvm.x86.sse2.pause", [])


class Tile(NamedTuple):
    """A register tile: rows x (vectors * lanes) accumulators, and how bfloat16 is multiplied."""

    lanes: int
    rows: int
    vectors: int
    bf16: str  # "avx512bf16", "bfdot", or "" where the CPU has no such instruction
    matrix: str = ""  # "amx", "bfmmla", or "": the instruction that multiplies matrices

    @property
    def width(self) -> int:
        return self.lanes * self.vectors


def cpu_features() -> set[str]:
    """The features that Numba compiles for: this CPU's, or those of NUMBA_CPU_FEATURES."""
    _triple, _name, features = cpu_target.target_context.codegen().magic_tuple()
    return {f[1:] for f in features.split(",") if f.startswith("+")}


def choose_tile(features: set[str], triple: str) -> Tile:
    """The tile for a CPU: 24 of 32 registers accumulate (AVX-512), 16 of 32 (NEON), 12 of 16."""
    if triple.startswith(("aarch64", "arm64")):
        return Tile(4, 8, 2, *(("bfdot", "bfmmla") if "bf16" in features else ("",)))
    if "avx512f" in features:
        known = llvm.llvm_version_info[0] >= 20  # older ones take words where we give bfloat
        dot = "avx512bf16" if known and "avx512bf16" in features else ""
        return Tile(16, 8, 3, dot, "amx" if {"amx-tile", "amx-bf16"} <= features else "")
    if {"avx2", "fma"} <= features:
        return Tile(8, 6, 2, "")
    return Tile(4, 4, 2, "")


FEATURES = (  # that choose the tile
    *("avx2", "fma", "avx512f", "avx512bf16", "amx-tile", "amx-bf16"),
    *("neon", "bf16"),
)
DOTS = {
    "avx512bf16": "llvm.x86.avx512bf16.dpbf16ps.512",
    "bfdot": "llvm.aarch64.neon.bfdot.v4f32.v8bf16",
}
TILE = choose_tile(cpu_features(), llvm.get_process_triple())


class _Bfloat(ir.Type):  # llvmlite has no name for it
    def _to_string(self) -> str:
        return "bfloat"


BFLOAT = _Bfloat()  # types of one element are one type only if the elements are


class _Code:
    """Writes vector code into a function of Numba's: vectors of `lanes` float32."""

    def __init__(self, context: Any, builder: Any, lanes: int) -> None:
        self.context = context
        self.builder = builder
        self.lanes = lanes
        self.vector = ir.VectorType(F32, lanes)
        self.zero = self.vector(0.0)

    def pointer(self, kind: Any, array: Any, at: Any) -> Any:
        """To element `at` of a Numba array."""
        data = self.context.make_array(kind)(self.context, self.builder, array).data
        return self.builder.gep(data, [at])

    def element(self, base: Any, i: int, stride: Any, j: Any) -> Any:
        """To base[i stride + j]."""
        return self.builder.gep(base, [self.builder.add(self.builder.mul(stride, I64(i)), j)])

    def place(self, base: Any, i: int, stride: Any, j: int = 0) -> Any:
        """To the vector that begins at base[i stride + j]."""
        return self.builder.bitcast(self.element(base, i, stride, I64(j)), self.vector.as_pointer())

    def load(self, *place: Any) -> Any:
        """The vector at a `place`."""
        return self.builder.load(self.place(*place), align=4)

    def store(self, value: Any, *place: Any) -> None:
        """A vector to a `place`."""
        self.builder.store(value, self.place(*place), align=4)

    def shuffle(self, a: Any, b: Any, lanes: list[int]) -> Any:
        """Lanes of a, then of b, by number."""
        return self.builder.shuffle_vector(a, b, ir.VectorType(I32, self.lanes)(lanes))

    def spread(self, word: Any) -> Any:
        """One float in all lanes."""
        first = self.builder.insert_element(self.zero, word, I32(0))
        return self.shuffle(first, first, [0] * self.lanes)

    def call(self, name: str, *arguments: Any) -> Any:
        """An instruction that LLVM knows by name; its result is of its first argument's type."""
        kind = ir.FunctionType(arguments[0].type, [a.type for a in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, arguments)

    def opaque(self, pointer: Any) -> Any:
        """A pointer of which the compiler knows nothing, so that it does not derive it anew."""
        kind = ir.FunctionType(pointer.type, [pointer.type])
        return self.builder.asm(kind, "", "=r,0", [pointer], False)

    def prefetch(self, place: Any) -> None:
        """Have the cache line of a float brought near, to be written."""
        pointer = self.builder.bitcast(place, I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        self.builder.call(function, [pointer, I32(1), I32(3), I32(1)])

    def multiply_add(self, tile: Tile, a: Any, b: Any, total: Any) -> Any:
        """a b + total, of floats."""
        return self.call(f"llvm.fmuladd.v{self.lanes}f32", a, b, total)

    def multiply_add_pairs(self, tile: Tile, a: Any, b: Any, total: Any) -> Any:
        """The same of pairs of bfloat16, their products summed in float32."""
        if tile.bf16:
            pairs = ir.VectorType(BFLOAT, 2 * self.lanes)
            a, b = self.builder.bitcast(a, pairs), self.builder.bitcast(b, pairs)
            return self.call(DOTS[tile.bf16], total, a, b)
        words = ir.VectorType(I32, self.lanes)
        a, b = self.builder.bitcast(a, words), self.builder.bitcast(b, words)
        for widen, by in ((self.builder.shl, 16), (self.builder.and_, -65536)):
            halves = [self.builder.bitcast(widen(v, words(by)), self.vector) for v in (a, b)]
            total = self.multiply_add(tile, *halves, total)
        return total


class _Rows(NamedTuple):
    """A matrix: the pointer to its first element, and the elements from row to row."""

    data: Any
    stride: Any


class _Operands(NamedTuple):
    """Of a register tile: X and C, whose rows are tokens, and the pointer to W's panel."""

    x: _Rows
    w: Any
    c: _Rows


def _multiply(
    code: _Code,
    tile: Tile,
    vectors: int,
    bf16: bool,
    of: _Operands,
    steps: Any,
    first: Any,
) -> None:
    """The loop of one size of tile: `vectors` of them wide. steps: i64; first: i1."""
    builder = code.builder
    width = vectors * code.lanes
    multiply_add = code.multiply_add_pairs if bf16 else code.multiply_add
    tiles = [(i, j) for i in range(tile.rows) for j in range(vectors)]
    for i, j in tiles:  # C's rows are pages apart: no CPU foresees them
        code.prefetch(code.element(of.c.data, i, of.c.stride, I64(j * code.lanes)))
    rows = [code.opaque(code.element(of.x.data, i, of.x.stride, I64(0))) for i in range(tile.rows)]
    before = builder.block
    loop = builder.append_basic_block("k")
    after = builder.append_basic_block("sum")
    builder.branch(loop)
    builder.position_at_end(loop)
    k, w = builder.phi(I64), builder.phi(of.w.type)
    totals = {ij: builder.phi(code.vector) for ij in tiles}
    ws = [code.load(w, 0, I64(0), j * code.lanes) for j in range(vectors)]
    sums = {}
    for i, row in enumerate(rows):
        spread = code.spread(builder.load(builder.gep(row, [k])))
        for j in range(vectors):
            sums[i, j] = multiply_add(tile, spread, ws[j], totals[i, j])
    k_next = builder.add(k, I64(1))
    for phi, start, following in (
        (k, I64(0), k_next),
        (w, of.w, builder.gep(w, [I64(width)])),
        *((totals[ij], code.zero, sums[ij]) for ij in tiles),
    ):
        phi.add_incoming(start, before)
        phi.add_incoming(following, builder.block)
    builder.cbranch(builder.icmp_signed("<", k_next, steps), loop, after)
    builder.position_at_end(after)
    added, done = builder.append_basic_block("add"), builder.append_basic_block("done")
    written = builder.append_basic_block("write")
    builder.cbranch(first, written, added)
    for block, is_first in ((written, True), (added, False)):
        builder.position_at_end(block)
        for i, j in tiles:
            place = (of.c.data, i, of.c.stride, j * code.lanes)
            total = sums[i, j] if is_first else builder.fadd(code.load(*place), sums[i, j])
            code.store(total, *place)
        builder.branch(done)
    builder.position_at_end(done)


def tile_multiplier(tile: Tile) -> Any:
    """The intrinsic (bf16, width, x, x_at, x_stride, w, w_at, c, c_at, c_stride, steps, first).

    C[i, j] = sum over k of X[i, k] W[k, j], added to what C holds unless `first`, for the tile's
    rows i and j < width, a multiple of its lanes. x, w, c: f32[.] of words, each with the index of
    its first word and the words from row to row, i64; W's rows are `width` wide. bf16, first: bool.
    """

    @intrinsic
    def multiply_tile(_, bf16, width, x, x_at, x_stride, w, w_at, c, c_at, c_stride, steps, first):
        def generate(context, builder, signature, arguments):
            bf16, width, x, x_at, x_stride, w, w_at, c, c_at, c_stride, steps, first = arguments
            code, kinds = _Code(context, builder, tile.lanes), signature.args
            of = _Operands(
                _Rows(code.pointer(kinds[2], x, x_at), x_stride),
                code.pointer(kinds[5], w, w_at),
                _Rows(code.pointer(kinds[7], c, c_at), c_stride),
            )
            for vectors, pairs in itertools.product(range(1, tile.vectors + 1), (False, True)):
                sized = builder.icmp_signed("==", width, I64(vectors * tile.lanes))
                kind = builder.icmp_signed("==", bf16, bf16.type(pairs))
                with builder.if_then(builder.and_(sized, kind)):
                    _multiply(code, tile, vectors, pairs, of, steps, first)
            return context.get_dummy_value()

        i64, truth = types.int64, types.boolean
        kinds = (truth, i64, x, i64, i64, w, i64, c, i64, i64, i64, truth)
        return types.void(*kinds), generate

    return multiply_tile


def square_transpose(lanes: int) -> Any:
    """The intrinsic (a, a_at, a_stride, z, z_at, scale, b, b_at, b_stride), for i, j < lanes.

    b[j, i] = a[i, j] + scale z[i, j], or a[i, j] if scale is 0, and z is not read then
    a, z, b: f32[.], each with the index of its first element, and the elements from row to row of
    a and z, and of b: i64; scale: f32
    """

    @intrinsic
    def transpose(_, a, a_at, a_stride, z, z_at, scale, b, b_at, b_stride):
        def generate(context, builder, signature, arguments):
            a, a_at, a_stride, z, z_at, scale, b, b_at, b_stride = arguments
            code, kinds = _Code(context, builder, lanes), signature.args
            a, z = code.pointer(kinds[0], a, a_at), code.pointer(kinds[3], z, z_at)
            b = code.pointer(kinds[6], b, b_at)
            rows = [code.load(a, i, a_stride) for i in range(lanes)]
            plain = builder.fcmp_ordered("==", scale, scale.type(0.0))
            with builder.if_else(plain) as (then, otherwise):
                with then:
                    _write_columns(code, rows, b, b_stride)
                with otherwise:
                    factor = code.spread(scale)
                    parts = [builder.fmul(factor, code.load(z, i, a_stride)) for i in range(lanes)]
                    sums = [builder.fadd(row, part) for row, part in zip(rows, parts, strict=True)]
                    _write_columns(code, sums, b, b_stride)
            return context.get_dummy_value()

        i64, f32 = types.int64, types.float32
        return types.void(a, i64, i64, z, i64, f32, b, i64, i64), generate

    return transpose


def _write_columns(code: _Code, rows: list[Any], b: Any, stride: Any) -> None:
    """Vectors as the columns of a square."""
    lanes = code.lanes
    riffle = [lane for i in range(lanes) for lane in (i, lanes + i)]
    for _ in range(lanes.bit_length() - 1):  # every time, half the rows between the others
        pairs = zip(rows[: lanes // 2], rows[lanes // 2 :], strict=True)
        halves = (riffle[:lanes], riffle[lanes:])
        rows = [code.shuffle(*pair, half) for pair in pairs for half in halves]
    for i in range(lanes):
        code.store(rows[i], b, i, stride)


@intrinsic
def fetch_add(_, counters, at, n):
    """The value of counters[at], to which n is added at once; no two threads get the same.

    counters: i64[.], at, n: i64; returns i64
    """

    def generate(context, builder, signature, arguments):
        counters, at, n = arguments
        place = _Code(context, builder, 1).pointer(signature.args[0], counters, at)
        return builder.atomic_rmw("add", place, n, "seq_cst")

    return types.int64(counters, types.int64, types.int64), generate


@intrinsic
def look(_, counters, at):
    """The value of counters[at] after a moment in which the CPU rests. i64[.], i64; returns i64"""

    def generate(context, builder, signature, arguments):
        counters, at = arguments
        place = _Code(context, builder, 1).pointer(signature.args[0], counters, at)
        name, given = PAUSE
        kind = ir.FunctionType(ir.VoidType(), [each.type for each in given])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), given)
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(counters, types.int64), generate


@intrinsic
def use_widest(_):
    """Have LLVM vectorise the loops of the caller as wide as the CPU can.

    It takes half of AVX-512's width otherwise, since the first such CPUs slowed down.
    """

    def generate(context, builder, signature, arguments):
        attribute = '"prefer-vector-width"="512"'
        set.add(builder.function.attributes, attribute)  # llvmlite's own `add` knows no strings
        return context.get_dummy_value()

    return types.void(), generate
