"""The range test over learning rates: what it tries, what it takes, and what it needs."""

from __future__ import annotations

import math

import pytest
from folders import finetune, lines, write_model, write_reviews

from tinyzo.errors import NumericError, UsageError
from tinyzo.runs import find_lr as module
from tinyzo.runs.run import Run
from tinyzo.runs.settings import Settings


class Found:
    """A run whose loss on dev is least at lr 1e-5, and that breaks down above 1e-4."""

    best_eps = None

    def __init__(self, settings, output):
        lr, eps, steps = settings.lr, settings.eps, settings.steps
        if lr > 1.1e-4:
            raise NumericError("losses [nan, nan]", "a smaller lr")
        here = self.best_eps or eps
        self.loss = {steps: {"loss": abs(math.log10(lr) + 5) * (1 + abs(math.log10(eps / here)))}}

    def evaluations(self, split):
        return self.loss if split == "dev" else {}


def test_the_rate_of_the_least_loss_is_taken_and_what_diverges_is_not(monkeypatch, capsys):
    monkeypatch.setattr(module, "tune", Found)
    found = module.find_lr(Settings())
    assert found == (pytest.approx(1.58e-5, rel=0.01), 1e-3)  # that eps, if all do
    log = capsys.readouterr().err
    assert log.count("find-lr: lr ") == 7 + 2 and ": inf on dev" in log


def test_a_guard_does_not_hide_a_rate_that_diverges(monkeypatch):
    class Unguarded(Found):
        def __init__(self, settings, output):
            assert settings.guard == settings.patience == 0
            super().__init__(settings, output)

    monkeypatch.setattr(module, "tune", Unguarded)
    assert module.find_lr(Settings(guard=2, patience=3)).lr == pytest.approx(1.58e-5, rel=0.01)


@pytest.mark.parametrize("eps", [1e-4, 1e-2])
def test_an_eps_that_does_better_is_taken(monkeypatch, eps):
    monkeypatch.setattr(module, "tune", Found)
    monkeypatch.setattr(Found, "best_eps", eps)
    assert module.find_lr(Settings()).eps == pytest.approx(eps)
    assert module.find_lr(Settings(eps=eps)).eps == eps


def test_the_rates_are_around_the_methods_own(monkeypatch, capsys):
    monkeypatch.setattr(module, "tune", Found)
    module.find_lr(Settings(method="adamezo"))
    assert "lr 5e-06, eps 0.001: " in capsys.readouterr().err


def test_rates_that_a_weight_decay_rules_out_are_not_tried(monkeypatch, capsys):
    monkeypatch.setattr(module, "tune", Found)
    module.find_lr(Settings(lr=1e-5, weight_decay=3e4))
    assert capsys.readouterr().err.count("find-lr: lr ") == 5 + 2


def test_when_every_rate_diverges_none_is_taken(monkeypatch):
    monkeypatch.setattr(module, "tune", Found)
    with pytest.raises(NumericError, match=r"every lr from 0.032 to 32 diverges\n.*a smaller --lr"):
        module.find_lr(Settings(lr=1.0))


def test_there_is_nothing_around_a_rate_of_0():
    with pytest.raises(UsageError, match="--find-lr with --lr 0\n  hint: give the lr to search"):
        module.find_lr(Settings(lr=0.0))


def test_without_dev_rows_it_is_refused(monkeypatch):
    monkeypatch.setattr(Found, "evaluations", lambda self, split: {})
    monkeypatch.setattr(module, "tune", Found)
    with pytest.raises(UsageError, match="--find-lr needs dev rows\n  hint: give a dev file"):
        module.find_lr(Settings())


def test_the_command_goes_on_with_what_it_found(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "STEPS", 2)
    write_model(tmp_path / "model")
    write_reviews(tmp_path / "data", 8, 4, 4)
    assert finetune(tmp_path / "model", tmp_path / "data", tmp_path / "run", "--find-lr") == 0
    rates = {line["lr"] for line in lines(tmp_path / "run" / "metrics.jsonl")}
    assert rates == {Run.open(tmp_path / "run").settings.lr}
    assert {line["eps"] for line in lines(tmp_path / "run" / "metrics.jsonl")} <= {1e-4, 1e-3, 1e-2}
