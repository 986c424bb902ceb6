"""Runs of every method and of every trained set: killed, resumed, streamed and replayed to the same
bytes, with what is trained in their snapshots and nothing else."""

from __future__ import annotations

import json
import shutil
from itertools import product

import numpy as np
import pytest
from disturbed import Killed, die_at, record
from folders import finetune, lines, write_model, write_reviews
from tiny import raw_bytes

import tinyzo
from tinyzo.checkpoints.safetensors import open_safetensors
from tinyzo.cli import main
from tinyzo.engine.noise import step_seed
from tinyzo.errors import ConfigError, RunError, UsageError
from tinyzo.models.model import load
from tinyzo.runs import snapshots
from tinyzo.runs.journal import Journal, read_journal
from tinyzo.runs.methods import method_of
from tinyzo.runs.run import Run
from tinyzo.runs.settings import Settings
from tinyzo.runs.snapshots import tuned_model
from tinyzo.zo.methods import METHODS
from tinyzo.zo.updates import LOOKING_BACK

STEPS, FOLD, KILL = 6, 2, 5
FITS = 4  # passes of 4 rows that read 8 rows twice
SETS = ("lora", "lora-fa", "prefix", "label-words", "bias", "*.layer*.1.*,*embed*")
RUNS = {name: ("--method", name) for name in METHODS}
RUNS |= {f"train {what}": ("--train", what) for what in SETS}
RUNS |= {
    "lozo": ("--method", "lozo", "--window", "2"),
    "lozo sign": ("--method", "lozo", "--window", "3", "--update", "sign", "--dtype", "bf16"),
    "adamezo": ("--method", "adamezo", "--lr", "1e-5", "--window", "3", "--clip", "4"),
    "adamezo of p-rge": (
        "--method",
        "p-rge",
        "--update",
        "adamezo",
        "--window",
        "2",
        "--dtype",
        "f16",
    ),
    "rms of lora-fa": (
        *("--method", "rms", "--train", "lora-fa", "--queries", "2"),
        *("--direction", "rademacher", "--window", "3"),
    ),
    "fzoo momentum": ("--method", "fzoo", "--queries", "2", "--update", "momentum"),
    "sparse bf16": ("--method", "sparse-mezo", "--dtype", "bf16", "--weight-decay", "5"),
    "accuracy": ("--objective", "accuracy", "--eps", "0.3"),
    "f1": ("--objective", "f1", "--eps", "0.3", "--method", "n-spsa"),
    "adam lora": ("--method", "adam", "--train", "lora"),
    "lora-adam": ("--method", "lora-adam", "--residency", "streamed"),
    "p-rge of words": ("--method", "p-rge", "--train", "label-words", "--dtype", "bf16"),
}
# One of each way to begin, to step, to redo and to save; the others combine the same parts.
CORE = (
    "mezo", "fzoo", "forward-gradient", "adamezo", "lozo", "sparse bf16", "adam lora",
    "train prefix", "train label-words", "f1",
)  # fmt: skip
methods = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in CORE else pytest.mark.exhaustive) for name in RUNS],
)


def test_the_core_are_runs():
    assert set(CORE) < RUNS.keys()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    write_model(home / "opt", "opt")
    write_model(home / "roberta")
    write_reviews(home / "data", 8, 4, 4)
    return home


def options(name: str, *more: str) -> list[str]:
    """Seed and rates with which the best step is not always the last."""
    return ["--seed", "3", "--lr", "1e-2", "--weight-decay", "0.5", *RUNS[name], *more]


def start(home, output, name, *more, family="opt") -> int:
    return finetune(home / family, home / "data", output, *options(name, *more))


def first_order(run) -> bool:
    return Run.open(run).settings.method in ("adam", "sgd", "lora-adam")


def possible(name: str) -> set[float]:
    """The errors that four rows of two labels may have."""
    if name == "accuracy":
        return {k / 4 for k in range(5)}
    found = set()
    for right, wrong in product(product(range(5), repeat=2), repeat=2):
        if sum(right) + sum(wrong) == 4:
            sizes = [2 * right[i] + wrong[i] + wrong[1 - i] for i in (0, 1)]
            scores = [2 * right[i] / sizes[i] for i in (0, 1) if sizes[i]]
            found.add(round(1 - sum(scores) / len(scores), 9))
    return found


def trained_in(path) -> set[str]:
    with open_safetensors(path) as file:
        return set(file.names())


@methods
def test_killed_streamed_or_replayed_a_run_is_the_same(home, tmp_path, monkeypatch, name):
    monkeypatch.setenv("TINYZO_NO_NUMBA", "1")  # the other engine: in the test below
    base = (home / "opt" / "model.safetensors").read_bytes()
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert start(home, whole, name, "--fold-every", "0", "--residency", "resident") == 0
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        die_at(patch, Journal, "append", KILL, after=True)
        start(home, run, name, "--fold-every", str(FOLD), "--residency", "streamed")
    assert len(read_journal(run / "journal").steps) == KILL
    before = {path.name: trained_in(path) for path in run.glob("weights-*")}
    assert main(["finetune", "--resume", str(run), "--residency", "streamed"]) == 0
    assert record(run) == record(whole)
    for step in (STEPS,) if first_order(run) else (3, STEPS):
        a, b = (tuned_model(Run.open(path), step).weights for path in (whole, run))
        assert all(np.array_equal(a.read(name), b.read(name)) for name in a.names())
    assert before
    saved = set(Run.open(run).base_model().weights.saved)
    assert all(names == saved for names in before.values())
    assert (home / "opt" / "model.safetensors").read_bytes() == base
    assert not [path for path in whole.glob("weights-*") if not first_order(run)]
    check_replay(run, tmp_path / "new")


def check_replay(run, new) -> None:
    """A directory that is loaded gives the scores that the run's own model gives."""
    ids, settings = [[3, 9, 5, 7, 4]], Run.open(run).settings
    code = main(["replay", str(run), "--output", str(new), "--step", str(STEPS), "--merge"])
    if settings.train == "prefix":
        assert code == 1
        return
    found, expected = load(new, "numpy"), tuned_model(Run.open(run), STEPS)
    names = sorted(name for name, _ in found.architecture.shapes(found.config))
    assert code == 0 and sorted(found.weights.names()) == names
    # A matrix with B A merged rounds once more: in 16 bits by a part of 2^-8.
    near = 2e-5 if settings.dtype == "auto" else 2.0**-5
    assert np.abs(found.logits(ids)[0] - expected.logits(ids)[0]).max() < near


@methods
def test_the_command_line_runs_every_method(home, tmp_path, capsys, name):
    """Of RoBERTa, on the engine that is there: what a run says, and what it is to evaluate and
    inspect."""
    run, few = tmp_path / "run", ["--steps", "3", "--eval-every", "1", "--json"]
    assert start(home, run, name, *few, family="roberta") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    metrics, contents = lines(run / "metrics.jsonl"), read_journal(run / "journal")
    header, steps = contents.header, contents.steps
    assert (result["steps"], len(metrics), len(steps)) == (3, 3, 3)
    before = {"zo-act": 1, "zo-fit": FITS, "zo-head": FITS, "auto": FITS}.get(name, 0)
    assert result["forwards"] == before + sum(line["forwards"] for line in metrics)
    assert {len(step.losses) for step in steps} == {header.losses}
    assert main(["evaluate", "--model", str(run), "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (again["accuracy"], again["loss"]) == (result["accuracy"], result["loss"])
    assert main(["inspect", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    weights = Run.open(run).base_model().weights
    counts = {n: int(np.prod(weights.shape(n))) for n in weights.names()}
    assert found["trainable"] == sum(counts[n] for n in weights.trained)
    whole = load(home / "roberta", "numpy").weights.names()
    assert found["parameters"] == sum(counts[n] for n in whole)
    if RUNS[name][-1] == "bias":
        biases = sum(count for n, count in counts.items() if n.endswith(".bias"))
        assert found["trainable"] == biases < found["parameters"]
    if name in ("accuracy", "f1"):  # of four rows
        assert {round(loss, 9) for step in steps for loss in step.losses} <= possible(name)


@pytest.mark.parametrize(("name", "rule"), [(name, name) for name in LOOKING_BACK])
def test_a_journal_holds_the_terms_of_a_window(home, tmp_path, name, rule):
    """From the losses alone, those of the first steps too."""
    assert start(home, tmp_path / "run", name) == 0
    s, steps = Run.open(tmp_path / "run").settings, read_journal(tmp_path / "run" / "journal").steps
    g = [(a - b) / (2 * s.eps) for a, b in (step.losses for step in steps)]
    g = [max(-s.clip, min(s.clip, x)) if s.clip else x for x in g]
    seeds = [line["seed"] for line in lines(tmp_path / "run" / "metrics.jsonl")]
    for t, step in enumerate(steps):
        back = [(seeds[t - k], g[t - k], k) for k in range(min(s.window, t + 1))]
        if rule == "adamezo":
            expected = [(seed, x) for seed, x, _ in back]
            assert step.terms[-1] == (seeds[t], s.lr)
        else:
            root = sum(0.9**k * x * x for _, x, k in back) ** 0.5 + 1e-5
            rate = s.lr / root if rule == "rms" else s.lr
            expected = [(seed, -rate * 0.9**k * x) for seed, x, k in back]
        found, others = step.terms[: len(back)], step.terms[len(back) : s.window]
        assert [seed for seed, _ in found] == [seed for seed, _ in expected]
        assert [c for _, c in found] == pytest.approx([c for _, c in expected], rel=1e-12)
        assert {c for _, c in others} <= {0.0}
        assert step.decay == s.lr * 0.5


def test_no_direction_is_taken_twice():
    settings = Settings(method="n-spsa", seed=3).resolve("opt", needs_data=False)
    method = method_of(settings)
    seeds = [seed for number in range(5) for seed in method.seeds(number)]
    assert seeds == [step_seed(3, count) for count in range(5 * settings.queries)]
    assert len(set(seeds)) == 20


@pytest.mark.parametrize("residency", ["resident", "streamed"])
def test_snapshots_at_a_windows_end_merge_once(home, tmp_path, monkeypatch, residency):
    """Also where --fold-every is left to tinyzo, and a snapshot comes at the end of a window."""
    monkeypatch.setattr(snapshots, "MOST", 4)
    assert start(home, tmp_path / "a", "lozo", "--residency", residency) == 0
    monkeypatch.undo()
    assert start(home, tmp_path / "b", "lozo", "--residency", "resident", "--fold-every", "0") == 0
    assert record(tmp_path / "a") == record(tmp_path / "b")
    written = list((tmp_path / "a").glob("weights-*"))
    assert written and not list((tmp_path / "b").glob("weights-*"))
    for path in written:
        expected = raw_bytes(tuned_model(Run.open(tmp_path / "b"), int(path.stem[8:])).weights)
        with open_safetensors(path) as file:
            found = {name: file.read(name).tobytes() for name in file.names()}
        assert found.items() <= expected.items()


def test_first_order_steps_are_in_memory_however_resumed(home, tmp_path):
    run = tmp_path / "run"
    for name in ("adam", "adam lora", "lora-adam"):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            die_at(patch, Journal, "append", 3, after=True)
            start(home, run, name)
        assert main(["finetune", "--resume", str(run), "--residency", "streamed"]) == 0
        assert start(home, tmp_path / "whole", name) == 0
        assert record(run) == record(tmp_path / "whole")
        with pytest.raises(RunError, match=r"no snapshot of step 1\n.*gradient is in no journal"):
            tuned_model(Run.open(run), 1)
        for path in (run, tmp_path / "whole"):
            shutil.rmtree(path)


@pytest.mark.parametrize(
    ("choices", "code", "message"),
    [
        (("--estimator", "leave-one-out"), 2, "it compares --queries 2 or more"),
        (("--method", "adam", "--queries", "2"), 2, "backpropagation has no queries"),
        (("--method", "lozo", "--train", "lora"), 2, "adapters are of low rank already"),
        (("--queries", "256"), 2, "queries is from 1 to 255"),
        (("--update", "adamezo", "--window", "256"), 2, "window is from 1 to 255"),
        (("--lora-rank", "0"), 2, "lora_rank = 0"),
        (("--train", "head"), 1, "'head' names no tensor of the model"),
        (("--train", "lora", "--lora-targets", "layer_norm"), 1, "layer_norm names no matrix"),
    ],
)
def test_mistakes_of_methods_leave_no_directory(home, tmp_path, capsys, choices, code, message):
    output = tmp_path / "run"
    assert finetune(home / "opt", home / "data", output, *choices) == code
    error = capsys.readouterr().err
    assert message in error and "\n  hint: " in error
    assert not output.exists()


@pytest.mark.parametrize("name", ["estimator", "direction", "update", "objective", "method"])
def test_unknown_choices_are_refused(home, tmp_path, name):
    model = {"model": home / "opt", "task": "reviews", "data": home / "data"}
    with pytest.raises((ConfigError, UsageError), match=f"{name} 'nothing' is not built"):
        tinyzo.finetune(tmp_path / "run", **model, **{name: "nothing"})
    assert finetune(home / "opt", home / "data", tmp_path / "run", f"--{name}", "nothing") == 2
    assert not (tmp_path / "run").exists()


ALWAYS = {
    "step",
    "loss",
    "lr",
    "eps",
    "seed",
    "seconds",
    "forwards",
    "resident_bytes",
    "peak_bytes",
}
MEASURED = {
    "n-spsa": {"loss_plus", "loss_minus", "projected_gradient"},
    "fzoo": {"loss_at_theta", "loss_probes", "loss_probes_std", "projected_gradient"},
    "leave-one-out": {"loss_probes", "loss_probes_std", "projected_gradient"},
    "forward-gradient": {"loss_at_theta", "projected_gradient"},
    "adam": {"gradient_norm"},
}


@pytest.mark.parametrize("name", MEASURED)
def test_metrics_say_what_was_measured(home, tmp_path, name):
    assert start(home, tmp_path / "run", name, "--steps", "2") == 0
    steps = read_journal(tmp_path / "run" / "journal").steps
    for line, step in zip(lines(tmp_path / "run" / "metrics.jsonl"), steps, strict=True):
        assert line.keys() == ALWAYS | MEASURED[name]
        losses = np.array(step.losses)
        probes = losses[1:] if name == "fzoo" else losses
        expected = {
            "loss_plus": losses[::2].mean(),
            "loss_minus": losses[-1:].mean() if len(losses) < 2 else losses[1::2].mean(),
            "loss_at_theta": losses.mean() if name == "forward-gradient" else losses[0],
            "loss_probes": probes.mean(),
            "loss_probes_std": probes.std(),
            "projected_gradient": step.projected_gradient,
            "gradient_norm": step.projected_gradient,
        }
        for key in MEASURED[name]:
            assert line[key] == pytest.approx(expected[key], rel=1e-12), key
