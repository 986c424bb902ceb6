"""Matrices in groups of small integers: the numbers, and files of them, sound and hostile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from folders import write_model
from in_groups import groups_of

import tinyzo
from tinyzo.checkpoints.groups import (
    GROUP,
    GROUP_TYPES,
    INT4,
    INT8,
    group_count,
    largest_code,
    quantise,
    stored_shape,
    type_tag,
    widen_groups,
)
from tinyzo.checkpoints.safetensors import SafetensorsFile, SafetensorsWriter
from tinyzo.checkpoints.sources import TensorInfo
from tinyzo.errors import CheckpointError
from tinyzo.models.model import load
from tinyzo.runs import export

types = pytest.mark.parametrize("dtype", GROUP_TYPES.values(), ids=GROUP_TYPES)
Tensors = dict[str, np.ndarray]
Change = Callable[[Tensors, dict[str, str]], None]  # of tensors and metadata


def matrix(rows: int = 5, columns: int = 150) -> np.ndarray:
    return tinyzo.noise(3, "w", (rows, columns)) * np.float32(0.02)


# -- numbers ------------------------------------------------------------------------------------


@types
def test_each_code_is_the_nearest_and_each_scale_is_of_the_largest(dtype):
    w = matrix()
    groups = quantise(w, dtype)
    assert groups.shape == (5, 3) == stored_shape(w.shape, dtype)
    most = largest_code(dtype)
    padded = np.pad(w, ((0, 0), (0, 42))).reshape(5, 3, GROUP)
    expected = (np.abs(padded).max(2) / np.float32(most)).astype(np.float16)
    assert groups["scale"].tobytes() == expected.tobytes()
    found = widen_groups(groups, 3 * GROUP).reshape(5, 3, GROUP)
    step = expected.astype(np.float64)[..., None]
    levels = found / step
    assert np.array_equal(levels, np.rint(levels)) and np.abs(levels).max() == most
    # The largest may lie beyond its code by as much as float16 rounds its scale down.
    assert (np.abs(found - padded) <= step / 2 + np.abs(padded) * 2.0**-11).all()
    assert not found[:, 2, 150 - 2 * GROUP :].any()


@types
def test_widened_numbers_are_exact(dtype):
    groups = groups_of(3, 2, dtype)
    w = widen_groups(groups, 100)
    assert w.dtype == np.float32 and w.shape == (3, 100)
    for row, column in ((0, 0), (0, 63), (1, 64), (2, 99)):
        group, place = groups[row, column // GROUP], column % GROUP
        if dtype == INT4:
            code = int(group["codes"][place // 2]) >> 4 * (place % 2) & 15
        else:
            code = int(group["codes"][place])
        exact = (code - largest_code(dtype) - 1) * Fraction(float(group["scale"]))
        assert Fraction(float(w[row, column])) == exact


@types
@pytest.mark.parametrize("value", [0.0, 1e-9, 2.5e-7, 2e5, -2e5])
def test_small_and_large_groups(dtype, value):
    """Down to nothing; where float16 has few digits, codes stay in range."""
    found = widen_groups(quantise(np.full((1, GROUP), value, np.float32), dtype), GROUP)
    assert np.abs(found - value).max() <= max(abs(value) * 2.0**-10, 2.0**-24 * 127)


BITS = ["1c66a18e2c2ea831", "ee1b604df384dc48"]


def test_the_bits_are_the_same_everywhere():
    found = [hashlib.sha256(quantise(matrix(), dtype)).hexdigest()[:16] for dtype in (INT4, INT8)]
    assert found == BITS


def test_types_have_names():
    tags = [type_tag(np.dtype(each)) for each in (INT4, INT8, "<f4", "<f2", "<u2")]
    assert tags == ["INT4", "INT8", "F32", "F16", "BF16"]


# -- files --------------------------------------------------------------------------------------


@pytest.fixture(params=["roberta", "opt"])
def family(request) -> str:
    return request.param


def converted(home: Path, family: str, kind: str = "int4") -> Path:
    if not (home / "model").exists():
        write_model(home / "model", family, "bf16")
    return export.convert(home / "model", home / kind, kind)


@pytest.mark.parametrize("kind", GROUP_TYPES)
def test_a_file_holds_what_is_made_on_the_fly(tmp_path, family, kind):
    folder = converted(tmp_path, family, kind)
    made = load(tmp_path / "model", engine="numpy", base_dtype=kind)
    for residency in ("resident", "streamed"):
        read = load(folder, engine="numpy", residency=residency)
        for name in made.weights.names():
            assert made.weights.stored(name).tobytes() == read.weights.stored(name).tobytes()
        assert read.weights.nbytes() == made.weights.nbytes()
        assert np.array_equal(made.logits([[0, 5, 2]])[0], read.logits([[0, 5, 2]])[0])


def test_the_layout(tmp_path, family):
    with SafetensorsFile(converted(tmp_path, family) / "model.safetensors") as file:
        assert file.metadata == {"format": "tinyzo.int4", "group": "64"}
        model = load(tmp_path / "model", engine="numpy")
        known: set[str] = set()
        for name in model.weights.names():
            rows, *columns = model.weights.shape(name)
            expected = TensorInfo("BF16", (rows,))
            if columns:
                groups = (rows, group_count(columns[0]))
                bits = 64 if name in model.architecture.TABLES else 32
                expected = TensorInfo("U8", (*groups, bits))
                known.add(f"{name}_scales")
                assert file.info(f"{name}_scales") == TensorInfo("F16", groups)
            assert file.info(name) == expected
            known.add(name)
        assert known == set(file.names())


def test_the_small_files_come_along(tmp_path):
    folder = converted(tmp_path, "opt")
    assert (folder / "config.json").read_text() == (tmp_path / "model/config.json").read_text()
    assert load(folder).tokenizer.encode(" great") == load(tmp_path / "model").tokenizer.encode(
        " great"
    )


# -- files that are not sound -------------------------------------------------------------------

FC1 = "model.decoder.layers.0.fc1.weight"  # [24, 16]
SCALES = f"{FC1}_scales"


def changed(home: Path, change: Change, tags: dict[str, str] | None = None) -> Path:
    """A converted folder whose tensors and metadata have been changed."""
    folder = converted(home, "opt")
    path = folder / "model.safetensors"
    with SafetensorsFile(path) as file:
        tensors = {name: file.read(name) for name in file.names()}
        types = {name: file.info(name).dtype for name in file.names()} | (tags or {})
        metadata = dict(file.metadata)
    change(tensors, metadata)
    infos = {name: TensorInfo(types.get(name, "U8"), t.shape) for name, t in tensors.items()}
    path.unlink()
    with SafetensorsWriter(path, infos, metadata) as writer:
        for name in writer.names():
            writer.write(name, tensors[name])
    return folder


def put(name: str, value: np.ndarray) -> Change:
    return lambda tensors, _: tensors.update({name: value})


def say(**metadata: str) -> Change:
    return lambda _, known: known.update(metadata)


def drop(name: str) -> Change:
    def change(tensors: Tensors, metadata: dict[str, str]) -> None:
        (tensors if name in tensors else metadata).pop(name)

    return change


CODES = np.zeros((24, 1, 32), np.uint8)
FACTORS = np.ones((24, 1), np.float16)
NO_GROUPS = r"fc1.weight: U8 .* are no groups of \[24, 16\]"
DAMAGED = {
    "too few rows": (put(FC1, CODES[:23]), NO_GROUPS),
    "too many groups": (put(FC1, np.zeros((24, 2, 32), np.uint8)), NO_GROUPS),
    "another size of group": (put(FC1, CODES[..., :16]), NO_GROUPS),
    "two axes": (put(FC1, CODES[:, 0]), NO_GROUPS),
    "scales of fewer rows": (put(SCALES, FACTORS[:23]), NO_GROUPS),
    "scales of more groups": (put(SCALES, np.ones((24, 2), np.float16)), NO_GROUPS),
    "no scales": (drop(SCALES), "it has no tensor 'model.decoder.layers.0.fc1.weight_scales'"),
    "no codes": (drop(FC1), "it has no tensor 'model.decoder.layers.0.fc1.weight'"),
    "a tensor more": (put("more", CODES), "more is no tensor of the model's"),
    "a vector in bytes": (
        put("model.decoder.layers.0.fc1.bias", np.zeros(24, np.uint8)),
        r"it has no tensor 'model.decoder.layers.0.fc1.bias_scales'",
    ),
    "an unknown format": (say(format="tinyzo.int2"), "its format is tinyzo.int2"),
    "another group": (say(group="32"), "its groups are of 32"),
    "a group without end": (say(group="9" * 99), "its groups are of 9{40}"),
    "no group": (drop("group"), "its groups are of None"),
    "no format": (say(format="pt"), "unexpected tensors: .*_scales"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused(tmp_path, change, message):
    tags = {"model.decoder.layers.0.fc1.bias": "U8"} if "bias_scales" in message else None
    folder = changed(tmp_path, change, tags)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert caught.value.hint


def test_scales_of_another_type_are_refused(tmp_path):
    folder = changed(tmp_path, put(SCALES, np.ones((24, 1), np.float32)), {SCALES: "F32"})
    with pytest.raises(CheckpointError, match=r"U8 \[24, 1, 32\] with F32 \[24, 1\] as scales"):
        load(folder)


def test_a_vector_in_groups_is_refused(tmp_path):
    bias = "model.decoder.layers.0.fc1.bias"

    def change(tensors: Tensors, _: dict[str, str]) -> None:
        tensors |= {bias: CODES, f"{bias}_scales": FACTORS}

    folder = changed(tmp_path, change, {bias: "U8", f"{bias}_scales": "F16"})
    with pytest.raises(CheckpointError, match=r"fc1.bias: U8 .* are no groups of \[24\]"):
        load(folder)


@pytest.mark.parametrize("residency", ["resident", "streamed"])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0, -0.0])
def test_a_scale_that_is_none_is_refused(tmp_path, scale, residency):
    factors = FACTORS.copy()
    factors[7] = scale
    folder = changed(tmp_path, put(SCALES, factors))
    with pytest.raises(CheckpointError, match=r"fc1.weight: the scale of a group of row 7 is"):
        load(folder, residency=residency, engine="numpy").logits([[0, 5, 2]])


def test_other_floats_than_the_vectors_are_refused(tmp_path):
    name = "model.decoder.layers.0.fc1.bias"
    folder = changed(tmp_path, put(name, np.zeros(24, np.int32)), {name: "I32"})
    with pytest.raises(CheckpointError, match=r"fc1.bias is of I32"):
        load(folder)


def test_an_index_of_shards_is_of_floats(tmp_path):
    """Only one file has metadata that say what it is; its bytes are no floats behind an index."""
    folder = converted(tmp_path, "opt")
    path = folder / "model.safetensors"
    with SafetensorsFile(path) as file:
        places = dict.fromkeys(file.names(), "a.safetensors")
    path.rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match=r"unexpected tensors: .*_scales"):
        load(folder)
