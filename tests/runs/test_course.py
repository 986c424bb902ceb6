"""A run that goes back, one that stops, and one that does neither: by the losses on dev."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from disturbed import Killed, die_at, record
from folders import finetune, lines, write_model, write_reviews

import tinyzo
from tinyzo.cli import main
from tinyzo.errors import UsageError
from tinyzo.runs.course import MOST_RETURNS, Course
from tinyzo.runs.history import History, Return
from tinyzo.runs.journal import Journal, read_journal
from tinyzo.runs.run import Run
from tinyzo.runs.snapshots import tuned_model
from tinyzo.zo.mezo import Step

FAR_TOO_LARGE = ("--lr", "3", "--guard", "1", "--steps", "12", "--engine", "numpy")


def course(losses: list[float], returns: tuple[Return, ...] = (), **settings: int) -> Course:
    """After as many steps as there are losses, with an evaluation at each."""
    chosen = SimpleNamespace(**{"eval_every": 1, "guard": 0, "patience": 0} | settings)
    found = {step: {"loss": loss} for step, loss in enumerate(losses)}
    run: Any = SimpleNamespace(settings=chosen, evaluations=lambda split: found)
    history = History([Step((), 0.0, ())] * (len(losses) - 1), list(returns))
    return Course(run, history, len(losses) - 1)


@pytest.mark.parametrize(
    ("losses", "breaks"),
    [
        ([1.0], False),
        ([1.0, 2.0], False),  # one is chance
        ([1.0, 2.0, 2.0], True),
        ([1.0, 0.5, 2.0, 2.0], True),
        ([1.0, 2.0, 0.5, 2.0], False),  # not in a row
        ([1.0, 2.0, 2.0, 0.5], False),  # over
        ([1.0, 1.01, 1.01, 1.01], False),  # it wavers
        ([0.0, 0.1, 0.1], True),
    ],
)
def test_when_a_run_has_broken_down(losses, breaks):
    assert course(losses, guard=2).has_broken_down == breaks
    assert not course(losses).has_broken_down


def test_a_run_goes_back_to_the_least_loss_with_smaller_rates():
    assert course([1.0, 0.5, 0.4, 0.4, 2.0, 2.0], guard=2).back() == Return(5, 2, 0.3)
    once = Return(2, 0, 0.3)
    again = course([1.0, 2.0, 2.0, 2.0], (once,), guard=2)
    assert not again.has_broken_down  # what came before the return does not count again
    again = course([1.0, 2.0, 2.0, 2.0, 2.0], (once,), guard=2)
    assert again.has_broken_down and again.back() == Return(4, 0, 0.09)


def test_it_goes_back_a_few_times_and_only_if_it_is_guarded():
    returns = tuple(Return(n, 0, 0.3**n) for n in range(1, MOST_RETURNS + 1))
    assert course([1.0] * 9, returns[:-1], guard=1).back() is not None
    assert course([1.0] * 9, returns, guard=1).back() is None
    assert course([1.0] * 9).back() is None


@pytest.mark.parametrize(
    ("losses", "is_over"),
    [
        ([1.0], False),
        ([1.0, 0.9, 0.8, 0.7], False),
        ([1.0, 0.9, 0.95], False),
        ([1.0, 0.9, 0.95, 0.9], True),
        ([1.0, 2.0, 3.0], True),
        ([1.0, 2.0, 0.9], False),
    ],
)
def test_when_a_run_is_over(losses, is_over):
    assert course(losses, patience=2).is_over == is_over
    assert not course(losses).is_over
    assert not course(losses, (Return(len(losses) - 2, 0, 0.3),), patience=2).is_over


def test_only_regular_evaluations_count():
    """Of a run that was stopped there is one more, which an undisturbed run has not."""
    found = course([1.0, 2.0, 2.0, 2.0], guard=2, eval_every=2)
    assert found.losses == {0: 1.0, 2: 2.0} and not found.has_broken_down


# -- whole runs -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("home")
    write_model(path / "model")
    write_reviews(path / "data")
    assert start(path, path / "run", *FAR_TOO_LARGE) == 0
    return path


def start(home: Path, output: Path, *options: str) -> int:
    return finetune(home / "model", home / "data", output, *options)


def dev(run: Path) -> dict[int, float]:
    return {step: event["loss"] for step, event in Run.open(run).evaluations("dev").items()}


def test_a_rate_that_is_far_too_large_ends_no_worse_than_the_model_was(home, tmp_path):
    options = [option for option in FAR_TOO_LARGE if option not in ("--guard", "1")]
    assert start(home, tmp_path / "run", *options) == 1  # it diverges
    losses = dev(home / "run")
    returns = read_journal(home / "run" / "journal").history.returns
    assert 2 <= len(returns) <= MOST_RETURNS
    assert max(losses.values()) > 2 * losses[0]
    assert losses[max(losses)] <= losses[0] and min(losses.values()) < losses[0]
    assert [line["step"] for line in lines(home / "run" / "metrics.jsonl")] == list(range(1, 13))


def test_rates_and_events_say_the_returns(home):
    returns = read_journal(home / "run" / "journal").history.returns
    events = [e for e in lines(home / "run" / "events.jsonl") if e["event"] == "returned"]
    assert [Return(e["step"], e["to"], e["factor"]) for e in events] == returns
    for line in lines(home / "run" / "metrics.jsonl"):
        factors = [back.factor for back in returns if back.after < line["step"]]
        assert line["lr"] == 3.0 * (factors[-1] if factors else 1.0)


def test_a_good_run_is_the_same_to_the_byte_with_a_guard(home, tmp_path):
    for name, options in {"plain": (), "guarded": ("--guard", "1", "--patience", "9")}.items():
        assert start(home, tmp_path / name, "--lr", "1e-3", *options) == 0
    assert record(tmp_path / "plain") == record(tmp_path / "guarded")


@pytest.mark.parametrize("method", ["mezo", "momentum", "lozo"])
def test_every_step_has_the_weights_that_the_run_had(home, tmp_path, monkeypatch, method):
    """Those that were left behind, too."""
    seen, end_step = {}, tinyzo.runs.train.Training._end_step

    def kept(self: Any, steps: int, done: int) -> None:
        end_step(self, steps, done)
        self.model.weights.fold()
        names = self.model.weights.names()
        seen[steps] = {name: self.model.weights.read(name).tobytes() for name in names}

    monkeypatch.setattr(tinyzo.runs.train.Training, "_end_step", kept)
    run, window = tmp_path / "run", () if method == "mezo" else ("--window", "3")
    assert start(home, run, *FAR_TOO_LARGE, "--method", method, *window) == 0
    assert read_journal(run / "journal").history.returns
    for step in seen:
        weights = tuned_model(Run.open(run), step).weights
        assert {name: weights.read(name).tobytes() for name in weights.names()} == seen[step]


@pytest.mark.parametrize("name", ["append", "append_return"])
@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_dies_about_its_returns_goes_on_to_the_same_end(home, tmp_path, name, after):
    returns = read_journal(home / "run" / "journal").history.returns
    calls = [back.after + 1 for back in returns] if name == "append" else range(1, len(returns) + 1)
    for call in calls:
        run = tmp_path / f"run-{call}"
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, Journal, name, call, after)
            with pytest.raises(Killed):
                start(home, run, *FAR_TOO_LARGE)
        assert main(["finetune", "--resume", str(run)]) == 0
        assert record(run) == record(home / "run")


@pytest.mark.parametrize("name", ["events.jsonl", "metrics.jsonl", "result.json"])
def test_what_the_journal_says_is_made_again(home, tmp_path, name):
    run = shutil.copytree(home / "run", tmp_path / "run")
    for path in (run / name, *run.glob("weights-*")):
        path.unlink()
    assert main(["finetune", "--resume", str(run)]) == 0
    assert record(run) == record(home / "run")


def test_a_run_that_no_longer_gains_stops_and_goes_on_with_more_patience(home, tmp_path, capsys):
    run = tmp_path / "run"
    options = ("--lr", "3e-2", "--steps", "40", "--eval-every", "1", "--engine", "numpy")
    assert start(home, run, *options, "--patience", "2") == 0
    assert "stopped: no better loss on dev than that of step" in capsys.readouterr().err
    stopped = [e for e in lines(run / "events.jsonl") if e["event"] == "stopped"]
    (event,) = stopped
    steps = json.loads((run / "result.json").read_text())["steps"]
    losses = dev(run)
    assert event["step"] == steps == event["best"] + 2 < 40
    assert min(losses, key=losses.__getitem__) == event["best"]
    before = record(run)
    assert main(["finetune", "--resume", str(run)]) == 0  # it stops again, at once
    assert record(run) == before
    assert main(["finetune", "--resume", str(run), "--patience", "0"]) == 0
    assert start(home, tmp_path / "whole", *options) == 0
    whole = record(tmp_path / "whole")
    assert (run / "journal").read_bytes() == whole[0]


def test_adam_stops_too(home, tmp_path):
    options = ("--method", "adam", "--lr", "0.3", "--steps", "20", "--eval-every", "1")
    assert start(home, tmp_path / "run", *options, "--patience", "2") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] < 20


# -- what is refused --------------------------------------------------------------------


def test_adam_has_no_way_back(home, tmp_path):
    with pytest.raises(UsageError, match=r"--method adam .*\n  hint: no journal holds a gradient"):
        tinyzo.finetune(tmp_path / "run", method="adam", guard=2)


@pytest.mark.parametrize("option", ["guard", "patience"])
def test_without_rows_of_dev_there_is_nothing_to_go_by(home, tmp_path, option):
    data = write_reviews(tmp_path / "data", train=4)  # too few to take some of them for dev
    (data / "dev.jsonl").unlink()
    why = rf"--{option} goes by the losses on dev, .*\n  hint: add a file of them, or leave out"
    with pytest.raises(UsageError, match=why):
        tinyzo.finetune(
            tmp_path / "run",
            model=home / "model",
            task="reviews",
            data=data,
            steps=2,
            **{option: 2},
        )
    assert not (tmp_path / "run").exists()


def test_a_schedule_for_any_budget_goes_on_as_if_it_had_had_it(home, tmp_path):
    schedule = ("--schedule", "sqrt", "--lr-passes", "4", "--engine", "numpy")
    assert start(home, tmp_path / "run", *schedule) == 0
    assert main(["finetune", "--resume", str(tmp_path / "run"), "--steps", "10"]) == 0
    assert start(home, tmp_path / "long", *schedule, "--steps", "10") == 0
    assert record(tmp_path / "run")[:2] == record(tmp_path / "long")[:2]
    assert start(home, tmp_path / "none", "--lr-passes", "4") == 2
