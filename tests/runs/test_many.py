"""Many at once: processes that start together, one that is deleted under, one that is read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from disturbed import record
from folders import finetune, python, write_model, write_reviews

from tinyzo.cli import main
from tinyzo.errors import CheckpointError, RunError
from tinyzo.runs import export
from tinyzo.runs.journal import Header, Journal, read_journal
from tinyzo.runs.run import Run
from tinyzo.runs.snapshots import Snapshots, tuned_model
from tinyzo.zo.mezo import Step

# Says that it is ready, and begins when it is told to.
TOGETHER = """
import sys
from tinyzo.cli import main
from tinyzo.runs import report, train
report.plot = lambda path: "not drawn"
print("ready", flush=True)
sys.stdin.readline()
sys.exit(main(sys.argv[1:]))
"""

# Says when its first step is in the journal.
BEGUN = """
import sys
from tinyzo.cli import main
from tinyzo.runs.journal import Journal

append = Journal.append

def append_and_say(self, step):
    append(self, step)
    if len(self.steps) == 1:
        print("begun", flush=True)

Journal.append = append_and_say
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    model, data = write_model(home / "model", "opt"), write_reviews(home / "data")
    assert finetune(model, data, home / "run", "--fold-every", "2", "--lr", "1e-2") == 0
    return home


def command(home, *options):
    return [
        "finetune", "--model", home / "model", "--task", "reviews", "--data", home / "data",
        "--steps", 3, "--batch-size", 2, "--lr", "1e-2", "--eval-every", 3, "--engine", "numpy",
        *options,
    ]  # fmt: skip


def together(commands, cwd):
    """Run commands as processes that all begin when each has loaded; exit codes and logs."""
    with ExitStack() as opened:
        pipes = {"stdin": subprocess.PIPE, "cwd": cwd}
        started = [
            opened.enter_context(python("-c", TOGETHER, *each, **pipes)) for each in commands
        ]
        for process in started:
            assert process.stdout.readline() == "ready\n"
        for process in started:
            process.stdin.write("go\n")
            process.stdin.flush()
        ended = [process.communicate() for process in started]
        return [(p.returncode, log) for p, (_, log) in zip(started, ended, strict=True)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("TINYZO_NO_NUMBA", "1")


# --- new runs ---


@pytest.mark.parametrize("count", [4, pytest.param(16, marks=pytest.mark.exhaustive)])
def test_a_sweep_without_outputs(home, tmp_path, count):
    """Each gets a directory of its own, with its own settings."""
    sweep = [command(home, "--seed", seed) for seed in range(count)]
    ended = together(sweep, tmp_path)
    assert [code for code, _ in ended] == count * [0], ended
    runs = {Run.open(path).settings.seed: path for path in (tmp_path / "runs").iterdir()}
    names = {f"reviews-model-{n}" for n in range(1, count + 1)}
    assert {path.name for path in runs.values()} == names and len(runs) == count
    for seed, path in runs.items():
        assert json.loads((path / "result.json").read_text())["steps"] == 3
        assert len(read_journal(path / "journal").steps) == 3
        assert f"run runs/{path.name}\n" in ended[seed][1]


@pytest.mark.parametrize("exists", [True, pytest.param(False, marks=pytest.mark.exhaustive)])
def test_one_output_for_several(home, tmp_path, exists):
    """One has it, the others are told, and what is there is all of one run."""
    if exists:
        (tmp_path / "run").mkdir()
    commands = [command(home, "--seed", seed, "--output", "run") for seed in range(3)]
    ended = together(commands, tmp_path)
    codes = [code for code, _ in ended]
    assert sorted(codes) == [0, 1, 1], ended
    run = Run.open(tmp_path / "run")
    assert run.settings.seed == codes.index(0)
    alone = command(home, "--seed", run.settings.seed, "--output", tmp_path / "alone")
    assert main(list(map(str, alone))) == 0
    assert record(run.path) == record(tmp_path / "alone")
    for code, log in ended:
        told = "another process is at work on this run" in log or "run has a run.toml" in log
        assert told == bool(code), log


def test_a_directory_that_another_run_took_meanwhile(home, tmp_path, monkeypatch, capsys):
    """It is there only after this process has looked; what counts is the journal's lock."""
    taken = shutil.copytree(home / "run", tmp_path / "run")
    (taken / "journal").unlink()
    before = (taken / "run.toml").read_bytes()
    monkeypatch.setattr(Run, "make_directory", lambda self: None)
    assert main(list(map(str, command(home, "--output", taken)))) == 1
    assert "has a run.toml already\n  hint: name another --output\n" in capsys.readouterr().err
    assert (taken / "run.toml").read_bytes() == before


def test_a_journal_without_its_run(home, tmp_path, capsys):
    """Its steps are not taken for those of the new run."""
    (tmp_path / "run").mkdir()
    shutil.copy(home / "run" / "journal", tmp_path / "run")
    assert main(list(map(str, command(home, "--output", tmp_path / "run")))) == 1
    assert "run has a journal already\n  hint: name another --output\n" in capsys.readouterr().err


def test_numbers_that_are_taken_are_left_out(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "reviews-model-1").mkdir(parents=True)
    (tmp_path / "runs" / "reviews-model-2").write_text("notes of mine")
    assert main(list(map(str, command(home)))) == 0
    assert (tmp_path / "runs" / "reviews-model-3" / "run.toml").is_file()


def test_a_mistake_leaves_no_directory(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for mistake in (("--lr", -1), ("--data", "nowhere"), ("--memory-budget", "1MB")):
        assert main(list(map(str, command(home, *mistake)))) != 0
        assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_have_a_directory(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("no folder")
    assert main(list(map(str, command(home)))) == 1
    assert "runs/reviews-model-1: " in capsys.readouterr().err


# --- exports ---


def test_two_exports_into_one_folder(home, tmp_path):
    convert = ["convert", home / "model", "--output", "new"]
    replay = ["replay", home / "run", "--output", "new"]
    ended = together([convert, replay, replay, convert], tmp_path)
    assert sorted(code for code, _ in ended) == [0, 1, 1, 1], ended
    told = ("another process is writing it", "has written it meanwhile", "already", "until now")
    for code, log in ended:
        assert any(each in log for each in told) == bool(code), log
    assert (tmp_path / "new" / "config.json").is_file()
    alone = convert if 0 in (ended[0][0], ended[3][0]) else replay
    assert main([*map(str, alone[:-1]), str(tmp_path / "alone")]) == 0
    for path in (tmp_path / "alone").iterdir():
        assert (tmp_path / "new" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("train", ["full", "lora"])
def test_a_folder_that_another_export_filled_meanwhile(home, tmp_path, monkeypatch, train):
    assert finetune(home / "model", home / "data", tmp_path / "run", "--train", train) == 0
    run = Run.open(tmp_path / "run")
    export.replay(run, tmp_path / "new", step=1)
    before = {path: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    monkeypatch.setattr(export, "make_new", lambda output: None)  # it looked before
    with pytest.raises(CheckpointError, match="another process has written it meanwhile\n"):
        export.replay(run, tmp_path / "new", step=2)
    assert before == {path: path.read_bytes() for path in (tmp_path / "new").iterdir()}


# --- a run that is deleted, or read, while it is at work ---


def test_a_journal_that_is_gone(tmp_path):
    header = Header(2, 1, "gaussian", "ab" * 32)
    step = Step((1.0, 2.0), 3.0, ((4, 5.0),))
    for change in (Path.unlink, lambda path: os.replace(tmp_path / "other", path)):
        (tmp_path / "other").write_bytes(b"")
        with Journal(tmp_path / "journal", header) as journal:
            journal.append(step)
            change(tmp_path / "journal")
            with pytest.raises(RunError, match="journal has been deleted or replaced meanwhile"):
                journal.append(step)
            assert len(journal.steps) == 1


def test_a_run_that_is_deleted_and_begun_again(home, tmp_path, monkeypatch, capsys):
    """The first one stops, and the second one's files stay its own."""
    run, other = tmp_path / "run", tmp_path / "other"
    append = Journal.append
    assert main(list(map(str, command(home, "--seed", 5, "--output", other)))) == 0

    def replaced(self, step):
        append(self, step)
        if len(self.steps) == 2:
            shutil.rmtree(run)
            shutil.copytree(other, run)

    monkeypatch.setattr(Journal, "append", replaced)
    assert main(list(map(str, command(home, "--steps", 9, "--output", run)))) == 1
    log = capsys.readouterr().err
    assert "journal has been deleted or replaced meanwhile\n  hint: begin a new run\n" in log
    monkeypatch.undo()
    assert (run / "journal").read_bytes() == (other / "journal").read_bytes()


def test_a_run_is_evaluated_beside_its_training(home, tmp_path):
    """Snapshots come and go under the reader, which gets the weights of a step, whichever way."""
    options = ("--steps", 40, "--fold-every", 1, "--eval-every", 5, "--residency", "streamed")
    arguments = command(home, *options, "--output", tmp_path / "run")
    reads = 0
    with python("-c", BEGUN, *arguments) as process:
        assert process.stdout.readline() == "begun\n"
        while process.poll() is None or not reads:
            tuned_model(Run.open(tmp_path / "run"), engine="numpy")
            reads += 1
        assert process.wait() == 0, process.stderr.read()
    assert read_journal(tmp_path / "run" / "journal").steps[39]


@pytest.mark.parametrize("train", ["full", "lora"])
def test_a_snapshot_that_goes_between_looking_and_reading(
    home, tmp_path, monkeypatch, capsys, train
):
    options = ("--fold-every", "2", "--train", train, "--lr", "1e-2")
    assert finetune(home / "model", home / "data", tmp_path / "run", *options) == 0
    run = Run.open(tmp_path / "run")
    assert list(run.path.glob("weights-*"))
    expected = theta(tuned_model(run, 6))
    is_ours = Snapshots._is_ours

    def gone(self, path, *others):
        found = is_ours(self, path, *others)
        path.unlink()
        return found

    monkeypatch.setattr(Snapshots, "_is_ours", gone)
    assert theta(tuned_model(run, 6)) == expected
    assert "passed over: " in capsys.readouterr().err


def theta(model):
    return {name: model.weights.stored(name).tobytes() for name in model.weights.names()}


def test_a_run_that_goes_on_between_two_looks(home, tmp_path, monkeypatch):
    """An evaluation comes after its step, so it is read before the journal."""
    run = Run.open(home / "run")
    best_step = Run.best_step
    whole = run.journal_path.read_bytes()
    shorter = shutil.copytree(home / "run", tmp_path / "run")
    (shorter / "journal").write_bytes(whole[:-56])

    def then_a_step(self):
        found = best_step(self)
        (shorter / "journal").write_bytes(whole)
        return found

    monkeypatch.setattr(Run, "best_step", then_a_step)
    assert len(Run.open(shorter).way(None)) == best_step(run) == 6
