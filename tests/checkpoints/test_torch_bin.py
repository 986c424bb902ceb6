"""Files of torch.save: genuine ones read exactly, hostile ones refused by name, nothing run."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import pickletools
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from hostile import Parameter, Storage, Tensor, tensor

from tinyzo.checkpoints import torch_bin
from tinyzo.checkpoints.directory import open_torch_bin
from tinyzo.checkpoints.sources import TensorInfo
from tinyzo.errors import CheckpointError, ShapeError, TinyzoError
from tinyzo.parsing import MAX_BYTES

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TAGS = {"half": "F16", "bfloat16": "BF16", "long": "I64", "bool": "BOOL", "scalar": "F64"}
FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pytorch_model.bin"


def refused(path: Path, data: bytes, message: str) -> CheckpointError:
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        open_torch_bin(path).close()
    assert str(path) in caught.value.message
    assert message in caught.value.message
    assert caught.value.hint
    return caught.value


def refused_pickle(path: Path, program: bytes, message: str) -> CheckpointError:
    return refused(path, hostile.torch_zip(program), message)


# --- genuine files ---


def test_a_file_of_torch_save_gives_the_values_that_torch_saw() -> None:
    expected = np.load(GOLDEN / "torch_save.npz")
    with open_torch_bin(GOLDEN / "torch_save.bin") as source:
        assert source.names() == list(expected)
        for name in source.names():
            array = source.read(name)
            assert source.info(name) == TensorInfo(TAGS.get(name, "F32"), expected[name].shape)
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name])
        assert source.ties() == {"tied": "weight"}


def test_the_builder_of_these_tests_emits_the_pickle_of_torch_save() -> None:
    genuine = zipfile.ZipFile(GOLDEN / "torch_save.bin").read("torch_save/data.pkl")
    values = np.load(GOLDEN / "torch_save.npz")
    state = OrderedDict(
        {name: tensor(TAGS.get(name, "F32"), values[name]) for name in ("weight", "bias")}
    )
    weight = state["weight"].storage
    state["tied"] = state["weight"]
    state["transposed"] = Tensor(weight, 0, (3, 4), (1, 3))
    again = tuple(range(3, 1, -1))  # (3, 2), but not the object that pickle has seen
    state["columns"] = Tensor(weight, 3, (3, 2), again)
    for name in ("half", "bfloat16", "long", "bool", "scalar", "empty"):
        state[name] = tensor(TAGS.get(name, "F32"), values[name])
    state["parameter"] = Parameter(tensor("F32", values["parameter"]))
    state._metadata = OrderedDict({"": {"version": 1}})
    assert hostile.state_pickle(state)[0] == genuine


@pytest.mark.parametrize(
    ("protocol", "wrapper"),
    [(2, None), (3, None), (4, None), (5, None), (2, "state_dict"), (4, "model")],
)
def test_a_state_dict_may_be_wrapped_and_of_a_later_protocol(
    path: Path, protocol: int, wrapper: str | None
) -> None:
    state = {f"layer.{i}": tensor("F32", FLOATS + i) for i in range(1200)}  # two SETITEMS, LONG_PUT
    path.write_bytes(hostile.torch_bin({wrapper: state} if wrapper else state, protocol))
    with open_torch_bin(path) as source:
        assert source.names() == list(state)
        np.testing.assert_array_equal(source.read("layer.1199"), FLOATS + 1199)


@pytest.mark.parametrize("stride", [(12, 4, 1), (1, 2, 6), (4, 8, 1), (0, 4, 1)])
def test_rows_of_any_view_are_the_rows_of_the_whole(path: Path, stride: Any) -> None:
    storage = Storage("I32", np.arange(100, dtype=np.int32))
    view = Tensor(storage, 7, (2, 3, 4), stride)
    path.write_bytes(hostile.torch_bin({"x": view}))
    wanted = np.lib.stride_tricks.as_strided(
        storage.values[7:], (2, 3, 4), [4 * step for step in stride]
    )
    with open_torch_bin(path) as source:
        np.testing.assert_array_equal(source.read("x"), wanted)
        for start, stop in [(0, 1), (1, 2), (2, 2)]:
            out = np.empty((stop - start, 3, 4), np.int32)
            source.read_into("x", out, start)
            np.testing.assert_array_equal(out, wanted[start:stop])


def test_axes_of_length_one_may_have_any_stride(path: Path) -> None:
    storage = Storage("F32", FLOATS.reshape(-1))
    row, gaps = Tensor(storage, 0, (1, 6), (2**70, 1)), Tensor(storage, 1, (1, 3), (5, 2))
    path.write_bytes(hostile.torch_bin({"row": row, "gaps": gaps}))
    with open_torch_bin(path) as source:
        np.testing.assert_array_equal(source.read("row"), [[0, 1, 2, 3, 4, 5]])
        np.testing.assert_array_equal(source.read("gaps"), [[1, 3, 5]])


def test_ties_share_storage_offset_shape_and_stride(path: Path) -> None:
    one, other = (Storage("F32", FLOATS.reshape(-1)) for _ in range(2))
    state = {
        "a": Tensor(one, 0, (2, 2), (2, 1)),
        "tied": Tensor(one, 0, (2, 2), (2, 1)),
        "transposed": Tensor(one, 0, (2, 2), (1, 2)),
        "later": Tensor(one, 2, (2, 2), (2, 1)),
        "elsewhere": Tensor(other, 0, (2, 2), (2, 1)),
        "again": Parameter(Tensor(one, 0, (2, 2), (2, 1))),
    }
    path.write_bytes(hostile.torch_bin(state))
    with open_torch_bin(path) as source:
        assert source.ties() == {"tied": "a", "again": "a"}


def test_reading_into_what_does_not_fit_is_a_shape_error(path: Path) -> None:
    path.write_bytes(hostile.torch_bin({"x": tensor("F32", FLOATS)}))
    with open_torch_bin(path) as source:
        for out in [np.empty((3, 3), "f4"), np.empty((2, 3), "f8"), np.empty((3, 2), "f4").T]:
            with pytest.raises(ShapeError, match=r"'x' F32 \[2, 3\] from row 0 on does not fit"):
                source.read_into("x", out)
        with pytest.raises(CheckpointError, match="it has no tensor 'y'"):
            source.read("y")


# --- what is no state dict, but honest ---


def test_other_files_are_refused_with_what_to_do(path: Path, tmp_path: Path) -> None:
    legacy = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    assert "1.6 or newer" in refused(path, legacy, "the format of PyTorch before 1.6").hint
    refused(
        path, b"storages" + b"\0" * 249 + b"ustar" + b"\0" * 250, "the format of PyTorch before 1.6"
    )
    refused(path, b"", "it is empty")
    refused(path, b"torch!", "it starts with b'torch!', so torch.save did not write it")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    assert "git lfs pull" in refused(path, pointer, "it is a git-lfs pointer").hint
    with pytest.raises(CheckpointError, match="it is not a file"):
        open_torch_bin(tmp_path)
    with pytest.raises(CheckpointError, match="No such file"):
        open_torch_bin(tmp_path / "absent.bin")


def test_a_training_checkpoint_is_refused_by_the_entry_that_is_no_tensor(path: Path) -> None:
    for name in ("state_dict", "module", "model", "model_state_dict"):
        state = {name: {"x": tensor("F32", FLOATS)}, "epoch": 3}
        found = f"it is a checkpoint of a training, which has its weights in {name!r}"
        error = refused(path, hostile.torch_bin(state), found)
        assert error.hint.endswith(f"torch.save(torch.load(path)[{name!r}], new)")
    state = {"x": tensor("F32", FLOATS), "epoch": 3}
    refused(path, hostile.torch_bin(state), "'epoch' is a int, not a tensor")
    refused(path, hostile.torch_bin({"model": 3}), "'model' is a int, not a tensor")
    refused(path, hostile.torch_bin(tensor("F32", FLOATS)), "it holds a Tensor, not a state dict")


def test_a_whole_model_is_refused_by_the_name_of_its_class(path: Path) -> None:
    module = hostile.Global("transformers.models.opt.modeling_opt", "OPTForCausalLM")
    message = "no state dict needs 'transformers.models.opt.modeling_opt.OPTForCausalLM'"
    refused(path, hostile.torch_bin({"model": module}), message)


@pytest.mark.parametrize(
    ("module", "name"),
    [("torch", "load"), ("torch._utils", "_rebuild_sparse_tensor"), ("collections", "Counter")],
)
def test_other_names_of_modules_that_are_known_are_refused(
    path: Path, module: str, name: str
) -> None:
    program = hostile.torch_bin({"x": hostile.Global(module, name)})
    refused(path, program, f"no state dict needs '{module}.{name}'")


# --- hostile pickles ---


class Payload:
    """Pickles into a call that would leave a file behind."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.parts


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "function, name",
    [(os.system, "system"), (builtins.eval, "eval"), (builtins.__import__, "__import__"),
     (getattr, "getattr"), (io.open, "open"), (pickle.loads, "loads")],
)  # fmt: skip
def test_no_function_but_ours_is_called(
    path: Path, tmp_path: Path, protocol: int, function: Callable[..., object], name: str
) -> None:
    marker = tmp_path / "executed"
    code = f"touch {marker}" if function is os.system else f"open({str(marker)!r}, 'w')"
    arguments = (str(marker), "w") if function is io.open else (code,)
    payload = Payload(function, *arguments)
    refused_pickle(path, pickle.dumps(payload, protocol), f".{name}'")
    nested = Payload(function, Payload(function, code))
    refused_pickle(path, pickle.dumps(nested, protocol), f".{name}'")
    assert not marker.exists()


def test_the_payloads_of_these_tests_do_run_when_they_are_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(os.system, f"touch {marker}"), 2))
    assert marker.exists()


O_DICT = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
PARAMETER = b"ctorch._utils\n_rebuild_parameter\n"
FLOAT = b"ctorch\nFloatStorage\n"
MISSING = "it takes a value that is not there"
NO_CALL = "no state dict needs such a call"
DEEP = 100_000


@pytest.mark.parametrize(
    "program, message",
    [
        # names that reach further than they look
        (b"ccollections\nOrderedDict.__init__\n.", "needs 'collections.OrderedDict.__init__'"),
        (b"\x8c\x02os\x8c\x06system\x93.", "no state dict needs 'os.system'"),
        (b"\x8c\x05torch\x8c\x0eFloatStorage.x\x93.", "no state dict needs 'torch.FloatStorage.x'"),
        (b"NN\x93.", "STACK_GLOBAL requires str"),
        (b"c\xff\n\n.", "'utf-8' codec can't decode"),
        (b"ctorch", "it ends in the middle"),
        (b"\x80\x06}.", "unsupported pickle protocol: 6"),
        # opcodes of other programs
        (b"(S'ls'\nios\nsystem\n.", "no state dict needs opcode STRING"),
        (b"(ios\nsystem\n.", "no state dict needs opcode INST"),
        (b"(cos\nsystem\no.", "no state dict needs 'os.system'"),
        (b"(o.", "no state dict needs opcode OBJ"),
        (O_DICT + b")\x81.", "no state dict needs opcode NEWOBJ"),
        (O_DICT + b")}\x92.", "no state dict needs opcode NEWOBJ_EX"),
        (b"\x82\x01.", "no state dict needs opcode EXT1"),
        (b"Pid\n.", "no state dict needs opcode PERSID"),
        (b"\x8b\xff\xff\xff\x7f.", "no state dict needs opcode LONG4"),
        (b"\x8e" + b"\xff" * 8 + b".", "no state dict needs opcode BINBYTES8"),
        (b"].", "no state dict needs opcode EMPTY_LIST"),
        (b"\xff.", "no state dict needs opcode 255"),
        # what is called, and with what
        (FLOAT + b")R.", NO_CALL),
        (b"X\x02\0\0\0os)R.", NO_CALL),
        (b"X\x04\0\0\0dict)R.", NO_CALL),
        (O_DICT + b"}R.", NO_CALL),
        (O_DICT + b"}\x85R.", NO_CALL),
        (REBUILD + O_DICT + b")R\x85R.", NO_CALL),
        (PARAMETER + b"NNN\x87R.", NO_CALL),
        (REBUILD + b"}X\1\0\0\0aNsb.", "it holds a Global, not a state dict"),
        (O_DICT + b".", "it holds a Global, not a state dict"),
        (O_DICT + b")RX\x08\0\0\0__class_q\0h\0s.", "'__class_' is a str, not a tensor"),
        # a memo and a stack that do not hold
        (b"h\x07.", "Memo value not found at index 7"),
        (b"j\x07\0\0\0.", "Memo value not found at index 7"),
        (b"q\0.", MISSING),
        (b".", MISSING),
        (b"R.", MISSING),
        (b"t.", MISSING),
        (b"N(R.", MISSING),
        (b"N(\x85.", MISSING),
        (b"}q\0X\x01\0\0\0ah\0s.", "'a' is a dict, not a tensor"),
        (b"})Ns.", "it sets what is not a name in a dict"),
        (b"}(X\x01\0\0\0au.", "it sets what is not a name in a dict"),
        (b")X\x01\0\0\0aNs.", "it sets a name in a tuple"),
        (b"}X\x03\0\0\0\xed\xa0\x80Ns.", "'utf-8' codec can't decode"),
        (b"}\x8c\x03\xed\xa0\x80Ns.", "'utf-8' codec can't decode"),
        # too deep, too long
        (b"}" + b")" + b"\x85" * DEEP + b"Ns.", "it sets what is not a name in a dict"),
        (b")" + b"\x85" * DEEP + b".", "it holds a tuple, not a state dict"),
        (b"}X\x01\0\0\0a)" + b"\x85" * DEEP + b"s.", "'a' is a tuple, not a tensor"),
        (b"(" * DEEP + b".", MISSING),
        (b")q\0" + b"h\0h\0\x86q\0" * DEEP + b".", "it holds a tuple, not a state dict"),
        (b"X\xff\xff\xff\xffa.", "it ends in the middle"),
        (b"\x95\xff\xff\xff\xff.", "it ends in the middle"),
        (b"}", "it ends in the middle"),
        (b"", "it ends in the middle"),
    ],
)
def test_a_hostile_pickle_is_refused(path: Path, program: bytes, message: str) -> None:
    refused_pickle(path, program, message)


def test_an_opcode_is_refused_unless_torch_save_emits_it(path: Path) -> None:
    known = {opcode[0] for opcode in (pickle.STOP, *torch_bin.HANDLERS)}
    assert len(known) == 31
    for code in set(range(256)) - known:
        name = getattr(pickletools.code2op.get(chr(code)), "name", code)
        message = f"its pickle is refused at byte 2: no state dict needs opcode {name}"
        refused_pickle(path, b"N" + bytes([code]) + b"\0" * 9, message)


def test_where_a_pickle_is_refused_is_said(path: Path) -> None:
    error = refused_pickle(path, b"\x80\x02}cos\nsystem\n.", "its pickle is refused at byte 14")
    assert error.hint.startswith("if you do not trust its author, do not use it")


def test_a_pickle_larger_than_any_state_dict_is_not_run(path: Path) -> None:
    program = b"\x8c\xff" + b"a" * 255
    refused_pickle(path, program * (MAX_BYTES // 257 + 1), "bytes to list its tensors: too many")


def test_a_pickle_of_more_opcodes_than_any_state_dict_is_stopped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_bin, "_MAX_OPCODES", 4)
    path.write_bytes(hostile.torch_zip(b"NN}."))
    open_torch_bin(path).close()
    error = refused_pickle(path, b"NNN}.", "refused at byte 4: no state dict needs more than 4 op")
    assert error.hint.startswith("if you do not trust its author")


def test_a_model_has_room_below_the_limits(path: Path) -> None:
    names = [f"model.decoder.layers.{i}.self_attn_layer_norm.weight" for i in range(4000)]
    program, storages = hostile.state_pickle(
        {name: tensor("F16", np.float16([1])) for name in names}
    )
    assert len(program) < MAX_BYTES
    path.write_bytes(hostile.torch_zip(program, storages))
    with open_torch_bin(path) as source:
        assert source.names() == names


@pytest.mark.parametrize(
    "storage",
    [
        ("storage", hostile.REBUILD_TENSOR, "0", "cpu", 6),
        ("storage", hostile.STORAGE_TYPES["F32"], "0", "cpu", -1),
        ("storage", hostile.STORAGE_TYPES["F32"], "0", "cpu", True),
        ("storage", hostile.STORAGE_TYPES["F32"], 0, "cpu", 6),
        ("module", hostile.STORAGE_TYPES["F32"], "0", "cpu", 6),
        ("storage", hostile.STORAGE_TYPES["F32"], "0", "cpu", 6, None),
        "storage",
    ],
)
def test_a_storage_that_torch_would_not_describe_so_is_refused(path: Path, storage: Any) -> None:
    program = hostile.state_pickle(storage)[0][:-1] + b"Q."
    refused_pickle(path, program, "a storage is not described as torch.save does")


IMPOSSIBLE = "a tensor has an impossible offset, shape or stride"
BEYOND = "bytes of a storage of 24"


@pytest.mark.parametrize(
    "offset, shape, stride, message",
    [
        (1, (2, 3), (3, 1), BEYOND),
        (6, (), (), BEYOND),
        (0, (2, 3), (4, 1), BEYOND),
        (0, (2,), (2**64,), BEYOND),
        (2**64, (1,), (1,), BEYOND),
        (0, (2**40,), (1,), BEYOND),
        (0, (2**40,), (0,), BEYOND),
        (0, (7,), (0,), BEYOND),
        (0, (2**62, 2**62, 0), (0, 0, 0), IMPOSSIBLE),
        (0, (1,) * 33, (0,) * 33, IMPOSSIBLE),
        (0, (2**200,), (0,), IMPOSSIBLE),
        (5, (6,), (-1,), IMPOSSIBLE),
        (-1, (1,), (1,), IMPOSSIBLE),
        (0, (-2, -3), (3, 1), IMPOSSIBLE),
        (0, (2, 3), (1,), IMPOSSIBLE),
        (0, (True,), (1,), IMPOSSIBLE),
        (0, ("2",), (1,), IMPOSSIBLE),
        (None, (1,), (1,), IMPOSSIBLE),
        (0, None, None, NO_CALL),
        (0, 6, 1, NO_CALL),
    ],
)
def test_a_view_beyond_its_storage_is_refused(
    path: Path, offset: Any, shape: Any, stride: Any, message: str
) -> None:
    view = Tensor(Storage("F32", FLOATS.reshape(-1)), offset, shape, stride)
    refused(path, hostile.torch_bin({"x": view}), message)


@pytest.mark.parametrize("numel", [5, 7, 0, 2**40])
def test_a_storage_of_another_size_than_its_member_is_refused(path: Path, numel: int) -> None:
    view = Tensor(Storage("F32", FLOATS.reshape(-1), numel), 0, (0,), (1,))
    message = f"'x' needs a storage of {4 * numel} bytes and has one of 24"
    refused(path, hostile.torch_bin({"x": view}), message)


def test_a_storage_that_is_not_there_is_refused(path: Path) -> None:
    program, _ = hostile.state_pickle({"x": tensor("F32", FLOATS)})
    refused_pickle(path, program, "'x' has no storage '0'")
    view = Tensor(Storage("F32", FLOATS.reshape(-1), key="../../etc/passwd"), 0, (2,), (1,))
    program, _ = hostile.state_pickle({"x": view})
    refused_pickle(path, program, "'x' has no storage '../../etc/passwd'")


# --- hostile ZIPs ---


def test_compressed_members_are_refused_before_they_grow(path: Path) -> None:
    bomb = hostile.zip_of([("a/data.pkl", b"\0" * 10**7)], zipfile.ZIP_DEFLATED)
    assert len(bomb) < 20_000
    refused(path, bomb, "its member 'a/data.pkl' is compressed or encrypted")


def test_encrypted_members_and_sizes_that_differ_are_refused(path: Path) -> None:
    genuine = hostile.zip_of([("a/data.pkl", b"}.")])
    entry = genuine.rindex(b"PK\1\2")
    for field, value in [(8, 1), (20, 1), (24, 1)]:  # flags, size as stored, size
        data = bytearray(genuine)
        data[entry + field] = value
        refused(path, bytes(data), "its member 'a/data.pkl' is compressed or encrypted")


@pytest.mark.parametrize(
    "name", ["../x", "/data.pkl", "a/../data.pkl", "a\\data.pkl", "c:/data.pkl", "a//b", "a/"]
)
def test_member_names_that_climb_are_refused(path: Path, name: str) -> None:
    data = hostile.zip_of([(name.replace("\\", "|"), b"")]).replace(b"|", b"\\")
    refused(path, data, f"its member {name!r} does not stay in its folder")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_collide_are_refused(path: Path) -> None:
    twice = [("a/data.pkl", b"}."), ("a/data.pkl", b"}.")]
    refused(path, hostile.zip_of(twice), "its member 'a/data.pkl' is there twice or overlaps")
    data = bytearray(hostile.zip_of([("a/data.pkl", b"}."), ("a/x", b"123")]))
    second = data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = struct.pack("<I", 0)  # where the other one is
    refused(path, bytes(data), "is there twice or overlaps")


def test_members_beyond_the_file_are_refused(path: Path) -> None:
    genuine = hostile.zip_of([("a/data.pkl", b"}.")])
    entry = genuine.rindex(b"PK\1\2")
    for field, value in [(42, 2**31), (42, len(genuine) - 40), (42, 5)]:
        data = bytearray(genuine)
        struct.pack_into("<I", data, entry + field, value)
        refused(path, bytes(data), "its member 'a/data.pkl' is not where the ZIP directory says")
    data = bytearray(genuine)
    struct.pack_into("<II", data, entry + 20, 10**6, 10**6)
    refused(path, bytes(data), "its member 'a/data.pkl' is not where the ZIP directory says")


def test_too_many_members_are_refused_before_they_are_listed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_bin, "MAX_BYTES", 1000)
    members = [(f"a/{i}", b"") for i in range(50)]
    refused(path, hostile.zip_of(members), "directory is damaged: it lists too many members")


def test_a_zip_without_one_pickle_or_of_another_machine_is_refused(path: Path) -> None:
    refused(path, hostile.zip_of([("a/x", b"")]), "it has 0 members */data.pkl, not one")
    two = [("a/data.pkl", b"}."), ("b/data.pkl", b"}.")]
    refused(path, hostile.zip_of(two), "it has 2 members */data.pkl, not one")
    deeper = [("a/b/data.pkl", b"}."), ("data.pkl", b"}.")]
    refused(path, hostile.zip_of(deeper), "it has 0 members */data.pkl, not one")
    big = [("a/data.pkl", b"}."), ("a/byteorder", b"big")]
    refused(path, hostile.zip_of(big), "it was written on a big-endian machine")


def read_all(path: Path) -> dict[str, np.ndarray]:
    with open_torch_bin(path) as source:
        return {name: source.read(name) for name in source.names()}


def test_a_truncated_file_is_refused_wherever_it_ends(path: Path) -> None:
    data = (GOLDEN / "torch_save.bin").read_bytes()
    for size in [*range(0, len(data), 37), *range(len(data) - 30, len(data))]:
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            read_all(path)


def test_flipped_bytes_give_tensors_or_a_refusal_and_nothing_else(path: Path) -> None:
    genuine, rng = (GOLDEN / "torch_save.bin").read_bytes(), random.Random(0)
    program = zipfile.ZipFile(GOLDEN / "torch_save.bin").read("torch_save/data.pkl")
    first = genuine.index(program)
    spans = [(0, len(genuine)), (first, first + len(program)), (len(genuine) - 1200, len(genuine))]
    for trial in range(600):
        data = bytearray(genuine)
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(*spans[trial % 3])] = rng.choice([0, 0xFF, rng.randrange(256)])
        path.write_bytes(data)
        try:
            read_all(path)
        except TinyzoError as error:
            assert str(path) in error.message


def test_random_programs_give_tensors_or_a_refusal_and_nothing_else(path: Path) -> None:
    rng = random.Random(1)
    known = [op.code.encode("latin1") for op in pickletools.opcodes]
    parts = [*torch_bin.HANDLERS, *known, O_DICT, REBUILD, PARAMETER, FLOAT]
    parts += [b"X\x01\0\0\0a", b"K\1"]
    for _ in range(3000):
        program = b"".join(rng.choices(parts, k=rng.randrange(30))) + b"."
        try:
            assert torch_bin.load_state_dict(program, path) == {}
        except TinyzoError as error:
            assert str(path) in error.message


# --- shards ---


def write_index(folder: Path, weight_map: dict[str, str]) -> Path:
    path = folder / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1.5}, "weight_map": weight_map}))
    return path


def test_shards_are_one_source(tmp_path: Path) -> None:
    shared = tensor("F32", FLOATS)
    (tmp_path / "1.bin").write_bytes(hostile.torch_bin({"a": shared, "b": shared}))
    (tmp_path / "2.bin").write_bytes(hostile.torch_bin({"c": tensor("I64", [1, 2])}))
    index = write_index(tmp_path, {"a": "1.bin", "c": "2.bin", "b": "1.bin"})
    with open_torch_bin(index) as source:
        assert source.names() == ["a", "b", "c"]
        assert source.info("c") == TensorInfo("I64", (2,))
        assert source.ties() == {"b": "a"}
        np.testing.assert_array_equal(source.read("b"), FLOATS)
        out = np.empty(1, np.int64)
        source.read_into("c", out, 1)
        assert out == [2]
