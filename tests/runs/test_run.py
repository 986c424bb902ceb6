"""A run's directory: opened, replayed to any step, and its best step chosen as published."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import finetune, lines, write_model, write_reviews

from tinyzo.errors import ConfigError, RunError, UsageError
from tinyzo.models.model import load
from tinyzo.runs import report
from tinyzo.runs.journal import read_journal
from tinyzo.runs.lines import read_lines
from tinyzo.runs.methods import method_of
from tinyzo.runs.run import Run
from tinyzo.runs.snapshots import Snapshots, tuned_model
from tinyzo.system import HINTS


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    model, data = write_model(home / "model", "opt", "bf16"), write_reviews(home / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "plot", lambda path: "not drawn")
        assert finetune(model, data, home / "run", "--seed", "9", "--lr", "1e-2") == 0
    return home


@pytest.fixture
def run(home, tmp_path):
    return Run.open(shutil.copytree(home / "run", tmp_path / "run"))


def test_a_model_is_the_base_and_the_terms_so_far(home, run):
    model = load(home / "model")
    for number, step in enumerate(read_journal(run.journal_path).steps, 1):
        model.weights.add(step.terms, step.decay)
        then = tuned_model(run, number).weights
        for name in then.names():
            np.testing.assert_array_equal(then.stored(name), model.weights.stored(name))


def test_without_a_step_it_is_the_best_one(run):
    best = run.best_step()
    assert best == run.result["best_step"] < 6  # which it is, depends on roundings
    name = "model.decoder.embed_tokens.weight"
    best_now, last = (tuned_model(run, step).weights.stored(name) for step in (None, 6))
    np.testing.assert_array_equal(best_now, tuned_model(run, best).weights.stored(name))
    assert not np.array_equal(best_now, last)


@pytest.mark.parametrize("step", [-1, 7])
def test_a_step_that_was_not_taken(run, step):
    with pytest.raises(RunError, match=f"no step {step}\n  hint: it has 6 steps"):
        tuned_model(run, step)


def evaluated(run, family, *evaluations):
    (run.path / "events.jsonl").unlink()
    run.about["family"] = family
    for step, accuracy, loss in evaluations:
        event = {"event": "evaluation", "step": step, "split": "dev"}
        run.record("events.jsonl", event | {"accuracy": accuracy, "loss": loss, "examples": 8})
    run.record("events.jsonl", {"event": "error", "step": 9, "message": "of no interest"})
    return run.best_step()


def test_roberta_keeps_the_best_dev_accuracy(run):
    assert evaluated(run, "roberta", (0, 0.5, 0.1), (2, 0.7, 0.9), (4, 0.6, 0.2)) == 2
    # equal accuracies: the lower loss; equal losses too: the earlier step
    assert evaluated(run, "roberta", (0, 0.7, 0.3), (2, 0.7, 0.2), (4, 0.6, 0.1)) == 2
    assert evaluated(run, "roberta", (4, 0.7, 0.2), (2, 0.7, 0.2), (6, 0.7, 0.2)) == 2


def test_opt_keeps_the_best_dev_loss(run):
    assert evaluated(run, "opt", (0, 0.5, 0.3), (2, 0.9, 0.4), (4, 0.1, 0.2)) == 4
    assert evaluated(run, "opt", (4, 0.5, 0.2), (2, 0.1, 0.2), (6, 0.9, 0.2)) == 2


def test_without_a_dev_split_the_last_step_is_kept(run):
    (run.path / "events.jsonl").unlink()
    event = {"event": "evaluation", "step": 2, "split": "test", "examples": 8}
    run.record("events.jsonl", event | {"accuracy": 0.5, "loss": 0.1})
    assert run.best_step() == 6


def test_an_evaluation_made_again_counts_as_the_newest(run):
    assert evaluated(run, "opt", (2, 0.5, 0.1), (2, 0.5, 0.9), (4, 0.5, 0.5)) == 4


def test_an_unfinished_run_has_no_result(run):
    for damage in ("", '{"run": '):
        (run.path / "result.json").write_text(damage)
        with pytest.raises(RunError, match=f"not finished\n  hint: --resume {run.path}"):
            _ = run.result


def test_run_toml_there_and_back(home, run):
    again = Run.open(run.path)
    assert (again.settings, again.about) == (run.settings, run.about)
    assert run.about.keys() == {
        "format", "tinyzo", "family", "base", "numpy", "machine", "engine", "data", "directory"
    }  # fmt: skip
    assert run.settings.model == str((home / "model").resolve())
    assert run.settings.data == str((home / "data").resolve())


@pytest.mark.parametrize(
    ("old", "new", "kind", "message"),
    [
        ("[about]", "[abuot]", RunError, "run.toml is not a run's"),
        ("base = ", "bass = ", RunError, "run.toml is not a run's"),
        ('family = "opt"', 'family = "gpt"', RunError, "run.toml is not a run's"),
        ("[settings]", "[setings]", RunError, "run.toml is not a run's"),
        ("steps = 6", 'steps = "6"', UsageError, "run.toml: steps = '6'"),
        ("steps = 6", "stebs = 6", UsageError, "no setting is called 'stebs'"),
        ("steps = 6", "steps = -6", UsageError, "steps = -6"),
        ("steps = 6", "steps = ", ConfigError, "run.toml: "),
        ("base = ", "base = 5 #", RunError, "run.toml is not a run's"),
        ('family = "opt"', 'family = ["opt"]', RunError, "run.toml is not a run's"),
        ('update = "sgd"', "update = {}", UsageError, "run.toml: update = {}"),
    ],
)
def test_a_run_toml_that_was_spoilt(run, old, new, kind, message):
    text = (run.path / "run.toml").read_text().partition("\n")[2]  # without its CRC
    assert old in text
    (run.path / "run.toml").write_text(text.replace(old, new))
    with pytest.raises(kind) as error:
        Run.open(run.path)
    assert message in str(error.value) and error.value.hint


def test_what_is_no_run(tmp_path):
    with pytest.raises(RunError, match=r"no run.toml, so not a run"):
        Run.open(tmp_path / "nowhere")


def test_lines_end_at_the_first_torn_one(run):
    path = run.path / "metrics.jsonl"
    whole = path.read_text()
    for size in range(len(whole)):
        path.write_text(whole[:size])
        ends = [i + 1 for i, c in enumerate(whole) if c == "\n"]
        assert len(read_lines(path)) == sum(end - 1 <= size for end in ends)
    path.write_text(whole)
    assert run.keep_lines("metrics.jsonl", 4) == 4
    assert path.read_text() == "".join(whole.splitlines(keepends=True)[:4])
    assert read_lines(run.path / "none") == []


def test_files_are_replaced_whole(run, monkeypatch):
    before = (run.path / "run.toml").read_bytes()
    (run.path / "run.toml.partial").mkdir()  # stands for a disk that is full
    with pytest.raises(RunError, match=r"run.toml: Is a directory\n  hint: there is a folder of"):
        run.save()
    assert (run.path / "run.toml").read_bytes() == before


def test_events_say_what_was_evaluated(run):
    events = lines(run.path / "events.jsonl")
    keys = {"event", "step", "split", "examples", "accuracy", "loss", "crc"}
    evaluations = [event for event in events if event["event"] == "evaluation"]
    assert evaluations and all(event.keys() == keys for event in evaluations)
    assert json.loads((run.path / "result.json").read_text()) == run.result


# -- what is refused by the system ------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_result_that_cannot_be_read(run, monkeypatch, code):
    """It is finished all the same, which `not finished` would deny."""

    def refused(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(RunError) as caught:
        _ = run.result
    assert caught.value.message == f"{run.path / 'result.json'}: {os.strerror(code)}"
    assert caught.value.hint in HINTS.values()


def test_records_of_a_run_that_has_gone(run):
    """The hint is not to make room."""
    shutil.rmtree(run.path)
    with pytest.raises(RunError) as caught:
        run.record("metrics.jsonl", {"step": 1})
    assert caught.value.message == f"{run.path / 'metrics.jsonl'}: No such file or directory"
    assert caught.value.hint == "check the folder of the run"
    run.path.mkdir()
    (run.path / "metrics.jsonl").mkdir()
    with pytest.raises(RunError) as caught:
        run.record("metrics.jsonl", {"step": 1})
    assert caught.value.message == f"{run.path / 'metrics.jsonl'}: Is a directory"
    assert caught.value.hint.startswith("there is a folder of that name: move it away")


# -- snapshots --------------------------------------------------------------------------


def test_a_damaged_snapshot_does_not_displace_a_sound_one(home, run):
    """And goes as soon as the next one is there."""
    snapshots = Snapshots(run, method_of(run.settings), every=1)
    places = {step: run.path / f"weights-{step}.safetensors" for step in (2, 4, 6)}
    with snapshots:
        for step in (2, 4):
            model = tuned_model(run, step)
            snapshots.take(model.weights, step)
            snapshots.wait()
            (run.path / "kept").mkdir(exist_ok=True)
            shutil.copy(places[step], run.path / "kept")
    for path in (run.path / "kept").iterdir():
        shutil.copy(path, run.path)
    data = bytearray(places[4].read_bytes())
    data[-5] ^= 1
    places[4].write_bytes(data)
    assert run.best_step() == 4
    with snapshots:
        assert snapshots.restore(run.base_model(), run.way(5)) == 2
        snapshots.take(tuned_model(run, 6).weights, 6)
        snapshots.wait()
    assert [path.exists() for path in places.values()] == [True, False, True]
