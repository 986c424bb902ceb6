"""An exported folder that is damaged, hostile or of another export: refused, and by name."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import write_model, write_reviews, write_tensors

from tinyzo.checkpoints.safetensors import SafetensorsFile
from tinyzo.cli import main
from tinyzo.engine.onnx import protobuf
from tinyzo.engine.onnx.protobuf import BFLOAT16, External
from tinyzo.engine.onnx.reader import read_outline
from tinyzo.errors import CheckpointError, ConfigError, TinyzoError
from tinyzo.runs.exported import FIELDS, is_export, open_export
from tinyzo.runs.inference import export_onnx
from tinyzo.runs.settings import Settings

ADAPTER = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_reviews(home / "data")
    write_model(home / "model", "opt")
    given = Settings(model=str(home / "model"), task="reviews", data=str(home / "data"), queries=1)
    return export_onnx(given, home / "app")


@pytest.fixture
def app(made, tmp_path) -> Path:
    """A copy to do harm to."""
    return Path(shutil.copytree(made, tmp_path / "app"))


def about(app: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((app / "tinyzo.json").read_text())
    return found


def say(app: Path, **changes: Any) -> None:
    """Let tinyzo.json say something else."""
    (app / "tinyzo.json").write_text(json.dumps(about(app) | changes))


def put(app: Path, name: str, data: bytes) -> None:
    """Another graph, with its hash in tinyzo.json."""
    (app / name).write_bytes(data)
    say(app, graphs=about(app)["graphs"] | {name: hashlib.sha256(data).hexdigest()})


def graph(*tensors: External, noise_format: str = "1") -> bytes:
    """A graph of nothing but tensors in files."""
    written = map(protobuf.external, tensors)
    return protobuf.model([], written, [], [], {"": 21}, {"noise_format": noise_format})


def refused(app: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_export(app)


def test_a_folder_that_is_right(app, capsys):
    assert is_export(app) and open_export(app).about == about(app)
    assert [len(open_export(app).rows(split)) for split in ("train", "test")] == [12, 8]
    assert main(["inspect", str(app), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    said = (found["kind"], found["task"], found["queries"], found["train_rows"])
    assert said == ("words", "reviews", 1, 12)
    assert found["trained"] == 4 and found["trainable"] == 4 * 16 * 8
    assert found["bytes"] == (app / "model.safetensors").stat().st_size
    assert found["step.onnx inputs"]["labels"] == "int64[examples]"
    assert found["eval.onnx outputs"] == {"scores": "float64[rows, 2]"}
    assert found["plans"][0]["engine"] == "onnx"
    assert found["plan_bytes"] == sum(found["plan"].values()) > 1_000_000
    assert main(["inspect", str(app)]) == 0
    assert re.search(r"^kind +words$", capsys.readouterr().out, re.M)


def test_what_is_no_export(made, tmp_path):
    assert not is_export(made / "adapter") and not is_export(made.parent / "model")
    with pytest.raises(CheckpointError, match=r"no tinyzo\.json.*\n.*name the --output of tinyzo"):
        open_export(tmp_path)
    with pytest.raises(CheckpointError, match="no whole export"):
        open_export(tmp_path / "nowhere")


# -- formats and hashes ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["format", "noise_format"])
@pytest.mark.parametrize("found", [2, 0, "1", True, None, 1.0])
def test_another_format(app, name, found):
    say(app, **{name: found})
    refused(app, rf"json: {name} is {found!r}; this version of tinyzo reads 1\n.*export it again")


def test_a_graph_with_z_of_another_format(app):
    put(app, "step.onnx", graph(noise_format="2"))
    refused(app, r"step\.onnx: its z is of format '2'; this version of tinyzo has 1")


@pytest.mark.parametrize("name", ["step.onnx", "eval.onnx"])
def test_a_graph_that_is_truncated_or_altered(app, made, name):
    data = (app / name).read_bytes()
    for damaged in (data[:-100], data[:-1] + bytes([data[-1] ^ 1])):
        (app / name).write_bytes(damaged)
        refused(app, rf"{name}: it is not as it was exported: SHA-256 \w+, then \w+\n.*tinyzo exp")
    (app / name).write_bytes(b"")
    refused(app, rf"{name}: it is empty")
    put(app, name, data[:-100])
    refused(app, rf"{name}: it is no ONNX model: it is truncated")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_base_of_another_hash(app, name):
    path = app / name
    data = path.read_bytes()
    if name == "config.json":
        path.write_bytes(data + b"\n")
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused(app, r"model\.safetensors or config\.json: not the base that was exported: SHA-256")


def test_another_model_s_weights(app, tmp_path):
    other = write_model(tmp_path / "other", "opt", "f16")
    shutil.copyfile(other / "model.safetensors", app / "model.safetensors")
    refused(app, "not the base that was exported")


@pytest.mark.parametrize(
    "name",
    [
        "step.onnx",
        "eval.onnx",
        "model.safetensors",
        "config.json",
        "adapter/adapter_config.json",
        ADAPTER,
    ],
)
def test_a_file_that_is_missing(app, name, capsys):
    (app / name).unlink()
    with pytest.raises(TinyzoError, match=re.escape(Path(name).name)):
        open_export(app)
    assert main(["inspect", str(app)]) == 1
    assert Path(name).name in capsys.readouterr().err


def test_no_tinyzo_json(app, capsys):
    (app / "tinyzo.json").unlink()
    assert main(["inspect", str(app)]) == 1
    assert "app: no tinyzo.json, so no whole export" in capsys.readouterr().err


# -- the adapter -----------------------------------------------------------------------------------


def adapter_of(app: Path) -> dict[str, np.ndarray]:
    with SafetensorsFile(app / ADAPTER) as file:
        return {name: file.read(name) for name in file.names()}


def test_an_adapter_that_an_app_has_written(app):
    tensors = adapter_of(app)
    write_tensors(app / ADAPTER, {name: t + np.float32(1) for name, t in tensors.items()})
    # Without the metadata the header is shorter, and A lies where the graphs do not look for it.
    where = rf"is to be at byte \d+ of {ADAPTER}, where no tensor of \d+ bytes is"
    refused(app, rf"{where}\n.*an app writes its own into another")


def test_an_adapter_that_is_gone(app):
    (app / ADAPTER).unlink()
    refused(app, "it is missing\n.*tinyzo export writes it again")


def test_an_adapter_of_another_shape(app):
    tensors = adapter_of(app)
    name = next(name for name in tensors if "lora_B" in name)
    write_tensors(app / ADAPTER, tensors | {name: tensors[name][:, :4].copy()})
    refused(app, "adapter_model.safetensors|step.onnx")
    put(app, "step.onnx", graph())
    put(app, "eval.onnx", graph())
    refused(app, r"lora_B.weight: shape \[16, 4\], the configuration asks for \[16, 8\]")


def test_an_adapter_in_another_type_or_that_graphs_do_not_know(app):
    put(app, "step.onnx", graph())
    put(app, "eval.onnx", graph())
    trained = about(app)["trained"]
    name = next(iter(trained))
    say(app, trained=trained | {name: {"key": "none", "shape": [16, 8]}})
    refused(app, "it has no tensor 'none'")
    say(app, trained=trained | {name: trained[name] | {"shape": [8, 16]}})
    refused(app, r"lora_B.weight is F32 \[16, 8\], and the graphs take F32 \[8, 16\]")
    say(app, trained=trained)
    tensors = {name: tensor.astype(np.float16) for name, tensor in adapter_of(app).items()}
    write_tensors(app / ADAPTER, tensors)
    refused(app, r"lora_B.weight is F16 \[16, 8\], and the graphs take F32")


def test_an_adapter_that_is_truncated(app):
    (app / ADAPTER).write_bytes((app / ADAPTER).read_bytes()[:-5])
    refused(app, r"adapter_model\.safetensors: its tensors end at byte")


# -- tinyzo.json -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not JSON", "its JSON is malformed"),
        (b"[1]", "its JSON is malformed: it does not start with"),
        (b'{"format": 1, "format": 1}', "its JSON is malformed: 'format' is"),
        (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "its JSON is malformed"),
        (b'{"a": "' + b"x" * (1 << 20) + b'"}', "it has more than 1048576 bytes"),
        (b"", "it is empty"),
        (b"{}", "format is None"),
        (b'{"format": 1, "noise_format": 1}', "it has no base"),
    ],
)
def test_a_tinyzo_json_that_is_none(app, data, message):
    (app / "tinyzo.json").write_bytes(data)
    refused(app, rf"tinyzo\.json: {message}")


@pytest.mark.parametrize("name", list(FIELDS))
def test_a_field_of_another_type(app, name):
    wrong: list[object] = [{"a": {"b": 1}}, -1, [[]], "\x1b[2J" if name == "seed" else [None]]
    for value in wrong:
        say(app, **{name: value})
        if name in ("lr", "eps", "alpha", "scale") and value == -1:
            continue
        refused(app, rf"tinyzo\.json: {name} is ")
    found = about(app)
    del found[name]
    (app / "tinyzo.json").write_text(json.dumps(found))
    refused(app, rf"tinyzo\.json: it has no {name}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("adapter", "../adapter_model.safetensors"),
        ("adapter", "/etc/passwd"),
        ("graphs", {"../step.onnx": "0", "eval.onnx": "0"}),
        ("graphs", {"step.onnx": "0"}),
        ("signatures", {"step.onnx": {}, "eval.onnx": {}}),
        ("trained", {}),
        ("trained", {"a": {"key": "b", "shape": [0, 1]}}),
        ("trained", {"a": {"key": "b", "shape": [1]}}),
        ("lr", float("nan")),
        ("queries", 0),
        ("family", "bert"),
        ("kind", "lines"),
        ("labels", ["a", 1]),
        ("max_tokens", 1.5),
    ],
)
def test_a_field_of_no_such_value(app, field, value):
    say(app, **{field: value})
    refused(app, rf"tinyzo\.json: {field} is ")


def test_a_graph_that_is_said_to_take_something_else(app):
    signatures = about(app)["signatures"]
    inputs = signatures["step.onnx"]["inputs"]
    flat = inputs | {"input_ids": {"type": "int64", "shape": ["rows"]}}
    for changed, message in (
        (inputs | {"more": inputs["lr"]}, r"step\.onnx of kind words lacks or has more\n"),
        ({k: v for k, v in inputs.items() if k != "labels"}, "lacks or has labels"),
        (flat, r"input_ids of step\.onnx is \['rows'\], not of rows and tokens"),
    ):
        step = signatures["step.onnx"] | {"inputs": changed}
        say(app, signatures=signatures | {"step.onnx": step})
        refused(app, message)
    say(app, signatures=signatures)
    say(app, kind="gold")
    refused(app, r"kind gold lacks or has labels, targets")


# -- graphs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "offset", "message"),
    [
        (
            "../model.safetensors",
            0,
            r"w is to be read from '\.\./model\.safetensors'\n.*only model",
        ),
        ("/etc/passwd", 0, "w is to be read from '/etc/passwd'"),
        ("", 0, "w is to be read from ''"),
        ("model.safetensors", 1, "w is to be at byte 1 of model.safetensors, where no tensor of 4"),
        ("model.safetensors", 1 << 60, "w is to be at byte 1152921504606846976 of model"),
    ],
)
def test_a_tensor_that_is_elsewhere(app, file, offset, message):
    put(app, "step.onnx", graph(External("w", 1, (1,), file, offset, 4)))
    refused(app, message)


def test_the_outline_of_a_graph():
    tensors = [External("w", 1, (2, 3), "a", 8, 24), External("ü", BFLOAT16, (), "b/c", 0, 2)]
    held = protobuf.tensor("held", np.zeros(2, np.float32))
    data = protobuf.model(
        [protobuf.node("Add", ["a", "b"], ["c"], {"x": 1, "y": 0.5, "z": "s"})],
        [held, *map(protobuf.external, tensors)],
        [protobuf.Described("a", 1, ("n", 2))],
        [],
        {"": 21},
        {"k": "v", "": "e"},
    )
    outline = read_outline(data, Path("x.onnx"))
    assert outline.externals == tensors and outline.metadata == {"k": "v", "": "e"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x3a\xff\xff\xff\xff\x7f", r"it is truncated: \d+ bytes at byte 6 of 6"),
        (b"\x80", "it is truncated within a number"),
        (b"\x80" * 11, "a number has more than 64 bits"),
        (b"\x3b", "wire type 3 at byte 1"),
        (b"\x38\x01", "field 7 is a number"),
        (protobuf.data(7, protobuf.integer(5, 1)), "field 5 is a number"),
        (
            graph(External("w", 1, (1,), "a", 8, 4)).replace(
                b"\x08\x01\x10\x01", b"\x0a\x02\x10\x01"
            ),
            "field 1 is no number",
        ),
        (protobuf.data(14, protobuf.data(1, b"\xff")), "can't decode byte 0xff"),
        (
            protobuf.data(7, protobuf.data(5, protobuf.data(13, protobuf.data(1, "location")))),
            "'' is no place in a file",
        ),
        (
            graph(External("w", 1, (1,), "a", 8, 4)).replace(
                b"offset\x12\x018", b"offset\x12\x01-"
            ),
            "'-' is no place in a file",
        ),
    ],
)
def test_what_is_no_graph(data, message):
    with pytest.raises(CheckpointError, match=f"x.onnx: it is no ONNX model: .*{message}"):
        read_outline(data, Path("x.onnx"))


# -- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [{}],
        [{"input_ids": [], "label": 0}],
        [{"input_ids": [1, -1], "label": 0}],
        [{"input_ids": [1], "label": "0"}],
        {"a": 1},
    ],
)
def test_rows_that_are_none(app, rows):
    (app / "rows.json").write_text(json.dumps({"train": rows, "test": []}))
    with pytest.raises(CheckpointError, match=r"rows\.json: its train are no rows of words"):
        open_export(app).rows("train")
    assert main(["inspect", str(app)]) == 1


def test_a_base_is_not_that_of_a_run(app, capsys):
    assert main(["inspect", str(app), "--base", "elsewhere"]) == 2
    assert "is no run" in capsys.readouterr().err


def test_without_the_runtime_an_export_is_written_and_checked(app, monkeypatch):
    from tinyzo.engine.onnx import session

    def missing() -> None:
        raise ConfigError("engine 'onnx' cannot be had here", "pip install")

    monkeypatch.setattr(session, "check_runtime", missing)
    from tinyzo.runs.app import App

    with pytest.raises(ConfigError, match="engine 'onnx' cannot be had here"):
        App(open_export(app))
