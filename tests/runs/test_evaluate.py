"""Scores: against sums by hand, whatever the micro-batches, and the same from every road."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from folders import finetune, rows, write_jsonl, write_model, write_reviews
from tiny import MODELS, examples_for, toy_task

from tinyzo.cli import main
from tinyzo.errors import DataError, NumericError
from tinyzo.runs import report
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.evaluate import evaluate, predict
from tinyzo.zo.objectives import Objective


def bounded(model, task, kind="cross-entropy"):
    return BoundedLoss(Objective(model, task, kind), 4096)


@pytest.fixture(params=["roberta", "opt"])
def family(request):
    return request.param


def test_accuracy_and_loss_are_those_of_the_predictions(family):
    examples = examples_for(family, 7)
    loss = bounded(MODELS[family](), toy_task(family))
    odds = list(predict(loss, examples))
    result = evaluate(loss, examples)
    assert result.examples == 7
    right = [int(p.argmax()) == e.label for p, e in zip(odds, examples, strict=True)]
    assert result.accuracy == sum(right) / 7
    entropy = -sum(math.log(p[e.label]) for p, e in zip(odds, examples, strict=True)) / 7
    assert result.loss == pytest.approx(entropy, rel=1e-12)
    assert all(len(p) == 3 and p.sum() == pytest.approx(1, abs=1e-12) for p in odds)


def test_accuracy_counts_what_is_right(family):
    loss = bounded(MODELS[family](), toy_task(family))
    examples = examples_for(family, 6)
    best = [int(p.argmax()) for p in predict(loss, examples)]
    gold = [replace(e, label=b) for e, b in zip(examples, best, strict=True)]
    assert evaluate(loss, gold).accuracy == 1
    wrong = [replace(e, label=(e.label + 1) % 3) for e in gold]
    assert evaluate(loss, wrong).accuracy == 0
    assert evaluate(loss, gold[:3] + wrong[3:]).accuracy == 0.5


@pytest.mark.parametrize("loss", ["classification", "lm"])
@pytest.mark.parametrize("kind", ["accuracy", "f1"])
def test_the_loss_is_the_cross_entropy_whatever_is_trained_on(kind, loss):
    """So that `evaluate --model RUN` says what the run has said."""
    model, task, examples = MODELS["opt"](), toy_task("opt", loss), examples_for("opt", 5)
    expected = evaluate(bounded(model, task), examples)
    assert evaluate(bounded(model, task, kind), examples) == expected


def test_micro_batches_do_not_matter(family):
    examples = examples_for(family, 9)
    model, task = MODELS[family](), toy_task(family)
    whole, parts = (
        evaluate(BoundedLoss(Objective(model, task), size), examples) for size in (4096, 1)
    )
    assert whole.accuracy == parts.accuracy
    assert whole.loss == pytest.approx(parts.loss, rel=1e-6)


def test_the_language_model_loss_is_the_mean_over_all_tokens():
    examples = examples_for("opt", 5)
    loss = bounded(MODELS["opt"](), toy_task("opt", "lm"))
    objective = loss.objective
    theta = objective.model.weights.view()
    nll = [objective.token_nll(theta, objective.pack(objective.read([e])))[0] for e in examples]
    assert evaluate(loss, examples).loss == pytest.approx(np.concatenate(nll).mean(), rel=1e-6)


def test_a_model_that_is_not_finite(family):
    model = MODELS[family]()
    for name in model.weights.names():
        model.weights.stored(name)[...] = np.nan
    loss = bounded(model, toy_task(family))
    with pytest.raises(NumericError, match="the model gives nan on 4 rows"):
        evaluate(loss, examples_for(family))
    with pytest.raises(NumericError, match="the model gives nan on 4 rows"):
        list(predict(loss, examples_for(family)))


def test_rows_without_labels_have_no_accuracy(family):
    examples = examples_for(family, 4)
    loss = bounded(MODELS[family](), toy_task(family))
    unlabelled = [*examples[:3], replace(examples[3], label=-1)]
    with pytest.raises(DataError, match="of 4 rows, 1 of them without a label, cannot be computed"):
        evaluate(loss, unlabelled)
    with pytest.raises(DataError, match="of 0 rows, 0 of them"):
        evaluate(loss, [])
    assert len(list(predict(loss, unlabelled))) == 4


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_run_replayed_model_and_result_agree_exactly(family, dtype, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "plot", lambda path: "not drawn")
    model, data = write_model(tmp_path / "model", family, dtype), write_reviews(tmp_path / "data")

    def last_line(*arguments):
        assert main([*map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    assert finetune(model, data, tmp_path / "run", "--seed", "3", "--lr", "1e-2") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    last_line("replay", tmp_path / "run", "--output", tmp_path / "tuned")
    task = ("--task", "reviews", "--data", data)
    roads = [
        last_line("evaluate", "--model", tmp_path / "run"),
        last_line("evaluate", "--model", tmp_path / "run", *task),
        last_line("evaluate", "--model", tmp_path / "run", "--task", "REVIEWS"),
        last_line("evaluate", "--model", tmp_path / "tuned", *task),
    ]
    for road in roads:
        assert (road["accuracy"], road["loss"]) == (result["accuracy"], result["loss"])
        assert (road["examples"], road["split"]) == (8, "test")
    for road in (
        last_line("evaluate", "--model", tmp_path / "run", "--zero-shot"),
        last_line("evaluate", "--model", model, *task),
    ):
        assert road["loss"] == result["loss_zero_shot"] != result["loss"]


def test_a_run_on_one_file_is_evaluated_on_what_it_held_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "plot", lambda path: "not drawn")
    model = write_model(tmp_path / "model")
    data = write_jsonl(tmp_path / "rows.jsonl", rows(25))
    assert finetune(model, data, tmp_path / "run") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    capsys.readouterr()

    def loss(*options):
        assert main(["evaluate", "--model", str(tmp_path / "run"), "--json", *options]) == 0
        document = json.loads(capsys.readouterr().out)
        return document["examples"], document["split"], document["loss"]

    assert loss() == loss("--task", "reviews") == (5, "held-out", result["loss"])
    assert loss("--data", str(data))[:2] == (25, "train")  # asked for all of it
    assert loss("--limit", "2")[0] == 2


def test_rows_that_are_left_out_are_told_by_both_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "plot", lambda path: "not drawn")
    model, data = write_model(tmp_path / "model"), write_reviews(tmp_path / "data")
    write_jsonl(data / "test.jsonl", [*rows(4), {"text": "a", "mood": -1}])
    told = "test.jsonl line 5: 1 of 5 rows have no mood, this one first"
    assert finetune(model, data, tmp_path / "run") == 0
    assert told in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["examples"] == 4
    assert main(["evaluate", "--model", str(tmp_path / "run")]) == 0
    found = capsys.readouterr()
    assert told in found.err and "on 4 test rows" in found.out
