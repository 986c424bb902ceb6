"""docs/formats.md is enough to write another reader: its code reads and redoes a run of ours."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyzo
from tinyzo.checkpoints.safetensors import SafetensorsFile
from tinyzo.runs import export
from tinyzo.runs.fine_tune import seeds_of, zeroth_order
from tinyzo.runs.fine_tune_file import Contents, pack
from tinyzo.runs.history import Return
from tinyzo.runs.journal import Header, Journal
from tinyzo.runs.run import Run
from tinyzo.runs.settings import model_path
from tinyzo.runs.share import head_of
from tinyzo.zo.mezo import Step

PAGE = Path(__file__).resolve().parents[1] / "docs" / "formats.md"
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def reader() -> dict[str, Any]:
    """What the page's blocks of code define."""
    names: dict[str, Any] = {}
    for block in CODE.findall(PAGE.read_text(encoding="utf-8")):
        exec(block, names)
    return names


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tinyzo.Run:
    """A few steps of the shipped job, in float32 so that nothing is rounded at random."""
    return tinyzo.finetune(
        tmp_path_factory.mktemp("runs") / "run",
        steps=3,
        eval_every=3,
        batch_size=4,
        limit=4,
        weight_decay=0.1,
        engine="numpy",
        dtype="f32",
    )


def test_the_documented_reader_reads_a_journal(reader, run):
    header, steps = reader["read_journal"](run.journal_path.read_bytes())
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert header == {"losses": 2, "terms": 1, "kind": 1, "base": run.about["base"]}
    assert [step["losses"] for step in steps] == [[x["loss_plus"], x["loss_minus"]] for x in lines]
    assert [step["terms"][0][0] for step in steps] == [line["seed"] for line in lines]
    said = [(line["step"], line["projected_gradient"]) for line in lines]
    assert [(step["step"], step["projected_gradient"]) for step in steps] == said


@pytest.mark.parametrize("name", ["lm_head.bias", "lm_head.dense.weight"])
def test_the_documented_reader_reads_a_fine_tune(reader, run, tmp_path, name):
    """Its numbers are the journal's, and its weights those of replay, by the page's own code."""
    file = tinyzo.share(run, tmp_path / "a.tinyzo", step=3)
    head, steps = reader["read_fine_tune"](file.read_bytes())
    _, recorded = reader["read_journal"](run.journal_path.read_bytes())
    assert head["base"] == run.about["base"] and head["steps"] == [[1, 3]]
    assert steps == [(step["decay"], step["terms"]) for step in recorded]
    w = tinyzo.load("roberta-tiny", dtype="f32").weights.read(name)
    for decay, ((seed, coefficient),) in steps:
        z = reader["gaussian"](seed, name, w.size).reshape(w.shape)
        w = np.float32(1 - decay if w.ndim > 1 else 1) * w + np.float32(coefficient) * z
    assert w.tobytes() == tinyzo.load(f"roberta-tiny+{file}").weights.read(name).tobytes()


def test_the_documented_seeds_of_a_fine_tune_are_those_of_any_update(reader, run, monkeypatch):
    """Of an update that looks back, of several queries, and of steps that were left out."""
    monkeypatch.setattr(tinyzo.Run, "evaluations", lambda run, split: {})
    settings = run.settings.replace(update="adamezo", window=3, queries=2)
    numbers = [0, 1, 5, 6, 9]
    method = zeroth_order(settings)
    head = head_of(Run(run.path, settings, run.about), 9, numbers)
    terms = np.arange(5 * 7.0).reshape(5, 7)
    data = pack(Contents(head, np.zeros(0, np.float32), np.zeros(5), None, terms))
    _, steps = reader["read_fine_tune"](data)
    seeds = [[seed for seed, _ in pairs] for _, pairs in steps]
    assert seeds == seeds_of(numbers, method).tolist()
    stored = pack(Contents(head, np.ones(4, np.float32), np.ones(5), np.array(seeds, "u8"), terms))
    assert [pairs for _, pairs in reader["read_fine_tune"](stored)[1]] == [p for _, p in steps]


def test_the_documented_step_seed_is_the_run_s(reader, run):
    _, steps = reader["read_journal"](run.journal_path.read_bytes())
    splitmix64, seed = reader["splitmix64"], run.settings.seed
    seeds = [splitmix64(splitmix64(seed) ^ number) >> 11 for number in range(len(steps))]
    assert [step["terms"][0][0] for step in steps] == seeds


@pytest.mark.parametrize("name", ["lm_head.bias", "lm_head.dense.weight"])
def test_the_documented_weights_are_those_of_replay(reader, run, tmp_path, name):
    """The last step's, bit by bit, from the checkpoint, the journal and z as the page has them."""
    _, steps = reader["read_journal"](run.journal_path.read_bytes())
    w = tinyzo.load("roberta-tiny", dtype="f32").weights.read(name)
    for step in steps:
        ((seed, coefficient),) = step["terms"]
        kept = np.float32(1 - step["decay"] if w.ndim > 1 else 1)
        w = kept * w + np.float32(coefficient) * reader["gaussian"](seed, name, w.size).reshape(
            w.shape
        )
    replayed = tinyzo.load(tinyzo.replay(run, tmp_path / "tuned", step=3)).weights.read(name)
    assert w.tobytes() == replayed.tobytes()


def test_the_documented_reader_leaves_out_a_torn_record(reader, run):
    data = run.journal_path.read_bytes()
    assert len(reader["read_journal"](data[:-1])[1]) == 2
    changed = bytearray(data)
    changed[-5] ^= 1
    assert len(reader["read_journal"](bytes(changed))[1]) == 2


def test_the_documented_reader_sees_a_corrupt_record(reader, run):
    changed = bytearray(run.journal_path.read_bytes())
    changed[52 + 20] ^= 1
    with pytest.raises(AssertionError, match="record 1 is corrupt"):
        reader["read_journal"](bytes(changed))


def test_every_key_of_a_run_s_files_is_documented(run):
    text = PAGE.read_text(encoding="utf-8")
    for file in ("metrics.jsonl", "events.jsonl", "result.json"):
        for line in (run.path / file).read_text().splitlines():
            missing = [key for key in json.loads(line) if f"`{key}`" not in text]
            assert missing == [], file
    assert [key for key in run.about if f"`{key}`" not in text] == []


def test_the_documented_plot_draws_the_losses(reader, run, tmp_path):
    matplotlib = pytest.importorskip("matplotlib", reason="it draws the plot")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    path = Path(shutil.copy(run.path / "metrics.jsonl", tmp_path))
    reader["plot_metrics"](path)
    (line,) = pyplot.gca().lines
    losses = [json.loads(text)["loss"] for text in path.read_text().splitlines()]
    assert line.get_xydata().tolist() == [[2.0 * (n + 1), loss] for n, loss in enumerate(losses)]
    assert (tmp_path / "metrics.png").read_bytes().startswith(b"\x89PNG")
    pyplot.close("all")


@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_the_documented_matrices_are_those_that_are_read(reader, tmp_path, kind):
    folder = export.convert(model_path("opt-tiny"), tmp_path / kind, kind)
    weights = tinyzo.load(folder, engine="numpy").weights
    with SafetensorsFile(folder / "model.safetensors") as file:
        assert file.metadata == {"format": f"tinyzo.{kind}", "group": "64"}
        matrices = [name for name in weights.names() if len(weights.shape(name)) == 2]
        for name in matrices:
            codes, scales = file.read(name), file.read(f"{name}_scales")
            w = reader["widen_matrix"](codes, scales, weights.shape(name)[1])
            assert w.tobytes() == weights.read(name).tobytes()
    assert len(matrices) == 26


def test_the_documented_z_has_the_frozen_bits(reader):
    path = PAGE.parents[1] / "tests" / "engine" / "vectors_v1.json"
    for row in json.loads(path.read_text())["gaussian"]:
        if isinstance(row["tensor"], str) and row["start"] == 0:
            z = reader["gaussian"](row["seed"], row["tensor"], 8)
            assert [f"{bits:08x}" for bits in z.view(np.uint32)] == row["f32"]


def test_the_documented_reader_follows_returns(reader, tmp_path):
    head = Header(losses=2, terms=1, kind="gaussian", base="ab" * 32)
    step = Step((0.5, 0.25), 0.125, ((7, -1e-3),))
    with Journal(tmp_path / "journal", head) as journal:
        for _ in range(3):
            journal.append(step)
        journal.append_return(Return(after=3, to=1, factor=0.3))
        journal.append(step)
    _, steps = reader["read_journal"]((tmp_path / "journal").read_bytes())
    assert [(found["step"], found["after"]) for found in steps] == [(1, 0), (2, 1), (3, 2), (4, 1)]
