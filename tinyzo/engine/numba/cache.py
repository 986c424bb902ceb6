"""Numba's side of the kernels that are kept: what it looks up, and objects of what it compiled.

An object is written in two steps: first one that is not to be called. It becomes one that is when
a process has called it and got Numba's own results, bit by bit; if that process dies of it, no
other one calls it.
"""

import functools
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target
from numba.core.serialize import dumps
from numba.np.numpy_support import as_dtype

from tinyzo.engine.numba import files, loader, objects
from tinyzo.engine.numba.loader import LoadError
from tinyzo.engine.numba.vectors import FEATURES, I64, TILE, cpu_features
from tinyzo.packages import in_a_line, say_once

CONFIG: Any = numba.config
RESHAPE = "numba_attempt_nocopy_reshape"  # a function in C that Numba's reshape calls
LETTERS = {types.int64: "i", types.boolean: "b", types.float64: "d", types.float32: "f"}
UNTRIED = "it was never tried to the end"

compiled: dict[str, tuple[str, Any]] = {}  # by this process: name, its signature's file and result


class KernelCache(NullCache):
    """Where Numba looks for a kernel before it compiles it, and puts it afterwards."""

    reads = True

    def __init__(self, name: str) -> None:
        self.name = name

    def file(self, signature: object) -> str:
        """The name of the file of the kernel for arguments of these types."""
        return f"{self.name}-{files.digest(str(signature))}.kernel"

    def load_overload(self, sig: object, target_context: Any) -> Any:
        """The compiled kernel for arguments of these types, or None."""
        target_context.refresh()
        if not self.reads:
            return None
        for folder in files.folders():
            path = folder / self.file(sig)
            data, fault = files.read(path)
            try:
                if not fault:
                    return CompileResult._rebuild(target_context, *pickle.loads(data))
            except Exception as error:
                say_once(f"{path} cannot be loaded ({in_a_line(error)}): compiled anew")
        return None

    def save_overload(self, sig: object, data: Any) -> None:
        """Keep a compiled kernel, where it can be kept."""
        compiled[self.name] = (self.file(sig), data)
        folder, _ = files.choose_folder()
        if folder is None:
            return
        try:
            files.write(folder / self.file(sig), dumps(data._reduce()))
        except Exception as error:
            say_once(f"{folder} cannot keep kernels ({in_a_line(error)}): compiled anew next time")


def kept(kernel: Any) -> Any:
    """The decorator of a kernel that is kept with all that it calls."""
    kernel._cache = KernelCache(kernel.__name__)
    return kernel


# -- objects -----------------------------------------------------------------------------------


def build_here() -> objects.Build:
    """What this process compiles for."""
    features = cpu_features()
    has = tuple(feature for feature in FEATURES if feature in features)
    return objects.Build(TILE.lanes, TILE.rows, TILE.width, TILE.bf16, TILE.matrix, has)


def kinds_of(signature: Iterable[Any]) -> list[Any]:
    """The kinds of arguments of a kernel, as `objects.in_words` has them.

    raises: LoadError for types that are not passed to an object
    """
    kinds: list[Any] = []
    for each in signature:
        if isinstance(each, types.Array) and each.layout == "C" and each.mutable and each.aligned:
            kinds.append((as_dtype(each.dtype), each.ndim))
        elif hasattr(each, "types"):  # of a tuple's items
            kinds += kinds_of(each.types)
        elif each in LETTERS:
            kinds.append(LETTERS[each])
        else:
            raise LoadError(f"arguments of type {each} are for Numba")
    return kinds


def object_of(result: Any) -> objects.Object:
    """The object of a kernel that Numba compiled. raises: LoadError where none can be had"""
    code = result.library._get_compiled_object()
    helpers = [reshape()] if RESHAPE.encode() in code else []
    kinds = tuple(kinds_of(result.signature.args))
    entry = result.fndesc.llvm_func_name
    return objects.Object(code, entry, gate_to(result), kinds, helpers, build_here(), "")


def gate_to(result: Any) -> bytes:
    """An object with the function `gate`, which calls a kernel with words that lie in memory."""
    context = cpu_target.target_context
    kernel_type = context.call_conv.get_function_type(types.none, result.signature.args)
    module = ir.Module(objects.GATE)
    module.triple = llvm.get_process_triple()
    gate_type = ir.FunctionType(ir.IntType(32), [I64.as_pointer()])
    gate = ir.Function(module, gate_type, objects.GATE)
    gate.attributes.add("nounwind")  # else it would come with tables for C++'s exceptions
    (words,) = gate.args
    builder = ir.IRBuilder(gate.append_basic_block())
    returned, raised, *others = kernel_type.args
    places = [builder.alloca(place.pointee) for place in (returned, raised)]
    given = [
        from_word(builder, builder.load(builder.gep(words, [I64(i)])), kind)
        for i, kind in enumerate(others)
    ]
    kernel = ir.Function(module, kernel_type, result.fndesc.llvm_func_name)
    builder.ret(builder.call(kernel, places + given))
    compiled = llvm.parse_assembly(str(module))
    target = llvm.Target.from_triple(module.triple)
    machine = target.create_target_machine(reloc="pic", codemodel="small")
    return machine.emit_object(compiled)


def from_word(builder: Any, word: Any, kind: Any) -> Any:
    """An argument of any type of LLVM's, from the 64 bits that it lies in."""
    if isinstance(kind, ir.PointerType):
        return builder.inttoptr(word, kind)
    if isinstance(kind, ir.FloatType):
        return builder.bitcast(builder.trunc(word, ir.IntType(32)), kind)
    if isinstance(kind, ir.DoubleType):
        return builder.bitcast(word, kind)
    return word if kind == I64 else builder.trunc(word, kind)


def contiguous_reshape(
    n: int,
    shape: Any,
    strides: Any,
    n_new: int,
    new_shape: Any,
    new_strides: Any,
    itemsize: int,
    is_fortran: int,
) -> int:
    """Numba's function in C of that purpose, for arrays that need no copy: 1, or 0 for others."""
    size = itemsize
    for i in range(n - 1, -1, -1):
        if shape[i] != 1 and strides[i] != size:
            return 0
        size *= shape[i]
    size = itemsize
    for i in range(n_new - 1, -1, -1):
        new_strides[i] = size
        size *= new_shape[i]
    return 0 if is_fortran else 1


@functools.cache
def reshape() -> tuple[str, bytes, str]:
    """The name of a function that kernels call, an object that has it, and its name there."""
    number, numbers = types.intp, types.CPointer(types.intp)
    of_new = (number, numbers, numbers, number, types.int32)
    compiled: Any = numba.cfunc(types.int32(number, numbers, numbers, *of_new))(contiguous_reshape)
    return RESHAPE, compiled._library._get_compiled_object(), compiled._wrapper_name


def make_objects(results: Callable[[], list[bytes]]) -> None:
    """Compile the kernels that `results` calls, and keep objects of those that give the same."""
    objects.known.update({name: {} for name in files.KERNELS})
    KernelCache.reads = False
    expected = results()
    KernelCache.reads = True
    if loader.why_not():
        return
    for file, _ in compiled.values():
        keep(file, refusal(UNTRIED))
    for name, (file, result) in compiled.items():
        try:
            made = object_of(result)
            objects.known[name] = {made.kinds: made.load()}
            if results() != expected:
                raise LoadError("it computes other numbers than Numba")
        except LoadError as error:
            objects.known[name] = {}
            made = refusal(str(error))
        keep(file, made)


def refusal(why_not: str) -> objects.Object:
    """What stands in the place of an object that is not to be called."""
    return objects.Object(b"", "", b"", (), [], build_here(), why_not)


def keep(file: str, made: objects.Object) -> None:
    """Write an object beside the kernel's own file."""
    folder, _ = files.choose_folder()
    if folder is not None:
        files.write((folder / file).with_suffix(".object"), made.to_bytes())
