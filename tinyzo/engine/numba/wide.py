"""Vector code that Numba cannot say: 32 elements of a tensor at once, in registers.

    load_.., store_..     numbers as they are stored, to float32 and back
    gaussian, signs       z
    moved, small_only     w <- kept w + added z; z, but 0 where |w| is larger than a limit
    dithered_..           w, rounded at random to what 16-bit storage holds

LLVM splits 32 elements into registers that the CPU has: two of AVX-512, four of AVX2, eight of
NEON. Left to itself it takes half of AVX-512's width, and float16 one by one.

Bits are those of noise.py and dtypes.py. So a product and a sum are two roundings, but where the
product is exact. No subnormal float32 is made on the way, which another library may have the CPU
take for 0.

The code writers here hold LLVM's values, of the function that is being compiled, not numbers.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from tinyzo.engine import moments, noise
from tinyzo.engine.numba.vectors import cpu_features

WIDE = 32  # elements: a word of signs serves as many

F32, F16, I64 = ir.FloatType(), ir.HalfType(), ir.IntType(64)
I32, I16, I8 = ir.IntType(32), ir.IntType(16), ir.IntType(8)
U32, U8S = types.uint32, types.Array(types.uint8, 1, "C")

FEATURES = cpu_features()
IS_ARM = llvm.get_process_triple().startswith(("aarch64", "arm64"))
HAS_HALF = IS_ARM or "f16c" in FEATURES or "avx512f" in FEATURES  # instructions to and from float16
HAS_FLOOR = IS_ARM or "sse4.1" in FEATURES


def wide(element: ir.Type) -> ir.VectorType:
    return ir.VectorType(element, WIDE)


class Floats(types.Type):
    """Numba's name for 32 float32 in registers."""


floats = Floats("floats")


@register_model(Floats)
class _FloatsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, wide(F32))


class Value:
    """A vector of LLVM's with NumPy's operators; a number is in all elements."""

    def __init__(self, builder: ir.IRBuilder, value: Any) -> None:
        self.builder = builder
        self.value = value
        self.element = value.type.element

    def like(self, other: "Value | float") -> "Value":
        """The other, or a number, as a vector of this type."""
        if isinstance(other, Value):
            return other
        number = float(other) if self.element == F32 else int(other)
        return Value(self.builder, wide(self.element)([self.element(number)] * WIDE))

    def _with(self, other: "Value | float", whole: str, floating: str = "") -> "Value":
        name = floating if self.element == F32 else whole
        operation = getattr(self.builder, name)
        return Value(self.builder, operation(self.value, self.like(other).value))

    def __add__(self, other: "Value | float") -> "Value":
        return self._with(other, "add", "fadd")

    def __sub__(self, other: "Value | float") -> "Value":
        return self._with(other, "sub", "fsub")

    def __mul__(self, other: "Value | float") -> "Value":
        return self._with(other, "mul", "fmul")

    def __and__(self, other: "Value | int") -> "Value":
        return self._with(other, "and_")

    def __or__(self, other: "Value | int") -> "Value":
        return self._with(other, "or_")

    def __xor__(self, other: "Value | int") -> "Value":
        return self._with(other, "xor")

    def __lshift__(self, other: int) -> "Value":
        return self._with(other, "shl")

    def __rshift__(self, other: int) -> "Value":
        return self._with(other, "lshr")

    def compare(self, how: str, other: "Value | float") -> "Value":
        """True or False; of floats False beside a NaN, of whole numbers without their sign."""
        builder = self.builder
        compare = builder.fcmp_ordered if self.element == F32 else builder.icmp_unsigned
        return Value(builder, compare(how, self.value, self.like(other).value))

    def choose(self, yes: "Value | float", no: "Value") -> "Value":
        """yes where this is true, else no."""
        return Value(self.builder, self.builder.select(self.value, no.like(yes).value, no.value))

    def to(self, cast: str, element: ir.Type) -> "Value":
        """LLVM's cast of that name, or "bitcast"."""
        return Value(self.builder, getattr(self.builder, cast)(self.value, wide(element)))

    def call(self, name: str, *others: "Value") -> "Value":
        """A function that LLVM knows by name, of vectors of this type."""
        kind = self.value.type
        arguments = [self.value, *(other.value for other in others)]
        signature = ir.FunctionType(kind, [kind] * len(arguments))
        name = f"llvm.{name}.v{WIDE}f32"
        function = cgutils.get_or_insert_function(self.builder.module, signature, name)
        return Value(self.builder, self.builder.call(function, arguments))


def instruction(*kinds: Any) -> Callable[[Callable[..., Value]], Any]:
    """The decorator that makes an intrinsic of a code writer: of Numba's types, to `floats`.

    Vectors come as they are, a number in all elements.
    """

    def decorate(write: Callable[..., Value]) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return write(*[as_value(builder, argument) for argument in arguments]).value

        def typed(context: Any, *arguments: Any) -> Any:
            return floats(*kinds), generate

        own = inspect.signature(typed).parameters["context"]
        parameters = [own, *inspect.signature(write).parameters.values()]
        functools.update_wrapper(typed, write).__signature__ = inspect.Signature(parameters)
        return intrinsic(typed)

    return decorate


def as_value(builder: Any, argument: Any) -> Value:
    """A vector, or a number in all elements."""
    if isinstance(argument.type, ir.VectorType):
        return Value(builder, argument)
    kind = wide(argument.type)
    first = builder.insert_element(kind(ir.Undefined), argument, I32(0))
    return Value(builder, builder.shuffle_vector(first, first, wide(I32)([0] * WIDE)))


# -- z ------------------------------------------------------------------------------------------


def mixed(key_0: Value, key_1: Value, index: Value) -> Value:
    """noise.words without the last step, which the upper 16 bits do not need."""
    x = index + key_0
    x = (x ^ (x >> 16)) * noise.ROUND_1
    return ((x ^ (x >> 15)) + key_1) * noise.ROUND_2


def numbered(index: Value) -> Value:
    """index, index + 1, ..."""
    return index + Value(index.builder, wide(I32)(list(range(WIDE))))


@instruction(U32, U32, U32)
def gaussian(key_0: Value, key_1: Value, index: Value) -> Value:
    """noise.gaussian of the elements index, index + 1, ..."""
    word = mixed(key_0, key_1, numbered(index))
    word = word ^ (word >> 16)
    total = fields(word) + fields(word * noise.FIELDS)
    # As the last bits of a float from 64 to 128, which count 2^-17 each.
    x = (total + 0x42800000).to("bitcast", F32) - (64 + noise.CENTRE * noise.SCALE)
    square = x * x
    z = square.like(noise.COEFFICIENTS[-1])
    for c in noise.COEFFICIENTS[-2::-1]:
        z = z * square + c
    return z * x


def fields(word: Value) -> Value:
    """The sum of the two fields of a word."""
    return (word & 0xFFFF) + (word >> 16)


@instruction(U32)
def signs(bits: Value) -> Value:
    """-1 where a bit of the word is set, else 1."""
    places = Value(bits.builder, wide(I32)([1 << i for i in range(WIDE)]))
    one = bits.like(0).to("bitcast", F32)
    return (bits & places).compare("!=", 0).choose(-1.0, one.like(1.0))


@instruction(floats, floats, types.float32)
def small_only(z: Value, w: Value, limit: Value) -> Value:
    """z, but 0 where |w| is larger than the limit."""
    return w.call("fabs").compare(">", limit).choose(0.0, z)


@instruction(types.float32, floats, types.float32, floats)
def moved(kept: Value, w: Value, added: Value, z: Value) -> Value:
    """kept w + added z."""
    return kept * w + added * z


@instruction(floats, floats, types.float32)
def square_added(v: Value, z: Value, factor: Value) -> Value:
    """v + factor z^2."""
    return v + factor * (z * z)


@instruction(floats, floats)
def step_of(m: Value, v: Value) -> Value:
    """AdaMeZO's step of two moments."""
    root = v.call("sqrt") + float(moments.FLOOR)
    return Value(m.builder, m.builder.fdiv(m.value, root.value))


@instruction(types.float32)
def all_of(number: Value) -> Value:
    """The number in all elements."""
    return number


# -- storage --------------------------------------------------------------------------------------


@instruction(floats, U32, U32, U32)
def dithered_bfloat(w: Value, salt_0: Value, salt_1: Value, index: Value) -> Value:
    """dtypes.narrow to bfloat16, with the rounding's words of the elements index, ..."""
    bits = mixed(salt_0, salt_1, numbered(index))
    return ((w.to("bitcast", I32) + (bits >> 16)) & 0xFFFF0000).to("bitcast", F32)


@instruction(floats, U32, U32, U32)
def dithered_half(w: Value, salt_0: Value, salt_1: Value, index: Value) -> Value:
    """dtypes.narrow to float16, with the rounding's words of the elements index, ..."""
    bits = mixed(salt_0, salt_1, numbered(index))
    exponent = w.to("bitcast", I32) & 0x7F800000
    least = exponent.like(113 << 23)
    exponent = exponent.compare(">", least).choose(exponent, least)
    ulp = (exponent - (10 << 23)).to("bitcast", F32)
    per_ulp = (exponent.like(264 << 23) - exponent).to("bitcast", F32)
    part = (bits >> 19).to("sitofp", F32) * 2.0**-13
    # The first product is exact, so that it does not matter whether it is rounded.
    rounded = floor(w.call("fmuladd", per_ulp, part)) * ulp
    return rounded.call("fabs").compare(">=", 65536.0).choose(rounded * float("inf"), rounded)


def floor(x: Value) -> Value:
    """The whole number below, of numbers up to 2^22 and infinite ones."""
    if HAS_FLOOR:
        return x.call("floor")
    nearest = (x + 1.5 * 2.0**23) - 1.5 * 2.0**23
    return nearest - nearest.compare(">", x).choose(1.0, x.like(0.0))


def from_float(w: Value) -> Value:
    return w


def from_bfloat(bits: Value) -> Value:
    return (bits.to("zext", I32) << 16).to("bitcast", F32)


def from_half(bits: Value) -> Value:
    """float16's exponent of 5 bits is moved to that of 8; 31 to 255."""
    if HAS_HALF:
        return bits.to("bitcast", F16).to("fpext", F32)
    word = bits.to("zext", I32)
    size = (word & 0x7FFF) << 13
    subnormal = (size + (113 << 23)).to("bitcast", F32) - 2.0**-14
    normal = (size + (112 << 23)).to("bitcast", F32)
    value = size.compare("<", 1 << 23).choose(subnormal, normal).to("bitcast", I32)
    special = size.compare(">=", 0x0F800000).choose(0x7F800000, size.like(0))  # infinite, NaN
    return (value | special | ((word & 0x8000) << 16)).to("bitcast", F32)


def to_bfloat(w: Value) -> Value:
    """The upper half of each float32, whose lower is 0."""
    return (w.to("bitcast", I32) >> 16).to("trunc", I16)


def to_half(w: Value) -> Value:
    """The bits of float32 that float16 holds: the exponent of 8 bits is moved to that of 5."""
    if HAS_HALF:
        return w.to("fptrunc", F16).to("bitcast", I16)
    size = w.call("fabs")
    subnormal = (size + 0.5).to("bitcast", I32) - 0x3F000000  # how often 2^-24, the last place
    normal = ((size * 2.0**-112).to("bitcast", I32) >> 13) & 0x7FFF  # of 255, 31
    value = size.compare("<", 2.0**-14).choose(subnormal, normal)
    sign = (w.to("bitcast", I32) >> 16) & 0x8000
    return (value | sign).to("trunc", I16)


def loader(element: ir.Type, widen: Callable[[Value], Value]) -> Any:
    """The intrinsic (raw, i, count): numbers i, i + 1, ... of an array's bytes, as float32.

    count: i64, how many there are; those after the 32nd are left out
    """

    @intrinsic
    def load(_, raw, i, count):
        def generate(context, builder, signature, arguments):
            raw, i, count = arguments
            place = pointer(context, builder, signature.args[0], raw, i, element)
            with builder.if_else(is_all(builder, count), likely=True) as (all_, some):
                with all_:
                    whole = builder.load(place, align=1)
                    after_all = builder.block
                with some:
                    room = cgutils.alloca_once_value(builder, wide(element)([element(0)] * WIDE))
                    cgutils.raw_memcpy(builder, room, place, count, I64(size_of(element)))
                    part = builder.load(room)
                    after_some = builder.block
            value = builder.phi(whole.type)
            value.add_incoming(whole, after_all)
            value.add_incoming(part, after_some)
            return widen(Value(builder, value)).value

        return floats(raw, types.int64, types.int64), generate

    return load


def storer(element: ir.Type, narrow: Callable[[Value], Value]) -> Any:
    """The intrinsic (w, raw, i, count), the way back."""

    @intrinsic
    def store(_, w, raw, i, count):
        def generate(context, builder, signature, arguments):
            w, raw, i, count = arguments
            value = narrow(Value(builder, w)).value
            place = pointer(context, builder, signature.args[1], raw, i, element)
            with builder.if_else(is_all(builder, count), likely=True) as (all_, some):
                with all_:
                    builder.store(value, place, align=1)
                with some:
                    room = cgutils.alloca_once(builder, value.type)
                    builder.store(value, room)
                    cgutils.raw_memcpy(builder, place, room, count, I64(size_of(element)))
            return context.get_dummy_value()

        return types.void(floats, raw, types.int64, types.int64), generate

    return store


def pointer(context: Any, builder: Any, kind: Any, array: Any, i: Any, element: ir.Type) -> Any:
    """To elements i, i + 1, ... of an array's bytes, as a vector. kind: Numba's, of the array"""
    data = context.make_array(kind)(context, builder, array).data
    first = builder.bitcast(data, element.as_pointer())
    return builder.bitcast(builder.gep(first, [i]), wide(element).as_pointer())


def size_of(element: ir.Type) -> int:
    return 4 if element == F32 else 2


def is_all(builder: Any, count: Any) -> Any:
    return builder.icmp_signed(">=", count, I64(WIDE))


load_floats, store_floats = loader(F32, from_float), storer(F32, from_float)
load_bfloats, store_bfloats = loader(I16, from_bfloat), storer(I16, to_bfloat)
load_halves, store_halves = loader(I16, from_half), storer(I16, to_half)
