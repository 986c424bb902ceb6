"""The functions of `import tinyzo` do what the commands of their names do."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import finetune, write_jsonl, write_model, write_reviews

import tinyzo
from tinyzo.cli import main
from tinyzo.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    RunError,
    TinyzoError,
    UsageError,
)
from tinyzo.runs import report
from tinyzo.runs.api import as_path
from tinyzo.runs.snapshots import tuned_model

IDS = [[0, 9, 8, 2]]
TEXTS = ["No 1", "größer 😀", ""]
OWN_TASK = {"template": "{text} So <mask>.", "label_words": ["bad", "good"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Data, a model, its run, and a run of LoRA with the folder that it is for peft."""
    home = tmp_path_factory.mktemp("home")
    model, data = write_model(home / "model"), write_reviews(home / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "plot", lambda path: "not drawn")
        best = ("--seed", "3", "--lr", "1e-2")
        assert finetune(model, data, home / "run", *best) == 0
        assert finetune(model, data, home / "lora", "--train", "lora", "--lr", "0.3") == 0
    tinyzo.replay(home / "lora", home / "adapter", step=6)
    return home


def said(capsys, *arguments: object) -> list[dict]:
    """The documents that a command prints."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def logits(model: tinyzo.Model) -> np.ndarray:
    (found,) = model.logits(IDS)
    return found


# -- load ----------------------------------------------------------------------------------------


def test_load_opens_whatever_model_takes(home):
    base, tuned = tinyzo.load(home / "model"), tinyzo.load(str(home / "run"))
    run = tinyzo.Run.open(home / "run")
    assert np.array_equal(logits(tuned), logits(tuned_model(run)))
    assert not np.array_equal(logits(tuned), logits(base))
    adapter = tinyzo.load(home / "adapter")
    assert adapter.weights.adapter_scale == 2.0
    lora = tuned_model(tinyzo.Run.open(home / "lora"), 6)
    assert np.array_equal(logits(adapter), logits(lora))
    shipped = tinyzo.load("opt-tiny", "numpy", "streamed")
    assert (shipped.family, shipped.weights.store.is_resident) == ("opt", False)
    shipped.weights.store.close()


@pytest.mark.parametrize("residency", ["resident", "streamed"])
def test_load_holds_a_run_as_it_is_asked(home, residency):
    model = tinyzo.load(home / "run", "numpy", residency)
    assert model.weights.engine.name == "numpy"
    assert model.weights.store.is_resident == (residency == "resident")
    assert np.array_equal(logits(model), logits(tinyzo.load(home / "run", "numpy")))


def test_load_refuses_what_it_cannot_open(home, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere: no such folder\n  hint: "):
        tinyzo.load("nowhere")
    for model in ("model", "run"):
        with pytest.raises(ConfigError, match=r"engine 'cuda' is not built\n  hint: one of auto"):
            tinyzo.load(home / model, engine="cuda")
        with pytest.raises(ConfigError, match="residency 'cloud' is not built\n  hint: one of "):
            tinyzo.load(home / model, residency="cloud")
    run = shutil.copytree(home / "run", tmp_path / "run")
    (run / "run.toml").write_text("steps =")
    with pytest.raises(ConfigError, match=r"run\.toml: .+\n  hint: a file of lines such as lr"):
        tinyzo.load(run)


# -- evaluate ------------------------------------------------------------------------------------


def test_evaluate_is_the_command(home, capsys):
    task = {"task": "reviews", "data": home / "data"}
    options = ("--task", "reviews", "--data", home / "data")
    base, tuned = tinyzo.evaluate(home / "model", **task), tinyzo.evaluate(home / "run")
    zero_shot = tinyzo.evaluate(home / "run", zero_shot=True)
    roads = [
        (base, "model", *options),
        (tinyzo.evaluate(home / "model", **task, limit=3), "model", *options, "--limit", "3"),
        (tuned, "run"),
        (zero_shot, "run", "--zero-shot"),
        (tinyzo.evaluate(home / "adapter", **task), "adapter", *options),
    ]
    for found, model, *more in roads:
        (expected,) = said(capsys, "evaluate", "--model", home / model, *more)
        for name in ("examples", "accuracy", "loss"):
            assert getattr(found, name) == expected[name], (model, name)
    assert tinyzo.evaluate(tinyzo.load(home / "model"), **task) == base
    assert tuned != zero_shot == base


def test_evaluate_a_task_of_ones_own(home, tmp_path):
    data = write_jsonl(tmp_path / "rows.jsonl", [{"text": "No", "y": n % 2} for n in range(9)])
    found = tinyzo.evaluate(home / "run", data=data, label_field="y", **OWN_TASK)
    assert found.examples == 9
    with pytest.raises(DataError, match=r"9 of 9 rows have no label, .* its columns are text, y"):
        tinyzo.evaluate(home / "run", data=data, **OWN_TASK)


def test_evaluate_keeps_to_what_the_run_was_tuned_on(home):
    with pytest.raises(UsageError, match=r"the run's data_seed is 42\n  hint: leave out --d"):
        tinyzo.evaluate(home / "run", data_seed=1)
    with pytest.raises(DataError, match="task 'snow' is not known for roberta"):
        tinyzo.evaluate(home / "run", task="snow", data=home / "data")
    with pytest.raises(UsageError, match="limit = 'two'"):
        tinyzo.evaluate(home / "model", limit="two")


# -- predict -------------------------------------------------------------------------------------


def test_predict_is_the_command(home, capsys):
    for model, task in (("model", "reviews"), ("run", None)):
        options = ("--task", task) if task else ()
        lines = said(capsys, "predict", "--model", home / model, *options, *TEXTS)
        found = tinyzo.predict(home / model, TEXTS, task)
        assert [vars(prediction) for prediction in found] == lines
        assert [prediction.text for prediction in found] == TEXTS
        again = tinyzo.predict(tinyzo.load(home / model), TEXTS, "reviews")
        assert again == found


def test_predict_by_words_of_ones_own(home):
    (found,) = tinyzo.predict(home / "model", [{"text": "A good camera."}], **OWN_TASK)
    assert found.scores.keys() == {"bad", "good"} and found.label in found.scores
    assert found.scores[found.label] == max(found.scores.values())
    assert sum(found.scores.values()) == pytest.approx(1, abs=1e-12)
    assert found.text == "{'text': 'A good camera.'}"


def test_predict_needs_every_column(tmp_path):
    model = write_model(tmp_path / "opt", "opt")
    with pytest.raises(DataError, match="'No': the task reads premise, hypothesis\n  hint: give"):
        tinyzo.predict(model, ["No"], "RTE")
    with pytest.raises(DataError, match="no text under 'hypothesis'"):
        tinyzo.predict(model, [{"premise": "No"}], "RTE")


# -- replay and finetune -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run", "lora"])
def test_replay_is_the_command(home, tmp_path, name):
    ours = tinyzo.replay(tinyzo.Run.open(home / name), str(tmp_path / "a"), merge=True)
    assert ours == tmp_path / "a"
    assert main(["replay", str(home / name), "--output", str(tmp_path / "b"), "--merge"]) == 0
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / at).iterdir()} for at in "ab")
    assert a == b and "model.safetensors" in a
    with pytest.raises(CheckpointError, match=r"has a .+ already\n  hint: name another"):
        tinyzo.replay(home / name, tmp_path / "a")
    with pytest.raises(RunError, match="no step 7\n  hint: it has 6 steps"):
        tinyzo.replay(home / name, tmp_path / "c", step=7)


def test_finetune_is_the_command(home, tmp_path):
    choices = {"task": "reviews", "data": home / "data", "batch_size": 4, "eval_every": 2}
    run = tinyzo.finetune(
        str(tmp_path / "run"), model=home / "model", steps=6, seed=3, lr=1e-2, **choices
    )
    assert run.path == tmp_path / "run"
    assert run.journal_path.read_bytes() == (home / "run" / "journal").read_bytes()
    assert run.result["loss"] == tinyzo.Run.open(home / "run").result["loss"]
    assert tinyzo.finetune(resume=str(run.path), steps=7).result["steps"] == 7


def test_every_error_is_of_one_kind(home):
    for call in (
        lambda: tinyzo.load("nowhere"),
        lambda: tinyzo.evaluate(home / "model", task="snow"),
        lambda: tinyzo.predict(home / "model", ["a"], "snow"),
        lambda: tinyzo.replay(home / "model", home / "new"),
        lambda: tinyzo.finetune(home / "new", model=home / "model", steps=-1),
    ):
        with pytest.raises(TinyzoError) as error:
            call()
        assert error.value.hint
    assert not (home / "new").exists()


def test_a_run_keeps_its_type(home):
    assert tinyzo.load(home / "run", dtype="auto").weights.dtype("lm_head.bias") == np.float32
    with pytest.raises(UsageError, match="the run's dtype is auto\n  hint: leave out --dtype"):
        tinyzo.load(home / "run", dtype="bf16")


def test_a_step_that_is_not_there_leaves_no_directory(home, tmp_path):
    with pytest.raises(RunError, match="no step 7"):
        tinyzo.replay(home / "run", tmp_path / "new", step=7)
    assert not (tmp_path / "new").exists()


def test_a_disk_that_is_full_before_a_run_begins(home, tmp_path, monkeypatch):
    """There is nothing yet to go on with."""

    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tinyzo.runs.run.write_file", full)
    with pytest.raises(RunError, match=r"run.toml: No space left on device\n  hint: make room"):
        tinyzo.finetune(tmp_path / "run", model=home / "model", data=home / "data", task="reviews")


def test_paths_as_a_call_gives_them(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    assert as_path(None) is None
    assert as_path("~/run") == as_path(Path("~/run")) == Path("/home/me/run")
    with pytest.raises(UsageError, match=r"path 'a\\x00'\n  hint: no path has a NUL in it"):
        as_path("a\0")
    with pytest.raises(UsageError, match="a path is empty\n  hint: name a folder, or leave it out"):
        tinyzo.finetune("")


# -- texts as people give them -----------------------------------------------------------


class Series:
    """A row of pandas: it has keys, and iterates over its values."""

    def keys(self):
        return ["text"]

    def __getitem__(self, name):
        return np.str_("fine")

    def __iter__(self):
        return iter(["fine"])


def test_a_row_of_pandas_is_a_row(home):
    own = {"template": "{text} is <mask>", "label_words": ["great", "terrible"]}
    expected = tinyzo.predict(home / "model", [{"text": "fine"}], **own)
    (found,) = tinyzo.predict(home / "model", [Series()], **own)
    assert found.scores == expected[0].scores


@pytest.mark.parametrize("texts", ["fine", b"fine", {"text": "fine"}, Series()])
def test_one_text_is_no_list(home, texts):
    with pytest.raises(DataError, match=r"texts is a \w+\n  hint: predict takes a list"):
        tinyzo.predict(home / "model", texts, task="reviews")


@pytest.mark.parametrize("text", [3, None, b"fine", ["fine"], np.int64(3)])
def test_what_is_no_text(home, text):
    with pytest.raises(DataError, match=r"is no text\n  hint: give a str, or a dictionary"):
        tinyzo.predict(home / "model", [text], task="reviews")
