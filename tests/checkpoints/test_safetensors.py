"""Our safetensors against the crate's: each reads what the other writes, and refuses the same."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import struct
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import hostile
import numpy as np
import pytest
from hostile import entry
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzo import system
from tinyzo.checkpoints.safetensors import SafetensorsWriter, open_safetensors
from tinyzo.checkpoints.sources import Source, TensorInfo
from tinyzo.dtypes import STORAGE
from tinyzo.errors import CheckpointError, ShapeError, TinyzoError
from tinyzo.parsing import MAX_BYTES

# Older crates know fewer types.
safetensors = pytest.importorskip("safetensors", "0.8", reason="the crate, to compare with")

Tensors = Mapping[str, tuple[str, np.ndarray]]  # type, values in its storage type
Read = tuple[str, tuple[int, ...], bytes]  # type, shape, bytes

NAMES = {  # what the crate's `serialize` calls the types
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "I16": "int16", "U16": "uint16", "F16": "float16",
    "BF16": "bfloat16", "I32": "int32", "U32": "uint32", "F32": "float32", "C64": "complex64",
    "F64": "float64", "I64": "int64", "U64": "uint64",
}  # fmt: skip
SHAPES = [(), (0,), (5,), (2, 3), (4, 0, 2), (3, 2, 2)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def some_tensors() -> Tensors:
    """One tensor of each type and shape: {name: (type, array in its storage type)}."""
    rng, tensors = np.random.default_rng(0), {}
    for dtype, storage in STORAGE.items():
        for shape in SHAPES:
            count = int(np.prod(shape)) * storage.itemsize
            raw = rng.integers(0, 2, count, dtype=np.uint8) if dtype == "BOOL" else rng.bytes(count)
            tensors[f"{dtype}.é\n{shape}"] = (dtype, np.frombuffer(raw, storage).reshape(shape))
    return dict(sorted(tensors.items(), key=lambda _: rng.random()))


def written_by_crate(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    if hasattr(safetensors, "TensorSpec"):
        specs = {
            name: safetensors.TensorSpec(
                dtype=NAMES[dtype], shape=a.shape, data_ptr=a.ctypes.data, data_len=a.nbytes
            )
            for name, (dtype, a) in tensors.items()
        }
    else:
        specs = {
            name: {"dtype": NAMES[dtype], "shape": a.shape, "data": a.tobytes()}
            for name, (dtype, a) in tensors.items()
        }
    return bytes(safetensors.serialize(specs, metadata))


def read_by_crate(data: bytes) -> dict[str, Read] | None:
    """{name: (type, shape, bytes)}, or None when the crate refuses the file."""
    try:
        found = safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return None
    return {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in found}


def read_by_us(path: Path) -> dict[str, Read]:
    with open_safetensors(path) as source:
        return {name: (*source.info(name), source.read(name).tobytes()) for name in source.names()}


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    infos = {name: TensorInfo(dtype, array.shape) for name, (dtype, array) in tensors.items()}
    with SafetensorsWriter(path, infos, metadata) as writer:
        for name in writer.names():
            writer.write(name, tensors[name][1])


def refused(path: Path, data: bytes, message: str) -> CheckpointError:
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        open_safetensors(path).close()
    assert str(path) in caught.value.message
    assert message in caught.value.message
    assert caught.value.hint
    return caught.value


# --- both ways ---


@pytest.mark.parametrize("metadata", [None, {}, {"é\n\u2028\x7f": '"\\\x1f😀'}])
def test_a_file_of_ours_is_the_file_of_the_crate(
    path: Path, metadata: dict[str, str] | None
) -> None:
    tensors = some_tensors()
    write(path, tensors, metadata)
    assert path.read_bytes() == written_by_crate(tensors, metadata)
    expected = {name: (dtype, a.shape, a.tobytes()) for name, (dtype, a) in tensors.items()}
    assert read_by_crate(path.read_bytes()) == expected
    assert read_by_us(path) == expected
    with open_safetensors(path) as source:
        assert source.metadata == (metadata or {})


def test_names_come_in_the_order_of_the_bytes_not_of_the_header(path: Path) -> None:
    header = {
        "last": entry("U8", [1], [5, 6]),
        "empty": entry("I64", [0], [4, 4]),
        "first": entry("F32", [], [0, 4]),
        "middle": entry("U8", [1], [4, 5]),
    }
    path.write_bytes(hostile.safetensors(header, b"\0\0\x80?\7\x08"))
    with open_safetensors(path) as source:
        assert source.names() == ["first", "empty", "middle", "last"]
        assert source.read("first") == np.float32(1)
        assert [*source.read("middle"), *source.read("last")] == [7, 8]


# --- what is refused ---

GOOD = {"a": entry()}
EIGHT = b"12345678"


def one(
    dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any
) -> dict[str, Any]:
    return {"a": {**entry(dtype, shape, offsets), **more}}


def lacking(field: str) -> dict[str, Any]:
    return {"a": {key: value for key, value in entry().items() if key != field}}


def text(**fields: str) -> bytes:
    """A header whose fields are given as JSON text."""
    given = {"dtype": '"F32"', "shape": "[2]", "data_offsets": "[0,8]", **fields}
    return ('{"a":{' + ",".join(f'"{k}":{v}' for k, v in given.items()) + "}}").encode()


SHAPE, OFFSETS, JSON = "an impossible shape", "impossible data_offsets", "its JSON is malformed"
FIELDS = "'a' has other fields than dtype, shape and data_offsets"
BAD = [
    (b"", EIGHT, JSON),
    (b"[]", b"", "it does not start with '{'"),
    (b"null", b"", JSON),
    (b"{", b"", JSON),
    (b"{}\0", b"", JSON),
    (b"{}{}", b"", JSON),
    (b"\xef\xbb\xbf{}", b"", JSON),
    (b'{"a\xff":1}', b"", "'utf-8' codec can't decode"),
    (b'{"\xed\xa0\x80":1}', b"", "'utf-8' codec can't decode"),
    (b'{"__metadata__":{"a":"\\ud800"}}', b"", "surrogates not allowed"),
    (b'{"\\udc00\\ud800":' + text()[5:], EIGHT, "surrogates not allowed"),
    (b'{"a\nb":' + text()[5:], EIGHT, JSON),
    (b"[" * 100_000, b"", JSON),
    (b'{"a":' * 100_000, b"", JSON),
    (text(shape="[" * 50_000 + "]" * 50_000), EIGHT, JSON),
    ({"a": None}, EIGHT, FIELDS),
    ({"a": 1}, EIGHT, FIELDS),
    ({"a": {}}, EIGHT, FIELDS),
    (lacking("dtype"), EIGHT, FIELDS),
    (lacking("shape"), EIGHT, FIELDS),
    (lacking("data_offsets"), EIGHT, FIELDS),
    (one("F33"), EIGHT, "'a' is of the unknown type F33"),
    (one("f32"), EIGHT, "'a' is of the unknown type f32"),
    (one(None), EIGHT, "'a' is of the unknown type NoneType"),
    (one({}), EIGHT, "'a' is of the unknown type dict"),
    (one(shape=None), EIGHT, SHAPE),
    (one(shape=2), EIGHT, SHAPE),
    (one(shape="2"), EIGHT, SHAPE),
    (one(shape=["2"]), EIGHT, SHAPE),
    (one(shape=[True, 2]), EIGHT, SHAPE),
    (one(shape=[[2]]), EIGHT, SHAPE),
    (one(shape=[2.0]), EIGHT, "2.0 is not a natural number"),
    (one(shape=[-2]), EIGHT, "-2 is not a natural number"),
    (text(shape="[-0,2]", data_offsets="[0,0]"), b"", "-0 is not a natural number"),
    (text(shape="[2e0]"), EIGHT, "2e0 is not a natural number"),
    (text(shape="[NaN]"), EIGHT, "NaN is not a natural number"),
    (text(shape="[Infinity]"), EIGHT, "Infinity is not a natural number"),
    (text(shape="[0,18446744073709551616]", data_offsets="[0,0]"), b"", "is not a natural number"),
    (one(shape=[2**62, 4]), EIGHT, SHAPE),
    (one(shape=[2**32, 2**32]), EIGHT, SHAPE),
    (one(shape=[2**32, 2**32, 0], offsets=[0, 0]), b"", SHAPE),
    (one(shape=[2**40]), EIGHT, "'a' has 8 bytes, not 4398046511104"),
    (one(shape=[3]), EIGHT, "'a' has 8 bytes, not 12"),
    (one(shape=[]), EIGHT, "'a' has 8 bytes, not 4"),
    (one("F64"), EIGHT, "'a' has 8 bytes, not 16"),
    (one(offsets=None), EIGHT, OFFSETS),
    (one(offsets=[8]), EIGHT, OFFSETS),
    (one(offsets=[0, 8, 8]), EIGHT, OFFSETS),
    (one(offsets={"0": 8}), EIGHT, OFFSETS),
    (one(offsets=[False, 8]), EIGHT, OFFSETS),
    (one(offsets=["0", "8"]), EIGHT, OFFSETS),
    (one(offsets=[-8, 0]), EIGHT, "-8 is not a natural number"),
    (one(offsets=[0.0, 8]), EIGHT, "0.0 is not a natural number"),
    (one(offsets=[8, 0]), EIGHT, "'a' starts at byte 8 of the data, not at 0"),
    (one(shape=[0], offsets=[8, 0]), EIGHT, "'a' starts at byte 8 of the data, not at 0"),
    (one(offsets=[8, 16]), EIGHT * 2, "'a' starts at byte 8 of the data, not at 0"),
    (one(offsets=[2**63, 2**63 + 8]), EIGHT, "starts at byte 9223372036854775808"),
    (one(), EIGHT[:7], "its tensors end at byte 8 of the data, the file at 7"),
    (one(), EIGHT + b"x", "its tensors end at byte 8 of the data, the file at 9"),
    ({}, b"x", "its tensors end at byte 0 of the data, the file at 1"),
    ({"a": entry(), "b": entry()}, EIGHT, "'b' starts at byte 0 of the data, not at 8"),
    ({"a": entry(), "b": entry(offsets=[4, 12])}, EIGHT * 2, "'b' starts at byte 4"),
    ({"a": entry(), "b": entry(offsets=[9, 17])}, EIGHT * 3, "'b' starts at byte 9"),
    ({"a": entry(), "e": entry("F32", [0], [4, 4])}, EIGHT, "'e' starts at byte 4"),
    ({"__metadata__": {"a": 1}}, b"", "its __metadata__ is not a map of strings"),
    ({"__metadata__": {"a": None}}, b"", "its __metadata__ is not a map of strings"),
    ({"__metadata__": {"a": {}}}, b"", "its __metadata__ is not a map of strings"),
    ({"__metadata__": []}, b"", "its __metadata__ is not a map of strings"),
    ({"__metadata__": ""}, b"", "its __metadata__ is not a map of strings"),
    ({"__metadata__": False}, b"", "its __metadata__ is not a map of strings"),
    ({"__metadata__": entry()}, EIGHT, "its __metadata__ is not a map of strings"),
    (b'{"__metadata__":{},"__metadata__":{}}', b"", "'__metadata__' is there twice"),
    (text(dtype='"F32","dtype":"F32"'), EIGHT, "'dtype' is there twice"),
    (b'{"a":' + text()[5:-1] + b',"a":' + text(data_offsets="[8,16]")[5:], EIGHT * 2, "twice"),
]


@pytest.mark.parametrize("header, data, message", BAD)
def test_a_malformed_file_is_refused_by_both(
    path: Path, header: Any, data: bytes, message: str
) -> None:
    contents = hostile.safetensors(header, data)
    assert read_by_crate(contents) is None
    refused(path, contents, message)


STRICTER = [  # SafetensorsFile's "differs"
    (b" {}", b"", "it does not start with '{'"),
    (b'{"a":' + text()[5:-1] + b',"a":' + text()[5:], EIGHT, "'a' is there twice"),
    (b'{"__metadata__":{"a":"b","a":"b"}}', b"", "'a' is there twice"),
    (one(note=1), EIGHT, FIELDS),
    ({"a": ["F32", [2], [0, 8]]}, EIGHT, FIELDS),
    (one("F4", [16]), EIGHT, "'a' is of the unknown type F4"),
    (one({"F32": None}), EIGHT, "'a' is of the unknown type dict"),
    (one(shape=[0, 2**32, 2**32], offsets=[0, 0]), b"", SHAPE),
    (one(shape=[1] * 32 + [2]), EIGHT, SHAPE),
]


@pytest.mark.parametrize("header, data, message", STRICTER)
def test_the_known_differences_are_refused_by_us_only(
    path: Path, header: Any, data: bytes, message: str
) -> None:
    contents = hostile.safetensors(header, data)
    assert read_by_crate(contents) is not None
    refused(path, contents, message)


@pytest.mark.parametrize(
    "header, data",
    [
        (b"{}", b""),
        (b"{}  \n\t\r", b""),
        ({"__metadata__": None}, b""),
        ({"": entry()}, EIGHT),
        ({'\0\n"\\/é😀': entry()}, EIGHT),
        (one(shape=[1] * 31 + [2]), EIGHT),
        (one(shape=[0, 2**40], offsets=[0, 0]), b""),
        ({"a": entry(), "e": entry("F32", [0], [8, 8]), "f": entry("I8", [0, 7], [0, 0])}, EIGHT),
    ],
)
def test_an_odd_but_sound_file_is_read_by_both(path: Path, header: Any, data: bytes) -> None:
    contents = hostile.safetensors(header, data)
    path.write_bytes(contents)
    assert read_by_us(path) == read_by_crate(contents) is not None


SOUND = json.loads(json.dumps({
    "a": entry("F32", (2,), (0, 8)), "b": entry("BF16", (2, 1), (8, 12)),
    "c": entry("U8", (0, 3), (12, 12)), "d": entry("I8", (), (12, 13)), "__metadata__": {"k": "v"},
}))  # fmt: skip
NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 4, 8, 12, 13, 14, 2**31, 2**62, True, 1.0, None, "1"])
FIELD_VALUES = {
    "dtype": st.sampled_from([*STORAGE, "XX", "", None, 1, []]),
    "shape": st.lists(NUMBERS, max_size=3) | st.none(),
    "data_offsets": st.lists(NUMBERS, min_size=1, max_size=3) | st.none(),
}
CHANGES = st.lists(
    st.sampled_from("abcd").flatmap(
        lambda name: st.sampled_from(list(FIELD_VALUES)).flatmap(
            lambda field: FIELD_VALUES[field].map(lambda value: (name, field, value))
        )
    ),
    max_size=2,
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(CHANGES, st.integers(11, 15), st.permutations(list(SOUND)))
def test_changed_headers_get_the_same_verdict_from_both(
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[str, str, Any]],
    size: int,
    order: list[str],
) -> None:
    header = json.loads(json.dumps({name: SOUND[name] for name in order}))
    for name, field, value in changes:
        header[name][field] = value
    contents = hostile.safetensors(header, bytes(range(size)))
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    path.write_bytes(contents)
    try:
        ours = read_by_us(path)
    except CheckpointError:
        ours = None
    assert ours == read_by_crate(contents)


def test_changed_bytes_are_refused_where_the_crate_refuses_them(path: Path) -> None:
    rng, verdicts = random.Random(0), {True: 0, False: 0}
    sound = hostile.safetensors(SOUND, bytes(range(13)))
    differences = [message for _, _, message in STRICTER]
    for _ in range(1500):
        data = bytearray(sound)
        for _ in range(rng.choice([1, 1, 2, 5])):
            at = rng.randrange(len(data))
            data[at : at + rng.choice([0, 1, 1, 1])] = rng.choice(sound), rng.randrange(128)
            del data[at + 1 : at + rng.choice([1, 2, 2, 2])]
        if rng.random() < 0.9:  # or hardly any header is reached
            data[:8] = struct.pack("<Q", len(data) - 8 - 13)
        path.write_bytes(data)
        crate = read_by_crate(bytes(data))
        try:
            assert read_by_us(path) == crate
            verdicts[True] += 1
        except CheckpointError as error:
            verdicts[False] += 1
            assert crate is None or any(message in error.message for message in differences), data
    assert min(verdicts.values()) > 50


def test_a_truncated_file_is_refused_wherever_it_ends(path: Path) -> None:
    sound = hostile.safetensors(SOUND, bytes(range(13)))
    for size in range(len(sound)):
        assert read_by_crate(sound[:size]) is None
        refused(path, sound[:size], "")


def test_a_header_larger_than_the_file_or_the_limit_is_refused(path: Path) -> None:
    refused(path, struct.pack("<Q", 3) + b"{}", "it claims a header of 3 bytes and has 10")
    refused(path, b"\xff" * 8 + b"{}", "it claims a header of 18446744073709551615 bytes")
    refused(path, b"1234567", "it is truncated: 1 bytes are missing at 7")
    header = b"{" + b" " * (MAX_BYTES - 2) + b"}"
    path.write_bytes(hostile.safetensors(header))
    open_safetensors(path).close()
    error = refused(
        path, hostile.safetensors(header + b" "), "a header of 1048577 bytes, more than"
    )
    assert error.hint == "no model that tinyzo reads has so many tensors"


def test_what_is_no_weights_file_is_refused_with_what_to_do(path: Path, tmp_path: Path) -> None:
    refused(path, b"", "it is empty")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    assert "git lfs pull" in refused(path, pointer, "it is a git-lfs pointer").hint
    with pytest.raises(CheckpointError, match="it is not a file"):
        open_safetensors(tmp_path)
    with pytest.raises(CheckpointError, match="No such file or directory"):
        open_safetensors(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="File name too long"):
        open_safetensors(tmp_path / ("x" * 5000))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_is_refused_instead_of_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="it is not a file"):
        open_safetensors(path)


# --- reading rows ---

TABLE = np.arange(24, dtype=np.float32).reshape(4, 3, 2)


@pytest.fixture
def table(path: Path) -> Iterator[Source]:
    scalar, nothing = np.float32(7).reshape(()), np.empty((0, 3, 2), np.int8)
    write(path, {"x": ("F32", TABLE), "s": ("F32", scalar), "z": ("I8", nothing)})
    with open_safetensors(path) as source:
        yield source


def rows_are_read(source: Source) -> None:
    for start in range(5):
        for stop in range(start, 5):
            out = np.full((stop - start, 3, 2), -1, np.float32)
            source.read_into("x", out, start)
            np.testing.assert_array_equal(out, TABLE[start:stop])
    assert source.read("s") == 7
    assert source.read("z").shape == (0, 3, 2)


def test_rows_are_read_into_the_buffer(table: Source) -> None:
    rows_are_read(table)


def test_short_reads_are_continued(table: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, out, at: whole(fd, [out[0][:3]], at))
    rows_are_read(table)


@pytest.mark.parametrize(
    "out, start",
    [
        (np.empty((4, 3, 2), "f8"), 0),
        (np.empty((4, 2, 3), "f4"), 0),
        (np.empty((4, 6), "f4"), 0),
        (np.empty((), "f4"), 0),
        (np.empty((5, 3, 2), "f4"), 0),
        (np.empty((2, 3, 2), "f4"), 3),
        (np.empty((0, 3, 2), "f4"), 5),
        (np.empty((1, 3, 2), "f4"), -1),
        (np.empty((4, 3, 4), "f4")[:, :, ::2], 0),
        (np.frombuffer(bytes(96), "f4").reshape(4, 3, 2), 0),
    ],
)
def test_a_buffer_that_does_not_fit_is_a_shape_error(
    table: Source, out: np.ndarray, start: int
) -> None:
    message = rf"'x' F32 \[4, 3, 2\] from row {start} on does not fit {out.dtype} "
    with pytest.raises(ShapeError, match=message):
        table.read_into("x", out, start)
    with pytest.raises(ShapeError, match=r"'s' F32 \[\] from row 1 on does not fit float32 \[\]"):
        table.read_into("s", np.empty((), "f4"), 1)
    with pytest.raises(ShapeError, match=r"'s' F32 \[\] from row 0 on does not fit float32 \[1\]"):
        table.read_into("s", np.empty(1, "f4"))


def test_a_name_that_is_not_there_is_said(table: Source) -> None:
    with pytest.raises(CheckpointError, match="it has no tensor 'y'"):
        table.read("y")
    assert table.ties() == {}


def test_a_file_that_shrinks_or_a_disk_that_fails_is_said(
    table: Source, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.truncate(path, path.stat().st_size - 30)
    with pytest.raises(CheckpointError, match="it is truncated: 30 bytes are missing at"):
        table.read("x")

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(CheckpointError, match="Input/output error"):
        table.read("x")


def test_reading_takes_no_memory_but_the_buffer(path: Path) -> None:
    write(path, {"x": ("F32", np.ones((1 << 20, 1), np.float32))})
    out = np.empty((1 << 20, 1), np.float32)
    tracemalloc.start()
    try:
        with open_safetensors(path) as source:
            source.read_into("x", out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert out.all()
    assert peak < 200_000


# --- writing ---

INFOS = {
    "b": TensorInfo("BF16", (3, 2)),
    "a": TensorInfo("F32", (2,)),
    "e": TensorInfo("F32", (0,)),
}


def test_chunks_of_any_length_make_the_same_file(path: Path) -> None:
    whole = np.arange(6, dtype=np.uint16).reshape(3, 2)
    with SafetensorsWriter(path, INFOS, {"format": "pt"}) as writer:
        assert writer.names() == ["a", "e", "b"]
        for chunk in np.float32([1]), np.float32([]), np.float32([2]):
            writer.write("a", chunk)
        writer.write("b", whole[:2])
        assert not path.exists()
        writer.write("b", np.asfortranarray(whole[2:]))
    arrays = {"a": ("F32", np.float32([1, 2])), "b": ("BF16", whole), "e": ("F32", np.float32([]))}
    assert path.read_bytes() == written_by_crate(arrays, {"format": "pt"})
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize(
    "name, chunk, message",
    [
        ("a", np.zeros(2), r"'a' is F32 \[2\], not float64 \[2\]"),
        ("a", np.zeros((2, 1), "f4"), r"'a' is F32 \[2\], not float32 \[2, 1\]"),
        ("a", np.float32(1).reshape(()), r"'a' is F32 \[2\], not float32 \[\]"),
        ("b", np.zeros((3, 2), "f4"), r"'b' is BF16 \[3, 2\], not float32 \[3, 2\]"),
        ("b", np.zeros((3, 2), "u2"), "12 bytes of 'b' are given, 8 of 'a' are due"),
        ("a", np.zeros(3, "f4"), "12 bytes of 'a' are given, 8 of 'a' are due"),
    ],
)
def test_a_chunk_that_does_not_fit_is_a_shape_error(
    path: Path, name: str, chunk: np.ndarray, message: str
) -> None:
    with pytest.raises(ShapeError, match=message), SafetensorsWriter(path, INFOS) as writer:
        writer.write(name, chunk)
    assert list(path.parent.iterdir()) == []


def test_a_tensor_written_twice_is_a_shape_error(path: Path) -> None:
    infos = {"a": TensorInfo("F32", (1,))}
    with SafetensorsWriter(path, infos) as writer:
        writer.write("a", np.float32([1]))
        with pytest.raises(ShapeError, match="4 bytes of 'a' are given, 0 of None are due"):
            writer.write("a", np.float32([1]))
    assert read_by_us(path) == {"a": ("F32", (1,), np.float32(1).tobytes())}


def test_a_tensor_left_out_fails_and_leaves_the_old_file(path: Path) -> None:
    path.write_bytes(b"old")
    lacking = pytest.raises(CheckpointError, match="'b' lacks 12 bytes")
    with lacking, SafetensorsWriter(path, INFOS) as writer:
        writer.write("a", np.zeros(2, "f4"))
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_exception_in_the_middle_leaves_the_old_file(path: Path) -> None:
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), SafetensorsWriter(path, INFOS) as writer:
        writer.write("a", np.zeros(2, "f4"))
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_says_how_much_is_needed(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write(path, {"a": ("F32", np.zeros(2, "f4"))})
    size = path.stat().st_size
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    infos, failing = {"a": TensorInfo("F32", (2,))}, pytest.raises(CheckpointError)
    with failing as caught, SafetensorsWriter(path, infos) as writer:
        writer.write("a", np.zeros(2, "f4"))
        monkeypatch.setattr(os, call, full)
    assert "No space left on device" in caught.value.message
    assert caught.value.hint == f"make room on the disk; the file needs {size} bytes"
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_two_cannot_write_the_same_file(path: Path) -> None:
    infos = {"a": TensorInfo("F32", (1,))}
    with SafetensorsWriter(path, infos) as writer:
        with pytest.raises(CheckpointError) as caught:
            SafetensorsWriter(path, infos)
        assert caught.value.message == f"{path}: another process is writing it"
        writer.write("a", np.float32([1]))
    assert read_by_us(path) == {"a": ("F32", (1,), np.float32(1).tobytes())}


def test_a_file_that_another_process_finishes_before_our_lock_stays_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = system.lock

    def finish_first(file: IO[bytes], kind: type[TinyzoError], held: str) -> None:
        os.replace(file.name, path)
        lock(file, kind, held)

    path.with_name(f".{path.name}.partial").write_bytes(b"whole")
    monkeypatch.setattr(system, "lock", finish_first)
    with pytest.raises(CheckpointError, match="another process was writing it until now"):
        SafetensorsWriter(path, {"a": TensorInfo("F32", (1,))})
    assert path.read_bytes() == b"whole"


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file or directory"):
        SafetensorsWriter(tmp_path / "absent" / "x.safetensors", INFOS)


@pytest.mark.parametrize(
    "infos, metadata, message",
    [
        ({"__metadata__": TensorInfo("F32", (1,))}, None, "its __metadata__ is not a map of str"),
        ({"\ud800": TensorInfo("F32", (1,))}, None, "'utf-8' codec can't decode"),
        ({"a": TensorInfo("F32", (-1,))}, None, "-1 is not a natural number"),
        ({}, {"a": 1}, "its __metadata__ is not a map of strings"),
    ],
)
def test_nothing_is_written_that_could_not_be_read(
    path: Path, infos: Any, metadata: dict[str, str] | None, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        SafetensorsWriter(path, infos, metadata)
    assert list(path.parent.iterdir()) == []


# --- shards ---


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, str]:
    write(tmp_path / "1.safetensors", {"a": ("F32", TABLE), "b": ("I8", np.int8([1]))})
    write(tmp_path / "2.safetensors", {"c": ("BF16", np.uint16([1, 2]))})
    return {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"}


def index_of(folder: Path, contents: Any) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(contents if isinstance(contents, str) else json.dumps(contents))
    return path


def test_shards_are_one_source(tmp_path: Path, shards: dict[str, str]) -> None:
    with open_safetensors(index_of(tmp_path, {"metadata": {}, "weight_map": shards})) as source:
        assert source.names() == ["a", "b", "c"]
        assert source.info("c") == TensorInfo("BF16", (2,))
        np.testing.assert_array_equal(source.read("a"), TABLE)
        out = np.empty((1, 3, 2), np.float32)
        source.read_into("a", out, 2)
        np.testing.assert_array_equal(out, TABLE[2:3])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"d": "2.safetensors"}, "places 'd' in 2.safetensors, but 2.safetensors lacks it"),
        ({"b": "2.safetensors"}, "places 'b' in 2.safetensors, but 1.safetensors has it"),
        ({"b": None}, "its weight_map does not give each tensor the name of a file"),
        (
            {"d": "3.safetensors"},
            "model.safetensors.index.json: its shard 3.safetensors is not there",
        ),
        ({"d": "d" * 5000}, "is not there"),
        ({"d": "../1.safetensors"}, "the shard '../1.safetensors' is not a plain file name"),
        ({"d": "/etc/passwd"}, "the shard '/etc/passwd' is not a plain file name"),
        ({"d": "x\\y"}, "is not a plain file name"),
        ({"d": "C:y"}, "the shard 'C:y' is not a plain file name"),
        ({"d": "x\0"}, "is not a plain file name"),
        ({"d": ".."}, "the shard '..' is not a plain file name"),
        ({"d": ""}, "the shard '' is not a plain file name"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(
    tmp_path: Path, shards: dict[str, str], change: dict[str, str | None], message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_safetensors(index_of(tmp_path, {"weight_map": {**shards, **change}}))
    assert message in caught.value.message


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path, shards: dict[str, str]) -> None:
    write(tmp_path / "2.safetensors", {"c": ("I8", np.int8([1])), "b": ("I8", np.int8([1]))})
    with pytest.raises(CheckpointError, match=r"'b' in 1\.safetensors, but 2\.safetensors has it"):
        open_safetensors(index_of(tmp_path, {"weight_map": shards}))


def test_a_tensor_that_the_index_places_nowhere_is_not_read(
    tmp_path: Path, shards: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    del shards["b"]
    for _ in range(2):
        with open_safetensors(index_of(tmp_path, {"weight_map": shards})) as source:
            assert source.names() == ["a", "c"]
    nowhere = "as model.safetensors.index.json places it nowhere"
    said = f"tinyzo: {tmp_path}/1.safetensors: 'b' is not read, {nowhere}\n"
    assert capsys.readouterr().err == said


def test_an_index_of_more_tensors_than_any_model_has_is_refused(tmp_path: Path) -> None:
    index = '{"weight_map": {' + " " * MAX_BYTES + "}}"
    with pytest.raises(CheckpointError, match="it has 1048594 bytes, more than 1048576") as caught:
        open_safetensors(index_of(tmp_path, index))
    assert caught.value.hint == "no model that tinyzo reads has so many tensors"


@pytest.mark.parametrize(
    "contents, message",
    [
        ("{}", "its weight_map does not give each tensor the name of a file"),
        ('{"weight_map": []}', "its weight_map does not give each tensor the name of a file"),
        ("[]", "it does not start with '{'"),
        ('{"weight_map": {"a": "1.safetensors", "a": "2.safetensors"}}', "'a' is there twice"),
        ("version https://git-lfs.github.com/spec/v1\n", "it is a git-lfs pointer"),
        ("", "it is empty"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, contents: Any, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_safetensors(index_of(tmp_path, contents))
    assert message in caught.value.message
