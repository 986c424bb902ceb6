"""Folders for others: a run's tuned model, and checkpoints converted from pytorch_model.bin."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints.hostile import Tensor, tensor, torch_bin
from folders import ROOT, SHAPES, finetune, random_tensors, write_model, write_reviews

from tinyzo.checkpoints.directory import WEIGHT_FILES, fingerprint
from tinyzo.cli import main
from tinyzo.errors import CheckpointError
from tinyzo.models.model import load
from tinyzo.runs import export, report
from tinyzo.runs.export import convert, replay
from tinyzo.runs.run import Run
from tinyzo.runs.snapshots import tuned_model

GOLDEN = ROOT / "tests" / "golden"


def run_of(home: Path, family: str, dtype: str) -> Run:
    model = write_model(home / "model", family, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "plot", lambda path: "not drawn")
        assert finetune(model, write_reviews(home / "data"), home / "run", "--lr", "1e-2") == 0
    return Run.open(home / "run")


@pytest.fixture(scope="module", params=["roberta f32", "opt bf16", "roberta f16"])
def run(request, tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("home"), *request.param.split())


def test_replay_writes_the_model_as_it_is_in_memory(run, tmp_path):
    assert replay(run, tmp_path / "new" / "tuned") == tmp_path / "new" / "tuned"
    tuned, memory = load(tmp_path / "new" / "tuned"), tuned_model(run)
    assert tuned.weights.names() == memory.weights.names()
    for name in tuned.weights.names():
        np.testing.assert_array_equal(tuned.weights.stored(name), memory.weights.stored(name))
    ids = [[0, 9, 8, 2]]
    np.testing.assert_array_equal(tuned.logits(ids)[0], memory.logits(ids)[0])


def test_replay_to_a_step(run, tmp_path):
    base = load(run.settings.model_path)
    replay(run, tmp_path / "0", step=0)
    replay(run, tmp_path / "5", step=5)
    for name in base.weights.names():
        stored = load(tmp_path / "0").weights.stored(name)
        np.testing.assert_array_equal(stored, base.weights.stored(name))
    assert fingerprint(tmp_path / "5") != fingerprint(tmp_path / "0")
    assert main(["replay", str(run.path), "--output", str(tmp_path / "9"), "--step", "9"]) == 1


def test_the_safetensors_package_reads_it(run, tmp_path):
    safe_open = pytest.importorskip("safetensors", reason="the crate reads what we write").safe_open
    replay(run, tmp_path / "tuned")
    weights = tuned_model(run).weights
    with safe_open(tmp_path / "tuned" / "model.safetensors", framework="np") as file:
        assert set(file.keys()) == set(weights.names())
        assert file.metadata() == {"format": "pt"}
        for name in file.keys():  # noqa: SIM118 (it is no dict)
            here = file.get_slice(name)
            tag = {"float32": "F32", "float16": "F16", "uint16": "BF16"}
            assert here.get_dtype() == tag[weights.dtype(name).name]
            assert tuple(here.get_shape()) == weights.shape(name)
            if here.get_dtype() != "BF16":  # which its NumPy side cannot read
                np.testing.assert_array_equal(file.get_tensor(name), weights.stored(name))


def test_config_and_tokenizer_come_along(run, tmp_path):
    source = run.settings.model_path
    (source / "README.md").write_text("of the model")
    (source / "README").mkdir(exist_ok=True)  # a folder of that name is none of ours
    (source / "generation_config.json").write_text("{}")
    replay(run, tmp_path / "tuned")
    assert sorted(path.name for path in (tmp_path / "tuned").iterdir()) == [
        "README.md", "config.json", "generation_config.json", "merges.txt", "model.safetensors",
        "vocab.json",
    ]  # fmt: skip
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    kinds = {"float32": "float32", "float16": "float16", "uint16": "bfloat16"}
    model = tuned_model(run)
    (dtype,) = {kinds[model.weights.dtype(n).name] for n in model.weights.names()}
    assert config.pop("dtype") == dtype
    before = json.loads((source / "config.json").read_text())
    assert before.pop("torch_dtype") and config == before
    assert (tmp_path / "tuned" / "vocab.json").read_bytes() == (source / "vocab.json").read_bytes()


@pytest.mark.parametrize("taken", ["config.json", *WEIGHT_FILES])
def test_a_folder_with_a_model_is_left_alone(run, tmp_path, taken):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(CheckpointError, match=f"has a {taken} already\n  hint: name another"):
        replay(run, tmp_path)
    with pytest.raises(CheckpointError, match=f"has a {taken} already"):
        convert(run.settings.model_path, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [taken]


def test_the_base_is_never_written(run):
    before = {path: path.read_bytes() for path in run.settings.model_path.glob("*.*")}
    with pytest.raises(CheckpointError, match="already"):
        replay(run, run.settings.model_path)
    assert {path: path.read_bytes() for path in run.settings.model_path.glob("*.*")} == before


def test_an_output_that_cannot_be_made(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/tuned: Not a directory"):
        replay(run, tmp_path / "file" / "tuned")


# --- convert ---


def state(family: str = "opt", extra: bool = True) -> dict[str, Tensor]:
    """A state dict as torch.save has it, its output projection tied to the embedding."""
    config = SHAPES[family] | {"vocab_size": 300}
    tensors = {name: tensor("F32", t) for name, t in random_tensors(family, **config).items()}
    head = {"opt": "lm_head.weight", "roberta": "lm_head.decoder.weight"}[family]
    first = next(iter(tensors))
    if extra:
        t = tensors[first]
        tensors[head] = Tensor(t.storage, t.offset, t.shape, t.stride)
    return tensors


def folder(path: Path, files: dict[str, bytes], family: str = "opt") -> Path:
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    config = SHAPES[family] | {"vocab_size": 300, "model_type": family}
    (path / "config.json").write_text(json.dumps(config))
    return path


def sharded(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    names = list(tensors)
    parts = {"a.bin": names[:5], "b.bin": names[5:]}
    index = {"weight_map": {name: part for part, held in parts.items() for name in held}}
    files = {part: torch_bin({n: tensors[n] for n in held}) for part, held in parts.items()}
    return files | {"pytorch_model.bin.index.json": json.dumps(index).encode()}


@pytest.mark.parametrize("family", ["roberta", "opt"])
def test_a_bin_becomes_safetensors(tmp_path, family):
    tensors = state(family)
    source = folder(tmp_path / "bin", {"pytorch_model.bin": torch_bin(tensors)}, family)
    assert main(["convert", str(source), "--output", str(tmp_path / "new")]) == 0
    model, before = load(tmp_path / "new"), load(source)
    for name in before.weights.names():
        np.testing.assert_array_equal(model.weights.stored(name), before.weights.stored(name))
    oracle = pytest.importorskip("safetensors.numpy", reason="the crate reads what we write")
    file = oracle.load_file(tmp_path / "new/model.safetensors")
    assert set(file) == set(state(family, extra=False))  # ties are written once, as the first
    assert (tmp_path / "new" / "config.json").exists()
    assert not (tmp_path / "new" / "pytorch_model.bin").exists()


def test_shards_become_one(tmp_path):
    tensors = state(extra=False)
    source = folder(tmp_path / "shards", sharded(tensors))
    convert(source, tmp_path / "new")
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["config.json", "model.safetensors"]  # and no index
    for name, before in tensors.items():
        values = before.storage.values.reshape(before.shape)
        np.testing.assert_array_equal(load(tmp_path / "new").weights.stored(name), values)


def test_a_file_of_torch_save_alone(tmp_path):
    shutil.copyfile(GOLDEN / "torch_save.bin", tmp_path / "weights.bin")
    convert(tmp_path / "weights.bin", tmp_path / "new")
    with np.load(GOLDEN / "torch_save.npz") as golden:
        expected = dict(golden)
    expected.pop("bfloat16")  # which the package's NumPy side cannot read
    expected.pop("tied")  # is `weight`
    safe_open = pytest.importorskip("safetensors", reason="the crate reads what we write").safe_open
    with safe_open(tmp_path / "new" / "model.safetensors", framework="np") as file:
        assert set(file.keys()) == {*expected, "bfloat16"}
        for name, values in expected.items():
            np.testing.assert_array_equal(file.get_tensor(name), values)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02cos\nsystem\n", "torch.save did not write it"),
        (b"", "it is empty"),
        (torch_bin({"w": tensor("F32", np.zeros(3))})[:-40], "its ZIP directory is damaged"),
        (torch_bin({"w": 3}), "is a int, not a tensor"),
    ],
)
def test_a_hostile_file_is_refused(tmp_path, capsys, data, message):
    source = folder(tmp_path / "bin", {"pytorch_model.bin": data})
    assert main(["convert", str(source), "--output", str(tmp_path / "new")]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "new").exists()


def test_what_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        convert(tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(CheckpointError, match=r"none of model.safetensors"):
        convert(tmp_path, tmp_path / "new")


def test_converting_holds_about_one_tensor(tmp_path):
    """64 MB in 16 tensors; the peak of a process of its own."""
    tensors = {f"t{i}": tensor("F32", np.full(1 << 20, i, np.float32)) for i in range(16)}
    (tmp_path / "weights.bin").write_bytes(torch_bin(tensors))
    code = (
        "import sys; from pathlib import Path\n"
        "from tinyzo.machine import memory; from tinyzo.runs import export\n"
        "before = memory.status_bytes('VmRSS')\n"
        "export.convert(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "print(memory.peak_bytes() - before)"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc to read the peak from")
    command = [sys.executable, "-c", code, str(tmp_path / "weights.bin"), str(tmp_path / "new")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(result.stdout) < 3 * (4 << 20)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "config.json"])
def test_small_files_that_cannot_be_written(tmp_path, monkeypatch, capsys, name):
    write = export.write_file

    def full(path, data):
        if path.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(export, "write_file", full)
    model, new = write_model(tmp_path / "model", "opt"), tmp_path / "new"
    assert main(["convert", str(model), "--output", str(new)]) == 1
    hint = "make room on the disk, or name another --output"
    said = f"tinyzo: {new / name}: No space left on device\n  hint: {hint}\n"
    assert capsys.readouterr().err == said
    assert not (new / "config.json").exists() and not (new / "model.safetensors").exists()


def test_small_files_that_cannot_be_read(tmp_path, monkeypatch, capsys):
    model = write_model(tmp_path / "model", "opt")
    (model / "README.md").write_text("a model")
    read = Path.read_bytes

    def refused(path):
        if path.name == "README.md":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert main(["convert", str(model), "--output", str(tmp_path / "new")]) == 1
    said = f"tinyzo: {model / 'README.md'}: Permission denied\n  hint: check the permissions"
    assert capsys.readouterr().err.startswith(said)
