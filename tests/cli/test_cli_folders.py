"""`tinyzo inspect`, `replay` and `convert`: what they say of folders, and what they write."""

from __future__ import annotations

import re
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from commands import command, document
from folders import finetune, write_model, write_tensors
from stand_ins import ALL, STAND_INS

import tinyzo
from tinyzo.runs import doctor
from tinyzo.runs.settings import SHIPPED

Capture = pytest.CaptureFixture[str]
FAMILIES = pytest.mark.parametrize("family", ["roberta", "opt"])


@FAMILIES
def test_inspect_a_model(home: Path, capsys: Capture, family: str) -> None:
    result = document(capsys, "inspect", home / family)
    assert result.keys() >= {"parameters", "trainable", "bytes", "plan_bytes", "plan", "types"}
    model = tinyzo.load(home / family)
    sizes = [model.weights.read(name).size for name in model.weights.names()]
    assert result["parameters"] == result["trainable"] == sum(sizes)
    assert result["bytes"] == 4 * sum(sizes)
    assert result["types"] == {"F32": len(sizes)}
    assert result["plan"].keys() >= {"interpreter", "weights", "tiles", "activations"}
    assert result["plan_bytes"] == sum(result["plan"].values())
    huge = document(capsys, "inspect", home / family, "--tokens", 10**12)
    assert huge["plan_bytes"] > 10**12  # a plan allocates nothing


def test_inspect_a_run(home: Path, capsys: Capture) -> None:
    result = document(capsys, "inspect", home / "opt-run")
    assert (result["steps"], result["model"]) == (6, str(home / "opt"))
    assert len(result["base"]) == 64 and result["noise_format"] == 1
    assert result["step_bytes"] == 56
    assert result["written"].startswith("56 bytes a step, and the weights every 1000 steps")
    assert command("inspect", home / "opt-run") == 0
    output = capsys.readouterr().out
    assert "best_step      " in output and output.count("\nplan ") == 1


def how(plan: dict[str, Any]) -> tuple[Any, ...]:
    """A plan without its sizes, which hold the interpreter's at the moment."""
    return plan["engine"], plan["residency"], plan["micro_batch_tokens"], plan["tiles"]


def test_inspect_every_plan(home: Path, capsys: Capture) -> None:
    (one,) = document(capsys, "inspect", home / "opt")["plans"]
    every = document(capsys, "inspect", home / "opt", "--plan")["plans"]
    assert how(one) in map(how, every) and len(every) > 2
    assert command("inspect", home / "opt", "--plan") == 0
    shown = re.findall(r"^plan +(\w+), (\w+), .* total \d+ MB$", capsys.readouterr().out, re.M)
    assert shown == [(plan["engine"], plan["residency"]) for plan in every]


def test_inspect_within_a_budget(home: Path, capsys: Capture) -> None:
    assert command("inspect", home / "opt", "--memory-budget", "1MB") == 1
    assert "--memory-budget 1MB is too small\n  hint: the smallest" in capsys.readouterr().err
    plans = document(capsys, "inspect", home / "opt", "--memory-budget", "8GB")["plans"]
    assert plans[0]["residency"] == "resident"


def test_replay_and_convert(home: Path, tmp_path: Path, capsys: Capture) -> None:
    result = document(capsys, "replay", home / "opt-run", "--output", tmp_path / "tuned")
    assert result == {"run": str(home / "opt-run"), "output": str(tmp_path / "tuned")}
    result = document(capsys, "convert", tmp_path / "tuned", "--output", tmp_path / "again")
    assert result.keys() == {"output", "peak_bytes"}
    tuned, again = (tmp_path / name / "model.safetensors" for name in ("tuned", "again"))
    assert again.read_bytes() == tuned.read_bytes()


def test_replay_and_convert_say_where(home: Path, tmp_path: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert command("replay", home / "opt-run", "--output", tmp_path / "a", "--step", 2) == 0
    assert capsys.readouterr().out == f"tuned model written to {tmp_path / 'a'}\n"
    assert command("convert", home / "opt", "--output", tmp_path / "b") == 0
    assert capsys.readouterr().out == f"converted to {tmp_path / 'b' / 'model.safetensors'}\n"


def test_convert_takes_a_name_that_ships(tmp_path: Path, capsys: Capture) -> None:
    assert command("convert", "opt-tiny", "--output", tmp_path / "a") == 0
    assert command("convert", SHIPPED / "opt-tiny", "--output", tmp_path / "b") == 0
    a, b = (tmp_path / name / "model.safetensors" for name in "ab")
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("convert {run} --output {new}", "tinyzo replay writes the model of a run"),
        ("doctor {run}", "name the folder that the run began with, or what replay writes"),
    ],
)
def test_a_run_where_a_model_is_due(
    home: Path, tmp_path: Path, capsys: Capture, line: str, hint: str
) -> None:
    run = home / "opt-run"
    assert command(*line.format(run=run, new=tmp_path / "new").split()) == 2
    said = f"tinyzo: {run} is a run, not a model's folder\n  hint: {hint}\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("line", ["replay {run} --output {run}", "convert {opt} --output {run}"])
def test_no_model_is_written_into_a_run(home: Path, capsys: Capture, line: str) -> None:
    run = home / "opt-run"
    before = sorted(run.iterdir())
    assert command(*line.format(run=run, opt=home / "opt").split()) == 1
    assert "opt-run has a run.toml already\n  hint: name another" in capsys.readouterr().err
    assert sorted(run.iterdir()) == before


def test_a_run_that_is_nearly_named(home: Path, tmp_path: Path, capsys: Capture) -> None:
    near = home / "opt-rum"
    for line in (("replay", near, "--output", tmp_path / "new"), ("finetune", "--resume", near)):
        assert command(*line) == 1
        hint = f"did you mean {home / 'opt-run'}?"
        assert capsys.readouterr().err == f"tinyzo: {near}: no such folder\n  hint: {hint}\n"
    assert command("replay", home / "nothing", "--output", tmp_path / "new") == 1
    assert "no such folder\n  hint: name the --output of finetune\n" in capsys.readouterr().err


# -- what stands for a file ------------------------------------------------------------


def packed(folder: Path, name: str, kind: str) -> str:
    """Put what stands for it in the place of a file; returns what an error has to begin with."""
    content, found, _ = ALL[kind]
    (folder / name).write_bytes(content)
    return f"tinyzo: {folder / name}: {found}"


@pytest.mark.parametrize("kind", STAND_INS)
@pytest.mark.parametrize(
    "name", ["config.json", "vocab.json", "merges.txt", "tokenizer.json", "model.safetensors"]
)
def test_what_stands_for_a_file_of_a_model(
    tmp_path: Path, capsys: Capture, name: str, kind: str
) -> None:
    model = write_model(tmp_path / "model", "opt")
    said = packed(model, name, kind)
    assert command("predict", "--model", model, "--task", "reviews", "fine") == 1
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("kind", STAND_INS)
@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json"]
)
def test_what_stands_for_weights(tmp_path: Path, capsys: Capture, name: str, kind: str) -> None:
    model = write_model(tmp_path / "model", "opt")
    (model / "model.safetensors").unlink()
    said = packed(model, name, kind)
    assert command("inspect", model) == 1
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_what_stands_for_a_file_of_an_adapter(
    home: Path, tmp_path: Path, capsys: Capture, name: str
) -> None:
    finetune(home / "opt", home / "data", tmp_path / "run", "--train", "lora")
    assert command("replay", tmp_path / "run", "--output", tmp_path / "adapter") == 0
    for kind in STAND_INS:
        said = packed(tmp_path / "adapter", name, kind)
        capsys.readouterr()
        assert command("inspect", tmp_path / "adapter") == 1
        assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("kind", STAND_INS)
@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.json", "a.parquet", "a.jsonl.gz"])
def test_what_stands_for_data(
    home: Path, tmp_path: Path, capsys: Capture, name: str, kind: str
) -> None:
    said = packed(tmp_path, name, kind)
    line = ("--model", home / "opt", "--task", "reviews", "--data", tmp_path / name)
    assert command("evaluate", *line) == 1
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("kind", STAND_INS)
def test_what_stands_for_settings(tmp_path: Path, capsys: Capture, kind: str) -> None:
    said = packed(tmp_path, "a.toml", kind)
    assert command("finetune", "--config", tmp_path / "a.toml") == 1
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("kind", STAND_INS)
def test_what_stands_for_a_run_toml(home: Path, tmp_path: Path, capsys: Capture, kind: str) -> None:
    copytree(home / "opt-run", tmp_path / "run")
    said = packed(tmp_path / "run", "run.toml", kind)
    assert command("inspect", tmp_path / "run") == 1
    assert capsys.readouterr().err.startswith(said)


# -- names that command a terminal -----------------------------------------------------


def test_names_from_files_are_escaped(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "try_apart", lambda statement: "")  # which takes seconds
    evil = "\x1b]0;owned\x07\x1b[2J"
    model = write_model(tmp_path / f"model{evil}", "opt")
    for name in ("inspect", "doctor"):
        assert command(name, model) == 0
        output = capsys.readouterr().out
        assert "\\x1b]0;owned\\x07\\x1b[2J" in output and "\x1b" not in output
    tensor = f"a{evil}\nb"
    write_tensors(model / "model.safetensors", {tensor: np.zeros(2, np.float32)})
    for name in ("inspect", "doctor"):
        assert command(name, model) == 1
        said = "".join(capsys.readouterr())
        assert "\\x1b" in said and "\x1b" not in said and "\nb" not in said


def test_labels_are_cells(home: Path, capsys: Capture) -> None:
    """What --label-words says may hold anything, and so may a text."""
    words = ("--label-words", "one\t\x1b[2J1,two\t\x1b[2J2")
    line = ("predict", "--model", home / "opt", "--template", "{text} is", *words)
    assert command(*line, "a\tb") == 0
    label, odds, text = capsys.readouterr().out.removesuffix("\n").split("\t")
    assert label in (r"one\t\x1b[2J1", r"two\t\x1b[2J2") and text == r"a\tb"
    assert 0 < float(odds) < 1
