"""Vector code that Numba cannot say: WIDE elements of a tensor at once, in registers.

    load_.., store_..      numbers as they are stored, to float32 and back
    gaussian, signs        z
    small_only             z, but 0 where |w| is larger than a limit
    scaled, moved          kept w, w + added z
    squared, step_of       z^2, AdaMeZO's step
    dithered_..            w, rounded at random to what 16-bit storage holds

LLVM splits them into the registers that the CPU has. Left to itself it takes half of AVX-512's
width, and float16 one by one.

Bits are those of noise.py and dtypes.py. So a product and a sum are two roundings, but where the
product is exact. No subnormal float32 is made on the way, which another library may have the CPU
take for 0.

The code writers here hold LLVM's values, of the function that is being compiled, not numbers.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from tinyzo.engine import noise
from tinyzo.engine.moments import FLOOR
from tinyzo.engine.numba.vectors import IS_ARM, cpu_features

F32, F16, I64 = ir.FloatType(), ir.HalfType(), ir.IntType(64)
I32, I16 = ir.IntType(32), ir.IntType(16)
SIZES = {F32: 4, I16: 2}  # bytes of what is stored

FEATURES = cpu_features()
HAS_HALF = IS_ARM or not FEATURES.isdisjoint({"f16c", "avx512f"})  # float16 to float32 and back
HAS_FLOOR = IS_ARM or "sse4.1" in FEATURES
LANES = 16 if "avx512f" in FEATURES else 8 if "avx2" in FEATURES else 4
# Eight registers: of fewer, a CPU has too little to do while it waits for a product.
WIDE = 8 * LANES


def wide(element: ir.Type) -> ir.VectorType:
    return ir.VectorType(element, WIDE)


class Floats(types.Type):
    """Numba's name for WIDE float32 in registers."""


floats = Floats("floats")


@register_model(Floats)
class _FloatsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, wide(F32))


class Value:
    """A vector of LLVM's with NumPy's operators; a number is in all elements."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder = builder
        self.value = value
        self.element = value.type.element

    def like(self, other: "Value | float | range | list[int]") -> "Value":
        """The other, or numbers, as a vector of this type."""
        if isinstance(other, Value):
            return other
        kind = self.value.type
        numbers = [other] * kind.count if isinstance(other, int | float) else other
        return Value(self.builder, kind([self.element(n) for n in numbers]))

    def _with(
        self, other: "Value | float | range | list[int]", whole: str, floating: str = ""
    ) -> "Value":
        operation = getattr(self.builder, floating if self.element == F32 else whole)
        return Value(self.builder, operation(self.value, self.like(other).value))

    def __add__(self, other: "Value | float | range") -> "Value":
        return self._with(other, "add", "fadd")

    def __sub__(self, other: "Value | float") -> "Value":
        return self._with(other, "sub", "fsub")

    def __mul__(self, other: "Value | float") -> "Value":
        return self._with(other, "mul", "fmul")

    def __truediv__(self, other: "Value") -> "Value":
        return self._with(other, "", "fdiv")

    def __and__(self, other: "Value | int | list[int]") -> "Value":
        return self._with(other, "and_")

    def __or__(self, other: "Value | int") -> "Value":
        return self._with(other, "or_")

    def __xor__(self, other: "Value | int") -> "Value":
        return self._with(other, "xor")

    def __lshift__(self, other: "Value | int") -> "Value":
        return self._with(other, "shl")

    def __rshift__(self, other: "Value | int") -> "Value":
        return self._with(other, "lshr")

    def compare(self, how: str, other: "Value | float") -> "Value":
        """True or False; of floats False beside a NaN, of whole numbers without their sign."""
        compare = "fcmp_ordered" if self.element == F32 else "icmp_unsigned"
        compared = getattr(self.builder, compare)(how, self.value, self.like(other).value)
        return Value(self.builder, compared)

    def choose(self, yes: "Value", no: "Value") -> "Value":
        """yes where this is true, else no."""
        return Value(self.builder, self.builder.select(self.value, yes.value, no.value))

    def pick(self, numbers: list[int]) -> "Value":
        """The elements with these numbers."""
        chosen = ir.VectorType(I32, len(numbers))(numbers)
        return Value(self.builder, self.builder.shuffle_vector(self.value, self.value, chosen))

    def to(self, cast: str, element: ir.Type) -> "Value":
        """LLVM's cast of that name."""
        return Value(self.builder, getattr(self.builder, cast)(self.value, wide(element)))

    def view(self, element: ir.Type) -> "Value":
        """The same bits."""
        return self.to("bitcast", element)

    def call(self, name: str, *others: "Value") -> "Value":
        """What LLVM knows by name, of float32."""
        values = [each.value for each in (self, *others)]
        kind = ir.FunctionType(wide(F32), [wide(F32)] * len(values))
        module, name = self.builder.module, f"llvm.{name}.v{WIDE}f32"
        function = cgutils.get_or_insert_function(module, kind, name)
        return Value(self.builder, self.builder.call(function, values))


def instruction(*kinds: Any) -> Callable[[Callable[..., Value]], Any]:
    """The decorator of a code writer, to an intrinsic that gives `floats`.

    kinds: Numba's types of its arguments. A number comes as a vector of that number.
    """

    def decorate(write: Callable[..., Value]) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return write(*[as_value(builder, argument) for argument in arguments]).value

        def typed(context: Any, *arguments: Any) -> Any:
            return floats(*kinds), generate

        own = inspect.signature(typed).parameters["context"]
        parameters = [own, *inspect.signature(write).parameters.values()]
        functools.update_wrapper(typed, write)
        typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # Numba's
        return intrinsic(typed)

    return decorate


def as_value(builder: Any, argument: Any) -> Value:
    """A vector, or a number in all elements."""
    if isinstance(argument.type, ir.VectorType):
        return Value(builder, argument)
    first = builder.insert_element(wide(argument.type)(ir.Undefined), argument, I32(0))
    return Value(builder, first).pick([0] * WIDE)


# -- z ------------------------------------------------------------------------------------------


def mixed(key_0: Value, key_1: Value, index: Value) -> Value:
    """noise.words of index, index + 1, ... without the last step, which leaves their upper half."""
    x = index + range(index.value.type.count) + key_0
    x = (x ^ (x >> 16)) * noise.ROUND_1
    return ((x ^ (x >> 15)) + key_1) * noise.ROUND_2


@instruction(types.uint32, types.uint32, types.uint32)
def gaussian(key_0: Value, key_1: Value, index: Value) -> Value:
    """noise.gaussian of the elements index, index + 1, ..."""
    x = mixed(key_0, key_1, index)
    word = x ^ (x >> 16)
    total = sum_of_fields(word) + sum_of_fields(word * noise.FIELDS)
    # The last bits of a float from 64 to 128 count 2^-17 each: noise.SCALE.
    centred = (total + 0x42800000).view(F32) - (64 + noise.CENTRE * noise.SCALE)
    square = centred * centred
    z = square.like(noise.COEFFICIENTS[-1])
    for c in noise.COEFFICIENTS[-2::-1]:
        z = z * square + c
    return z * centred


def sum_of_fields(word: Value) -> Value:
    return (word & 0xFFFF) + (word >> 16)


@instruction(types.uint32, types.uint32, types.uint32)
def signs(key_0: Value, key_1: Value, index: Value) -> Value:
    """noise.rademacher of the elements index, index + 1, ...; a word is of 32."""
    key_0, key_1, index = (each.pick([0] * 8) for each in (key_0, key_1, index))
    x = mixed(key_0, key_1, index >> 5)
    word = x ^ (x >> 16)
    shift = index & 31
    following = word.pick([1, 2, 3, 4, 5, 6, 7, 0])
    bits = (word >> shift) | (following << 1 << (shift.like(31) - shift))
    of_32 = bits.pick([i // 32 for i in range(WIDE)])
    is_set = (of_32 & [1 << i % 32 for i in range(WIDE)]).compare("!=", 0)
    one = of_32.view(F32).like(1.0)
    return is_set.choose(one.like(-1.0), one)


@instruction(floats, floats, types.float32)
def small_only(z: Value, w: Value, limit: Value) -> Value:
    """z, but 0 where |w| is larger than the limit."""
    return w.call("fabs").compare(">", limit).choose(z.like(0.0), z)


@instruction(types.float32, floats)
def scaled(factor: Value, w: Value) -> Value:
    """factor w."""
    return factor * w


@instruction(floats, types.float32, floats)
def moved(w: Value, added: Value, z: Value) -> Value:
    """w + added z."""
    return w + added * z


@instruction(floats)
def squared(z: Value) -> Value:
    """z^2."""
    return z * z


@instruction(floats, floats)
def step_of(m: Value, v: Value) -> Value:
    """AdaMeZO's step of two moments."""
    return m / (v.call("sqrt") + float(FLOOR))


@instruction(types.float32)
def all_of(number: Value) -> Value:
    """The number in all elements."""
    return number


# -- storage ------------------------------------------------------------------------------------


@instruction(floats, types.uint32, types.uint32, types.uint32)
def dithered_bfloat(w: Value, salt_0: Value, salt_1: Value, index: Value) -> Value:
    """dtypes.narrow to bfloat16 of the elements index, ..., as float32."""
    bits = mixed(salt_0, salt_1, index)
    return ((w.view(I32) + (bits >> 16)) & 0xFFFF0000).view(F32)


@instruction(floats, types.uint32, types.uint32, types.uint32)
def dithered_half(w: Value, salt_0: Value, salt_1: Value, index: Value) -> Value:
    """dtypes.narrow to float16 of the elements index, ..., as float32."""
    bits = mixed(salt_0, salt_1, index)
    part = (bits >> 19).to("sitofp", F32) * 2.0**-13
    exponent = w.view(I32) & 0x7F800000
    least = exponent.like(113 << 23)
    exponent = exponent.compare(">", least).choose(exponent, least)
    ulp = (exponent - (10 << 23)).view(F32)
    per_ulp = (exponent.like(264 << 23) - exponent).view(F32)
    in_ulps = w.call("fmuladd", per_ulp, part)  # the product is exact
    return floor(in_ulps) * ulp * 2.0**112 * 2.0**-112  # infinite from 2^16 on


def floor(x: Value) -> Value:
    """The whole number below, of numbers up to 2^22 and infinite ones."""
    if HAS_FLOOR:
        return x.call("floor")
    nearest = (x + 1.5 * 2.0**23) - 1.5 * 2.0**23
    return nearest - nearest.compare(">", x).choose(x.like(1.0), x.like(0.0))


def as_it_is(w: Value) -> Value:
    return w


def from_bfloat(bits: Value) -> Value:
    return (bits.to("zext", I32) << 16).view(F32)


def to_bfloat(w: Value) -> Value:
    """The upper half of each float32, of which the lower is 0."""
    halves = ir.VectorType(I16, 2 * WIDE)
    both = Value(w.builder, w.builder.bitcast(w.value, halves))
    return both.pick(list(range(1, 2 * WIDE, 2)))


def from_half(bits: Value) -> Value:
    """float16's exponent of 5 bits is moved to that of 8; 31 to 255."""
    if HAS_HALF:
        return bits.view(F16).to("fpext", F32)
    word = bits.to("zext", I32)
    size = (word & 0x7FFF) << 13
    subnormal = (size + (113 << 23)).view(F32) - 2.0**-14
    normal = (size + (112 << 23)).view(F32)
    value = size.compare("<", 1 << 23).choose(subnormal, normal).view(I32)
    infinity = size.like(0x7F800000)  # or NaN
    special = size.compare(">=", 0x0F800000).choose(infinity, size.like(0))
    return (value | special | ((word & 0x8000) << 16)).view(F32)


def to_half(w: Value) -> Value:
    """The bits of a float32 that float16 holds: the exponent of 8 bits is moved to that of 5."""
    if HAS_HALF:
        return w.to("fptrunc", F16).view(I16)
    size = w.call("fabs")
    subnormal = (size + 0.5).view(I32) - 0x3F000000  # how often 2^-24, the last place
    normal = ((size * 2.0**-112).view(I32) >> 13) & 0x7FFF  # of 255, 31
    value = size.compare("<", 2.0**-14).choose(subnormal, normal)
    sign = (w.view(I32) >> 16) & 0x8000
    return (value | sign).to("trunc", I16)


def loader(element: ir.Type, widen: Callable[[Value], Value]) -> Any:
    """The intrinsic (raw, i, count): numbers i, i + 1, ... of an array's bytes, as float32.

    raw: any array; i, count: i64; where count, the numbers that there are, is below WIDE, 0 follows
    """

    @intrinsic
    def load(_, raw, i, count):
        def generate(context, builder, signature, arguments):
            raw, i, count = arguments
            place = pointer(context, builder, signature.args[0], raw, i, element)
            with builder.if_else(is_whole(builder, count), likely=True) as (all_, some):
                with all_:
                    whole, after_all = builder.load(place, align=1), builder.block
                with some:
                    room = cgutils.alloca_once(builder, wide(element))
                    builder.store(wide(element)([element(0)] * WIDE), room)
                    cgutils.raw_memcpy(builder, room, place, count, I64(SIZES[element]))
                    part, after_some = builder.load(room), builder.block
            found = builder.phi(wide(element))
            found.add_incoming(whole, after_all)
            found.add_incoming(part, after_some)
            return widen(Value(builder, found)).value

        return floats(raw, types.int64, types.int64), generate

    return load


def storer(element: ir.Type, narrow: Callable[[Value], Value]) -> Any:
    """The intrinsic (w, raw, i, count), the way back, of numbers that this storage holds."""

    @intrinsic
    def store(_, w, raw, i, count):
        def generate(context, builder, signature, arguments):
            w, raw, i, count = arguments
            value = narrow(Value(builder, w)).value
            place = pointer(context, builder, signature.args[1], raw, i, element)
            with builder.if_else(is_whole(builder, count), likely=True) as (all_, some):
                with all_:
                    builder.store(value, place, align=1)
                with some:
                    room = cgutils.alloca_once(builder, wide(element))
                    builder.store(value, room)
                    cgutils.raw_memcpy(builder, place, room, count, I64(SIZES[element]))
            return context.get_dummy_value()

        return types.void(floats, raw, types.int64, types.int64), generate

    return store


def pointer(context: Any, builder: Any, kind: Any, array: Any, i: Any, element: ir.Type) -> Any:
    """To elements i, i + 1, ... of an array's bytes, as a vector. kind: Numba's, of the array."""
    data = context.make_array(kind)(context, builder, array).data
    first = builder.bitcast(data, element.as_pointer())
    return builder.bitcast(builder.gep(first, [i]), wide(element).as_pointer())


def is_whole(builder: Any, count: Any) -> Any:
    return builder.icmp_signed(">=", count, I64(WIDE))


load_floats, store_floats = loader(F32, as_it_is), storer(F32, as_it_is)
load_bfloats, store_bfloats = loader(I16, from_bfloat), storer(I16, to_bfloat)
load_halves, store_halves = loader(I16, from_half), storer(I16, to_half)
