"""Runs by ONNX Runtime: as those of other engines, which go on with them, redo and read them."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken import path_with
from broken import tinyzo as command
from disturbed import Killed, die_at, record
from folders import finetune, lines, python, shell, write_model, write_reviews
from runs.faults import DEAD, Case, Fault, Workers
from tiny import by_default

import tinyzo
from tinyzo.cli import main
from tinyzo.engine import select
from tinyzo.engine.terms import Probe
from tinyzo.errors import ConfigError, RunError, UsageError
from tinyzo.models.model import open_model
from tinyzo.runs import train
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.data import bind_task, load_data
from tinyzo.runs.journal import Journal, read_journal
from tinyzo.runs.run import Run, prepare
from tinyzo.runs.settings import Settings
from tinyzo.runs.snapshots import tuned_model
from tinyzo.zo.methods import METHODS
from tinyzo.zo.objectives import Objective

pytest.importorskip("onnxruntime", reason="the engine onnx needs ONNX Runtime")

exhaustive = pytest.mark.exhaustive
OTHERS = ["numpy", *([] if select.why_no_numba() else ["numba"])]
FAMILIES = ("roberta", "opt")
NEAR = 1e-5  # of a loss, by rounding
ONNX = ("--engine", "onnx")
DERIVATIVES = ("forward-gradient", "adam", "sgd", "lora-adam")
# What is trained, and how; a few steps of each, so that sessions are made and used again.
KINDS = {name: ("--method", name) for name in METHODS if name not in DERIVATIVES}
KINDS |= {
    what: ("--train", what)
    for what in ("lora", "lora-fa", "prefix", "bias", "head", "label-words", "*norm*")
}
KINDS |= {
    "lozo of short windows": ("--method", "lozo", "--window", "2"),
    "bf16": ("--dtype", "bf16"),
    "f1": ("--objective", "f1", "--eps", "0.3"),
    "streamed": ("--train", "lora-fa", "--residency", "streamed"),
    "streamed lozo": ("--method", "lozo", "--window", "2", "--residency", "streamed"),
    "sign": ("--update", "sign", "--queries", "2"),
    "a weight decay": ("--train", "lora", "--weight-decay", "0.5", "--schedule", "cosine"),
}
CORE = {("p-rge", "roberta"), ("prefix", "opt"), ("lozo of short windows", "opt")}
EVERY = [case for case in product(KINDS, FAMILIES) if case != ("head", "opt")]  # OPT has none


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Models, data, and a run by ONNX Runtime, of LoRA-FA, which has the smallest graphs."""
    home = tmp_path_factory.mktemp("home")
    for family in FAMILIES:
        write_model(home / family, family)
    write_reviews(home / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinyzo.runs.report.plot", lambda path: "not drawn")
        assert start(home, home / "run", *ONNX) == 0
    return home


@pytest.fixture
def run(home, tmp_path):
    """A copy of it, to disturb."""
    return shutil.copytree(home / "run", tmp_path / "run")


@pytest.fixture
def missing(monkeypatch):
    """No ONNX Runtime, and nothing said of it yet."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    select.say_once.cache_clear()


def start(home, output, *options, family="opt") -> int:
    method = () if {"--method", "--train"} & set(options) else ("--train", "lora-fa")
    options = ("--lr", "1e-2", "--seed", "3", *method, *options)
    return finetune(home / family, home / "data", output, *options)


def resume(run, *options) -> int:
    return main(["finetune", "--resume", str(run), *options])


def losses(run) -> np.ndarray:
    """f64[steps, probes]"""
    return np.array([step.losses for step in read_journal(run / "journal").steps])


def engines(run) -> list[tuple[int, str]]:
    """When which engine went on."""
    return [*map(tuple, Run.open(run).engines())]


def theta(run, step: int, engine: str = "auto") -> dict[str, bytes]:
    """The weights after a step."""
    weights = tuned_model(Run.open(run), step, engine).weights
    assert engine in ("auto", weights.engine.name)
    return {name: weights.read(name).tobytes() for name in weights.names()}


def without_snapshots(run) -> None:
    """So that nothing but its journal says what a run did."""
    for path in run.glob("weights-*"):
        path.unlink()


# --- the same run ---


@pytest.mark.parametrize(("kind", "family"), by_default(CORE, EVERY))
def test_a_run_is_that_of_numpy_up_to_rounding(home, tmp_path, kind, family):
    options = (*KINDS[kind], "--steps", "3", "--eval-every", "3", "--lr", "1e-3")
    for engine in ("onnx", "numpy"):
        code = start(home, tmp_path / engine, *options, "--engine", engine, family=family)
        assert code == 0
    ours, theirs = losses(tmp_path / "onnx"), losses(tmp_path / "numpy")
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=NEAR)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)  # rounding, after steps on it
    run = Run.open(tmp_path / "onnx")
    assert run.settings.engine == "onnx" and engines(run.path) == [(0, "onnx")]
    assert set(run.result) == set(Run.open(tmp_path / "numpy").result)
    metrics, events = ([list(line) for line in lines(run.path / f"{name}.jsonl")] for name in FILES)
    assert metrics == [list(line) for line in lines(tmp_path / "numpy" / "metrics.jsonl")]
    assert events == [list(line) for line in lines(tmp_path / "numpy" / "events.jsonl")]


FILES = ("metrics", "events")


@pytest.mark.parametrize("family", ["roberta", pytest.param("opt", marks=exhaustive)])
def test_losses_of_ragged_batches(family):
    """Of the models that ship, on the rows that ship: 1, 2 and 4 queries, whole or in parts."""
    every: dict[str, list[np.ndarray]] = {"onnx": [], "numpy": []}
    for engine, found in every.items():
        settings = Settings(model=f"{family}-tiny", method="p-rge").resolve(family)
        model = prepare(open_model(settings.model_path), settings).settle(engine)
        bound = bind_task(model, settings)
        examples = load_data(bound, settings).train[:5]
        assert len({len(example.prompt) for example in examples}) > 2
        for queries, tokens in ((1, 4096), (2, 4096), (4, 128)):
            loss = BoundedLoss(Objective(model, bound), tokens)
            points = [Probe(9 + seed, scale) for seed in range(queries) for scale in (0.1, -0.1)]
            found.append(loss(model.weights.view(points), examples))
    for ours, theirs in zip(*every.values(), strict=True):
        assert len(set(ours)) == len(ours)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=NEAR)


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", FAMILIES)
def test_200_steps_end_at_the_accuracy_of_numpy(tmp_path, family):
    results = []
    for engine in ("onnx", "numpy"):
        run = tinyzo.finetune(
            tmp_path / engine, model=f"{family}-tiny", steps=200, method="p-rge", engine=engine,
            batch_size=8, eval_every=100,
        )  # fmt: skip
        results.append(run.result)
    ours, theirs = results
    print(ours["accuracy"], theirs["accuracy"], ours["loss"] - theirs["loss"])
    assert ours["accuracy_zero_shot"] == theirs["accuracy_zero_shot"]
    assert abs(ours["accuracy"] - theirs["accuracy"]) * ours["examples"] <= 1.5
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=0.01)


# --- other engines ---


def test_the_journal_makes_the_same_bytes_with_each_engine(home, tmp_path, run):
    without_snapshots(run)
    for step in (3, 6):
        every = [theta(run, step, e) for e in ("onnx", *OTHERS)]
        assert all(each == every[0] for each in every)
    folders = {}
    toml = (run / "run.toml").read_text().partition("\n")[2]  # without its CRC
    for engine in ("onnx", *OTHERS):
        (run / "run.toml").write_text(toml.replace('engine = "onnx"', f'engine = "{engine}"'))
        assert main(["replay", str(run), "--output", str(tmp_path / engine)]) == 0
        folders[engine] = (tmp_path / engine / "adapter_model.safetensors").read_bytes()
    assert len(set(folders.values())) == 1


@exhaustive
@pytest.mark.parametrize("kind", ["mezo", "bf16", "lozo of short windows", "adamezo"])
def test_a_full_journal_makes_the_same_bytes_with_each_engine(home, tmp_path, kind):
    run = tmp_path / "run"
    assert start(home, run, *KINDS[kind], *ONNX, "--fold-every", "0", "--lr", "1e-4") == 0
    every = [theta(run, 6, e) for e in ("onnx", *OTHERS)]
    assert all(each == every[0] for each in every)


@pytest.mark.parametrize("kind", ["lora-fa", pytest.param("mezo", marks=exhaustive)])
def test_a_run_goes_from_numpy_to_onnx_and_back(home, tmp_path, kind):
    run, options = tmp_path / "run", KINDS[kind]
    assert start(home, run, *options, "--engine", "numpy", "--steps", "2") == 0
    assert resume(run, *ONNX, "--steps", "4") == 0
    assert Run.open(run).settings.engine == "onnx"
    assert resume(run, "--steps", "5") == 0  # it keeps its engine
    assert resume(run, "--engine", "numpy", "--steps", "6") == 0
    assert Run.open(run).settings.engine == "numpy"
    assert engines(run) == [(0, "numpy"), (2, "onnx"), (5, "numpy")]
    assert start(home, tmp_path / "alone", *options, "--engine", "numpy") == 0
    alone = losses(tmp_path / "alone")
    assert (losses(run)[:2] == alone[:2]).all()  # no step is taken again
    np.testing.assert_allclose(losses(run), alone, rtol=0, atol=1e-4)
    steps = [line["step"] for line in lines(run / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4, 5, 6]
    whole = theta(run, 6)
    without_snapshots(run)
    assert theta(run, 6, "onnx") == whole


def test_the_engine_that_takes_over_is_recorded_once(home, run):
    """Whatever comes between: a kill before its first step, and lines that are torn."""
    more = ("--engine", "numpy", "--steps", "8")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        die_at(patch, train.Training, "take_steps", 1, after=False)
        resume(run, *more)
    assert engines(run) == [(0, "onnx"), (6, "numpy")]
    assert Run.open(run).settings.engine == "numpy"  # so a plain --resume goes on with it
    assert resume(run) == 0
    assert engines(run) == [(0, "onnx"), (6, "numpy")]
    events = (run / "events.jsonl").read_bytes().splitlines(keepends=True)
    at = next(n for n, line in enumerate(events) if b'"event": "engine"' in line)
    (run / "events.jsonl").write_bytes(b"".join(events[:at]) + events[at][:9])
    assert resume(run) == 0
    assert engines(run) == [(0, "onnx"), (8, "numpy")]


def test_a_run_that_does_not_say_its_engine(run):
    """As those of before: what went on with it is recorded, what began it is not known."""
    text = (run / "run.toml").read_text().partition("\n")[2]
    about, _, settings = text.partition("[settings]")
    about = about.replace('engine = "onnx"\n', "")
    (run / "run.toml").write_text(about + "[settings]" + settings)
    assert resume(run, "--steps", "7") == 0
    (event,) = (e for e in lines(run / "events.jsonl") if e["event"] == "engine")
    assert (event["step"], event["engine"]) == (6, "onnx") and engines(run) == [(6, "onnx")]


def test_what_cannot_change_with_the_engine(run):
    with pytest.raises(UsageError, match=r"lr cannot change\n.*only steps, .*engine, fold_every"):
        tinyzo.finetune(resume=run, engine="numpy", lr=1.0)
    before = (run / "run.toml").read_bytes()
    with pytest.raises(
        ConfigError, match=r"engine 'cuda' is not built\n.*auto, numba, numpy, onnx"
    ):
        tinyzo.finetune(resume=run, engine="cuda")
    assert (run / "run.toml").read_bytes() == before


def test_a_run_in_use_keeps_its_engine(run):
    before = (run / "run.toml").read_bytes()
    header = read_journal(run / "journal").header
    with (
        Journal(run / "journal", header),
        pytest.raises(RunError, match="another process is at work"),
    ):
        tinyzo.finetune(resume=run, engine="numpy", steps=9)
    assert (run / "run.toml").read_bytes() == before


# --- what is refused ---


@pytest.mark.parametrize("method", DERIVATIVES)
def test_derivatives_are_refused_and_named(home, tmp_path, capsys, method):
    run = tmp_path / "run"
    assert start(home, run, "--method", method, *ONNX) == 2
    assert capsys.readouterr().err == (
        "tinyzo: --engine onnx runs forward passes, and this method takes derivatives\n"
        "  hint: leave out --engine, or give --engine auto: NumPy takes them\n"
    )
    assert not run.exists()
    assert start(home, run, "--method", method, "--engine", "numpy", "--lr", "1e-4") == 0
    assert resume(run, *ONNX, "--steps", "7") == 2
    assert Run.open(run).settings.engine == "numpy"
    assert tinyzo.evaluate(run, engine="onnx").loss == pytest.approx(
        Run.open(run).result["loss"], abs=NEAR
    )


def test_all_weights_in_their_file_are_refused(home, tmp_path, capsys):
    run, streamed = tmp_path / "run", ("--residency", "streamed")
    said = (
        r"tinyzo: .*engine onnx .* file.*\n  hint: --residency resident, or train what lies beside"
    )
    assert start(home, run, "--method", "mezo", *ONNX, *streamed) > 0
    assert re.search(said, capsys.readouterr().err) and not run.exists()
    assert start(home, run, "--method", "mezo", "--engine", "numpy", *streamed) == 0
    known = Run.open(run).result["loss"]
    assert tinyzo.evaluate(run, engine="onnx").loss == pytest.approx(known, abs=NEAR)
    before = (run / "run.toml").read_bytes()
    capsys.readouterr()
    assert resume(run, *ONNX, "--steps", "7") > 0
    assert re.search(said, capsys.readouterr().err)
    assert (run / "run.toml").read_bytes() == before  # so it goes on as it was
    assert resume(run, *ONNX, "--residency", "resident", "--steps", "7") == 0
    assert engines(run) == [(0, "numpy"), (6, "onnx")]


def test_a_budget_goes_with_another_engine(home, tmp_path):
    """Micro-batches stay those of the run; a budget may be said anew, too."""
    run = tmp_path / "run"
    assert start(home, run, "--memory-budget", "2GB", "--engine", "numpy") == 0
    assert resume(run, *ONNX, "--steps", "7") == 0
    assert engines(run) == [(0, "numpy"), (6, "onnx")]
    assert resume(run, "--engine", "auto", "--memory-budget", "3GB", "--steps", "8") == 0
    assert engines(run)[2:] == [(7, OTHERS[-1])]
    assert Run.open(run).settings.engine == "auto"


def test_finetune_without_the_runtime(home, tmp_path, capsys, missing):
    assert start(home, tmp_path / "run", *ONNX) == 1
    assert capsys.readouterr().err == (
        "tinyzo: engine 'onnx' cannot be had here: ONNX Runtime is not installed\n"
        f"  hint: {WAY_OUT}\n"
    )
    assert not (tmp_path / "run").exists()


WAY_OUT = (
    "pip install 'tinyzo[onnx]' (Termux: pkg install python-onnxruntime), or take --engine numpy"
)


def test_a_broken_runtime(home, tmp_path, monkeypatch):
    """In a process of its own, which has not imported the sound one."""
    path = path_with(tmp_path / "path", "onnxruntime", 'raise SystemError("bad magic")')
    data, run = home / "data", tmp_path / "run"
    options = ["--model", home / "opt", "--task", "reviews", "--data", data, "--output", run]
    done = command("finetune", *options, *ONNX, path=path)
    assert (done.returncode, run.exists()) == (1, False)
    said = "engine 'onnx' cannot be had here (SystemError: bad magic)"
    assert done.stderr.splitlines()[-2:] == [f"tinyzo: {said}", f"  hint: {WAY_OUT}"]


@pytest.mark.parametrize("begun_with", ["onnx", "numpy"])
def test_resuming_without_the_runtime_changes_nothing(run, missing, begun_with):
    if begun_with == "numpy":
        assert resume(run, "--engine", "numpy") == 0
    options: dict[str, Any] = {"steps": 8} | ({"engine": "onnx"} if begun_with == "numpy" else {})
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(ConfigError, match="engine 'onnx' cannot be had here: ONNX Runtime is not"):
        tinyzo.finetune(resume=run, **options)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert resume(run, "--engine", "numpy", "--steps", "8") == 0  # as the hint says


# --- models that are read ---


def paths(home, tmp_path) -> dict[str, str]:
    """All that --model takes."""
    assert main(["replay", str(home / "run"), "--output", str(tmp_path / "peft")]) == 0
    return {
        "folder": str(home / "roberta"),
        "run": str(home / "run"),
        "adapter": str(tmp_path / "peft"),
        "shipped": "opt-tiny",
    }


@pytest.mark.parametrize("engine", ["onnx", pytest.param(OTHERS[-1], marks=exhaustive)])
def test_any_model_is_read_by_any_engine(home, tmp_path, capsys, engine):
    reviews = ["--task", "reviews", "--data", str(home / "data")]
    texts = ["No 0, 1", "No 7, 0 and some more"]
    for name, path in paths(home, tmp_path).items():
        own = [] if name == "run" else reviews
        assert tinyzo.load(path, engine=engine).engine.name == engine
        capsys.readouterr()
        assert main(["evaluate", "--model", path, *own, "--engine", engine, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        task, data = (own[1], own[3]) if own else (None, None)
        known = tinyzo.evaluate(path, task, data, engine="numpy")
        assert found["accuracy"] == known.accuracy
        assert found["loss"] == pytest.approx(known.loss, abs=NEAR)
        own = own[:2]
        assert main(["predict", "--model", path, *own, "--engine", engine, "--json", *texts]) == 0
        answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        for answer, known in zip(
            answers, tinyzo.predict(path, texts, task, engine="numpy"), strict=True
        ):
            assert answer["label"] == known.label
            assert answer["scores"] == pytest.approx(known.scores, abs=NEAR)


def test_a_run_keeps_its_engine_unless_one_is_given(home):
    assert tinyzo.load(home / "run").engine.name == "onnx"
    assert tinyzo.load(home / "run", engine="numpy").engine.name == "numpy"
    assert tuned_model(Run.open(home / "run"), 2).engine.name == "onnx"


def test_a_model_that_is_open_has_its_engine(home):
    model = tinyzo.load(home / "opt", engine="onnx")
    with pytest.raises(UsageError, match=r"engine 'numpy', but the model is open already\n.*load"):
        tinyzo.evaluate(model, "reviews", home / "data", engine="numpy")
    with pytest.raises(UsageError, match="engine 'onnx', but the model is open already"):
        tinyzo.predict(model, ["a"], "reviews", engine="onnx")


def test_what_a_run_has_made_is_read_without_its_engine(home, tmp_path, capsys, missing):
    """Another computes, which is said once; one that is asked for by name is refused."""
    known = Run.open(home / "run").result
    for _ in range(2):
        found = tinyzo.evaluate(home / "run")
        assert found.accuracy == known["accuracy"]
        assert found.loss == pytest.approx(known["loss"], abs=NEAR)
    assert main(["predict", "--model", str(home / "run"), "No 3, 1"]) == 0
    assert main(["replay", str(home / "run"), "--output", str(tmp_path / "tuned")]) == 0
    assert tinyzo.load(home / "run").engine.name in OTHERS
    said = "engine 'onnx' cannot be had here: ONNX Runtime is not installed, so another computes"
    log = capsys.readouterr().err
    assert log.count("cannot be had") == 1 and said in log
    for name in ("run", "opt"):
        with pytest.raises(ConfigError, match="engine 'onnx' cannot be had here"):
            tinyzo.load(home / name, engine="onnx")
    with pytest.raises(ConfigError, match="engine 'onnx' cannot be had here"):
        tinyzo.evaluate(home / "run", engine="onnx")
    assert main(["predict", "--model", str(home / "run"), *ONNX, "No 3, 1"]) == 1


@pytest.mark.parametrize("name", ["run", "opt"])
def test_an_unknown_engine(home, name):
    for read in (tinyzo.load, tinyzo.evaluate):
        with pytest.raises(ConfigError, match="engine 'cuda' is not built"):
            read(home / name, engine="cuda")


# --- stopped, killed, in want of room ---


def test_a_killed_run_ends_as_an_undisturbed_one(home, tmp_path):
    for call, after in ((2, True), (5, False)):
        run = tmp_path / str(call)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            die_at(patch, Journal, "append", call, after)
            start(home, run, *ONNX, "--fold-every", "2")
        assert resume(run) == 0
        assert record(run) == record(home / "run")


FAULTS = [
    Fault("kill", "write run/journal 3", 1),
    Fault("full", "write run/journal 3", 2),
    Fault("kill", "write run/events.jsonl 3", 3),
    Fault("power", "write run/journal 4", 4),
    Fault("full", "replace run/run.toml 1", 5),
]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@exhaustive
def test_faults_at_a_write(home, tmp_path):
    """Death, loss of power, and a full disk, as tests/runs/test_crash.py has them."""
    command = [
        "finetune", "--model", home / "opt", "--task", "reviews", "--data", home / "data",
        "--steps", 3, "--batch-size", 2, "--train", "lora-fa", "--engine", "onnx",
        "--eval-every", 2, "--lr", "1e-2", "--threads", 1,
    ]  # fmt: skip
    cases = []
    for number, fault in enumerate([None, *FAULTS]):
        root = tmp_path / str(number)
        line = [*map(str, command), "--output", f"{root}/run"]
        cases.append(Case(line, str(root), f"{root}/run", [fault] if fault else []))
    with Workers({"OPENBLAS_NUM_THREADS": "1", "TINYZO_NO_NUMBA": "1"}) as workers:
        (whole,), *disturbed = workers.run(cases)
    assert whole.code == 0, whole.log
    for case, (first, last) in zip(cases[1:], disturbed, strict=True):
        assert first.code == {"full": 1}.get(case.faults[0].mode, DEAD), first.log
        assert "Traceback" not in first.log and last.code == 0, last.log
        assert record(Path(case.output)) == record(Path(cases[0].output))


@pytest.mark.skipif(sys.platform == "win32", reason="a process gets no SIGINT there")
def test_ctrl_c_leaves_a_run_that_goes_on(home, tmp_path):
    run = tmp_path / "run"
    options = ("--train", "lora-fa", "--steps", 2000, "--batch-size", 2, "--eval-every", 2000)
    data = ("--task", "reviews", "--data", home / "data")
    process = shell("finetune", "--model", home / "opt", *data, *ONNX, *options, "--output", run)
    while not (run / "metrics.jsonl").exists() or len(lines(run / "metrics.jsonl")) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in log
    assert f"--resume {run}" in log
    done = len(read_journal(run / "journal").steps)
    assert 2 <= done < 2000


def test_threads(home, tmp_path):
    """Few or many: the same up to rounding, and the same bytes for as many."""
    for name, threads in (("one", "1"), ("two", "2"), ("two again", "2")):
        assert start(home, tmp_path / name, *ONNX, "--threads", threads) == 0
    one, two, again = (losses(tmp_path / name) for name in ("one", "two", "two again"))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-4)
    assert (two == again).all()


@exhaustive
def test_runs_of_two_processes(home, tmp_path):
    """At once, each with sessions of its own: the bytes of one alone."""
    program = """if True:
        import sys
        from tinyzo.runs import report
        report.plot = lambda path: "not drawn"
        sys.path[:0] = ["tests"]
        from pathlib import Path
        from folders import finetune
        home, output = map(Path, sys.argv[1:])
        more = ("--lr", "1e-2", "--seed", "3", "--train", "lora-fa", "--engine", "onnx")
        sys.exit(finetune(home / "opt", home / "data", output, *more))
    """
    outputs = [tmp_path / "a", tmp_path / "b"]
    processes = [python("-c", program, home, output) for output in outputs]
    for process, output in zip(processes, outputs, strict=True):
        log = process.communicate(timeout=120)
        assert process.returncode == 0, log
        np.testing.assert_allclose(losses(output), losses(home / "run"), rtol=0, atol=1e-5)


def test_json_and_inspect(home, run, capsys):
    assert resume(run, "--json") == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 6
    assert main(["inspect", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {plan["engine"] for plan in found["plans"]} == {"onnx"}
    assert found["engines"] == "onnx from step 0"
    assert resume(run, "--engine", "numpy") == 0
    assert main(["inspect", str(run)]) == 0
    assert "\nengines        onnx from step 0, then numpy from step 6\n" in capsys.readouterr().out


def test_inspect_needs_no_runtime(run, missing, capsys):
    assert main(["inspect", str(run)]) == 0
    assert "\nplan           onnx, " in capsys.readouterr().out
