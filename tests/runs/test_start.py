"""What a run of lora-act or lora-fit begins with: made once, of bounded rows, and believed only by
its hash."""

from __future__ import annotations

import json

import numpy as np
import pytest
from folders import finetune, write_model, write_reviews

from tinyzo.checkpoints.safetensors import open_safetensors
from tinyzo.cli import main
from tinyzo.errors import ConfigError, RunError
from tinyzo.models.model import load, open_model
from tinyzo.runs import report, start, train
from tinyzo.runs.inference import export_onnx
from tinyzo.runs.run import Run, settle_method
from tinyzo.runs.settings import Settings
from tinyzo.runs.snapshots import tuned_model

ZO_ACT = ("--method", "zo-act", "--lora-rank", "3", "--lr", "1e-1")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "plot", lambda path: "not drawn")
    write_model(tmp_path / "model", "opt")
    write_reviews(tmp_path / "data")
    return tmp_path


def tuned(home, name="run", *options) -> Run:
    assert finetune(home / "model", home / "data", home / name, *ZO_ACT, *options) == 0
    return Run.open(home / name)


def started(run: Run) -> dict[str, np.ndarray]:
    with open_safetensors(run.path / start.FILE) as file:
        return {name: file.read(name) for name in file.names()}


def test_the_run_goes_on_with_the_file_and_never_makes_it_again(home, monkeypatch):
    run = tuned(home, "run", "--fold-every", "0")
    whole = tuned_model(run, 6).weights
    monkeypatch.setattr(start, "lead_by_inputs", lambda *_: pytest.fail("made again"))
    assert main(["finetune", "--resume", str(run.path), "--steps", "8", "--engine", "numpy"]) == 0
    again = tuned_model(Run.open(run.path), 6, "numpy").weights
    assert started(run).keys() == {n for n in whole.names() if ".lora_A." in n}
    for name, a in started(run).items():
        assert a.shape == (3, 16)
        assert np.array_equal(again.read(name), a)
    assert all(whole.read(n).tobytes() == again.read(n).tobytes() for n in whole.saved)


def test_the_rows_are_those_of_one_micro_batch(home, monkeypatch):
    seen = []

    def watch(weights, forward):
        made(weights, forward)
        seen.append({n: weights.read(n) for n in weights.names() if ".lora_A." in n})

    made = start.lead_by_inputs
    monkeypatch.setattr(start, "lead_by_inputs", watch)
    tuned(home, "one", "--micro-batch-tokens", "1")  # one row at a time
    tuned(home, "all", "--micro-batch-tokens", "4096")
    tuned(home, "more", "--micro-batch-tokens", "4096", "--steps", "2")
    one, every, more = seen
    assert all(np.array_equal(every[n], more[n]) for n in every)
    assert not any(np.array_equal(every[n], one[n]) for n in every)


def test_replay_writes_a_peft_folder_with_that_a(home):
    run = tuned(home)
    assert main(["replay", str(run.path), "--step", "6", "--output", str(home / "adapter")]) == 0
    config = json.loads((home / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 3
    ids = [[2, 9, 7, 5]]
    expected = tuned_model(run, 6, "numpy").logits(ids)[0]
    model = load(home / "adapter", engine="numpy")
    assert np.array_equal(model.logits(ids)[0], expected)
    for name, a in started(run).items():
        assert np.array_equal(model.weights.read(name), a)


@pytest.mark.parametrize("damage", ["changed", "gone", "not in run.toml"])
def test_another_file_is_refused(home, damage, capsys):
    run = tuned(home)
    path = run.path / start.FILE
    if damage == "changed":
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    elif damage == "gone":
        path.unlink()
    else:
        del run.about["start"]
        run.save()
    said = "not the one that the run began with" if damage != "gone" else "start.safetensors"
    with pytest.raises(RunError, match=said) as error:
        tuned_model(Run.open(run.path), 6)
    assert "restore it from a copy, or begin a new run" in str(error.value) or damage == "gone"
    assert main(["finetune", "--resume", str(run.path)]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_only_a_run_of_it_is_exported_to_an_app(home):
    given = Settings(
        model=str(home / "model"), task="reviews", data=str(home / "data"), train="lora-act"
    )
    with pytest.raises(ConfigError, match="--train lora-act of a model: the rows of a run make"):
        export_onnx(given, home / "app")
    assert not (home / "app").exists()
    run = tuned(home)
    export_onnx(Settings(model=str(run.path)), home / "app")
    with open_safetensors(home / "app" / "adapter" / "adapter_model.safetensors") as file:
        for name, a in started(run).items():
            assert np.array_equal(file.read(f"base_model.model.{name}"), a)


def test_lora_act_of_a_model_with_an_adapter_is_refused(home):
    run = tuned(home)
    assert main(["replay", str(run.path), "--output", str(home / "adapter")]) == 0
    assert finetune(home / "adapter", home / "data", home / "more", *ZO_ACT[:2]) == 1


# -- lora-fit


def test_lora_fit_reads_rows_twice_and_every_linear_module(home):
    options = ("--method", "zo-fit", "--lr", "1e-3")
    assert finetune(home / "model", home / "data", home / "fit", *options) == 0
    found = started(Run.open(home / "fit"))
    assert {n.split(".")[-3] for n in found} == {
        *("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    }
    assert all(len(a) == 1 and np.isfinite(a).all() and a.any() for a in found.values())  # 2 labels


def test_lora_fit_of_a_task_without_labels_is_refused(home, capsys):
    write_model(home / "opt", "opt")
    line = f"finetune --model {home}/opt --task COPA --data {home}/data --method zo-fit"
    assert main(line.split()) == 2
    said = capsys.readouterr().err
    assert "--train lora-fit has a direction for each label word, and the task has none" in said
    assert "take --train lora-act" in said


@pytest.mark.parametrize("option", ["--lora-rank", "--lora-alpha"])
def test_lora_fit_has_its_own_rank_and_scale(home, capsys, option):
    options = ("--method", "zo-fit", option, "4")
    assert finetune(home / "model", home / "data", home / "fit", *options) == 2
    assert "counts for nothing here" in capsys.readouterr().err


# -- head-fit

ZO_HEAD = ("--method", "zo-head", "--lr", "1e-3", "--eval-every", "3")


@pytest.mark.parametrize("family", ["opt", "roberta"])
@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_the_head_is_fitted_before_the_first_step_and_not_before_that(home, family, engine):
    write_model(home / family, family)
    options = (*ZO_HEAD, "--engine", engine)
    assert finetune(home / family, home / "data", home / "fit", *options) == 0
    run = Run.open(home / "fit")
    assert finetune(home / family, home / "data", home / "plain", "--engine", engine) == 0
    plain = Run.open(home / "plain")
    for split in ("test", "dev"):
        came, first = (each.evaluations(split)[0] for each in (plain, run))
        assert first["loss"] == pytest.approx(came["loss"], rel=1e-6)
    ids = [[2, 9, 7, 5]]
    start_of_run, base = (tuned_model(each, 0, engine) for each in (run, plain))
    assert np.array_equal(start_of_run.logits(ids)[0], base.logits(ids)[0])
    assert run.evaluations("dev")[3]["loss"] < run.evaluations("dev")[0]["loss"]


def test_the_fit_lowers_the_loss_of_the_rows_that_it_reads(home, capsys):
    assert finetune(home / "model", home / "data", home / "fit", *ZO_HEAD) == 0
    run = Run.open(home / "fit")
    table = next(n for n in started(run) if "embed_tokens" in n)
    assert started(run)[table].shape == (2, 16)
    capsys.readouterr()
    losses = []
    for model, step in (("model", None), ("fit", 3)):
        if step:
            replay = ["replay", str(home / "fit"), "--step", "3", "--output", str(home / "out")]
            assert main(replay) == 0
            model = "out"
        line = ["evaluate", "--model", str(home / model), "--task", "reviews", "--json"]
        capsys.readouterr()
        assert main([*line, "--data", str(home / "data" / "train.jsonl")]) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[1] < losses[0]


def test_a_replay_of_a_fitted_head_is_a_whole_model(home):
    assert finetune(home / "model", home / "data", home / "fit", *ZO_HEAD) == 0
    assert main(["replay", str(home / "fit"), "--step", "6", "--output", str(home / "out")]) == 0
    assert not (home / "out" / "adapter_config.json").exists()
    ids = [[2, 9, 7, 5]]
    expected = tuned_model(Run.open(home / "fit"), 6, "numpy").logits(ids)[0]
    found = load(home / "out", engine="numpy").logits(ids)[0]
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_run_that_is_killed_before_its_first_step_begins_with_the_same_fit(home, monkeypatch):
    options = (*ZO_HEAD, "--fold-every", "0")
    assert finetune(home / "model", home / "data", home / "whole", *options) == 0
    take_steps = train.Training.take_steps
    monkeypatch.setattr(train.Training, "take_steps", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finetune(home / "model", home / "data", home / "killed", *options)
    monkeypatch.setattr(train.Training, "take_steps", take_steps)
    assert main(["finetune", "--resume", str(home / "killed")]) == 0
    journals = [(home / name / "journal").read_bytes() for name in ("whole", "killed")]
    assert journals[0] == journals[1]


def test_words_of_several_tokens_have_no_row_to_fit(home, capsys):
    options = ("--template", "{text} It was", "--label-words", " good, very bad")
    line = ["finetune", "--model", str(home / "model"), "--data", str(home / "data"), *options]
    assert main([*line, *ZO_HEAD]) == 2
    said = capsys.readouterr().err
    assert "--train head-fit fits a row of each label word" in said
    assert "take --train lora-fit" in said


# -- auto


OWN = {"template": "{text} It was", "label_words": [" good", " very bad"]}


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"task": "reviews"}, "zo-head"),
        ({"task": "reviews", "train": "full"}, "fzoo"),
        ({"task": "reviews", "queries": 4}, "fzoo"),
        ({"task": "COPA"}, "fzoo"),
        (OWN, "fzoo"),
    ],
)
def test_auto_fits_the_head_where_it_can(home, choices, expected):
    folders = {"model": str(home / "model"), "data": str(home / "data")}
    given = Settings(method="auto", **folders, **choices)
    assert settle_method(given, open_model(home / "model")).method == expected


def test_a_run_of_auto_says_what_it_is(home, capsys):
    auto = ("--method", "auto")
    assert finetune(home / "model", home / "data", home / "fit", *auto) == 0
    assert "--method auto: zo-head" in capsys.readouterr().err
    assert Run.open(home / "fit").settings.method == "zo-head"
    assert finetune(home / "model", home / "data", home / "full", *auto, "--train", "full") == 0
    assert "--method auto: fzoo" in capsys.readouterr().err
    assert main(["finetune", "--resume", str(home / "fit"), "--steps", "7"]) == 0
