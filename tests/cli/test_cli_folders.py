"""`tinyzo inspect`, `replay` and `convert`: what they say of folders, and what they write."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from commands import command, document

import tinyzo

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
