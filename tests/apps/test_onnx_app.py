"""The app of examples/onnx_app tunes as tinyzo would, and tinyzo loads what it writes.

It runs where Node.js is, and `npm ci` was called in its folder.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from folders import ROOT, lines, write_jsonl

from tinyzo.cli import main
from tinyzo.engine.terms import Probe
from tinyzo.models.model import open_model
from tinyzo.runs.data import bind_task, load_data
from tinyzo.runs.settings import Settings
from tinyzo.zo.objectives import Objective

APP = ROOT / "examples" / "onnx_app"
STEPS = 2
IS_HERE = shutil.which("node") and (APP / "node_modules" / "onnxruntime-node").is_dir()
node = pytest.mark.skipif(not IS_HERE, reason="no Node.js, or no `npm ci` in examples/onnx_app")

STORIES = [
    ("The battery lasts for two days.", "effect", "She got a new one.", "I was very happy.", 1),
    ("The film was dull.", "cause", "The plot made no sense at all.", "It was great.", 0),
    ("The soup was cold.", "effect", "He sent it back to the kitchen.", "He ate it.", 0),
]
COPA = [
    dict(zip(("premise", "question", "choice1", "choice2", "label"), story, strict=True))
    for story in STORIES
]
VERDICTS = [
    {"text": "A dull film.", "label": "not so bad at all"},
    {"text": "A wonderful film with a fine cast.", "label": "very good"},
    {"text": "The phone is slow.", "label": "not so bad at all"},
]


class Case(NamedTuple):
    """What is exported, and what tinyzo.json calls its kind."""

    kind: str
    settings: dict[str, Any]
    rows: list[dict[str, Any]] | None = None
    tokens: int | None = None


OWN = {"template": "{text} It was", "label_words": ["very good", "not so bad at all"]}
CASES = {
    "roberta": Case("words", {"model": "roberta-tiny", "batch_size": 8, "limit": 20}),
    "opt": Case("words", {"model": "opt-tiny", "queries": 1, "train": "lora", "limit": 20}),
    "gold": Case("gold", {"model": "opt-tiny", "queries": 2, "task": "COPA"}, COPA),
    "candidates": Case("candidates", {"model": "opt-tiny", "queries": 1, **OWN}, VERDICTS),
    "fixed": Case("candidates", {"model": "opt-tiny", "batch_size": 2, **OWN}, VERDICTS, 24),
}


def options_of(settings: dict[str, Any]) -> list[str]:
    options = []
    for name, value in settings.items():
        text = ",".join(value) if isinstance(value, list) else str(value)
        options += [f"--{name.replace('_', '-')}", text]
    return options


def export(folder: Path, case: Case) -> dict[str, Any]:
    """Write OUT. returns: what a run of tinyzo on the same rows is given"""
    settings = {"train": "lora-fa", **case.settings}
    if case.rows:
        data = folder.parent / "data"
        data.mkdir()
        for split in ("train", "validation"):
            write_jsonl(data / f"{split}.jsonl", case.rows * 2)
        settings["data"] = str(data)
    options = options_of(settings)
    if case.tokens:
        options += ["--tokens", str(case.tokens)]
    assert main(["export", "--format", "onnx", "--output", str(folder), *options]) == 0
    return settings


def tune(folder: Path, output: Path, steps: int = STEPS) -> subprocess.CompletedProcess[str]:
    command = ["node", APP / "tune.mjs", folder, output, str(steps)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def about_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "tinyzo.json").read_text())


def said_of_test_rows(done: subprocess.CompletedProcess[str]) -> list[tuple[float, float]]:
    """Loss and accuracy before and after."""
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(?:before|after) +loss (\S+) +accuracy (\S+)$", done.stdout, re.MULTILINE)
    return [(float(loss), float(accuracy)) for loss, accuracy in found]


# -- the program itself


def test_it_is_a_page_that_knows_no_tinyzo():
    text = (APP / "tune.mjs").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    modules = set(re.findall(r"from '(.+)';", text))
    assert {name for name in modules if not name.startswith("node:")} == {"onnxruntime-node"}
    assert "child_process" not in text


def test_what_it_needs_is_pinned():
    package = json.loads((APP / "package.json").read_text())
    lock = json.loads((APP / "package-lock.json").read_text())["packages"]
    for name, version in package["dependencies"].items():
        assert lock[f"node_modules/{name}"]["version"] == version
    needed = [entry for name, entry in lock.items() if name]
    assert all(entry["integrity"].startswith("sha512-") for entry in needed)


# -- what it computes


class Tuned(NamedTuple):
    """What the app made of a case.

    settings: what a run of tinyzo on the same rows is given
    done:     the app's process
    """

    folder: Path
    adapter: Path
    settings: dict[str, Any]
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module", params=CASES)
def tuned(request, tmp_path_factory):
    work = tmp_path_factory.mktemp("tuned")
    settings = export(work / "out", CASES[request.param])
    done = tune(work / "out", work / "adapter")
    assert done.returncode == 0, done.stderr
    assert about_of(work / "out")["kind"] == CASES[request.param].kind
    return Tuned(work / "out", work / "adapter", settings, done)


@node
def test_it_takes_tinyzo_s_steps(tuned):
    """Losses within 1e-5 of NumPy's; the adapter bit by bit the sum of the terms it tells of."""
    about = about_of(tuned.folder)
    model = open_model(tuned.folder / "adapter")
    weights = model.weights
    weights.trained = dict.fromkeys(about["trained"])
    choices = Settings(**tuned.settings, method="p-rge").resolve(model.family)
    objective = Objective(model, bind_task(model, choices))
    train = load_data(objective.bound, choices).train
    told = lines(tuned.adapter / "steps.jsonl")
    for line in told:
        probes = [Probe(s, side * about["eps"]) for s in line["seeds"] for side in (+1, -1)]
        first = line["step"] * about["batch_size"]
        rows = [train[(first + at) % len(train)] for at in range(about["batch_size"])]
        losses = objective(weights.view(probes), rows)
        assert np.abs(losses - line["losses"]).max() < 1e-5
        gradients = zip(line["seeds"], line["projected_gradients"], strict=True)
        weights.add([(s, -about["lr"] * (g / about["queries"])) for s, g in gradients])
    found = open_model(tuned.adapter).weights
    assert all(np.array_equal(found.stored(n), weights.stored(n)) for n in found.names())
    assert [line["step"] for line in told] == list(range(STEPS))
    seeds = {seed for line in told for seed in line["seeds"]}
    assert len(seeds) == STEPS * about["queries"]


@node
def test_tinyzo_evaluates_what_it_writes(tuned, capsys):
    """And says of the test rows what the app said, before and after."""
    of_task = ("task", "data", "limit", "template", "label_words")
    task = options_of({name: tuned.settings[name] for name in of_task if name in tuned.settings})
    models = (tuned.folder, tuned.adapter)
    for model, (loss, accuracy) in zip(models, said_of_test_rows(tuned.done), strict=True):
        capsys.readouterr()
        assert main(["evaluate", "--model", str(model), "--json", *task]) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert found["loss"] == pytest.approx(loss, abs=1e-5)
        assert found["accuracy"] == pytest.approx(accuracy, abs=1e-4)


@node
def test_tinyzo_predicts_with_what_it_writes(tuned, capsys):
    assert main(["predict", "--model", str(tuned.adapter), "a phone that lasts"]) == 0
    assert capsys.readouterr().out.startswith("phone\t")


@node
@pytest.mark.exhaustive
@pytest.mark.parametrize("model", ["roberta-tiny", "opt-tiny"])
def test_it_learns(tmp_path, model):
    """Sixty steps on the reviews that ship."""
    export(tmp_path / "out", Case("words", {"model": model, "lr": 1e-2}))
    done = tune(tmp_path / "out", tmp_path / "adapter", steps=60)
    (loss, accuracy), (lower, higher) = said_of_test_rows(done)
    assert lower < loss - 0.05
    assert higher > accuracy + 0.05


# -- what it refuses


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "out"
    export(folder, CASES["opt"])
    return folder


def change(path: Path, data: bytes) -> None:
    """Write a file anew: the old one may have other names."""
    path.unlink()
    path.write_bytes(data)


DAMAGES = {
    "format": ("tinyzo.json", lambda data: data.replace(b'"format": 1', b'"format": 2')),
    "noise_format": ("tinyzo.json", lambda data: data.replace(b'_format": 1', b'_format": 2')),
    "step.onnx": ("step.onnx", lambda data: data[:-100]),
    "eval.onnx": ("eval.onnx", lambda data: data + b"\0"),
    "base": ("model.safetensors", lambda data: data[:-2] + b"\1\2"),
    "tinyzo.json": ("tinyzo.json", None),
}


@node
@pytest.mark.parametrize("what", DAMAGES)
def test_it_refuses_a_folder_that_is_not_what_it_says(tmp_path, exported, what):
    folder = shutil.copytree(exported, tmp_path / "out")
    name, damage = DAMAGES[what]
    if damage:
        change(folder / name, damage((folder / name).read_bytes()))
    else:
        (folder / name).unlink()
    done = tune(folder, tmp_path / "adapter")
    assert done.returncode != 0
    assert f"{folder}: {what} is " in done.stderr or f"'{folder / name}'" in done.stderr
    assert not (tmp_path / "adapter").exists()


@node
def test_it_writes_into_no_folder_that_is_there(tmp_path, exported):
    done = tune(exported, tmp_path)
    assert done.returncode != 0
    assert "EEXIST" in done.stderr
    assert not list(tmp_path.iterdir())
