"""Runs of LoRA: the PEFT folder that replay writes, the whole model, and going on from a folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from folders import SHAPES, finetune, random_tensors, write_model, write_reviews, write_tensors

from tinyzo.checkpoints.peft import CONFIG, ORIGIN, PREFIX, WEIGHTS
from tinyzo.checkpoints.safetensors import open_safetensors
from tinyzo.cli import main
from tinyzo.errors import CheckpointError, ConfigError, RunError
from tinyzo.models.model import load
from tinyzo.runs import export, report
from tinyzo.runs.export import replay
from tinyzo.runs.run import Run
from tinyzo.runs.snapshots import tuned_model

IDS = [[0, 9, 8, 2], [0, 40, 33, 21, 7, 2]]
RUNS = {  # family, storage, options
    "roberta lora": ("roberta", "f32", ()),
    "opt lora": ("opt", "f32", ()),
    "opt lora-fa": ("opt", "f32", ("--train", "lora-fa", "--residency", "streamed")),
    "roberta everywhere": (
        "roberta", "f32",
        ("--lora-targets", "query,key,value,dense", "--lora-rank", "3", "--lora-alpha", "5"),
    ),
    "opt bf16": ("opt", "bf16", ()),
}  # fmt: skip
MISSING = [name for name in ("torch", "transformers", "peft") if not find_spec(name)]
BY_PEFT = """
import json, sys, numpy as np, torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
*folders, out, ids = sys.argv[1:]
found = {}
for folder in folders:
    config = PeftConfig.from_pretrained(folder)
    auto = AutoModelForCausalLM if config.task_type == "CAUSAL_LM" else AutoModelForMaskedLM
    base = auto.from_pretrained(config.base_model_name_or_path, dtype=torch.float32)
    for merge in ("", " merged"):
        if merge:
            model = auto.from_pretrained(folder + "-merged", dtype=torch.float32)
        else:
            model = PeftModel.from_pretrained(base, folder)
            assert not [n for n, p in model.named_parameters() if ".lora_B." in n and not p.any()]
        with torch.no_grad():
            logits = [model.eval()(input_ids=torch.tensor([i])).logits[0] for i in json.loads(ids)]
        found[folder + merge] = torch.cat(logits).numpy()
np.savez(out, **found)
"""


def lora_run(home: Path, family: str, dtype: str, options: tuple[str, ...]) -> Run:
    model = write_model(home / "model", family, dtype)
    options = ("--train", "lora", "--lr", "3e-1", *options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "plot", lambda path: "not drawn")
        assert finetune(model, write_reviews(home / "data"), home / "run", *options) == 0
    return Run.open(home / "run")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Each of RUNS, replayed to its last step both ways: `adapter` and `adapter-merged`."""
    found = {}
    for name, how in RUNS.items():
        home = tmp_path_factory.mktemp("home")
        found[name] = run = lora_run(home, *how)
        replay(run, home / "adapter", step=6)
        replay(run, home / "adapter-merged", step=6, merge=True)
    return found


@pytest.fixture(params=RUNS)
def run(request, runs):
    return runs[request.param]


def logits(model) -> np.ndarray:
    return np.concatenate(model.logits(IDS))


def test_the_folder_is_the_run_bit_by_bit(run):
    adapter, tuned = load(run.path.parent / "adapter"), tuned_model(run, 6)
    base = load(run.settings.model_path)
    assert sorted(adapter.weights.names()) == sorted(tuned.weights.names())
    assert adapter.weights.adapter_scale == tuned.weights.adapter_scale
    for name in tuned.weights.names():
        np.testing.assert_array_equal(adapter.weights.read(name), tuned.weights.read(name))
    np.testing.assert_array_equal(logits(adapter), logits(tuned))
    assert np.abs(logits(adapter) - logits(base)).max() > 1e-2
    assert adapter.directory == run.settings.model_path
    assert adapter.tokenizer.vocab_size == base.tokenizer.vocab_size


def test_merged_is_the_same(run):
    merged, adapter = (load(run.path.parent / f"adapter{end}") for end in ("-merged", ""))
    assert not [name for name in merged.weights.names() if ".lora_" in name]
    is_f32 = merged.weights.dtype(merged.weights.names()[0]) == np.float32
    tolerance = 1e-5 if is_f32 else 0.05  # a bfloat16 has 8 bits
    np.testing.assert_allclose(logits(merged), logits(adapter), atol=tolerance, rtol=0)


def test_what_the_folder_holds(run):
    folder = run.path.parent / "adapter"
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS, ORIGIN]
    config, s = json.loads((folder / CONFIG).read_text()), run.settings
    adapters = [n for n in tuned_model(run, 0).weights.names() if ".lora_A." in n]
    modules = sorted(name.removesuffix(".lora_A.weight") for name in adapters)
    opt = run.about["family"] == "opt"
    assert config == {
        "peft_type": "LORA", "task_type": "CAUSAL_LM" if opt else None, "bias": "none",
        "base_model_name_or_path": str(s.model_path.resolve()), "target_modules": modules,
        "r": s.lora_rank, "lora_alpha": s.lora_alpha, "lora_dropout": 0.0,
        "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
    }  # fmt: skip
    safe_open = pytest.importorskip("safetensors", reason="the crate reads what we write").safe_open
    with safe_open(folder / WEIGHTS, framework="np") as file:
        halves = [f"base_model.model.{m}.lora_{half}.weight" for m in modules for half in "AB"]
        assert sorted(file.keys()) == sorted(halves)
        assert {file.get_slice(name).get_dtype() for name in halves} == {"F32"}


@pytest.mark.skipif(bool(MISSING), reason=f"compares with the peft package; without {MISSING}")
def test_peft_computes_the_same_from_it(runs, tmp_path):
    folders = {name: str(run.path.parent / "adapter") for name, run in runs.items()}
    arguments = [BY_PEFT, *folders.values(), str(tmp_path / "logits.npz"), json.dumps(IDS)]
    subprocess.run([sys.executable, "-c", *arguments], check=True, capture_output=True)
    with np.load(tmp_path / "logits.npz") as found:
        for name, folder in folders.items():
            for end in ("", " merged"):
                ours = logits(load(folder + end.replace(" ", "-")))
                error = np.abs(found[folder + end] - ours).max() / np.abs(ours).max()
                print(f"{name}{end}: {error:.1e}")
                assert error < 1e-5, name


def test_a_step_and_the_command(runs, tmp_path, capsys):
    run = runs["opt lora"]
    assert main(["replay", str(run.path), "--output", str(tmp_path / "0"), "--step", "0"]) == 0
    base = load(run.settings.model_path)
    np.testing.assert_array_equal(logits(load(tmp_path / "0")), logits(base))
    output = tmp_path / "merged"
    options = ["--output", str(output), "--step", "6", "--merge", "--json"]
    assert main(["replay", str(run.path), *options]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["output"] == str(output)
    merged = load(run.path.parent / "adapter-merged")
    np.testing.assert_array_equal(logits(load(output)), logits(merged))


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("taken", [CONFIG, "config.json", "model.safetensors"])
def test_a_folder_with_a_model_or_adapter_is_left_alone(runs, tmp_path, taken, merge):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(CheckpointError, match=f"has a {taken} already\n  hint: name another"):
        replay(runs["opt lora"], tmp_path, merge=merge)
    assert [path.name for path in tmp_path.iterdir()] == [taken]


def test_what_was_interrupted_can_be_done_again(runs, tmp_path, monkeypatch):
    def fails(*arguments):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(export, "write_file", fails)
        with pytest.raises(CheckpointError, match="json: the disk is full"):
            replay(runs["opt lora"], tmp_path, step=6)
    assert list(tmp_path.iterdir()) == []
    replay(runs["opt lora"], tmp_path, step=6)
    whole = runs["opt lora"].path.parent / "adapter"
    for name in (CONFIG, WEIGHTS):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_the_base_s_own_adapter_does_not_come_along(runs, tmp_path):
    run = runs["roberta lora"]
    folder = shutil.copytree(run.settings.model_path, tmp_path / "both")
    (folder / CONFIG).write_text(json.dumps({"base_model_name_or_path": "."}))
    shutil.copyfile(run.path.parent / "adapter" / WEIGHTS, folder / WEIGHTS)
    np.testing.assert_array_equal(load(folder).weights.adapter_scale, 1)
    data, options = write_reviews(tmp_path / "data"), ("--train", "lora", "--steps", "0")
    assert finetune(folder, data, tmp_path / "run", *options) == 0
    replay(Run.open(tmp_path / "run"), tmp_path / "merged", merge=True)
    assert not (tmp_path / "merged" / CONFIG).exists()
    np.testing.assert_allclose(
        logits(load(tmp_path / "merged")), logits(load(folder)), atol=1e-5, rtol=0
    )


def test_a_prefix_has_no_folder(tmp_path):
    model, data = write_model(tmp_path / "model"), write_reviews(tmp_path / "data")
    assert finetune(model, data, tmp_path / "run", "--train", "prefix") == 0
    for merge in (False, True):
        with pytest.raises(RunError) as error:
            replay(Run.open(tmp_path / "run"), tmp_path / "tuned", merge=merge)
        assert str(error.value) == (
            f"{tmp_path / 'run'}: transformers reads no prefix\n  hint: give --model the run itself"
        )
    assert not (tmp_path / "tuned").exists()
    options = ["--task", "reviews", "--data", str(data)]
    assert main(["evaluate", "--model", str(tmp_path / "run"), *options]) == 0


def test_a_full_run_takes_merge_as_it_is(tmp_path):
    model, data = write_model(tmp_path / "model", "opt"), write_reviews(tmp_path / "data")
    assert finetune(model, data, tmp_path / "run") == 0
    for merge in (False, True):
        replay(Run.open(tmp_path / "run"), tmp_path / str(merge), merge=merge)
    one, other = ((tmp_path / str(merge) / "model.safetensors") for merge in (False, True))
    assert one.read_bytes() == other.read_bytes()


# -- going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["lora", "lora-fa"])
@pytest.mark.parametrize("name", ["roberta everywhere", "opt bf16"])
def test_a_run_goes_on_with_an_adapter(runs, tmp_path, name, what):
    before = load(runs[name].path.parent / "adapter")
    data, options = write_reviews(tmp_path / "data"), ("--train", what, "--lr", "3e-1")
    assert finetune(runs[name].path.parent / "adapter", data, tmp_path / "run", *options) == 0
    run = Run.open(tmp_path / "run")
    assert main(["evaluate", "--model", str(tmp_path / "run")]) == 0
    np.testing.assert_array_equal(logits(tuned_model(run, 0)), logits(before))
    after = load(replay(run, tmp_path / "more", step=6))
    assert after.weights.adapter_scale == before.weights.adapter_scale
    assert after.directory == before.directory  # the base, not the adapter that it began with
    for each in before.weights.names():
        moved = (before.weights.read(each) != after.weights.read(each)).any()
        assert moved == (".lora_B." in each or (".lora_A." in each and what == "lora"))
    np.testing.assert_array_equal(logits(after), logits(tuned_model(run, 6)))


def test_a_run_goes_on_with_modules_that_have_their_own_rank_and_alpha(runs, tmp_path):
    adapter = shutil.copytree(runs["opt lora"].path.parent / "adapter", tmp_path / "adapter")
    module = "model.decoder.layers.0.self_attn.q_proj"
    with open_safetensors(adapter / WEIGHTS) as file:
        tensors = {name: file.read(name) for name in file.names()}
    a, b = (f"{PREFIX}{module}.lora_{half}.weight" for half in "AB")
    tensors |= {a: tensors[a][:3].copy(), b: tensors[b][:, :3].copy()}
    write_tensors(adapter / WEIGHTS, tensors)
    config = json.loads((adapter / CONFIG).read_text())
    config |= {"rank_pattern": {module: 3}, "alpha_pattern": {"layers.0.*q_proj": 12}}
    (adapter / CONFIG).write_text(json.dumps(config))
    before = load(adapter)
    assert before.weights.adapter_scale == 2  # and the other module's 4, of which B takes a half
    np.testing.assert_array_equal(before.weights.read(b.removeprefix(PREFIX)), tensors[b] * 2)
    data, options = write_reviews(tmp_path / "data"), ("--train", "lora", "--lr", "3e-1")
    assert finetune(adapter, data, tmp_path / "run", *options) == 0
    run = Run.open(tmp_path / "run")
    folder = replay(run, tmp_path / "more", step=6)
    written = json.loads((folder / CONFIG).read_text())
    ranks = written["rank_pattern"].values()
    assert (written["r"], written["lora_alpha"], set(ranks)) == (3, 6.0, {8})
    assert written["rank_pattern"].keys() | {module} == set(written["target_modules"])
    assert set(written["alpha_pattern"].values()) == {16.0}
    np.testing.assert_array_equal(logits(load(folder)), logits(tuned_model(run, 6)))


@pytest.mark.parametrize(
    "options", [(), ("--train", "head"), ("--train", "prefix"), ("--method", "lozo"),
                ("--train", "lora", "--lora-targets", "dense")],
)  # fmt: skip
def test_an_adapter_is_trained_alone_and_whole(runs, tmp_path, capsys, options):
    data, adapter = write_reviews(tmp_path / "data"), runs["opt lora"].path.parent / "adapter"
    assert finetune(adapter, data, tmp_path / "run", *options) == 1
    said = capsys.readouterr().err
    assert "the model has an adapter\n  hint: --train lora goes on with all of it" in said


@pytest.mark.parametrize("option", ["--lora-rank", "--lora-alpha"])
def test_an_adapter_has_a_rank_of_its_own(runs, tmp_path, capsys, option):
    data, adapter = write_reviews(tmp_path / "data"), runs["opt lora"].path.parent / "adapter"
    assert finetune(adapter, data, tmp_path / "run", "--train", "lora", option, "4") == 2
    said = "--lora-rank and --lora-alpha are of a new adapter, and the model has one\n  hint: leave"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS, "base"])
def test_an_adapter_that_has_changed_is_refused(runs, tmp_path, file):
    adapter = shutil.copytree(runs["opt lora"].path.parent / "adapter", tmp_path / "adapter")
    base = shutil.copytree(runs["opt lora"].settings.model_path, adapter / "base")
    config = json.loads((adapter / CONFIG).read_text()) | {"base_model_name_or_path": "base"}
    (adapter / CONFIG).write_text(json.dumps(config))
    data, options = write_reviews(tmp_path / "data"), ("--train", "lora", "--steps", "2")
    assert finetune(adapter, data, tmp_path / "run", *options) == 0
    tuned_model(Run.open(tmp_path / "run"))
    if file == CONFIG:
        (adapter / CONFIG).write_text(json.dumps(config | {"lora_alpha": 3}))
    elif file == "base":
        sizes = SHAPES["opt"] | {"vocab_size": load(base).config.vocab_size}
        tensors = {n: t + 1 for n, t in random_tensors("opt", **sizes).items()}
        write_tensors(base / "model.safetensors", tensors)
    else:
        shutil.copyfile(adapter / WEIGHTS, tmp_path / "copy")
        data = bytearray((tmp_path / "copy").read_bytes())
        data[-1] ^= 1
        (adapter / WEIGHTS).write_bytes(data)
    with pytest.raises(RunError, match="not the model that the run began with"):
        tuned_model(Run.open(tmp_path / "run"))


def test_going_on_refuses_in_python_too(runs):
    from tinyzo.models.model import open_model
    from tinyzo.models.trainable import train_only

    with pytest.raises(ConfigError, match="the model has an adapter"):
        train_only(open_model(runs["opt lora"].path.parent / "adapter"), "full", 0, 8, 16.0)


def test_an_adapter_that_counts_nothing_is_written_as_such(tmp_path):
    """alpha = 0 is a number like any other."""
    model, data = write_model(tmp_path / "model"), write_reviews(tmp_path / "data")
    assert finetune(model, data, tmp_path / "first", "--train", "lora", "--steps", "1") == 0
    replay(Run.open(tmp_path / "first"), tmp_path / "adapter", step=1)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 0.0}))
    run = tmp_path / "second"
    assert finetune(tmp_path / "adapter", data, run, "--train", "lora", "--steps", "0") == 0
    replay(Run.open(run), tmp_path / "new")
    written = json.loads((tmp_path / "new" / "adapter_config.json").read_text())
    assert written["lora_alpha"] == 0.0
