"""Death, loss of power and a full disk, at any moment: the same bytes in the end.

By default every event of two exports, and a sample of those of runs. The exhaustive tests add
every event of one kind of run, losses of power, full disks, and real kills; with TINYZO_CRASH=all
they take every event of all kinds, and 200 kills.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.hostile import tensor, torch_bin
from disturbed import Killed, die_at, record
from folders import (
    ROOT,
    SHAPES,
    python,
    random_tensors,
    write_jsonl,
    write_model,
    write_reviews,
)
from questions import record_rows, squad_rows
from runs.faults import DEAD, FREEING, LAST, MODES, Case, Ending, Fault, Workers

import tinyzo
from tinyzo.checkpoints.safetensors import SafetensorsWriter, open_safetensors
from tinyzo.checkpoints.sources import TensorInfo
from tinyzo.cli import main
from tinyzo.engine.weights import Weights
from tinyzo.runs import report, train
from tinyzo.runs.journal import Journal, read_journal
from tinyzo.runs.run import Run
from tinyzo.runs.snapshots import Snapshots, tuned_model

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the faults are made in forks")

exhaustive = pytest.mark.exhaustive
ALL = os.environ.get("TINYZO_CRASH") == "all"
KILLS = 200 if ALL else 20
STEPS, LONG, FOLD = 5, 50, 2
ROWS = 4  # of the test split, each of which has an answer
RESIDENCIES, DTYPES = ("resident", "streamed"), ("f32", "bf16")
KINDS = list(product(RESIDENCIES, DTYPES, (str(FOLD), "0")))
EVERY = ("streamed", "bf16", str(FOLD))  # the kind that has the most to go wrong
OTHERS = [kind for kind in KINDS if kind != EVERY]
SAMPLE, FEW = 3, 12
GUARDED = ("--guard", "1", "--lr", "0.3", "--steps", "8")
MORE = None if ALL else SAMPLE
ONE_LINE_AND_A_HINT = re.compile(r"(^|\n)tinyzo: [^\n]+\n  hint: [^\n]+\n$")
# One thread: a fork has no other, and sums do not depend on how many there are.
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "TINYZO_NO_NUMBA": "1"}


class Home:
    """Models, data, and what undisturbed runs of each kind leave."""

    def __init__(self, path: Path, workers: Workers) -> None:
        self.workers = workers
        self.path, self.data = path, write_reviews(path / "data", train=8, dev=4, test=ROWS)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(SHAPES, "opt", SHAPES["opt"] | {"num_hidden_layers": 1})
            for dtype in DTYPES:
                write_model(path / dtype, "opt", dtype)
            tensors = random_tensors("opt", **SHAPES["opt"], vocab_size=30)
        (path / "bin").mkdir()
        shutil.copy(path / "f32" / "config.json", path / "bin")
        parts = {name: tensor("F32", values) for name, values in tensors.items()}
        (path / "bin" / "pytorch_model.bin").write_bytes(torch_bin(parts))
        cases = [self.case(path / "-".join(kind), kind) for kind in KINDS]
        for case in cases:
            case.then = [["replay", case.output, "--output", f"{case.root}/tuned"]]
        whole = workers.run(cases)
        assert {ending.code for endings in whole for ending in endings} == {0}
        self.events = {kind: endings[0].events for kind, endings in zip(KINDS, whole, strict=True)}
        self.records = {dtype: record(self.run("resident", dtype, "0")) for dtype in DTYPES}
        self.thetas = {dtype: list(self._thetas(dtype)) for dtype in DTYPES}

    def run(self, *kind: str) -> Path:
        return self.path / "-".join(kind) / "run"

    def case(self, root: Path, kind: tuple[str, ...], *options: str) -> Case:
        """A run of that kind, from its beginning; the options come last."""
        residency, dtype, fold = kind
        command = [
            "finetune", "--model", self.path / dtype, "--task", "reviews", "--data", self.data,
            "--steps", STEPS, "--batch-size", 2, "--lr", "1e-2", "--weight-decay", "0.5",
            "--seed", 12, "--eval-every", 2, "--engine", "numpy", "--residency", residency,
            "--fold-every", fold, "--output", root / "run", *options,
        ]  # fmt: skip
        return Case(list(map(str, command)), str(root), str(root / "run"))

    def _thetas(self, dtype: str) -> Iterator[dict[str, bytes]]:
        """After each step, from base and journal alone."""
        run = Run.open(self.run("resident", dtype, "0"))
        for step in range(STEPS + 1):
            weights = tuned_model(run, step).weights
            yield {name: weights.stored(name).tobytes() for name in weights.names()}

    def check(self, run: Path, dtype: str) -> None:
        """A run that is done has the bytes of an undisturbed one, its snapshots those of theta."""
        assert record(run) == self.records[dtype]
        for path in run.glob("weights-*.safetensors"):
            assert tensors_of(path) == self.thetas[dtype][int(path.stem[8:])], path


def tree(folder: Path) -> dict[str, bytes]:
    """The files of a folder; in them the folder's own path is left out."""
    files = (path for path in folder.rglob("*") if path.is_file())
    own = str(folder.resolve()).encode()
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {name: data.replace(own, b"") for name, data in found.items()}


def tensors_of(path: Path) -> dict[str, bytes]:
    with open_safetensors(path) as file:
        return {name: file.read(name).tobytes() for name in file.names()}


def written(weights: Weights) -> dict[str, bytes]:
    """What a snapshot has of the weights."""
    blocks: dict[str, bytes] = {}

    def keep(name: str, raw: np.ndarray) -> None:
        blocks[name] = blocks.get(name, b"") + raw.tobytes()

    weights.write(keep, list(weights.saved))
    return blocks


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Home]:
    with Workers(ENVIRONMENT) as workers:
        yield Home(tmp_path_factory.mktemp("home"), workers)


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    monkeypatch.setattr(report, "plot", lambda path: "not drawn")


def faults_of(events: list[str], mode: str, most: int | None = None) -> list[Fault]:
    """One for each event, or for a sample of them; none of what a full disk does not refuse."""
    events = [*events, LAST] if mode == "power" else events
    fitting = [e for e in events if mode != "full" or e.split()[0] not in FREEING]
    if not ALL:  # of a file's tensors the first ones
        fitting = [e for e in fitting if not re.search(r"safetensors.partial ([5-9]|\d\d)$", e)]
    chance = random.Random(f"{mode} {len(events)}")
    chosen = fitting if most is None else chance.sample(fitting, most)
    return [Fault(mode, event, seed) for seed, event in enumerate(chosen)]


def check_fault(ending: Ending, fault: Fault) -> None:
    """The fault has come; of a full disk it was said what there is to say."""
    if fault.mode != "full":
        assert ending.code == DEAD, ending.log
    elif ending.code == 0:  # a folder that cannot be synced is no reason to stop
        assert str(fault.at).startswith("fsync") and fault.at == ending.events[-1]
    else:
        assert ending.code == 1, ending.log
        assert ONE_LINE_AND_A_HINT.search(ending.log), ending.log
        assert "Traceback" not in ending.log and "Exception ignored" not in ending.log


# --- all kinds of runs are one ---


def test_where_the_weights_live_changes_no_byte(home):
    for dtype in DTYPES:
        tuned = set()
        for residency, fold in product(RESIDENCIES, (str(FOLD), "0")):
            run = home.run(residency, dtype, fold)
            home.check(run, dtype)
            tuned.add((run.parent / "tuned" / "model.safetensors").read_bytes())
            found = sorted(path.name for path in run.glob("*weights*"))
            assert found == ([] if fold == "0" else ["weights-4.safetensors"])
        assert len(tuned) == 1
    assert home.records["f32"] != home.records["bf16"]


def test_the_best_step_is_not_the_last(home):
    """So that a run's end has a model to restore, too."""
    for dtype in DTYPES:
        assert 0 < Run.open(home.run("resident", dtype, "0")).best_step() < STEPS


def test_the_events_are_all_there_is(home):
    events = home.events[EVERY]
    for what in (
        "create run/journal 1", f"write run/journal {STEPS + 1}", "fsync run/journal 1",
        f"write run/metrics.jsonl {STEPS}", "replace run/weights-4.safetensors 1",
        "write run/.weights-2.safetensors.partial 5", "fsync run/.weights-2.safetensors.partial 1",
        "replace run/run.toml 1", "write run/events.jsonl 6", "replace run/result.json 1",
    ):  # fmt: skip
        assert what in events, what
    assert len(set(events)) == len(events)


# --- a fault at each event ---


@pytest.mark.parametrize(
    ("kinds", "mode", "most"),
    [
        pytest.param([EVERY], "kill", FEW, id="streamed: kill"),
        pytest.param(OTHERS, "kill", 1, id="others: kill"),
        *(
            pytest.param(kinds, mode, most, id=f"{name}: {mode}, more", marks=exhaustive)
            for mode in MODES
            for kinds, name, most in (([EVERY], "streamed", None), (OTHERS, "others", MORE))
        ),
    ],
)
def test_training(home, tmp_path, kinds, mode, most):
    cases, kind_of = [], {}
    for kind in kinds:
        for fault in faults_of(home.events[kind], mode, most):
            case = home.case(tmp_path / str(len(cases)), kind)
            case.faults = [fault]
            kind_of[case.root] = kind
            cases.append(case)
    for case, endings in zip(cases, home.workers.run(cases), strict=True):
        _, dtype, fold = kind_of[case.root]
        check_fault(endings[0], case.faults[0])
        assert endings[1].code == 0, (case.faults, endings[1].log)
        home.check(Path(case.output), dtype)
        if fold != "0":
            assert endings[1].redone[0] <= 2 * FOLD  # one may be under way when the next is due
        shutil.rmtree(case.root)
    print(f"{len(cases)} faults")


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(("--train", "lora"), marks=exhaustive),
        pytest.param(("--method", "lozo", "--window", "2"), marks=exhaustive),
        GUARDED,
        pytest.param(("--method", "lozo", "--window", "2", *GUARDED), marks=exhaustive),
    ],
)
def test_adapters_windows_and_returns(home, tmp_path, method):
    """What moves lies beside the checkpoint, and at a window's end is merged into another file;
    what a run goes back by is in its journal."""
    whole = home.case(tmp_path / "whole", EVERY, *method)
    ((undisturbed,),) = home.workers.run([whole])
    assert undisturbed.code == 0, undisturbed.log
    returns = read_journal(Path(whole.output) / "journal").history.returns
    assert len(returns) >= 2 or "--guard" not in method
    for path in Path(whole.output).glob("weights-*"):
        path.unlink()  # so that the expected ones come from base and journal alone
    expected, cases = record(Path(whole.output)), []
    for mode in MODES:
        for fault in faults_of(undisturbed.events, mode, MORE):
            cases.append(home.case(tmp_path / str(len(cases)), EVERY, *method))
            cases[-1].faults = [fault]
    for case, endings in zip(cases, home.workers.run(cases), strict=True):
        check_fault(endings[0], case.faults[0])
        assert endings[1].code == 0, (case.faults, endings[1].log)
        assert record(Path(case.output)) == expected
        for path in Path(case.output).glob("weights-*.safetensors"):
            weights = tuned_model(Run.open(Path(whole.output)), int(path.stem[8:])).weights
            assert tensors_of(path) == written(weights), (path, case.faults)


TASKS = {"SQuAD": squad_rows, "ReCoRD": record_rows}  # answers that are written, own candidates


@pytest.mark.parametrize(
    ("task", "mode", "most"),
    [
        ("SQuAD", "kill", SAMPLE),
        *(pytest.param(task, mode, MORE, marks=exhaustive) for task in TASKS for mode in MODES),
    ],
)
def test_tasks_of_other_kinds(home, tmp_path, task, mode, most):
    data = write_jsonl(tmp_path / "rows.jsonl", TASKS[task](8))

    def case(name: str, *faults: Fault) -> Case:
        made = home.case(tmp_path / name, EVERY, "--task", task, "--data", data)
        made.faults = list(faults)
        made.then = [["replay", made.output, "--output", f"{made.root}/tuned"]]
        return made

    ((whole, replayed),) = home.workers.run([case("whole")])
    assert (whole.code, replayed.code) == (0, 0), whole.log
    expected, tuned = record(tmp_path / "whole" / "run"), tree(tmp_path / "whole" / "tuned")
    cases = [case(str(n), f) for n, f in enumerate(faults_of(whole.events, mode, most))]
    for each, (first, last, replayed) in zip(cases, home.workers.run(cases), strict=True):
        check_fault(first, each.faults[0])
        assert (last.code, replayed.code) == (0, 0), (each.faults, last.log)
        assert record(Path(each.output)) == expected
        assert tree(Path(each.root) / "tuned") == tuned
        shutil.rmtree(each.root)
    print(f"{len(cases)} faults")


def test_one_fault_after_another(home, tmp_path):
    """Resuming is disturbed too, in all its parts."""
    cases, chance = [], random.Random(5)
    for draw in range(400 if ALL else len(KINDS)):
        case = home.case(tmp_path / str(draw), KINDS[draw % len(KINDS)])
        case.faults = [
            Fault(chance.choice(MODES), chance.randrange(60), chance.randrange(1 << 30))
            for _ in range(5)
        ]
        case.then = [["replay", case.output, "--output", f"{case.root}/tuned"]]
        cases.append(case)
    for draw, endings in enumerate(home.workers.run(cases)):
        *disturbed, last, replayed = endings
        assert {ending.code for ending in disturbed} <= {0, 1, DEAD}
        assert (last.code, replayed.code) == (0, 0), (cases[draw].faults, last.log, replayed.log)
        kind = KINDS[draw % len(KINDS)]
        home.check(Path(cases[draw].output), kind[1])
        assert tree(Path(cases[draw].root) / "tuned") == tree(home.run(*kind).parent / "tuned")


REPLAY = f"replay {'-'.join(EVERY)}"


def exports(home: Home) -> dict[str, list[str]]:
    """Commands that write a model's folder."""
    runs = {"-".join(kind): home.run(*kind) for kind in KINDS if kind[2] != "0"}
    commands = {f"replay {name}": ["replay", str(run)] for name, run in runs.items()}
    task = ["--task", "reviews", "--data", str(home.data), "--queries", "1"]
    app = ["export", "--format", "onnx", "--model", str(home.path / "f32"), *task]
    return {"convert": ["convert", str(home.path / "bin")], "export": app, **commands}


@pytest.mark.parametrize(
    ("what", "mode"),
    [
        ("convert", "kill"),
        pytest.param(REPLAY, "full", marks=exhaustive),
        pytest.param("convert", "full", marks=exhaustive),
        pytest.param("convert", "power", marks=exhaustive),
        pytest.param("export", "kill", marks=exhaustive),
        pytest.param("export", "full", marks=exhaustive),
        pytest.param(REPLAY, "kill", marks=exhaustive),
        pytest.param(REPLAY, "power", marks=exhaustive),
    ],
)
def test_exports(home, tmp_path, what, mode):
    """Given again, the command ends with the same folder; or that is refused, as it is whole."""
    command = exports(home)[what]

    def case(name: str, *faults: Fault) -> Case:
        root = tmp_path / name
        return Case([*command, "--output", f"{root}/new"], str(root), f"{root}/new", list(faults))

    ((whole,),) = home.workers.run([case("whole")])
    assert whole.code == 0
    expected = tree(tmp_path / "whole" / "new")
    assert {"config.json", "model.safetensors"} <= set(expected)
    cases = [case(str(n), f) for n, f in enumerate(faults_of(whole.events, mode))]
    wrong = []
    for each, endings in zip(cases, home.workers.run(cases), strict=True):
        check_fault(endings[0], each.faults[0])
        if endings[1].code:
            assert "already\n  hint: name another --output\n" in endings[1].log
        if tree(Path(each.output)) != expected:
            wrong.append(each.faults[0].at)
    assert not wrong
    print(f"{len(cases)} faults")


# --- real signals ---


@pytest.mark.exhaustive
def test_sigkill_again_and_again(home, tmp_path):
    """Nothing stands between the process and the system here, and the moment is any: one that has
    ended by itself waits to be killed, too."""
    kinds = list(product(RESIDENCIES, DTYPES, (str(FOLD),)))
    options = ("--steps", str(LONG), "--eval-every", "10")
    wholes = [home.case(tmp_path / "-".join(kind), kind, *options) for kind in kinds]
    assert {e.code for (e,) in home.workers.run(wholes)} == {0}
    expected = {kind: record(Path(w.output)) for kind, w in zip(kinds, wholes, strict=True)}
    assert expected[kinds[0]] == expected[kinds[2]] != expected[kinds[1]]  # residency, not dtype
    chance, a_run = random.Random(2), 5
    for draw in range(KILLS // a_run // len(kinds)):
        cases = [home.case(tmp_path / f"{draw}-{'-'.join(kind)}", kind, *options) for kind in kinds]
        for case in cases:
            delays = [0.3 * chance.random() for _ in range(a_run)]
            case.faults = [Fault("signal", delay=delay) for delay in delays]
        for kind, case, endings in zip(kinds, cases, home.workers.run(cases), strict=True):
            *killed, last = endings
            assert {ending.code for ending in killed} == {-signal.SIGKILL}
            assert last.code == 0, last.log
            assert record(Path(case.output)) == expected[kind]


# --- two at once ---


PAUSED = """
import sys
from tinyzo.cli import main
from tinyzo.runs.journal import Journal

append = Journal.append

def append_and_pause(self, step):
    append(self, step)
    if len(self.steps) == 3:
        print("paused", flush=True)
        sys.stdin.read()

Journal.append = append_and_pause
sys.exit(main(sys.argv[1:]))
"""


def test_a_second_process_is_refused(home, tmp_path, capsys, monkeypatch):
    """The first one stands still after its third step for as long as the test needs it."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    case = home.case(tmp_path / "risk", ("streamed", "f32", str(FOLD)))
    run = Path(case.output)
    first = python("-c", PAUSED, *case.command, stdin=subprocess.PIPE)
    try:
        assert first.stdout.readline() == "paused\n"
        assert main(["finetune", "--resume", str(run)]) == 1
        assert "another process is at work on this run\n  hint: wait for it\n" in (
            capsys.readouterr().err
        )
        assert main(case.command) == 1
        assert "has a run.toml already" in capsys.readouterr().err
    finally:
        first.kill()
        first.communicate()
    assert len(read_journal(run / "journal").steps) == 3
    assert main(["finetune", "--resume", str(run)]) == 0
    home.check(run, "f32")


def test_a_second_export_is_refused_and_the_first_goes_on(home, tmp_path, capsys):
    new = tmp_path / "new"
    new.mkdir()
    with SafetensorsWriter(new / "model.safetensors", {"w": TensorInfo("U8", (3,))}) as first:
        assert main(["convert", str(home.path / "bin"), "--output", str(new)]) == 1
        assert "another process is writing it\n  hint: wait for it\n" in capsys.readouterr().err
        first.write("w", np.arange(3, dtype=np.uint8))
    assert tensors_of(new / "model.safetensors") == {"w": bytes(range(3))}


# --- what resuming costs ---


def redone(monkeypatch, run: Path) -> int:
    """How many steps a resumption adds again on its way."""
    count, redo = [0], train.Training._redo

    def counted(self: Any, number: int) -> None:
        count[0] += 1
        redo(self, number)

    monkeypatch.setattr(train.Training, "finish", lambda self: None)  # restores the best step
    monkeypatch.setattr(train.Training, "_redo", counted)
    tinyzo.finetune(resume=run)
    return count[0]


@pytest.mark.parametrize(("done", "every"), [(3, 1), (1, 2), (2, 2), (3, 2), (5, 2), (4, 3)])
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_few_steps_are_redone(home, tmp_path, residency, done, every):
    case = home.case(tmp_path / "risk", (residency, "f32", str(every)))
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, Journal, "append", done, after=True)
        with pytest.raises(Killed):
            main(case.command)
    with pytest.MonkeyPatch.context() as patch:
        assert redone(patch, Path(case.output)) == done - (done - 1) // every * every <= every
    assert main(["finetune", "--resume", case.output]) == 0
    home.check(Path(case.output), "f32")


def dies_on_a_slow_disk(case: Case) -> None:
    """The run ends when a snapshot has all its bytes but no name yet, as the next one is due."""
    append, dead = Journal.append, threading.Event()

    def slow(self: Snapshots, writer: SafetensorsWriter, *others: Any) -> None:
        assert dead.wait(600), "the run goes on without this one's name"
        writer._file.close()

    def dying(self: Journal, step: Any) -> None:
        append(self, step)
        if len(self.steps) == 2 * FOLD:
            dead.set()
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Snapshots, "_finish", slow)
        patch.setattr(Journal, "append", dying)
        with pytest.raises(Killed):
            main(case.command)


@pytest.mark.parametrize("residency", RESIDENCIES)
def test_on_the_slowest_disk_too(home, tmp_path, residency):
    """A snapshot has its name before the next one is begun: that is all one can count on."""
    case = home.case(tmp_path / "risk", (residency, "f32", str(FOLD)))
    dies_on_a_slow_disk(case)
    with pytest.MonkeyPatch.context() as patch:
        assert redone(patch, Path(case.output)) == 2 * FOLD
    assert main(["finetune", "--resume", case.output]) == 0
    home.check(Path(case.output), "f32")


def test_nothing_is_left_of_a_snapshot_that_was_not_finished(home, tmp_path):
    case = home.case(tmp_path / "risk", ("streamed", "f32", str(FOLD)), "--steps", "4")
    dies_on_a_slow_disk(case)
    assert list(Path(case.output).glob(".*.partial"))
    assert main(["finetune", "--resume", case.output]) == 0
    assert not list(Path(case.output).glob(".*.partial"))


# --- snapshots that are not what they should be ---


def flipped(at: float) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        place = int(at * (len(data) - 1))
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return flip


def flipped_in(place: str) -> Callable[[bytes], bytes]:
    """A flip in the first number of the data, the last of the checksums, or at a third of all."""

    def flip(data: bytes) -> bytes:
        begin = 8 + int.from_bytes(data[:8], "little")
        at = {"first": begin, "third": begin + (len(data) - begin) // 3, "last": len(data) - 1}
        return flipped(at[place] / (len(data) - 1) + 1e-9)(data)

    return flip


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "five bytes": lambda data: data[:5],
    "half": lambda data: data[: len(data) // 2],
    "one byte less": lambda data: data[:-1],
    "one byte more": lambda data: data + b"\0",
    "zeros": lambda data: bytes(len(data)),
    "its length": flipped(0),
    "its first number": flipped_in("first"),
    "a number": flipped_in("third"),
    "its last checksum": flipped_in("last"),
    "its header": lambda data: data.replace(b'"journal"', b'"journak"', 1),
    "another type": lambda data: data.replace(b'"F32"', b'"I32"', 1),
    "another history": lambda data: re.sub(rb'("journal":")........', rb"\g<1>00000000", data),
}


def interrupted(home: Home, residency: str, path: Path) -> Path:
    """A run that has its last snapshot, and then all steps, but no evaluation and no result."""
    run = shutil.copytree(home.run(residency, "f32", str(FOLD)), path)
    (run / "result.json").unlink()
    events = (run / "events.jsonl").read_text().splitlines(keepends=True)
    (run / "events.jsonl").write_text("".join(events[: ROWS + 4]))  # up to step 4
    return run


def check_passed_over(home: Home, run: Path, capsys: Any, is_said: bool = True) -> None:
    capsys.readouterr()
    assert main(["finetune", "--resume", str(run)]) == 0
    assert ("passed over: " in capsys.readouterr().err) >= is_said
    assert record(run) == home.records["f32"]


@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_snapshot_is_passed_over(home, tmp_path, capsys, how, residency):
    run = interrupted(home, residency, tmp_path / "run")
    for path in run.glob("weights-*"):
        path.write_bytes(DAMAGE[how](path.read_bytes()))
    check_passed_over(home, run, capsys, how not in ("its header", "another type",
                                                     "another history"))  # fmt: skip


@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json", "journal", "events.jsonl"])
def test_a_file_that_is_gone_is_made_again(home, tmp_path, name, residency):
    run = shutil.copytree(home.run(residency, "f32", str(FOLD)), tmp_path / "run")
    (run / name).unlink()
    assert main(["finetune", "--resume", str(run)]) == 0
    home.check(run, "f32")


@pytest.mark.parametrize("residency", RESIDENCIES)
def test_a_snapshot_of_another_run_or_step_is_passed_over(home, tmp_path, capsys, residency):
    (kind, other) = ((residency, "f32", str(FOLD)), tmp_path / "other")
    case = home.case(other, kind, "--seed", "1")
    assert main(case.command) == 0
    run = interrupted(home, residency, tmp_path / "run")
    own, foreign = run / "weights-4.safetensors", Path(case.output) / "weights-4.safetensors"
    shutil.copy(own, run / "weights-5.safetensors")
    shutil.copy(own, run / "weights-6.safetensors")  # beyond the journal
    shutil.copy(foreign, own)
    shutil.copy(home.run(residency, "bf16", str(FOLD)) / own.name, run / "weights-3.safetensors")
    (run / "weights-2.safetensors").write_text("notes of mine")
    (run / "weights-best.safetensors").write_text("notes of mine")
    with pytest.MonkeyPatch.context() as patch:
        assert redone(patch, run) == STEPS
    check_passed_over(home, run, capsys, is_said=False)
    assert (run / "weights-best.safetensors").read_text() == "notes of mine"
