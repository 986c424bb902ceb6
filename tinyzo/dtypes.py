"""The types in which numbers are stored, in one table, and the ways between them and float32.

NumPy knows neither bfloat16 nor float8, so those are held as unsigned integers of their width.
bfloat16 is the upper half of a float32: its bits, as uint16, are what weights hold and what
kernels read.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Integers = NDArray[np.int64]
Rows = Integers | None  # some tokens of a batch, or rows of a table; None: all


class StorageType(NamedTuple):
    """One type of stored numbers.

    tag:   its name in a safetensors header
    dtype: how NumPy holds it, little-endian
    name:  what transformers, PyTorch and config.json call it; "" where they have no name
    torch: the storage class that a pytorch_model.bin names; "" where it cannot be one
    """

    tag: str
    dtype: np.dtype
    name: str = ""
    torch: str = ""


# In the order of the safetensors crate's `Dtype`, by which it sorts a file. Its types below one
# byte are left out.
STORAGE_TYPES = (
    StorageType("BOOL", np.dtype("?"), "bool", "BoolStorage"),
    StorageType("U8", np.dtype("u1"), "uint8", "ByteStorage"),
    StorageType("I8", np.dtype("i1"), "int8", "CharStorage"),
    StorageType("F8_E5M2", np.dtype("u1")),
    StorageType("F8_E4M3", np.dtype("u1")),
    StorageType("F8_E8M0", np.dtype("u1")),
    StorageType("F8_E4M3FNUZ", np.dtype("u1")),
    StorageType("F8_E5M2FNUZ", np.dtype("u1")),
    StorageType("I16", np.dtype("<i2"), "int16", "ShortStorage"),
    StorageType("U16", np.dtype("<u2")),
    StorageType("F16", np.dtype("<f2"), "float16", "HalfStorage"),
    StorageType("BF16", np.dtype("<u2"), "bfloat16", "BFloat16Storage"),
    StorageType("I32", np.dtype("<i4"), "int32", "IntStorage"),
    StorageType("U32", np.dtype("<u4")),
    StorageType("F32", np.dtype("<f4"), "float32", "FloatStorage"),
    StorageType("C64", np.dtype("<c8")),
    StorageType("F64", np.dtype("<f8"), "float64", "DoubleStorage"),
    StorageType("I64", np.dtype("<i8"), "int64", "LongStorage"),
    StorageType("U64", np.dtype("<u8")),
)
STORAGE: dict[str, np.dtype] = {each.tag: each.dtype for each in STORAGE_TYPES}

# The types that weights may be held in, by what --dtype calls them.
WEIGHT_TYPES: dict[str, StorageType] = {
    each.tag.lower(): each for each in STORAGE_TYPES if each.tag in ("F32", "F16", "BF16")
}
DTYPES: dict[str, np.dtype] = {option: each.dtype for option, each in WEIGHT_TYPES.items()}
_WEIGHT_TYPE_OF = {each.dtype: each for each in WEIGHT_TYPES.values()}


def weight_type(dtype: np.dtype) -> StorageType:
    """The type of weights that NumPy holds as `dtype`: float32, float16, or bfloat16 for uint16."""
    return _WEIGHT_TYPE_OF[dtype]


def widen(raw: np.ndarray) -> Array:
    """Stored weights as float32, exactly. A float32 array comes back as it is, not as a copy."""
    if raw.dtype == np.uint16:
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32, copy=False)


def narrow(values: Array, dtype: np.dtype, bits: np.ndarray | None) -> np.ndarray:
    """float32 as stored weights: at random to one of the two neighbours, so the mean is kept.

    bits: u32, a random word for each element; None rounds to nearest
    returns: an array of `dtype`; float32 comes back as it is
    """
    if dtype == np.float32:
        return values
    if dtype == np.uint16:
        return _to_bfloat16(values, bits)
    if bits is None:
        return values.astype(np.float16)
    return _dithered_to_float16(values, bits)


def _to_bfloat16(values: Array, bits: np.ndarray | None) -> np.ndarray:
    """The upper half of a float32, once a carry has been added to the lower half."""
    word = values.view(np.uint32)
    # Without bits to nearest: by half a unit, and a little less where a tie is even already.
    carry = 0x7FFF + ((word >> 16) & 1) if bits is None else bits >> 16
    return ((word + carry) >> 16).astype(np.uint16)


def _dithered_to_float16(values: Array, bits: np.ndarray) -> np.ndarray:
    """Down to a multiple of a unit in float16's last place, once a random part of one is added."""
    exponent = values.view(np.uint32) & np.uint32(0x7F800000)
    # The unit is 2^-10 of the power of two; of subnormals it is a fixed 2^-24.
    unit = (np.maximum(exponent, 113 << 23) - np.uint32(10 << 23)).view(np.float32)
    dither = (bits >> 19).astype(np.float32) * np.float32(2.0**-13)
    return (np.floor(values / unit + dither) * unit).astype(np.float16)
