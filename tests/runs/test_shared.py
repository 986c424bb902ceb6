"""Runs that ranks share: the bytes of a run of one process, whatever is shared by however many.

The ranks are threads here; test_mpiexec.py has processes.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from disturbed import Killed, record
from folders import SHAPES, lines, write_jsonl, write_model, write_reviews
from questions import record_rows, squad_rows
from ranks_in_threads import Ended, ThreadWire, ranks_do

import tinyzo
from tinyzo.cli import main
from tinyzo.errors import ConfigError, RunError, TinyzoError, UsageError
from tinyzo.runs import ranks as ranks_module
from tinyzo.runs import shared, train
from tinyzo.runs.journal import read_journal
from tinyzo.runs.ranks import ALONE, Head, Mpi, Ranks, join
from tinyzo.runs.run import Run
from tinyzo.runs.settings import Settings
from tinyzo.runs.train import tune

exhaustive = pytest.mark.exhaustive
STEPS = 4
METHODS: dict[str, dict[str, Any]] = {
    "mezo": {},
    "p-rge": {"method": "p-rge", "queries": 3},
    "fzoo": {"method": "fzoo", "queries": 4},
    "n-spsa": {"method": "n-spsa", "queries": 2},
    "lozo": {"method": "lozo", "window": 2},
    "streamed": {"residency": "streamed", "dtype": "bf16", "fold_every": 2},
    "accuracy": {"objective": "accuracy"},
    "zo-fit": {"method": "zo-fit"},
    "zo-act": {"method": "zo-act"},
    "forward": {"estimator": "forward"},
    "guard": {"guard": 1, "lr": 0.3, "steps": 8},
}
DEFAULT = [("mezo", 2), ("p-rge", 3)]
MORE = [*itertools.product(METHODS, (2, 3)), ("mezo", 1), ("mezo", 4), ("p-rge", 4)]
CASES = [*DEFAULT, *(pytest.param(*case, marks=exhaustive) for case in MORE if case not in DEFAULT)]


class Home:
    """A model, data, and what runs that nobody shares leave."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(SHAPES, "roberta", SHAPES["roberta"] | {"num_hidden_layers": 1})
            write_model(path / "model", "roberta", "f32")
        write_reviews(path / "data", train=8, dev=4, test=4)
        self.known: dict[str, Path] = {}

    def settings(self, **others: Any) -> Settings:
        given: dict[str, Any] = {
            "model": str(self.path / "model"), "task": "reviews", "data": str(self.path / "data"),
            "steps": STEPS, "batch_size": 4, "lr": 1e-2, "eval_every": 2, "engine": "numpy",
            "micro_batch_tokens": 24,
        }  # fmt: skip
        return Settings(**given | others)

    def alone(self, method: str) -> Path:
        """The run of one process."""
        if method not in self.known:
            path = self.path / method
            tune(self.settings(**METHODS[method]), path)
            self.known[method] = path
        return self.known[method]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    """So that it can be seen that nothing is left there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def tuned(home: Home, output: Path, count: int, share: str, **others: Any) -> list[Any]:
    return ranks_do(count, share, lambda ranks: tune(home.settings(**others), output, None, ranks))


def resumed(run: Path, count: int, share: str) -> list[Any]:
    return ranks_do(count, share, lambda ranks: tune(Settings(), None, run, ranks))


# --- the same bytes ---


@pytest.mark.parametrize(("method", "count"), CASES)
def test_ranks_make_the_bytes_of_one_process(home, tmp_path, method, count):
    expected = record(home.alone(method))
    shares = ("both",) if count == 3 else ("queries", "rows")
    for share in shares:
        output = tmp_path / share
        runs = tuned(home, output, count, share, **METHODS[method])
        assert all(isinstance(run, Run) for run in runs), runs
        assert {run.path for run in runs} == {output}
        assert record(output) == expected
        assert all(line["waited_seconds"] >= 0 for line in lines(output / "metrics.jsonl"))


@exhaustive
@pytest.mark.parametrize(("task", "objective"), [("SQuAD", "f1"), ("ReCoRD", "cross-entropy")])
def test_answers_are_shared(home, tmp_path, task, objective):
    """Those that the model writes, and candidates of each row's own."""
    rows = {"SQuAD": squad_rows, "ReCoRD": record_rows}[task](12)
    write_model(tmp_path / "opt", "opt")
    given = {
        "model": str(tmp_path / "opt"),
        "task": task,
        "data": str(write_jsonl(tmp_path / f"{task}.jsonl", rows)),
        "objective": objective,
        "steps": 2,
        "batch_size": 3,
        "micro_batch_tokens": 64,
    }
    tune(home.settings(**given), tmp_path / "alone")
    runs = tuned(home, tmp_path / "run", 2, "both", **given)
    assert all(isinstance(run, Run) for run in runs), runs
    assert record(tmp_path / "run") == record(tmp_path / "alone")


@pytest.mark.parametrize("step", [pytest.param(1, marks=exhaustive), 3])
def test_another_number_of_ranks_goes_on(home, tmp_path, monkeypatch, step):
    run = tmp_path / "run"
    append = train.Journal.append

    def dying(journal: Any, taken: Any) -> None:
        append(journal, taken)
        if journal.path == run / "journal" and len(journal.steps) == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Journal, "append", dying)
        first = tuned(home, run, 2, "queries", **METHODS["streamed"])
    assert [type(each) for each in first] == [Killed, Ended]
    assert len(read_journal(run / "journal").steps) == step
    assert all(isinstance(each, Run) for each in resumed(run, 3, "both"))
    assert record(run) == record(home.alone("streamed"))


def test_a_finished_run_goes_on_alone_and_shared_again(home, tmp_path):
    run = tmp_path / "run"
    tuned(home, run, 2, "rows", steps=2)
    tune(Settings(steps=3), resume=run)
    runs = ranks_do(2, "rows", lambda ranks: tune(Settings(steps=STEPS), None, run, ranks))
    assert all(isinstance(each, Run) for each in runs)
    assert (run / "journal").read_bytes() == (home.alone("mezo") / "journal").read_bytes()


def test_more_ranks_than_probes_idle(home, tmp_path, capfd):
    assert all(isinstance(run, Run) for run in tuned(home, tmp_path / "run", 3, "queries"))
    assert record(tmp_path / "run") == record(home.alone("mezo"))
    said = capfd.readouterr().err
    assert "1 of 3 ranks idle in a step (probes: 2, micro-batches: " in said
    assert "; --share both or a smaller --micro-batch-tokens divides it further\n" in said


@pytest.mark.parametrize(
    ("share", "count", "units", "grid"),
    [
        ("queries", 4, (2, 8), (4, 1)), ("rows", 4, (2, 8), (1, 4)), ("both", 4, (2, 8), (2, 2)),
        ("both", 6, (4, 2), (6, 1)), ("both", 5, (2, 8), (1, 5)), ("both", 3, (2, 1), (3, 1)),
        ("queries", 4, (1, 8), (1, 4)), ("both", 4, (8, 8), (4, 1)), ("both", 4, (1, 8), (1, 4)),
    ],
)  # fmt: skip
def test_the_grid(share, count, units, grid):
    assert ranks_do(count, share, lambda ranks: ranks.grid(*units)) == [grid] * count


def test_few_bytes_are_exchanged(home, tmp_path):
    """At most 64 a step for each rank and query."""
    sent = {}
    for steps in (2, 3):

        def work(ranks: Ranks, steps: int = steps) -> int:
            settings = home.settings(steps=steps, method="n-spsa", queries=2, eval_every=100)
            tune(settings, tmp_path / f"{steps}", None, ranks)
            return ranks.wire.sent

        sent[steps] = ranks_do(2, "queries", work)
    more = [b - a for a, b in zip(sent[2], sent[3], strict=True)]
    assert more[1] == 24 + 2 * 8  # a head, and the losses of its two probes
    assert more[1] / 2 <= 64


# --- what is refused ---


def failed(found: list[Any]) -> TinyzoError:
    """The error of the rank that failed; the others have been ended, or found the same."""
    errors = [each for each in found if isinstance(each, TinyzoError)]
    assert errors and all(isinstance(each, TinyzoError | Ended) for each in found), found
    assert len({str(error) for error in errors}) == 1
    return errors[0]


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"lr": 0.5}, "lr than rank 0 on host-0: 0.5 there, 0.01 here"),
        ({"limit": 2}, "limit than rank 0 on host-0: 2 there, null here"),
        ({"data": "elsewhere"}, "data than rank 0 on host-0: "),
    ],
)
def test_a_rank_with_other_settings_or_data(home, tmp_path, changed, what):
    write_reviews(tmp_path / "elsewhere", train=9, dev=4, test=4)

    def work(ranks: Ranks) -> Run:
        others = changed if ranks.number == 1 else {}
        if "data" in others:
            others = {"data": str(tmp_path / "elsewhere")}
        return tune(home.settings(**others), tmp_path / "run", None, ranks)

    error = failed(ranks_do(2, "queries", work))
    assert isinstance(error, RunError)
    assert f"rank 1 on host-1 has another {what}" in error.message
    assert error.hint == "all ranks need the same"
    assert not (tmp_path / "run").exists()


def test_a_rank_with_another_version_or_checkpoint(home, tmp_path):
    other = shutil.copytree(home.path / "model", tmp_path / "other")
    data = bytearray((other / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (other / "model.safetensors").write_bytes(data)

    def work(ranks: Ranks) -> Run:
        model = home.path / "model" if ranks.is_first else other
        return tune(home.settings(model=str(model)), tmp_path / "run", None, ranks)

    assert (
        "rank 1 on host-1 has another checkpoint than" in failed(ranks_do(2, "rows", work)).message
    )
    facts = [{"version of tinyzo": "0.2.0"}, {"version of tinyzo": "0.1.0"}]
    found = ranks_do(2, "rows", lambda ranks: ranks.check_same(facts[ranks.number]))
    assert "another version of tinyzo than rank 0 on host-0: 0.1.0 there" in failed(found).message


def test_a_rank_whose_arithmetic_is_another(home, tmp_path, monkeypatch):
    """Its step has another coefficient: the next exchange finds it."""
    original = shared.SharedLoss.total

    def other(self: Any, theta: Any, parts: Any) -> np.ndarray:
        return original(self, theta, parts) + (self.ranks.number == 1)  # of both probes

    monkeypatch.setattr(shared.SharedLoss, "total", other)
    error = failed(tuned(home, tmp_path / "run", 2, "queries"))
    assert error.message == "rank 1 on host-1: other steps than those of rank 0 on host-0"
    assert "leave it out, then --resume" in error.hint


def test_a_rank_whose_weights_are_others(home, tmp_path, monkeypatch):
    original = shared.crc_of
    flipped: list[int] = []

    def flip(weights: Any, turn: int) -> int:
        if not flipped:
            flipped.append(1)
            weights.stored(next(iter(weights.trained)))[:] += 1
        return original(weights, turn)

    monkeypatch.setattr(shared, "crc_of", flip)
    error = failed(tuned(home, tmp_path / "run", 2, "queries"))
    assert "other weights after step 2 than rank 0" in error.message
    assert "--resume goes on" in error.hint


def test_each_row_is_compared_in_turn(home):
    model = train._begin(home.settings(), Path("unused"))[1].settle("numpy")
    weights = model.weights
    name = max(weights.trained, key=lambda each: weights.shape(each)[0])
    rows = weights.shape(name)[0]
    step = rows // shared.SAMPLE
    assert step > 1
    before = [shared.crc_of(weights, turn) for turn in range(step)]
    for row in range(step):
        weights.stored(name)[row] *= -1
        now = [shared.crc_of(weights, turn) for turn in range(step)]
        assert [a != b for a, b in zip(before, now, strict=True)] == [t == row for t in range(step)]
        weights.stored(name)[row] *= -1


@pytest.mark.parametrize("method", ["adam", "lora-adam"])
def test_gradients_are_not_shared(home, tmp_path, method):
    error = failed(tuned(home, tmp_path / "run", 2, "queries", method=method))
    assert isinstance(error, UsageError)
    assert "--share goes with methods whose step is a list of terms" in error.message
    assert not (tmp_path / "run").exists()


def test_what_can_be_shared():
    found = ranks_do(1, "all", lambda ranks: None)
    assert isinstance(found[0], ConfigError)
    assert found[0].message == "share 'all' is not built"
    assert found[0].hint == "one of queries, rows, both"


def a_wire(monkeypatch, count: int = 1) -> None:
    """mpi4py, as far as `Mpi` asks for it."""
    comm = SimpleNamespace(rank=0, size=count)
    module = ModuleType("mpi4py")
    module.MPI = SimpleNamespace(  # type: ignore[attr-defined]
        BYTE=None, COMM_WORLD=comm, Get_processor_name=lambda: "here"
    )
    monkeypatch.setitem(sys.modules, "mpi4py", module)


def test_without_mpi4py(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert main(["finetune", "--share", "rows"]) == 1
    said = capsys.readouterr().err
    assert "--share needs mpi4py, which cannot be used (ModuleNotFoundError" in said
    assert "hint: pip install 'tinyzo[mpi]'\n" in said
    with pytest.raises(ConfigError, match="--share needs mpi4py"):
        tinyzo.finetune(share="rows")
    assert join(None) is ALONE


def test_the_mpiexec_of_another_mpi(monkeypatch):
    a_wire(monkeypatch)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="mpiexec began 4 processes, and each sees only") as found:
        Mpi()
    assert "the mpiexec of the MPI that mpi4py is installed with" in found.value.hint


def test_a_search_is_not_shared(monkeypatch, capsys):
    wire = SimpleNamespace(number=0, count=1, host="h", abort=lambda code: None)
    wire.gather = lambda data: [data]
    monkeypatch.setattr(ranks_module, "Mpi", lambda: wire)
    monkeypatch.setattr(atexit, "register", lambda *given: None)
    assert main(["finetune", "--share", "rows", "--find-lr"]) == 2
    assert "--find-lr with --share\n  hint: find them in one process" in capsys.readouterr().err


# --- what ends a rank ends all ---


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunError("gone"), 1),
        (UsageError("wrong"), 2),
        (ValueError(), 1),
        (KeyboardInterrupt(), 130),
        (KeyboardInterrupt(15), 143),
    ],
)
def test_a_rank_that_fails_ends_all_others(monkeypatch, error, code, number):
    """Rank 0 says it at once; another waits, so that what all have found is said once."""
    registered: list[Any] = []
    naps: list[float] = []
    monkeypatch.setattr(atexit, "register", lambda *given: registered.append(given))
    monkeypatch.setattr(time, "sleep", naps.append)
    (ranks, *_) = ranks_do(1, "rows", lambda ranks: ranks)
    ranks.number, ranks.hosts = number, ["a", "b"]
    error = type(error)(*error.args)
    with pytest.raises(type(error)), ranks.working():
        raise error
    assert naps == [ranks_module.GRACE][:number]
    assert registered == [(ranks.wire.abort, code)]
    if isinstance(error, TinyzoError):
        assert error.message.startswith("rank 1 on b: ") == (number == 1)


def test_only_the_first_rank_speaks(capfd):
    def work(ranks: Ranks, number: int) -> None:
        ranks.number = number
        with ranks.working():
            print(f"rank {number}", file=sys.stderr)

    ranks_do(1, "rows", lambda ranks: work(ranks, 0))
    ranks_do(1, "rows", lambda ranks: work(ranks, 1))
    assert capfd.readouterr().err == "rank 0\n"


def test_abort_says_what_is_left_to_say(monkeypatch, capsys):
    codes: list[int] = []
    a_wire(monkeypatch)
    wire = Mpi()
    wire._comm.Abort = codes.append
    print("the last word")
    wire.abort(3)
    assert codes == [3]
    assert capsys.readouterr().out == "the last word\n"


def test_what_killed_ranks_have_left_is_removed(own_temporary_folder):
    left, alive = (own_temporary_folder / f"{shared.PREFIX}{name}" for name in ("left", "alive"))
    for folder in (left, alive):
        folder.mkdir()
        (folder / "weights-2.safetensors").write_bytes(b"large")
        (folder / shared.HELD).touch()
    with open(alive / shared.HELD, "ab") as held:
        assert shared.try_lock(held)
        shared.sweep(own_temporary_folder)
        assert not left.exists() and alive.exists()
    shared.sweep(own_temporary_folder)


def test_a_start_that_no_two_machines_make_alike(home, tmp_path, monkeypatch):
    """Rank 0's is everybody's."""
    original = train.make_start
    makers: list[int] = []

    def counted(*given: Any) -> None:
        makers.append(1)
        original(*given)

    monkeypatch.setattr(train, "make_start", counted)
    runs = tuned(home, tmp_path / "run", 2, "both", method="zo-act")
    assert all(isinstance(run, Run) for run in runs), runs
    assert makers == [1]
    assert record(tmp_path / "run") == record(home.alone("zo-act"))


# --- machines ---


def test_ranks_of_a_machine_share_its_cpus(monkeypatch):
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no affinity here")
    chosen: dict[int, list[int]] = {}
    monkeypatch.setattr(ranks_module, "fast_cpus", lambda: {0, 1, 2, 3, 4})
    monkeypatch.setattr(ThreadWire, "host", "one", raising=False)

    def work(ranks: Ranks) -> None:
        monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: None)
        ranks.hosts, ranks._alike = ["one"] * 2, [0, 1]
        monkeypatch.setattr(
            os, "sched_setaffinity", lambda pid, cpus: chosen.__setitem__(ranks.number, cpus)
        )
        ranks.share_cpus(None)
        ranks.share_cpus(3)  # as the user says: no fewer CPUs

    for number in (0, 1):
        (ranks,) = ranks_do(1, "rows", lambda ranks: ranks)
        ranks.number = number
        work(ranks)
    assert chosen == {0: [0, 1], 1: [2, 3, 4]}


def test_the_smallest_micro_batch_is_everybodys():
    assert ranks_do(3, "rows", lambda ranks: ranks.least(512 - ranks.number)) == [510] * 3


def test_who_waits_for_whom(capfd):
    seconds = [0.0, 1.0, 3.5]  # rank 0 has nothing to do

    def work(ranks: Ranks) -> dict[str, float]:
        ranks.begin_step(7)
        ranks.exchange(np.ones(1), seconds[ranks.number])
        if ranks.is_first:
            ranks.tell_slowest()
        return ranks.waited()

    assert ranks_do(3, "queries", work) == [{"waited_seconds": 2.5}] * 3
    expected = "ranks waited 2.5 s for each other, 2.5 s of it for rank 2 on host-2\n"
    assert capfd.readouterr().err == expected
    assert ALONE.waited() == {}


# --- exchanges ---


@pytest.mark.parametrize("shape", [(2, 3), (1,), (2, 1, 3, 3), (0,)])
def test_numbers_of_each_rank(shape):
    def work(ranks: Ranks) -> list[np.ndarray]:
        values = np.full(shape if ranks.number else (2,), ranks.number + 0.1)
        return ranks.exchange(values, 1.0)

    for found in ranks_do(2, "rows", work):
        assert found[0].tolist() == [0.1, 0.1]
        assert found[1].tolist() == np.full(shape, 1.1).tolist()


def test_texts_of_any_length():
    texts = ["", "é" * 100]
    assert ranks_do(2, "rows", lambda ranks: ranks.texts(texts[ranks.number])) == [texts] * 2
    assert (
        ranks_do(2, "rows", lambda ranks: ranks.from_first({"n": ranks.number})) == [{"n": 0}] * 2
    )


def test_a_head_goes_there_and_back():
    head = Head(0xFFFFFFFF, 1.5, (2, 3))
    assert Head.unpack(head.pack()) == head
    assert Head.unpack(Head(1, 0.0, ()).pack()).shape == (0,)


def test_files_in_parts(home, tmp_path, monkeypatch):
    """A snapshot is larger than what is sent at once."""
    run = tmp_path / "run"
    tuned(home, run, 2, "queries", **METHODS["streamed"] | {"steps": 2})
    monkeypatch.setattr(shared, "CHUNK", 1000)
    received: list[dict[str, bytes]] = []
    original = shared._receive_files

    def kept(ranks: Ranks, folder: Path) -> None:
        original(ranks, folder)
        received.append({path.name: path.read_bytes() for path in folder.iterdir()})

    expected = {path.name: path.read_bytes() for path in shared._files(run)}
    monkeypatch.setattr(shared, "_receive_files", kept)
    assert all(isinstance(each, Run) for each in resumed(run, 2, "queries"))
    assert received == [expected]
    assert any(name.startswith("weights-") for name in expected)
    assert json.loads(json.dumps(sorted(expected)))[0] == "events.jsonl"
