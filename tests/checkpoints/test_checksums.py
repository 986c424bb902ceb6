"""Checksums of rows: in the file, of all that is read, and what they notice."""

from __future__ import annotations

import numpy as np
import pytest

from tinyzo.checkpoints.checksums import LINE, PIECE, TENSOR, Checksums, pieces, row_sums
from tinyzo.checkpoints.safetensors import SafetensorsWriter, open_safetensors
from tinyzo.checkpoints.sources import TensorInfo
from tinyzo.dtypes import STORAGE
from tinyzo.errors import CheckpointError

SHAPES = {
    "matrix": ("F32", (7, 16)),
    "odd": ("BF16", (9, 13)),  # rows of 26 bytes
    "bytes": ("F16", (300, 4, 500)),  # in several pieces
    "line": ("F32", (LINE + 100,)),
    "short": ("F32", (5,)),
    "scalar": ("F32", ()),
    "empty": ("F32", (0, 3)),
    "hollow": ("F32", (3, 0)),
}


@pytest.fixture(scope="module")
def tensors():
    random = np.random.RandomState(0)
    return {
        name: random.randint(0, 60_000, shape).astype(STORAGE[dtype])
        if shape
        else np.array(3, STORAGE[dtype])
        for name, (dtype, shape) in SHAPES.items()
    }


@pytest.fixture(scope="module")
def path(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("checked") / "w.safetensors"
    infos = {name: TensorInfo(*what) for name, what in SHAPES.items()}
    table = Checksums(infos)
    with SafetensorsWriter(path, infos | {TENSOR: table.info}) as writer:
        assert writer.names()[-1] == TENSOR
        for name in writer.names()[:-1]:
            parts = np.split(tensors[name], [LINE if name == "line" else 2]) if (
                tensors[name].size > 5) else [tensors[name]]  # fmt: skip
            for part in parts:
                table.make(name, part)
                writer.write(name, part)
        writer.write(TENSOR, table.table)
    return path


def test_the_sum_of_the_words():
    rows = np.array([[1, 2, 3, 2**31], [0, 0, 0, 0]], "<u4")
    assert row_sums(rows).tolist() == [(2 << 32) + 1 + (2**31 << 32) + 3, 0]
    assert row_sums(np.array([[1, 2, 65535]], "<u2")).tolist() == [65538]
    assert row_sums(np.full((1, 2), 2**64 - 1, "<u8")).tolist() == [2**64 - 2]  # mod 2^64


def test_what_is_written_is_read(path, tensors):
    with open_safetensors(path) as file:
        assert sorted(file.names()) == sorted(SHAPES)  # the checksums are no tensor of the model
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(file.read(name), tensor)
        for name, start, count in (("bytes", 150, 149), ("odd", 8, 1), ("line", LINE, 100),
                                   ("line", 5, LINE), ("line", 0, LINE + 1)):  # fmt: skip
            out = np.empty((count, *tensors[name].shape[1:]), tensors[name].dtype)
            file.read_into(name, out, start)
            np.testing.assert_array_equal(out, tensors[name][start : start + count])


def test_other_readers_read_it(path, tensors):
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(path, "np") as file:
        assert set(file.keys()) == {*SHAPES, TENSOR}
        np.testing.assert_array_equal(file.get_tensor("matrix"), tensors["matrix"])


def damage(path, tmp_path, name, element, bit):
    """A copy with one bit of one element flipped."""
    with open_safetensors(path) as file:
        place = file._tensors[name]
    data = bytearray(path.read_bytes())
    data[place.start + element * STORAGE[place.info.dtype].itemsize + bit // 8] ^= 1 << bit % 8
    copy = tmp_path / "damaged.safetensors"
    copy.write_bytes(data)
    return copy


@pytest.mark.parametrize(
    ("name", "element", "row"),
    [
        ("matrix", 0, 0),
        ("matrix", 111, 6),
        ("odd", 14, 1),
        ("bytes", 250 * 2000, 250),
        ("line", LINE - 1, 0),
        ("line", LINE, LINE),
        ("short", 4, 0),
        ("scalar", 0, 0),
    ],
)
@pytest.mark.parametrize("bit", range(16))
def test_a_flipped_bit_is_noticed_and_named(path, tmp_path, name, element, row, bit):
    with open_safetensors(damage(path, tmp_path, name, element, bit)) as file:
        with pytest.raises(CheckpointError, match=f"'{name}' is damaged at row {row}: its") as e:
            file.read(name)
        assert "damaged.safetensors" in e.value.message
        assert e.value.hint == "a run goes on without it by finetune --resume"
        for other in set(SHAPES) - {name}:
            file.read(other)


def test_only_what_is_read_counts(path, tmp_path, tensors):
    with open_safetensors(damage(path, tmp_path, "matrix", 3 * 16, 7)) as file:
        out = np.empty((3, 16), "<f4")
        file.read_into("matrix", out, 4)
        np.testing.assert_array_equal(out, tensors["matrix"][4:])
        with pytest.raises(CheckpointError, match="at row 3"):
            file.read_into("matrix", out, 1)


@pytest.mark.parametrize("shape", [(1, 8), (400, 8), (8,)])
def test_a_table_of_another_size_is_refused(tmp_path, shape):
    path = tmp_path / "w.safetensors"
    infos = {"w": TensorInfo("F32", (4, 4)), TENSOR: TensorInfo("U8", shape)}
    with SafetensorsWriter(path, infos) as writer:
        writer.write("w", np.zeros((4, 4), "<f4"))
        writer.write(TENSOR, np.zeros(shape, np.uint8))
    with pytest.raises(CheckpointError, match=rf"{TENSOR} is .*, not .*shape=\(4, 8\)"):
        open_safetensors(path)


def test_pieces_are_all_rows_once():
    rows = np.arange(3 * PIECE // 4, dtype="<f4").reshape(-1, 64)
    parts = list(pieces(rows))
    assert len(parts) == 3 and [at for at, _ in parts] == [0, 2048, 4096]
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), rows)
