"""finetune: the same bytes however often it is stopped, and nothing lost by any mistake."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from disturbed import Killed, die_at, record
from folders import finetune, lines, python, rows, shell, write_jsonl, write_model, write_reviews
from tiny import ENGINES

import tinyzo
from tinyzo.cli import main
from tinyzo.engine.select import choose_engine
from tinyzo.errors import ConfigError, DataError, RunError, UsageError
from tinyzo.runs import report, train
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.journal import Journal, read_journal
from tinyzo.runs.lines import read_lines
from tinyzo.runs.methods import RunMethod
from tinyzo.runs.run import Run
from tinyzo.runs.snapshots import tuned_model

# The best of its dev evaluations is step 4 of 6; and what a step does has all its parts.
SEED_3 = ("--seed", "3", "--lr", "1e-2", "--weight-decay", "0.5")
METRICS = {
    "step", "loss", "loss_plus", "loss_minus", "projected_gradient", "lr", "eps", "seed",
    "seconds", "forwards", "resident_bytes", "peak_bytes",
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Models, data, and an undisturbed run."""
    home = tmp_path_factory.mktemp("home")
    for family in ("roberta", "opt"):
        write_model(home / family, family)
    write_reviews(home / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "plot", lambda path: "not drawn")
        assert finetune(home / "opt", home / "data", home / "run", *SEED_3) == 0
    return home


@pytest.fixture
def run(home, tmp_path):
    """A copy of it, to disturb."""
    return shutil.copytree(home / "run", tmp_path / "run")


def start(home, output, *options, family="opt"):
    return finetune(home / family, home / "data", output, *SEED_3, *options)


def resume(run, *options):
    return main(["finetune", "--resume", str(run), *options])


def weights_of(run, path):
    assert main(["replay", str(run), "--output", str(path)]) == 0
    return (path / "model.safetensors").read_bytes()


# --- what a run leaves ---


def test_metrics_have_a_line_a_step(home):
    metrics = lines(home / "run" / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    header, history, _ = read_journal(home / "run" / "journal")
    steps = history.steps
    assert header.base == Run.open(home / "run").about["base"]
    for line, step in zip(metrics, steps, strict=True):
        assert line.keys() == METRICS
        plus, minus = line["loss_plus"], line["loss_minus"]
        assert (plus, minus) == step.losses
        assert line["loss"] == (plus + minus) / 2
        assert line["projected_gradient"] == (plus - minus) / (2 * 1e-3)
        assert (line["lr"], line["eps"], line["forwards"]) == (1e-2, 1e-3, 2)
        assert step.terms == ((line["seed"], -1e-2 * line["projected_gradient"]),)
        assert line["seconds"] > 0 and line["peak_bytes"] > 1 << 20
    assert len({line["seed"] for line in metrics}) == 6


def test_evaluations_every_so_often_at_the_start_and_the_end(home, tmp_path):
    def found(run):
        events = (e for e in lines(run / "events.jsonl") if e["event"] == "evaluation")
        return [(e["step"], e["split"]) for e in events]

    dev = [(step, "dev") for step in (0, 2, 4, 6)]
    assert found(home / "run") == [(0, "test"), *dev, (4, "test")]
    assert start(home, tmp_path / "odd", "--eval-every", "4") == 0
    assert found(tmp_path / "odd") == [
        (0, "test"), (0, "dev"), (4, "dev"), (6, "dev"), (4, "test")
    ]  # fmt: skip


def test_the_result_is_of_the_best_step_on_dev(home):
    run = Run.open(home / "run")
    dev = run.evaluations("dev")
    best = min(dev, key=lambda step: dev[step]["loss"])
    assert run.result["best_step"] == best == 4
    assert run.result["loss"] == run.evaluations("test")[4]["loss"]
    assert run.result["loss_zero_shot"] == run.evaluations("test")[0]["loss"]
    assert run.result["forwards"] == 12 and run.result["examples"] == 8


def test_steps_lower_the_loss_they_were_taken_on(home):
    """A descent, not only a consistent record: the sign of the update is right."""
    dev = Run.open(home / "run").evaluations("dev")
    assert dev[4]["loss"] < 0.8 * dev[0]["loss"]


@pytest.mark.parametrize("family", ["roberta", "opt"])
def test_the_same_seed_gives_the_same_bytes(home, tmp_path, family):
    options = {"a": (), "b": (), "seed": ("--seed", "4"), "rows": ("--data-seed", "9")}
    for name, extra in options.items():
        assert start(home, tmp_path / name, *extra, family=family) == 0
    journals = {name: (tmp_path / name / "journal").read_bytes() for name in options}
    assert journals["a"] == journals["b"]
    assert len(set(journals.values())) == 3
    a, b = (lines(tmp_path / name / "metrics.jsonl") for name in ("a", "rows"))
    assert [m["seed"] for m in a] == [m["seed"] for m in b]  # the data seed is no part of z


@pytest.mark.parametrize("family", ["roberta", pytest.param("opt", marks=pytest.mark.exhaustive)])
def test_micro_batches_change_the_rounding_only(home, tmp_path, family):
    for tokens in ("1", "40", "4096"):
        finetune(home / family, home / "data", tmp_path / tokens, "--micro-batch-tokens", tokens)
    whole = lines(tmp_path / "4096" / "metrics.jsonl")
    for tokens in ("1", "40"):
        parts = lines(tmp_path / tokens / "metrics.jsonl")
        for name in ("loss_plus", "loss_minus"):
            ours, theirs = ([m[name] for m in run] for run in (parts, whole))
            np.testing.assert_allclose(ours[:1], theirs[:1], rtol=0, atol=1e-6)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)  # they drift apart


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_storage_types(home, tmp_path, dtype):
    assert start(home, tmp_path / "run", "--dtype", dtype) == 0
    model = tuned_model(Run.open(tmp_path / "run"), 6)
    name = {"f32": "float32", "bf16": "uint16", "f16": "float16"}[dtype]
    assert {model.weights.dtype(n).name for n in model.weights.names()} == {name}


def test_weight_decay_is_in_the_journal(home):
    assert {step.decay for step in read_journal(home / "run" / "journal").steps} == {1e-2 * 0.5}


def test_schedules_and_warm_up(home, tmp_path):
    start(home, tmp_path / "run", "--schedule", "linear", "--warmup", "2", "--lr", "1e-3")
    rates = [m["lr"] for m in lines(tmp_path / "run" / "metrics.jsonl")]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_no_steps_is_an_evaluation(home, tmp_path):
    assert start(home, tmp_path / "run", "--steps", "0") == 0
    result = Run.open(tmp_path / "run").result
    assert (result["steps"], result["forwards"], result["best_step"]) == (0, 0, 0)
    assert result["accuracy"] == result["accuracy_zero_shot"]
    assert resume(tmp_path / "run", "--steps", "2") == 0
    assert Run.open(tmp_path / "run").result["steps"] == 2


def test_a_batch_larger_than_the_data_is_all_of_them(home, tmp_path):
    assert start(home, tmp_path / "run", "--batch-size", "1000", "--steps", "2") == 0


def test_data_of_one_class_only(home, tmp_path):
    one = [row for row in rows(20) if row["mood"] == "great"]
    path = write_jsonl(tmp_path / "one.jsonl", one)
    assert finetune(home / "roberta", path, tmp_path / "run", "--steps", "2") == 0
    assert finetune(home / "roberta", path, tmp_path / "k", "--k-shot", "1") == 1


def test_names_of_runs_count_up(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    choices = {"task": "reviews", "data": str(home / "data"), "steps": 0}
    runs = [tinyzo.finetune(model=home / "opt", **choices).path for _ in range(2)]
    assert [str(path) for path in runs] == ["runs/reviews-opt-1", "runs/reviews-opt-2"]


@pytest.mark.skipif("numba" not in ENGINES, reason="the numba engine needs Numba")
def test_a_run_does_not_depend_on_the_number_of_threads(home, tmp_path):
    for threads in ("1", "3"):
        run = tmp_path / threads
        assert start(home, run, "--engine", "numba", "--threads", threads) == 0
        assert record(run) == record(home / "run")


# --- disturbed ---


FOLDS = type(choose_engine("auto", 2))


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(
    ("where", "name", "call"),
    [
        (Run, "create", 1),
        (Run, "save", 1),
        (Journal, "_write", 1),  # the header
        (Run, "write", 1),
        (Run, "write", 2),
        (Run, "record", 1),  # the first evaluation
        (Run, "record", 2),
        (Run, "record", 4),  # metrics of step 2
        (Run, "record", 5),  # the evaluation after it
        (BoundedLoss, "__call__", 2),  # inside step 2
        (FOLDS, "fold", 50),  # half an update
        (Journal, "append", 1),
        (Journal, "append", 4),
        (Journal, "append", 6),
        (train, "evaluate", 5),  # after the last step
        (train, "evaluate", 6),  # of the best step on test
        (report, "plot", 1),
    ],
)
def test_stopped_anywhere_it_ends_the_same(home, tmp_path, where, name, call, after):
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, where, name, call, after)
        with pytest.raises(Killed):
            start(home, tmp_path / "run")
    if (tmp_path / "run" / "run.toml").exists():
        assert resume(tmp_path / "run") == 0
    else:
        assert start(home, tmp_path / "run") == 0
    assert record(tmp_path / "run") == record(home / "run")


def test_stopped_again_and_again(home, tmp_path):
    for call in (3, 2, 1, 2):
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, BoundedLoss, "__call__", call, True)
            with pytest.raises(Killed):
                if (tmp_path / "run").exists():
                    resume(tmp_path / "run")
                else:
                    start(home, tmp_path / "run")
    assert resume(tmp_path / "run") == 0
    assert record(tmp_path / "run") == record(home / "run")
    assert weights_of(tmp_path / "run", tmp_path / "a") == weights_of(home / "run", tmp_path / "b")


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("draw", range(6))
def test_files_cut_at_any_byte_end_the_same(home, run, draw):
    """After a loss of power each file may be shorter than another."""
    chance = random.Random(draw)
    for name in ("journal", "metrics.jsonl", "events.jsonl", "result.json"):
        path = run / name
        cut(path, chance.randrange(path.stat().st_size + 1))
    assert resume(run) == 0
    assert record(run) == record(home / "run")


@pytest.mark.parametrize("name", ["journal", "metrics.jsonl", "events.jsonl", "result.json"])
def test_a_file_that_is_gone_is_made_again(home, run, name):
    (run / name).unlink()
    assert resume(run) == 0
    assert record(run) == record(home / "run")


def test_metrics_longer_or_shorter_than_the_journal(home, run):
    record_bytes = 56
    cut(run / "journal", (run / "journal").stat().st_size - record_bytes)
    assert resume(run) == 0
    assert record(run) == record(home / "run")
    metrics = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(metrics[:-1]))
    assert resume(run) == 0
    assert record(run) == record(home / "run")
    assert lines(run / "metrics.jsonl")[-1]["seconds"] is None  # nobody knows it any more


def test_a_line_without_its_end_is_whole(home, run):
    cut(run / "events.jsonl", (run / "events.jsonl").stat().st_size - 1)
    assert resume(run) == 0
    assert record(run) == record(home / "run")


def test_killed_at_any_moment_it_ends_the_same(home, tmp_path):
    """The real thing: SIGKILL to a process, wherever it is. Each would go on for ever."""
    options = ("--batch-size", "12", "--eval-every", "5")
    chance = random.Random(1)
    command = (
        *("finetune", "--model", home / "opt", "--task", "reviews", "--data", home / "data"),
        *("--output", tmp_path / "run", *SEED_3, *options, "--steps", "1000000"),
    )
    for wanted in (1, 9):
        process = shell(*command, stdout=None, stderr=subprocess.DEVNULL)
        wait_for(process, tmp_path / "run" / "journal", 52 + 56 * wanted)
        time.sleep(0.02 * chance.random())
        process.kill()
        assert process.wait() == -signal.SIGKILL
        command = ("finetune", "--resume", tmp_path / "run")
    steps = str(len(read_journal(tmp_path / "run" / "journal").steps) + 2)
    assert resume(tmp_path / "run", "--steps", steps) == 0
    assert start(home, tmp_path / "whole", *options, "--steps", steps) == 0
    assert record(tmp_path / "run") == record(tmp_path / "whole")


def wait_for(process, path, size):
    while not (path.exists() and path.stat().st_size >= size):
        assert process.poll() is None, "it has ended"
        time.sleep(0.001)


INTERRUPTED = """
import signal, sys
from tinyzo.cli import main
from tinyzo.runs.journal import Journal

number = signal.Signals[sys.argv.pop(1)]
ours = {signal.SIGINT: signal.default_int_handler}  # a shell's background jobs ignore some
signal.signal(number, ours.get(number, signal.SIG_DFL))
append = Journal.append

def append_and_interrupt(self, step):
    append(self, step)
    if len(self.steps) == 2:
        signal.raise_signal(number)

Journal.append = append_and_interrupt
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("SIGINT", 130, "interrupted"),
        ("SIGTERM", 143, "stopped by SIGTERM"),
        pytest.param(
            *("SIGHUP", 129, "stopped by SIGHUP"),
            marks=pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here"),
        ),
    ],
)
def test_a_signal_stops_a_run_that_then_goes_on(home, tmp_path, name, code, said):
    """A real signal to a real process, which sends it to itself after its second step."""
    output = tmp_path / "a run"
    command = ["--model", str(home / "opt"), "--task", "reviews", "--data", str(home / "data")]
    command += ["--output", str(output), *SEED_3, "--steps", "6", "--eval-every", "2"]
    process = python("-c", INTERRUPTED, name, "finetune", *command, "--batch-size", "4")
    printed, log = process.communicate()
    assert (process.returncode, printed) == (code, "")
    hint = f"tinyzo finetune --resume '{output}' goes on"
    assert log.endswith(f"tinyzo: {said}\n  hint: {hint}\n")
    assert "Traceback" not in log
    assert len(read_journal(output / "journal").steps) == 2
    assert resume(output) == 0
    assert record(output) == record(home / "run")


def test_ctrl_c_in_the_middle_of_a_step(home, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:

        def interrupted(*_):
            raise KeyboardInterrupt

        patch.setattr(RunMethod, "lr", interrupted)
        assert start(home, tmp_path / "run") == 130
    assert "interrupted" in capsys.readouterr().err
    assert resume(tmp_path / "run") == 0
    assert record(tmp_path / "run") == record(home / "run")


# --- going on ---


def test_resuming_a_finished_run_only_reports_it_again(home, run, monkeypatch, capsys):
    monkeypatch.setattr(train.Training, "_new_step", None)
    monkeypatch.setattr(train, "evaluate", None)
    assert resume(run, "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record(run) == record(home / "run")
    assert result == json.loads((run / "result.json").read_text())


def test_more_steps_go_on_as_a_longer_run_would(home, run, tmp_path):
    assert start(home, tmp_path / "long", "--steps", "10") == 0
    assert resume(run, "--steps", "10") == 0
    assert record(run) == record(tmp_path / "long")
    assert Run.open(run).settings.steps == 10


def test_fewer_steps_than_done_or_another_course_are_refused(home, run, tmp_path, capsys):
    assert resume(run, "--steps", "5") == 2
    assert "--steps 5: the run has done 6" in capsys.readouterr().err
    assert start(home, tmp_path / "cosine", "--schedule", "cosine") == 0
    assert resume(tmp_path / "cosine", "--steps", "9") == 2
    assert "--steps 9: the cosine schedule runs over 6" in capsys.readouterr().err
    assert Run.open(run).settings.steps == 6


def test_other_settings_are_refused(home, run, tmp_path):
    with pytest.raises(UsageError, match=r"keeps the run's settings; eps, lr cannot change"):
        tinyzo.finetune(resume=run, lr=1.0, eps=1.0)
    with pytest.raises(UsageError, match="--resume with --output"):
        tinyzo.finetune(tmp_path / "other", resume=run)
    with pytest.raises(UsageError, match="steps = '9'"):
        tinyzo.finetune(resume=run, steps="9")


def test_what_is_no_run_cannot_go_on(home, tmp_path):
    with pytest.raises(RunError, match=r"no run.toml, so not a run"):
        tinyzo.finetune(resume=tmp_path)
    with pytest.raises(RunError, match=r"nowhere: no run.toml"):
        tinyzo.finetune(resume=tmp_path / "nowhere")


def test_an_output_that_is_taken(home, run):
    before = record(run)
    choices = {"model": home / "opt", "task": "reviews", "data": home / "data"}
    with pytest.raises(RunError, match=r"run has a run.toml already"):
        tinyzo.finetune(run, **choices)
    with pytest.raises(RunError, match=r"opt has a config.json already"):
        tinyzo.finetune(home / "opt", **choices)
    with pytest.raises(UsageError, match=r"run is a run\n"):
        tinyzo.finetune(home / "other", model=run)
    assert record(run) == before


def test_an_output_that_cannot_be_made(home, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/run: Not a directory\n"):
        tinyzo.finetune(tmp_path / "file" / "run", model=home / "opt", steps=0)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_base_that_has_changed_is_refused_with_both_hashes(tmp_path, file):
    model, data = write_model(tmp_path / "model"), write_reviews(tmp_path / "data")
    assert finetune(model, data, tmp_path / "run") == 0
    known = Run.open(tmp_path / "run").about["base"]
    path = model / file
    whole = path.read_bytes()
    changed = whole.replace(b'"roberta"', b'"roberta" ')
    path.write_bytes(changed if file == "config.json" else whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RunError) as error:
        tinyzo.finetune(resume=tmp_path / "run")
    found = tinyzo.checkpoints.directory.fingerprint(model)
    assert f"not the model that the run began with ({found[:12]}, then {known[:12]})" in str(error)
    assert found[:12] != known[:12]
    path.write_bytes(whole)
    assert resume(tmp_path / "run") == 0
    shutil.rmtree(model)
    with pytest.raises(RunError, match=r"the model that it began with is not at .*model\n"):
        tinyzo.finetune(resume=tmp_path / "run")


def test_data_that_have_changed_are_refused(home, run, tmp_path):
    model, data = home / "opt", write_reviews(tmp_path / "data")
    assert finetune(model, data, tmp_path / "mine") == 0
    write_jsonl(data / "dev.jsonl", rows(9, 50))
    with pytest.raises(RunError, match="data: the data have changed since the run began"):
        tinyzo.finetune(resume=tmp_path / "mine")


def test_a_run_at_work_is_left_alone(home, run):
    opened = Run.open(run)
    settings = (run / "run.toml").read_bytes()
    header = read_journal(opened.journal_path)[0]
    with (
        Journal(opened.journal_path, header),
        pytest.raises(RunError, match="another process is at work on this run"),
    ):
        tinyzo.finetune(resume=run, steps=20)
    assert (run / "run.toml").read_bytes() == settings


# --- mistakes ---


@pytest.mark.parametrize(
    ("choices", "kind", "message"),
    [
        ({"method": "newton"}, ConfigError, "method 'newton' is not built\n  hint: one of mezo"),
        ({"schedule": "step"}, ConfigError, "schedule 'step' is not built"),
        ({"engine": "cuda"}, ConfigError, "engine 'cuda' is not built"),
        ({"residency": "cloud"}, ConfigError, "residency 'cloud' is not built"),
        ({"dtype": "f8"}, ConfigError, "dtype 'f8' is not built"),
        ({"task": "RTE", "data": "."}, DataError, "holds no data"),
        ({"task": "CB", "data": "."}, DataError, "task 'CB' has no prompt for roberta models"),
        ({"steps": -1}, UsageError, "steps = -1"),
    ],
)
def test_a_mistake_leaves_no_directory_behind(home, tmp_path, monkeypatch, choices, kind, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind) as error:
        tinyzo.finetune(**({"model": home / "roberta"} | choices))
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_while_metrics_are_written(home, tmp_path, monkeypatch, capsys):
    assert start(home, tmp_path / "run", "--steps", "2", "--eval-every", "1") == 0
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    assert resume(tmp_path / "run") == 1
    assert "metrics.jsonl: Is a directory\n  hint: there is a folder of" in capsys.readouterr().err
    run = Run.open(tmp_path / "run")
    with pytest.raises(RunError, match=r"metrics.jsonl: Is a directory"):
        run.record("metrics.jsonl", {})


# --- losses that are not finite ---


def poison(monkeypatch, call):
    """The objective of that call is NaN."""
    original, count = BoundedLoss.__call__, [0]

    def objective(self, *args):
        count[0] += 1
        losses = original(self, *args)
        return losses * np.nan if count[0] == call else losses

    monkeypatch.setattr(BoundedLoss, "__call__", objective)


def test_a_loss_that_is_not_finite_stops_before_theta_changes(home, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, 4)
        assert start(home, tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert error.endswith("diverged: losses [nan, nan]\n  hint: begin a new run with --lr 0.001\n")
    assert len(read_journal(tmp_path / "run" / "journal").steps) == 3
    *_, last = read_lines(tmp_path / "run" / "events.jsonl")
    assert last == {
        "event": "error",
        "step": 3,
        "message": "the run has diverged: losses [nan, nan]",
    }
    assert resume(tmp_path / "run") == 0
    assert record(tmp_path / "run") == record(home / "run")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("family", ["roberta", "opt"])
def test_a_checkpoint_that_is_not_finite(home, tmp_path, capsys, family, value):
    model = shutil.copytree(home / family, tmp_path / "model")
    path = model / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-400] + np.full(100, value, "<f4").tobytes())
    assert finetune(model, home / "data", tmp_path / "run") == 1
    assert "on 8 rows\n  hint: tinyzo doctor finds weights that" in capsys.readouterr().err
    (event,) = lines(tmp_path / "run" / "events.jsonl")
    assert (event["event"], event["step"]) == ("error", 0)
    assert main(["predict", "--model", str(model), "--task", "reviews", "a"]) == 1
    assert "on 1 rows" in capsys.readouterr().err


def test_steps_that_are_too_large(home, tmp_path, capsys):
    assert start(home, tmp_path / "run", "--lr", "1e25", "--weight-decay", "0") == 1
    error = capsys.readouterr().err
    assert "hint" in error and "Traceback" not in error
    assert lines(tmp_path / "run" / "events.jsonl")[-1]["event"] == "error"


def test_losses_that_diverge_at_the_first_step_are_of_too_large_an_eps(home, tmp_path, capsys):
    """No rate has been at the weights yet."""
    assert start(home, tmp_path / "run", "--eps", "1e25") == 1
    assert capsys.readouterr().err.endswith("\n  hint: begin a new run with --eps 1e+24\n")


def test_a_run_that_diverges_says_so_and_names_a_smaller_rate(home, tmp_path, capsys):
    """Losses that are finite, and will not come back."""
    with pytest.MonkeyPatch.context() as patch:
        original, count = BoundedLoss.__call__, [0]

        def growing(self, theta, examples):
            count[0] += len(theta.probes) - 1  # evaluations at one point do not count
            return original(self, theta, examples) * (1000.0 if count[0] == 3 else 1.0)

        patch.setattr(BoundedLoss, "__call__", growing)
        assert start(home, tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert re.search(r"tinyzo: the run has diverged: a loss of \d{3,4}\.?\d*, 0\.\d+ at", error)
    assert error.endswith("  hint: begin a new run with --lr 0.001\n")
    assert len(read_journal(tmp_path / "run" / "journal").steps) == 2
    event = lines(tmp_path / "run" / "events.jsonl")[-1]
    assert (event["event"], event["step"]) == ("error", 2)
    assert resume(tmp_path / "run") == 0
    assert record(tmp_path / "run") == record(home / "run")
