"""A file that somebody writes into while it is open: its next read is refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from folders import write_tensors

from tinyzo.checkpoints.checksums import TENSOR, Checksums
from tinyzo.checkpoints.directory import open_torch_bin
from tinyzo.checkpoints.safetensors import SafetensorsWriter, open_safetensors
from tinyzo.checkpoints.sources import TensorInfo
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.weights import Weights
from tinyzo.errors import CheckpointError, ConfigError
from tinyzo.runs.snapshots import write_checked

GOLDEN = Path(__file__).parents[1] / "golden"
ONES = {"w": np.ones((4, 8), np.float32)}


def safetensors(folder: Path) -> tuple[Path, Path]:
    write_tensors(folder / "m.safetensors", ONES)
    return folder / "m.safetensors", folder / "m.safetensors"


def shards(folder: Path) -> tuple[Path, Path]:
    index = folder / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "m.safetensors"}}))
    return index, safetensors(folder)[1]


def torch_bin(folder: Path) -> tuple[Path, Path]:
    path = folder / "pytorch_model.bin"
    path.write_bytes((GOLDEN / "torch_save.bin").read_bytes())
    return path, path


def write_into(path: Path) -> None:
    """Write the last byte anew; a second later, however coarse the times of the disk are."""
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


@pytest.mark.parametrize("make", [safetensors, shards, torch_bin])
def test_a_file_that_was_written_into_is_read_no_more(tmp_path, make):
    path, held = make(tmp_path)
    opener = open_torch_bin if make is torch_bin else open_safetensors
    with opener(path) as source:
        name = source.names()[0]
        source.read(name)
        write_into(held)
        with pytest.raises(CheckpointError) as caught:
            source.read(name)
    assert caught.value.message == f"{held}: it has changed since it was opened"
    assert caught.value.hint.startswith("begin again; replace a file that is in use")


def test_a_file_that_has_grown_is_read_no_more(tmp_path):
    path, _ = safetensors(tmp_path)
    with open_safetensors(path) as source:
        status = path.stat()
        with open(path, "ab") as file:
            file.write(b"more")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(CheckpointError, match="it has changed since it was opened"):
            source.read("w")


@pytest.mark.skipif(os.name == "nt", reason="an open file keeps its name there")
def test_a_file_that_was_replaced_or_removed_is_read_as_it_was(tmp_path):
    path, _ = safetensors(tmp_path)
    with open_safetensors(path) as source:
        write_tensors(path, {"w": np.zeros((4, 8), np.float32)})
        assert np.array_equal(source.read("w"), ONES["w"])
        path.unlink()
        assert np.array_equal(source.read("w"), ONES["w"])


def test_a_disk_that_fails_then_is_named(tmp_path, monkeypatch):
    def fail(_: object) -> None:
        raise OSError(5, "Input/output error")

    path, _ = safetensors(tmp_path)
    source = open_safetensors(path)
    with monkeypatch.context() as broken, pytest.raises(CheckpointError) as caught:
        broken.setattr(os, "fstat", fail)
        source.read("w")
    assert caught.value.message == f"{path}: Input/output error"


def test_a_snapshot_has_checksums_and_may_get_another_time_when_it_is_synced(tmp_path):
    path = tmp_path / "weights-1.safetensors"
    infos = {"w": TensorInfo("F32", (4, 8))}
    table = Checksums(infos)
    with SafetensorsWriter(path, infos | {TENSOR: table.info}) as writer:
        write_checked(writer, table, Weights(dict(ONES), NumpyEngine()))
        with open_safetensors(writer.partial) as source:
            os.utime(writer.partial, (1, 1))
            assert np.array_equal(source.read("w"), ONES["w"])


def test_a_closed_file_says_so(tmp_path):
    path, _ = safetensors(tmp_path)
    source = open_safetensors(path)
    source.close()
    with pytest.raises(CheckpointError) as caught:
        source.read("w")
    assert str(caught.value) == f"{path}: it is closed\n  hint: load the model again"


def test_a_big_endian_machine_is_refused(tmp_path, monkeypatch):
    path, _ = safetensors(tmp_path)
    monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(ConfigError) as caught:
        open_safetensors(path)
    assert caught.value.message == "this machine is big-endian"
    assert caught.value.hint.startswith("take a little-endian one")
