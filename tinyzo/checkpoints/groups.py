"""Matrices of small integers, 64 in a row with a scale of their own: in memory, and in a file.

    w = (code - zero) * scale           exact in float32
    scale = max |w| / 7 or 127          of a group, as float16

A code has 4 or 8 bits, without a sign; `zero` is the middle of its range. The last group of a row
is filled up with zeros. An element of an array of groups is a group: [R, K] is groups[R, K / 64].

A file has codes and scales apart, as ONNX Runtime's MatMulNBits reads them:

    <name>          U8 [R, K / 64, 32 or 64]    of two 4-bit codes in a byte, the first is the lower
    <name>_scales   F16 [R, K / 64]

Its metadata has `format`, "tinyzo.int4" or "tinyzo.int8", which transformers refuses, and `group`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tinyzo.checkpoints.directory import check_shape
from tinyzo.checkpoints.safetensors import SafetensorsFile
from tinyzo.checkpoints.sources import Source, TensorInfo
from tinyzo.dtypes import Array, weight_type
from tinyzo.errors import refuse

GROUP = 64
INT4 = np.dtype([("scale", "<f2"), ("codes", "u1", (GROUP // 2,))])
INT8 = np.dtype([("scale", "<f2"), ("codes", "u1", (GROUP,))])
GROUP_TYPES = {"int4": INT4, "int8": INT8}
FORMAT = "tinyzo."
INFINITE = 0x7C00  # of float16; what is above it is NaN, or negative
DAMAGED = "convert the model again"


def group_count(columns: int) -> int:
    return -(-columns // GROUP)


def stored_shape(shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, ...]:
    """The shape of the array that holds a tensor of this one."""
    return (shape[0], group_count(shape[1])) if is_grouped(dtype) else shape


def is_grouped(dtype: np.dtype) -> bool:
    return dtype in (INT4, INT8)


def type_tag(dtype: np.dtype) -> str:
    """What a type of weights is called: INT4, INT8, or a float's tag in a safetensors header."""
    for name, each in GROUP_TYPES.items():
        if dtype == each:
            return name.upper()
    return weight_type(dtype).tag


# -- numbers -----------------------------------------------------------------------------------


def largest_code(dtype: np.dtype) -> int:
    """7 or 127; the code of 0 is one more."""
    return 7 if dtype == INT4 else 127


def quantise(w: Array, dtype: np.dtype) -> np.ndarray:
    """Each element to the nearest code. w: f32[R, K]; returns groups[R, K / 64].

    The bits are the same on every machine. A scale is infinite or NaN where a weight is, or is
    too large.
    """
    rows, columns = w.shape
    padded = np.pad(w, ((0, 0), (0, -columns % GROUP))).reshape(rows, -1, GROUP)
    most = largest_code(dtype)
    groups = np.empty(padded.shape[:2], dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        groups["scale"] = np.abs(padded).max(axis=2) / np.float32(most)
        step = groups["scale"].astype(np.float32)[..., None]
        step[step == 0] = np.inf
        codes = np.clip(np.rint(padded / step), -most, most) + np.float32(most + 1)
        codes = codes.astype(np.uint8)
    groups["codes"] = codes[..., ::2] | codes[..., 1::2] << 4 if dtype == INT4 else codes
    return groups


def widen_groups(groups: np.ndarray, columns: int) -> Array:
    """The numbers that codes and scales stand for, exactly: f32[R, columns]."""
    codes = groups["codes"]
    if groups.dtype == INT4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1)
    w = codes.reshape(*groups.shape, GROUP).astype(np.float32)
    w -= np.float32(largest_code(groups.dtype) + 1)
    w *= groups["scale"].astype(np.float32)[..., None]
    return w.reshape(len(groups), -1)[:, :columns]


def check_scales(what: object, scales: np.ndarray, hint: str) -> None:
    """raises: CheckpointError for a scale that is negative, infinite or no number"""
    wrong = np.ascontiguousarray(scales).view(np.uint16) >= INFINITE
    if wrong.any():
        row = int(np.flatnonzero(wrong.any(axis=1))[0])
        refuse(what, f"the scale of a group of row {row} is {scales[wrong][0]}", hint)


# -- files -------------------------------------------------------------------------------------


class Part(NamedTuple):
    """A tensor in a file that is one field of a matrix in groups."""

    matrix: str
    field: str


def parts_of(name: str) -> dict[str, Part]:
    """The tensors of a matrix in groups, by their names in the file."""
    return {name: Part(name, "codes"), scales_of(name): Part(name, "scale")}


def scales_of(name: str) -> str:
    return f"{name}_scales"


def infos_of_groups(shape: tuple[int, ...], dtype: np.dtype) -> tuple[TensorInfo, TensorInfo]:
    """The codes and the scales of a matrix, as the file describes them."""
    rows, columns = shape
    groups = rows, group_count(columns)
    return TensorInfo("U8", (*groups, *dtype["codes"].shape)), TensorInfo("F16", groups)


def metadata_of(kind: str) -> dict[str, str]:
    return {"format": FORMAT + kind, "group": str(GROUP)}


def kind_of(source: Source) -> str | None:
    """What a file of groups is in, "int4" or "int8"; None of any other file.

    raises: CheckpointError when it has others than are known here
    """
    metadata = source.metadata if isinstance(source, SafetensorsFile) else {}
    stated = metadata.get("format", "")
    if not stated.startswith(FORMAT):
        return None
    kind = stated.removeprefix(FORMAT)
    if kind not in GROUP_TYPES:
        refuse(source.path, f"its format is {stated:.40}", f"known: {', '.join(GROUP_TYPES)}")
    group = metadata.get("group")
    if group != str(GROUP):
        refuse(source.path, f"its groups are of {group!s:.40}", f"only those of {GROUP} are read")
    return kind


def groups_in(source: Source, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.dtype]:
    """The types of the matrices that a file of groups has as such.

    shapes: of every parameter of the model
    raises: CheckpointError for tensors that are missing, unexpected or misshapen, by name
    """
    left = set(source.names())
    found: dict[str, np.dtype] = {}
    for name, shape in shapes.items():
        if source.info(name).dtype == "U8":
            found[name] = _type_of(source, name, shape)
            left.remove(scales_of(name))
        else:
            check_shape(source, name, shape)
        left.remove(name)
    if left:
        refuse(source.path, f"{min(left):.80} is no tensor of the model's", DAMAGED)
    return found


def _type_of(source: Source, name: str, shape: tuple[int, ...]) -> np.dtype:
    """The type of the groups that a matrix is in."""
    codes = source.info(name)
    scales = source.info(scales_of(name))
    for dtype in GROUP_TYPES.values():
        if len(shape) == 2 and infos_of_groups(shape, dtype) == (codes, scales):
            return dtype
    found = f"U8 {list(codes.shape)} with {scales.dtype} {list(scales.shape)} as scales"
    refuse(f"{source.path}: {name:.80}", f"{found} are no groups of {list(shape)}", DAMAGED)
