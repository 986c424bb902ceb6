"""A model in several threads, and in forked children: the bits of one thread, or an error."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import folders
import numpy as np
import pytest
from sharing import LONGEST, in_a_child, together
from streams import small_tiles, streamed  # noqa: F401 (small_tiles: used by all)
from tiny import ENGINES, MODELS, examples_for, raw_bytes, toy_task

from tinyzo.checkpoints.sources import Source
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.errors import UsageError
from tinyzo.models.model import Model
from tinyzo.models.trainable import train_only
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.evaluate import evaluate, predict
from tinyzo.zo.mezo import mezo_step
from tinyzo.zo.objectives import Objective

engines = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
residencies = pytest.mark.parametrize("residency", ["resident", "streamed"])
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
TOKENS = "model.decoder.embed_tokens.weight"
SEQUENCES = [list(range(2, 2 + length)) for length in (3, 17, 1, 9)]
THREADS = 4


def make(
    engine: object, residency: str, path: Path, train: str = "full", name: str = "opt"
) -> Model:
    """A tiny model, of which some adapters may be trained that do something already."""
    model = streamed(MODELS[name](engine=engine), path)
    train_only(model, train, seed=1, rank=2, alpha=4)
    for own in () if train == "full" else model.weights.trained:
        half = model.weights.stored(own)
        half[...] = np.random.RandomState(5).standard_normal(half.shape) / 2
    if residency == "resident":
        model.weights.store = model.weights.store.load()
    return model


def trained(engine: object, residency: str) -> str:
    """What an engine can train of weights that are there: ONNX Runtime only reads a file."""
    return "lora" if (engine.name, residency) == ("onnx", "streamed") else "full"


def loss_of(model: Model) -> Objective:
    return Objective(model, toy_task(model.family))


def answers(model: Model, start: int = 0) -> list[bytes]:
    """The logits and the last states of sequences of different lengths, begun at some one."""
    return [
        ask([sequence])[0].tobytes()
        for sequence in islice(cycle(SEQUENCES), start, start + len(SEQUENCES))
        for ask in (model.logits, model.hidden)
    ]


# -- threads


@engines
@residencies
@pytest.mark.parametrize("train", ["full", "lora", "prefix"])
def test_threads_get_the_answers_of_one(tmp_path, engine, residency, train):
    model = make(engine, residency, tmp_path / "w", train)
    expected = [answers(model, i) for i in range(THREADS)]
    found = together(*(partial(answers, model, i) for i in range(THREADS)))
    assert found == expected


@engines
@residencies
@pytest.mark.parametrize("name", MODELS)
def test_tasks_in_threads_get_the_results_of_one(tmp_path, engine, residency, name):
    model = make(engine, residency, tmp_path / "w", name=name)
    bounded = BoundedLoss(loss_of(model), 40)
    examples = examples_for(model.family, 6)
    tasks: list[Callable[[], object]] = [
        lambda: evaluate(bounded, examples),
        lambda: [odds.tobytes() for odds in predict(bounded, examples[::-1])],
        lambda: bounded(model.weights.view(), examples).tobytes(),
        lambda: answers(model),
    ]
    expected = [task() for task in tasks]
    assert together(*tasks) == expected


@engines
def test_models_in_threads_share_an_engine(tmp_path, engine):
    models = [
        make(engine, residency, tmp_path / residency) for residency in ("streamed", "resident")
    ]
    expected = answers(models[0])
    assert together(*(partial(answers, model) for model in models * 2)) == [expected] * 4


@engines
@residencies
def test_predictions_beside_a_fine_tune_are_those_before_or_after_a_step(
    tmp_path, engine, residency
):
    """Never of weights of which some have moved and some have not."""
    what = trained(engine, residency)
    alone, shared = (make(engine, residency, tmp_path / each, what) for each in ("alone", "shared"))
    examples = examples_for("opt")

    def ask(model: Model) -> bytes:
        return model.logits([SEQUENCES[1]])[0].tobytes()

    def tune(model: Model) -> list[bytes]:
        seen = [ask(model)]
        for step in range(8):
            mezo_step(model.weights, loss_of(model), examples, step, 1e-3, 1e-2)
            seen.append(ask(model))
        done.set()
        return seen

    def serve() -> list[bytes]:
        seen = []
        while not done.is_set():
            seen.append(ask(shared))
        return seen

    done = threading.Event()
    expected = tune(alone)
    done.clear()
    tuned, *served = together(partial(tune, shared), serve, serve)
    assert tuned == expected and raw_bytes(shared.weights) == raw_bytes(alone.weights)
    assert all(set(seen) <= set(expected) for seen in served)


@pytest.mark.parametrize(
    ("step", "operate"),
    [
        ("store.read", lambda model: model.weights.read(TOKENS)),
        ("engine.fold", lambda model: model.weights.add([(1, 1e-2)])),
        ("engine.fold", lambda model: model.weights.fold()),
        ("store.blocks", lambda model: model.weights.write(lambda *_: None, [TOKENS])),
        ("store.move", lambda model: model.weights.move(Path("other"))),
        ("store.load", lambda model: model.settle("numpy", "resident")),
        ("store.gather", lambda model: model.logits(SEQUENCES)),
        ("store.gather", lambda model: model.hidden(SEQUENCES)),
        ("store.gather", lambda model: loss_of(model)(model.weights.view(), examples_for("opt"))),
    ],
)
def test_whoever_reads_or_changes_holds_the_lock(monkeypatch, step, operate):
    """Or an update that is folded, and still listed as pending, would count twice."""
    model, asked = MODELS["opt"](engine=NumpyEngine()), []
    weights = model.weights
    owner, name = step.split(".")
    original = getattr(getattr(weights, owner), name)
    weights.add([(1, 1e-2)], fold=False)

    def checking(*arguments: object, **named: object) -> object:
        asked.extend(together(lambda: weights.lock.acquire(blocking=False)))
        return original(*arguments, **named)

    monkeypatch.setattr(getattr(weights, owner), name, checking)
    operate(model)
    assert asked and not any(asked)


@engines
def test_losses_that_ask_another_model_do_not_wait_for_each_other(tmp_path, engine):
    """No code of a user's runs while a lock is held: two teachers of each other would hang."""
    models = [make(engine, "streamed", tmp_path / name, "lora") for name in ("a", "b")]
    both = threading.Barrier(2)

    def step(mine: Model, other: Model) -> object:
        def loss(theta: object, batch: list) -> np.ndarray:
            both.wait(LONGEST)
            losses = loss_of(mine)(theta, batch)
            both.wait(LONGEST)
            return losses * float(np.abs(other.logits([SEQUENCES[0]])[0]).mean())

        return mezo_step(mine.weights, loss, examples_for("opt"), 1, 1e-3, 1e-2)

    first, second = together(lambda: step(*models), lambda: step(*models[::-1]))
    assert first.losses and second.losses


@engines
def test_whoever_holds_the_lock_may_compute_and_the_others_wait(tmp_path, engine):
    model = make(engine, "streamed", tmp_path / "w")
    expected = answers(model)
    waiting = threading.Event()

    def other() -> list[bytes]:
        waiting.set()
        return answers(model)

    def holder() -> list[bytes]:
        with model.weights.lock:
            assert waiting.wait(LONGEST)
            assert len(list(model.weights.tiles(TOKENS))) > 3
            return answers(model)

    assert together(holder, other) == [expected] * 2


# -- passes that do not end as they should


def test_blocks_of_two_passes_at_once_are_refused(tmp_path):
    weights = make(ENGINES["numpy"], "streamed", tmp_path / "w").weights
    first, second = (weights.tiles(TOKENS) for _ in range(2))
    next(first)
    next(second)
    with pytest.raises(UsageError, match=r"embed_tokens.weight: another pass(?s:.*)weights.lock"):
        list(first)
    assert len(list(second)) > 3


def test_a_pass_that_is_left_half_way_harms_no_other(tmp_path):
    model = make(ENGINES["numpy"], "streamed", tmp_path / "w")
    expected = answers(model)
    blocks = model.weights.tiles(TOKENS)
    next(blocks)
    assert answers(model) == expected
    blocks.close()
    assert together(partial(answers, model)) == [expected]


@engines
def test_a_pass_that_fails_gives_the_lock_back(tmp_path, engine, monkeypatch):
    model = make(engine, "streamed", tmp_path / "w")
    expected = answers(model)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Source, "read_into", interrupted)
        patch.setattr(Source, "mapped", interrupted)
        answers(model)
    assert together(partial(answers, model)) == [expected]


def test_a_block_that_is_still_being_read_when_a_pass_is_interrupted(tmp_path, monkeypatch):
    """Its buffer belongs to the reader until it is done."""
    store = make(ENGINES["numpy"], "streamed", tmp_path / "w").weights.store

    def read() -> list[tuple[int, bytes]]:
        """All blocks, each when nothing more is being read."""
        return [
            (start, raw.tobytes())
            for start, raw in store.blocks(TOKENS)
            if store._reader.submit(int).result() == 0
        ]

    expected = read()
    read_into, submit, go_on = Source.read_into, store._reader.submit, threading.Event()

    def slow(self: Source, name: str, out: np.ndarray, start: int = 0) -> None:
        assert start != expected[1][0] or go_on.wait(LONGEST)
        read_into(self, name, out, start)

    def submitting(*task: object) -> object:
        asked = submit(*task)
        go_on.set()
        return asked

    class Interrupted:
        def result(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(Source, "read_into", slow)
    blocks = store.blocks(TOKENS)
    next(blocks)
    monkeypatch.setattr(store._reader, "submit", submitting)
    store._ahead = store._ahead._replace(reading=Interrupted())
    with pytest.raises(KeyboardInterrupt):
        next(blocks)
    assert read() == expected


# -- forks


@forks
@engines
@residencies
@pytest.mark.parametrize("train", ["full", "lora"])
def test_a_model_that_was_used_before_a_fork_works_after_it(tmp_path, engine, residency, train):
    model = make(engine, residency, tmp_path / "w", train)
    expected = answers(model)

    def is_sound() -> bool:
        return answers(model) == expected

    assert in_a_child(is_sound) and is_sound()
    assert in_a_child(lambda: is_sound() and in_a_child(is_sound))


@forks
@engines
@residencies
def test_a_fine_tune_goes_on_in_a_child_with_the_same_bits(tmp_path, engine, residency):
    model = make(engine, residency, tmp_path / "w", trained(engine, residency))
    examples = examples_for("opt")

    def tune() -> list:
        losses = [
            mezo_step(model.weights, loss_of(model), examples, n, 1e-3, 1e-2).losses
            for n in range(3)
        ]
        return [*losses, raw_bytes(model.weights)]

    tune()
    results = tmp_path / "results"
    assert in_a_child(lambda: bool(results.write_text(repr(tune()))))
    assert repr(tune()) == results.read_text()


@forks
@pytest.mark.parametrize("engine", ENGINES)
def test_a_fork_beside_passes_and_steps_of_other_threads(tmp_path, engine):
    """The child has theta of a whole step, though its thread is not there to end it."""
    program = folders.ROOT / "tests" / "fork_in_a_pass.py"
    tests = {"PYTHONPATH": os.pathsep.join([str(folders.ROOT), str(program.parent)])}
    child = subprocess.run(
        [sys.executable, "-W", "ignore", program, tmp_path, engine],
        env=os.environ | tests, capture_output=True, text=True, timeout=2 * LONGEST, check=True,
    )  # fmt: skip
    assert child.stdout == "8\n"
