"""Runs on a quantised base: the same bits wherever it is quantised, and what they refuse."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from cli.commands import command, document
from folders import finetune, shell, write_model, write_reviews

import tinyzo
from tinyzo.checkpoints.directory import fingerprint
from tinyzo.checkpoints.peft import CONFIG, ORIGIN
from tinyzo.errors import ConfigError, UsageError
from tinyzo.models.model import load
from tinyzo.runs import export
from tinyzo.runs.journal import read_journal
from tinyzo.runs.run import Run

FAMILIES = ("roberta", "opt")
IDS = [[0, 9, 8, 2], [0, 40, 33, 21, 7, 2]]
LORA_FA = ("--train", "lora-fa", "--lr", "0.3")


class Home:
    """A folder with data and, for each family, a model of floats and the same in int4."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = write_reviews(path / "data")
        for family in FAMILIES:
            write_model(path / family, family, "bf16")
            export.convert(path / family, path / f"{family}-int4", "int4")

    def run(self, model: str, output: Path, *options: str) -> Run:
        assert finetune(self.path / model, self.data, output, *options) == 0
        return Run.open(output)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


families = pytest.mark.parametrize("family", FAMILIES)


def steps_of(run: Run) -> list:
    return read_journal(run.journal_path).steps


# -- the same run --------------------------------------------------------------------------------


@families
def test_a_run_does_not_depend_on_where_the_base_is_quantised(home, tmp_path, family):
    runs = {
        "made": home.run(family, tmp_path / "made", "--base-dtype", "int4", *LORA_FA),
        "read": home.run(f"{family}-int4", tmp_path / "read", *LORA_FA),
        "streamed": home.run(
            f"{family}-int4", tmp_path / "streamed", "--residency", "streamed", *LORA_FA
        ),
        "made, streamed": home.run(
            *(family, tmp_path / "made2", "--base-dtype", "int4", "--residency", "streamed"),
            *LORA_FA,
        ),
    }
    for run in runs.values():
        assert steps_of(run) == steps_of(runs["made"]) and len(steps_of(run)) == 6
        assert run.result["loss"] == runs["made"].result["loss"]
    made = runs["made"]
    assert 'base_dtype = "int4"\n' in (made.path / "run.toml").read_text()
    assert "base_dtype" not in (runs["read"].path / "run.toml").read_text()
    assert made.about["base"] == fingerprint(home.path / family)
    assert runs["read"].about["base"] == fingerprint(home.path / f"{family}-int4")
    plain = home.run(family, tmp_path / "plain", *LORA_FA)
    assert steps_of(plain) != steps_of(made)


@families
@pytest.mark.parametrize("train", ["bias", "label-words", "prefix", "lora"])
def test_what_lies_beside_is_trained(home, tmp_path, family, train):
    run = home.run(family, tmp_path / "run", "--base-dtype", "int8", "--train", train)
    before, after = (tinyzo.load(run.path, engine="numpy"), load(home.path / family))
    trained = list(before.weights.trained)
    assert trained and not any(before.weights.dtype(name).names for name in trained)
    assert before.weights.names()[: len(after.weights.names())] == after.weights.names()


@pytest.mark.parametrize("method", ["adam", "sgd"])
def test_adapters_by_backpropagation(home, tmp_path, method):
    options = ("--base-dtype", "int4", "--train", "lora", "--method", method)
    run = home.run("opt", tmp_path / "run", *options)
    assert len(steps_of(run)) == 6


@pytest.mark.parametrize("model", ["opt", "opt-int4"])
def test_a_run_goes_on(home, tmp_path, model):
    options = LORA_FA if model == "opt-int4" else ("--base-dtype", "int4", *LORA_FA)
    whole = home.run(model, tmp_path / "whole", *options)
    part = home.run(model, tmp_path / "part", *options, "--steps", "3")
    assert command("finetune", "--resume", part.path, "--steps", 6) == 0
    assert steps_of(part) == steps_of(whole)


def test_a_killed_run_goes_on(home, tmp_path):
    whole = home.run("opt", tmp_path / "whole", "--base-dtype", "int4", *LORA_FA)
    shutil.copytree(whole.path, tmp_path / "killed")
    (tmp_path / "killed" / "result.json").unlink()
    options = ("--model", home.path / "opt", "--task", "reviews", "--data", home.data)
    options += ("--steps", "100000", "--batch-size", "4", "--lr", "0.3", "--eval-every", "2")
    options += ("--base-dtype", "int4", "--train", "lora-fa", "--output", tmp_path / "run")
    options += ("--engine", "numpy")
    process = shell("finetune", *options)
    journal = tmp_path / "run" / "journal"
    until = time.monotonic() + 60
    while not journal.exists() or journal.stat().st_size < 500:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.communicate()
    run = Run.open(tmp_path / "run")
    done = len(steps_of(run))
    assert command("finetune", "--resume", run.path, "--steps", done + 2) == 0
    again = home.run(
        *("opt", tmp_path / "again", "--base-dtype", "int4", *LORA_FA, "--engine", "numpy"),
        *("--steps", str(done + 2)),
    )
    assert steps_of(run) == steps_of(again) and len(steps_of(run)) == done + 2


def test_the_adapter_is_exported_with_the_name_of_its_base(home, tmp_path, capsys):
    run = home.run("opt", tmp_path / "run", "--base-dtype", "int4", *LORA_FA)
    folder = tinyzo.replay(run, tmp_path / "adapter", step=6)
    config = json.loads((folder / CONFIG).read_text())
    assert Path(config["base_model_name_or_path"]) == (home.path / "opt").resolve()
    assert json.loads((folder / ORIGIN).read_text())["sha256"] == run.about["base"]
    tuned = tinyzo.load(folder, engine="numpy", base_dtype="int4")
    plain = tinyzo.load(home.path / "opt", engine="numpy", base_dtype="int4")
    floats = tinyzo.load(folder, engine="numpy")
    assert not np.array_equal(tuned.logits(IDS)[0], plain.logits(IDS)[0])
    assert not np.array_equal(tuned.logits(IDS)[0], floats.logits(IDS)[0])
    of_int4 = home.run("opt-int4", tmp_path / "run2", *LORA_FA)
    folder = tinyzo.replay(of_int4, tmp_path / "adapter2", step=6)
    config = json.loads((folder / CONFIG).read_text())
    assert Path(config["base_model_name_or_path"]) == (home.path / "opt-int4").resolve()
    same = tinyzo.load(folder, engine="numpy")
    assert np.array_equal(same.logits(IDS)[0], tuned.logits(IDS)[0])


# -- commands ------------------------------------------------------------------------------------


@families
def test_commands_end_to_end(home, tmp_path, capsys, family):
    output = tmp_path / "int8"
    found = document(capsys, "convert", home.path / family, "--dtype", "int8", "--output", output)
    assert found["output"] == str(output)
    types = document(capsys, "inspect", output)["types"]
    assert set(types) == {"INT8", "BF16"}
    seen = document(capsys, "inspect", home.path / f"{family}-int4")
    assert set(seen["types"]) == {"INT4", "INT8", "BF16"}
    size = (home.path / f"{family}-int4" / "model.safetensors").stat().st_size
    assert seen["bytes"] < size < seen["bytes"] + 10_000
    assert seen["trainable"] < seen["parameters"]
    task = ("--task", "reviews", "--data", home.data)
    read = document(capsys, "evaluate", "--model", output, *task)
    made = document(
        capsys, "evaluate", "--model", home.path / family, "--base-dtype", "int8", *task
    )
    assert (read["loss"], read["accuracy"]) == (made["loss"], made["accuracy"])
    capsys.readouterr()
    text = ("--task", "reviews", "--json", "No 3, 1")
    assert command("predict", "--model", output, *text) == 0
    first = capsys.readouterr().out
    assert command("predict", "--model", home.path / family, "--base-dtype", "int8", *text) == 0
    assert capsys.readouterr().out == first and json.loads(first)["label"]


def test_a_run_says_its_types_and_evaluates(home, tmp_path, capsys):
    run = home.run("opt", tmp_path / "run", "--base-dtype", "int4", *LORA_FA)
    seen = document(capsys, "inspect", run.path)
    assert set(seen["types"]) == {"INT4", "INT8", "BF16"}
    found = document(capsys, "evaluate", "--model", run.path)
    assert found["loss"] == run.result["loss"]
    assert tinyzo.load(run.path, base_dtype="int4").weights.trained


def test_doctor_looks_at_a_quantised_model(home, capsys):
    checks = document(capsys, "doctor", home.path / "opt-int4")["checks"]
    (found,) = [check for check in checks if check["name"] == "checkpoint"]
    assert found["ok"] and "agree" in found["value"]


# -- what is refused -----------------------------------------------------------------------------


def refused(capsys, *arguments: object, code: int = 1) -> str:
    """What a command that is refused says, in a line and a hint."""
    capsys.readouterr()
    assert command(*arguments) == code
    said = capsys.readouterr().err
    assert "\n  hint: " in said and "Traceback" not in said
    return said


def test_training_what_is_quantised(home, tmp_path, capsys):
    task = ("--task", "reviews", "--data", home.data, "--output", tmp_path / "run")
    for model in (("opt", "--base-dtype", "int4"), ("opt-int4",)):
        for train in ((), ("--train", "full"), ("--train", "*.fc1.*")):
            said = refused(
                capsys, "finetune", "--model", home.path / model[0], *model[1:], *train, *task
            )
            assert "and what is quantised stands still\n  hint: train what lies beside" in said
    said = refused(
        capsys,
        *("finetune", "--model", home.path / "roberta", "--base-dtype", "int8", "--train", "head"),
        *task,
    )
    assert "lm_head.dense.weight is INT8" in said
    assert not (tmp_path / "run").exists()


def test_types_that_do_not_go_together(home, capsys):
    task = ("--task", "reviews", "--data", home.data)
    of_floats = ("evaluate", "--model", home.path / "opt", *task)
    of_int4 = ("evaluate", "--model", home.path / "opt-int4", *task)
    said = refused(capsys, *of_floats, "--dtype", "f32", "--base-dtype", "int4")
    assert "--dtype f32, and the matrices of" in said and "are int4" in said
    assert "--dtype bf16, and the matrices" in refused(capsys, *of_int4, "--dtype", "bf16")
    assert "is int4 already" in refused(capsys, *of_int4, "--base-dtype", "int8")
    assert command(*of_int4, "--base-dtype", "int4") == 0
    with pytest.raises(ConfigError, match="base_dtype 'int2' is not built"):
        tinyzo.load(home.path / "opt", base_dtype="int2")


def test_a_run_keeps_its_type(home, tmp_path, capsys):
    run = home.run("opt", tmp_path / "run", "--base-dtype", "int4", *LORA_FA)
    plain = home.run("opt", tmp_path / "plain", *LORA_FA)
    said = refused(capsys, "evaluate", "--model", run.path, "--base-dtype", "int8", code=2)
    assert "the run's base_dtype is int4\n  hint: leave out --base-dtype" in said
    said = refused(capsys, "evaluate", "--model", plain.path, "--base-dtype", "int8", code=2)
    assert "the run's base_dtype is not set" in said
    with pytest.raises(UsageError, match="the run's base_dtype is int4"):
        tinyzo.load(run.path, base_dtype="int8")
    said = refused(capsys, "finetune", "--resume", run.path, "--base-dtype", "int8", code=2)
    assert "base_dtype cannot change" in said


@pytest.mark.parametrize("model", ["opt", "opt-int4"])
def test_nothing_is_merged_into_a_quantised_base(home, tmp_path, capsys, model):
    options = ("--base-dtype", "int4") if model == "opt" else ()
    output = tmp_path / "tuned"
    run = home.run(model, tmp_path / "run", *options, *LORA_FA)
    said = refused(capsys, "replay", run.path, "--merge", "--output", output)
    assert "nothing can be added to its base, which is int4\n  hint: leave out --merge" in said
    for train in ("bias", "label-words"):
        run = home.run(model, tmp_path / train, *options, "--train", train)
        said = refused(capsys, "replay", run.path, "--output", output)
        assert "which is int4\n  hint: give --model the run itself" in said
    assert not output.exists()


def test_what_is_not_converted(home, tmp_path, capsys):
    run = home.run("opt", tmp_path / "run", "--train", "lora")
    adapter = tinyzo.replay(run, tmp_path / "adapter")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    output = ("--dtype", "int8", "--output", tmp_path / "new")
    said = refused(capsys, "convert", home.path / "opt-int4", *output)
    assert "is int4 already\n  hint: convert what it was made of" in said
    for path in (adapter, tmp_path / "pytorch_model.bin"):
        assert "no folder of a whole model" in refused(capsys, "convert", path, *output)
    assert not (tmp_path / "new").exists()
    said = refused(
        capsys, "convert", home.path / "opt", "--dtype", "int4", "--output", home.path / "opt"
    )
    assert "config.json" in said


def test_a_weight_that_cannot_be_quantised_leaves_no_model(home, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(home.path / "opt", folder)
    data = bytearray((folder / "model.safetensors").read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start : start + 2] = b"\xc0\x7f"  # a NaN, as the first number
    (folder / "model.safetensors").write_bytes(data)
    said = refused(capsys, "convert", folder, "--dtype", "int4", "--output", tmp_path / "new")
    assert "embed_positions.weight: the scale of a group of row 0 is nan" in said
    assert "hint: a model with such a weight cannot be quantised" in said
    assert list((tmp_path / "new").iterdir()) == []
