"""ONNX Runtime as an engine: what is kept between passes, what ends one, and what is refused."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from itertools import cycle, product
from pathlib import Path

import numpy as np
import pytest
from broken import BREAKS, break_package, starts_another
from sharing import in_a_child, together
from streams import streamed
from tiny import (
    DTYPE_NAMES,
    MODELS,
    WORDS,
    by_default,
    examples_for,
    raw_bytes,
    tiny_opt,
    toy_task,
)

from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.select import choose_engine
from tinyzo.engine.terms import Direction, Probe
from tinyzo.errors import CheckpointError, ConfigError, NumericError
from tinyzo.machine.cpus import default_threads
from tinyzo.models.model import Model
from tinyzo.models.trainable import train_only
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.text.packing import pack_candidates
from tinyzo.zo.mezo import mezo_step
from tinyzo.zo.objectives import Objective

onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not here")

from tinyzo.engine.onnx import runtime  # noqa: E402
from tinyzo.engine.onnx.engine import OnnxEngine  # noqa: E402
from tinyzo.engine.onnx.recorded import OnnxView, runs  # noqa: E402
from tinyzo.engine.onnx.runtime import KEPT  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
EPS = 1e-2
PAIR = [Probe(5, EPS), Probe(5, -EPS)]
IDS = [[2, 3, 4, 5]]


@pytest.fixture
def engine() -> OnnxEngine:
    return OnnxEngine(1)


def losses(model: Model, probes: list[Probe], rows: int = 4, loss: str = "classification"):
    objective = Objective(model, toy_task(model.family, loss))
    return objective(model.weights.view(probes), examples_for(model.family, rows))


# -- the same losses as NumPy's

TRAINED = ["full", "lora", "lora-fa", "prefix", "bias", "label-words", "*.layer*.0.*"]
QUERIES = {
    1: [Probe(5, EPS), Probe(5, -EPS)],
    2: [Probe(seed, sign * EPS) for seed in (0, 2**53 - 1) for sign in (1, -1)],
    4: [Probe(seed, sign * EPS) for seed in (0, 7, 2**53 - 1, 9) for sign in (1, -1)],
}
UNEVEN = {
    "an odd run": [Probe(5, EPS), Probe(5, -EPS), Probe(6, EPS)],
    "itself among others": [Probe(0, 0.0), Probe(5, EPS), Probe(6, EPS)],
    "one seed three times": [Probe(5, EPS), Probe(5, 0.0), Probe(5, -EPS)],
    "back again": [Probe(5, EPS), Probe(6, EPS), Probe(5, -EPS)],
}


EACH_ONCE = set(zip(cycle(MODELS), TRAINED, strict=False))


@pytest.mark.parametrize(("name", "train"), by_default(EACH_ONCE, product(MODELS, TRAINED)))
def test_losses_are_those_of_numpy(name, train, engine):
    """Of 1, 2 and 4 queries, and of probes whose seeds do not come in runs of one length."""
    ours, numpy = (MODELS[name](engine=each) for each in (engine, NumpyEngine()))
    kinds = ("classification",) if name == "roberta" else ("classification", "lm")
    for model in (ours, numpy):
        train_only(model, train, 3, 2, 4.0, ids=WORDS)
        model.weights.add([(7, 0.05)])  # so that no adapter is 0
    for loss, probes in product(kinds, [*QUERIES.values(), *UNEVEN.values()]):
        found, expected = (losses(model, probes, loss=loss) for model in (ours, numpy))
        assert found == pytest.approx(expected, rel=1e-5)
        assert len(set(expected)) > 1


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_directions_with_limits_are_those_of_numpy(dtype, kind, engine):
    found = []
    for each in (engine, NumpyEngine()):
        model = tiny_opt(dtype, each)
        limits = dict.fromkeys(model.weights.names()[::2], 0.1)
        model.weights.direction = Direction(kind, limits)
        found.append(losses(model, QUERIES[2]))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_parts_are_the_whole(most, engine):
    model = tiny_opt(engine=engine)
    view = model.weights.view(QUERIES[4])
    parts = view.parts(most)
    assert [probe for part in parts for probe in part.probes] == QUERIES[4]
    objective = Objective(model, toy_task("opt"))
    found = np.concatenate([objective(part, examples_for("opt")) for part in parts])
    assert found == pytest.approx(objective(view, examples_for("opt")), rel=1e-6)
    assert [part.probes for part in view.parts(8)] == [view.probes]


def test_candidates_see_the_prompt_they_share(engine):
    examples = examples_for("opt")
    batch = pack_candidates(examples)
    assert (batch.parents >= 0).any()
    ours, numpy = (tiny_opt(engine=each) for each in (engine, NumpyEngine()))
    found, expected = (model.nll(model.weights.view(PAIR), batch) for model in (ours, numpy))
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_seeds_that_follow_one_another_are_one():
    assert runs([5, 5, 6, 6]) == [5, 6]
    assert runs([5, 5, 6]) == [5, 5, 6]
    assert runs([5, 6, 5]) == [5, 6, 5]
    assert runs([0]) == [0]


# -- what is kept


def test_a_second_pass_adds_nothing_and_needs_no_session(engine, monkeypatch):
    model = tiny_opt(engine=engine)
    first = losses(model, PAIR)
    (graph,) = engine._recordings._made.values()
    nodes = dict(graph.nodes)
    monkeypatch.setattr(engine, "_new_session", lambda model: pytest.fail("a new session"))
    monkeypatch.setattr(graph, "part", lambda names: pytest.fail("a new program"))
    assert np.array_equal(losses(model, PAIR), first)
    losses(model, [Probe(8, EPS), Probe(8, -EPS)], rows=2)
    assert graph.nodes == nodes


def test_a_run_needs_few_sessions(engine, monkeypatch):
    """Steps and evaluations, of batches that differ, bounded or not."""
    made = []
    new = engine._new_session
    monkeypatch.setattr(engine, "_new_session", lambda model: [made.append(model), new(model)][1])
    model = tiny_opt(engine=engine)
    bounded = BoundedLoss(Objective(model, toy_task("opt")), 40)
    for step, rows in enumerate((4, 3, 6, 2)):
        mezo_step(model.weights, bounded, examples_for("opt", rows), step, 1e-3, 1e-2)
        bounded(model.weights.view(), examples_for("opt", rows))
    print(f"{len(made)} sessions")
    assert len(made) <= 4


def test_no_more_than_a_few_are_kept_and_one_that_is_gone_comes_back(engine):
    model = tiny_opt(engine=engine)
    first = losses(model, PAIR)
    for count in range(1, KEPT + 3):
        losses(model, [Probe(seed, EPS) for seed in range(count)])
    assert len(engine._sessions) == len(engine._recordings) == KEPT
    assert np.array_equal(losses(model, PAIR), first)


def test_models_of_the_same_shape_share_a_session_and_no_weights(engine):
    one, other = (tiny_opt(engine=engine) for _ in range(2))
    other.weights.add([(1, 0.5)])
    found = [losses(model, PAIR) for model in (one, other)]
    assert len(engine._sessions) == 1
    assert not np.allclose(*found)


def test_a_fold_is_seen_by_the_next_pass(engine):
    model, numpy = tiny_opt(engine=engine), tiny_opt(engine=NumpyEngine())
    for each in (model, numpy):
        losses(each, PAIR)
        each.weights.add([(1, 0.1)])
    assert losses(model, PAIR) == pytest.approx(losses(numpy, PAIR), rel=1e-5)
    assert raw_bytes(model.weights) == raw_bytes(numpy.weights)


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_what_is_pending_is_seen_by_the_next_pass(dtype, engine):
    """As float32, though what is stored may be of 16 bits."""
    model, numpy = (tiny_opt(dtype, each) for each in (engine, NumpyEngine()))
    for each in (model, numpy):
        losses(each, PAIR)
        each.weights.add([(1, 0.1)], fold=False)
    assert losses(model, PAIR) == pytest.approx(losses(numpy, PAIR), rel=1e-5)
    assert model.weights.pending


def test_what_is_trained_may_change_between_passes(engine):
    model = tiny_opt(engine=engine)
    everything = losses(model, PAIR)
    train_only(model, "lora", 3, 2, 4.0)
    model.weights.add([(7, 0.05)])
    numpy = tiny_opt(engine=NumpyEngine())
    train_only(numpy, "lora", 3, 2, 4.0)
    numpy.weights.add([(7, 0.05)])
    found = losses(model, PAIR)
    assert found == pytest.approx(losses(numpy, PAIR), rel=1e-5)
    assert not np.allclose(found, everything)


def test_a_pass_keeps_no_weights(engine):
    model = tiny_opt(engine=engine)
    losses(model, PAIR)
    gone = weakref.ref(model.weights.stored("model.decoder.layers.0.fc1.weight"))
    del model
    gc.collect()
    assert gone() is None


# -- threads, forks, signals


def test_threads_are_those_that_are_asked_for():
    assert OnnxEngine(3).threads == 3
    assert OnnxEngine().threads == choose_engine("onnx").threads == default_threads()


@pytest.mark.exhaustive
def test_losses_are_the_same_for_any_number_of_threads():
    """Of a width at which the runtime shares a product among its threads."""
    found = []
    for threads in (1, 2, 4):
        model = tiny_opt(engine=OnnxEngine(threads), hidden_size=256, ffn_dim=1024)
        found.append(losses(model, QUERIES[2], rows=16))
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)
    again = tiny_opt(engine=OnnxEngine(2), hidden_size=256, ffn_dim=1024)
    assert np.array_equal(losses(again, QUERIES[2], rows=16), found[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_no_session_is_there_at_a_fork():
    engine = OnnxEngine(2)
    model = tiny_opt(engine=engine)
    expected = losses(model, PAIR)
    assert len(engine._sessions) == 1
    assert in_a_child(lambda: len(engine._sessions) == 0)
    assert in_a_child(lambda: np.array_equal(losses(model, PAIR), expected))
    assert np.array_equal(losses(model, PAIR), expected)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timers")
def test_a_signal_ends_a_pass_and_nothing_is_lost(engine):
    sizes = {"hidden_size": 256, "ffn_dim": 1024}
    model, numpy = (tiny_opt(engine=each, **sizes) for each in (engine, NumpyEngine()))
    probes = [Probe(seed, EPS) for seed in range(16)]
    before = raw_bytes(model.weights)
    losses(model, probes, rows=1)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    heard = signal.signal(signal.SIGALRM, stop)
    is_ended = False
    try:
        while not is_ended:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                losses(model, probes, rows=1)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                is_ended = True
    finally:
        signal.signal(signal.SIGALRM, heard)
    assert raw_bytes(model.weights) == before
    found, expected = (losses(each, probes[:2], rows=1) for each in (model, numpy))
    assert found == pytest.approx(expected, rel=1e-4)  # wide, with weights as large as narrow ones


def test_a_run_that_is_ended_ends_within_a_node(engine, monkeypatch):
    """The runtime is told, and is waited for: it reads memory that may change after that."""
    told = []

    class Options:
        terminate = False

        def add_run_config_entry(self, *_: str) -> None: ...

    class Session:
        def run_with_ort_values(self, names, feeds, options):
            begun.set()
            latest = time.monotonic() + 20
            while not options.terminate and time.monotonic() < latest:
                time.sleep(0.001)
            told.append(options.terminate)
            raise RuntimeError("Exiting due to terminate flag being set to true.")

    def stop() -> None:
        begun.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    begun = threading.Event()
    model = tiny_opt(engine=engine)
    monkeypatch.setattr(engine, "_new_session", lambda model: Session())
    monkeypatch.setattr(onnxruntime, "RunOptions", Options)
    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        losses(model, PAIR)
    thread.join()
    assert told == [True]


def test_passes_of_threads_are_those_of_one(engine):
    models = [tiny_opt(engine=engine) for _ in range(3)]
    for at, model in enumerate(models):
        model.weights.add([(at, 0.1)])
    expected = [losses(model, QUERIES[2]) for model in models]
    works = [lambda model=model: losses(model, QUERIES[2]) for model in models]
    assert np.array_equal(together(*works), expected)


# -- numbers that are none


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_a_loss_that_is_no_number_is_refused_as_with_numpy(value, engine):
    said = []
    for each in (engine, NumpyEngine()):
        model = tiny_opt(engine=each)
        model.weights.stored("model.decoder.layers.0.fc2.weight")[...] = value
        model.weights.stored("model.decoder.final_layer_norm.weight")[0] = value
        with np.errstate(all="ignore"), pytest.raises(NumericError) as error:
            loss = Objective(model, toy_task("opt"))
            mezo_step(model.weights, loss, examples_for("opt"), 1, 1e-3, 1e-2)
        said.append(str(error.value).split("\n")[-1])
    assert said[0] == said[1]


# -- files


def adapted(model: Model) -> Model:
    train_only(model, "lora", 3, 2, 4.0)
    return model


def test_a_file_that_changes_is_seen_before_the_next_pass(tmp_path, engine):
    model = adapted(streamed(tiny_opt(engine=engine), tmp_path / "w"))
    losses(model, PAIR)
    with open(tmp_path / "w", "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    os.utime(tmp_path / "w", ns=(1, 1))
    with pytest.raises(CheckpointError, match="it has changed since it was opened"):
        losses(model, PAIR)


def test_a_file_that_is_cut_off_is_seen_before_the_next_pass(tmp_path, engine):
    model = adapted(streamed(tiny_opt(engine=engine), tmp_path / "w"))
    losses(model, PAIR)
    os.truncate(tmp_path / "w", 2500)
    with pytest.raises(CheckpointError, match="it has changed since it was opened"):
        losses(model, PAIR)


def test_a_store_that_is_closed_gives_its_file_back(tmp_path, engine):
    """And its pages: Windows does not delete a file that is mapped."""
    model = adapted(streamed(tiny_opt(engine=engine), tmp_path / "w"))
    losses(model, PAIR)
    base = model.weights.store.base
    (file,) = {place.file for place in base._source._tensors.values()}
    pages = weakref.ref(file.pages)
    base.close()
    assert file.closed and pages() is None
    (tmp_path / "w").unlink()
    with pytest.raises(CheckpointError, match="it is closed"):
        losses(model, PAIR)


# -- what the runtime says


def refusing(error: Exception):
    """A session that raises."""

    def run(*_: object) -> None:
        raise error

    return type("Session", (), {"run_with_ort_values": run})()


def test_a_graph_that_the_runtime_refuses(engine, monkeypatch):
    model = tiny_opt(engine=engine)
    monkeypatch.setattr(
        OnnxView, "relu", lambda view, x: view.graph.op("NoSuchOperator", x, shape=x.shape)
    )
    message = r"ONNX Runtime \d.* refuses a pass: .*NoSuchOperator.*\n.*take --engine numpy"
    with pytest.raises(ConfigError, match=message):
        losses(model, PAIR)
    monkeypatch.undo()
    assert len(losses(tiny_opt(engine=engine), PAIR)) == 2


@pytest.mark.parametrize("said", ["std::bad_alloc", "Failed to allocate memory for 8 bytes"])
def test_a_pass_without_memory(engine, monkeypatch, said):
    monkeypatch.setattr(engine, "_new_session", lambda model: refusing(RuntimeError(said)))
    with pytest.raises(MemoryError, match=said):
        losses(tiny_opt(engine=engine), PAIR)


def test_the_runtime_writes_nothing(capfd, engine, monkeypatch):
    """Neither what it warns of nor what it also raises."""
    model = tiny_opt(engine=engine)
    losses(model, PAIR)
    wrong = MODELS["opt"](engine=engine)
    ids = np.array([10**6])  # which only the runtime sees
    with pytest.raises(ConfigError, match="refuses a pass"):
        np.asarray(wrong.weights.view().embed("model.decoder.embed_tokens.weight", ids))
    assert capfd.readouterr() == ("", "")


# -- a runtime that is not there, or that cannot be used


@starts_another
def test_a_runtime_that_is_missing():
    code = "import sys; sys.modules['onnxruntime'] = None; import tinyzo.engine.select as s"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; s.choose_engine('onnx')"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    why, hint = done.stderr.splitlines()[-2:]
    assert why.endswith("engine 'onnx' cannot be had here: ONNX Runtime is not installed")
    assert hint.startswith("  hint: pip install 'tinyzo[onnx]' (Termux: pkg install")
    assert hint.endswith("or take --engine numpy")


@pytest.mark.parametrize(("code", "said"), BREAKS.items())
def test_a_runtime_that_breaks_at_its_import(monkeypatch, tmp_path, code, said):
    break_package(monkeypatch, tmp_path, "onnxruntime", code)
    with pytest.raises(ConfigError) as error:
        OnnxEngine()
    assert error.value.message == f"engine 'onnx' cannot be had here ({said})"
    assert "pip install" in error.value.hint


@pytest.mark.parametrize("version", ["1.22.1", "1.4.0", "0.9", "1.22.0.dev3"])
def test_a_runtime_that_is_too_old(monkeypatch, version):
    monkeypatch.setattr(onnxruntime, "__version__", version)
    message = rf"ONNX Runtime {version} is older than 1\.23\n.*pip install"
    with pytest.raises(ConfigError, match=message):
        OnnxEngine()


def test_the_oldest_runtime_is_the_one_that_the_package_asks_for():
    least = ".".join(map(str, runtime.LEAST))
    assert f'onnx = ["onnxruntime>={least}"]' in (ROOT / "pyproject.toml").read_text()
