"""Stored numbers: the table of their types, exact reading, and rounding of three kinds."""

from __future__ import annotations

import numpy as np
import pytest

from tinyzo.dtypes import DTYPES, STORAGE, STORAGE_TYPES, narrow, weight_type, widen

U16, F16, F32 = np.dtype(np.uint16), np.dtype(np.float16), np.dtype(np.float32)
SIXTEEN = pytest.mark.parametrize("dtype", [U16, F16], ids=["bf16", "f16"])
ALL_BITS = np.arange(1 << 16, dtype=np.uint32) << 16  # every top half of a random word, once
SMALLEST = {U16: 2.0**-133, F16: 2.0**-24}
LARGEST = {U16: 2.0**128 - 2.0**120, F16: 65504.0}


def rounded_every_way(value: float, dtype: np.dtype) -> np.ndarray:
    """One float32 as it is rounded under each possible random word."""
    values = np.full(len(ALL_BITS), value, np.float32)
    with np.errstate(over="ignore"):
        return widen(narrow(values, dtype, ALL_BITS.copy())).astype(np.float64)


# -- the table -----------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["tag", "name", "torch"])
def test_no_two_types_are_called_the_same(column: str) -> None:
    names = [getattr(each, column) for each in STORAGE_TYPES if getattr(each, column)]
    assert len(names) == len(set(names)) >= 10


def test_names_are_of_the_width_that_they_say() -> None:
    for each in STORAGE_TYPES:
        if each.tag != "BOOL":
            digits = each.tag.removeprefix("BF").lstrip("FIUC").partition("_")[0]
            assert int(digits) == 8 * each.dtype.itemsize, each
        if each.name not in ("", "bfloat16"):
            assert np.dtype(each.name) == each.dtype
    assert STORAGE["F16"] == np.float16 and STORAGE["BF16"] == np.uint16


def test_weights_have_three_types() -> None:
    assert DTYPES == {"f16": F16, "bf16": U16, "f32": F32}
    names = [(weight_type(dtype).tag, weight_type(dtype).name) for dtype in (F32, F16, U16)]
    assert names == [("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16")]


# -- widen, narrow -------------------------------------------------------------------------


def test_widen_is_exact_for_every_bfloat16() -> None:
    raw = np.arange(1 << 16, dtype=np.uint16)
    assert np.array_equal(widen(raw).view(np.uint32), raw.astype(np.uint32) << 16)


def test_widen_is_exact_for_every_float16() -> None:
    raw = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    assert np.array_equal(widen(raw), raw.astype(np.float32), equal_nan=True)


def test_float32_passes_through_both_as_it_is() -> None:
    w = np.float32([1.0, np.pi])
    assert widen(w) is w and narrow(w, F32, None) is w


def every_finite(dtype: np.dtype) -> np.ndarray:
    raw: np.ndarray = np.arange(1 << 16, dtype=np.uint16)
    if dtype == F16:
        raw = raw.view(np.float16)
    return raw[np.isfinite(widen(raw))]


@SIXTEEN
@pytest.mark.parametrize("bits", [None, 0, 2**32 - 1])
def test_values_that_storage_holds_stay(dtype: np.dtype, bits: int | None) -> None:
    raw = every_finite(dtype)
    word = None if bits is None else np.full(len(raw), bits, np.uint32)
    assert np.array_equal(widen(narrow(widen(raw), dtype, word)), widen(raw))


@SIXTEEN
@pytest.mark.parametrize("sign", [1, -1])
def test_rounding_takes_the_two_neighbours_and_keeps_the_mean(dtype: np.dtype, sign: int) -> None:
    grid = widen(every_finite(dtype))
    grid = np.unique(grid[grid >= 0])
    random = np.random.RandomState(0)
    lower = np.r_[0, 1, 2, 1023, 1024, random.randint(3, len(grid) - 1, 40), len(grid) - 2]
    for below, above in zip(grid[lower], grid[lower + 1], strict=True):
        value = sign * np.float32(below + (above - below) * random.choice([0.5, 0.25, 0.7]))
        found = rounded_every_way(value, dtype)
        assert set(found) <= {sign * float(below), sign * float(above)}
        # The random field has 13 bits (f16) or 16 (bf16), as many as float32 has to spare: exact
        # for normal numbers, within one part of the field of a step for subnormal ones.
        step = float(above) - float(below)
        bound = step * 2.0**-13 if above <= 2.0**-14 and dtype == F16 else 0.0
        assert abs(found.mean() - float(value)) <= bound


@SIXTEEN
def test_nearest_is_nearest_with_ties_to_even(dtype: np.dtype) -> None:
    step = {U16: 2.0**-7, F16: 2.0**-10}[dtype]
    values = np.float32([1 + 0.5 * step, 1 + 1.5 * step, 1 + 0.49 * step, -1 - 0.51 * step])
    expected = [1, 1 + 2 * step, 1, -1 - step]
    assert widen(narrow(values, dtype, None)).tolist() == expected


@SIXTEEN
def test_the_corners_of_the_range(dtype: np.dtype) -> None:
    for value in (0.0, 1.0, -0.25, SMALLEST[dtype], LARGEST[dtype], -LARGEST[dtype]):
        assert set(rounded_every_way(value, dtype)) == {value}
    below = np.nextafter(np.float32(LARGEST[dtype]), np.float32(0))
    assert np.isfinite(rounded_every_way(below, dtype)).all()
    assert set(rounded_every_way(SMALLEST[dtype] / 2, dtype)) == {0.0, SMALLEST[dtype]}
