"""Many fine-tunes at once: in processes that were forked or spawned, and in threads."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from multiprocessing import get_all_start_methods
from pathlib import Path

import pytest
from folders import ROOT, write_model, write_reviews
from sharing import LONGEST, together
from tiny import ENGINES

import tinyzo

engines = pytest.mark.parametrize("engine", ENGINES)
residencies = pytest.mark.parametrize("residency", ["streamed", "resident"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "model")
    write_reviews(tmp_path / "data")
    return tmp_path


SWEEPS = [
    ("fork", "streamed", "numpy"),
    ("fork", "streamed", "numba"),
    ("spawn", "streamed", "numpy"),
    pytest.param("fork", "resident", "numba", marks=pytest.mark.exhaustive),
    pytest.param("spawn", "streamed", "numba", marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize(("method", "residency", "engine"), SWEEPS)
def test_a_sweep_by_processes_gives_the_journals_of_one(folder, method, residency, engine):
    """Nothing is heard of threads that a fork would have met, and nothing hangs."""
    if engine not in ENGINES:
        pytest.skip("the fast engine needs Numba")
    if method not in get_all_start_methods():
        pytest.skip(f"the system has no {method}")
    program = ROOT / "tests" / "sweep.py"
    sweep = subprocess.run(
        [sys.executable, "-W", "always", program, method, engine, residency, folder],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=2 * LONGEST, check=False,
    )  # fmt: skip
    assert (sweep.returncode, sweep.stdout) == (0, "2 True\n"), sweep.stderr
    assert "multi-threaded" not in sweep.stderr  # from Python 3.12 on


@engines
@residencies
def test_fine_tunes_in_threads_give_the_journals_of_one(folder, engine, residency):
    if (engine, residency) == ("onnx", "streamed"):
        pytest.skip("ONNX Runtime does not train what is in its file")

    def tune(name: str, lr: float) -> bytes:
        run = tinyzo.finetune(
            folder / name, model=folder / "model", data=folder / "data", task="reviews",
            steps=4, batch_size=4, eval_every=2, lr=lr, engine=engine, residency=residency,
        )  # fmt: skip
        return run.journal_path.read_bytes()

    expected = [tune("a", 1e-3), tune("b", 1e-4), tune("c", 1e-5)]
    rates = {"d": 1e-3, "e": 1e-4, "f": 1e-5}
    assert together(*(partial(tune, *each) for each in rates.items())) == expected


@engines
@residencies
def test_calls_of_the_api_in_threads_give_the_results_of_one(folder, engine, residency):
    model = tinyzo.load(folder / "model", engine=engine, residency=residency)
    task = {"template": "{text} It was <mask>.", "label_words": [" bad", " good"]}
    texts = ["No 1, 1", "Yes", "No, No, No, No, No"]
    rows = folder / "rows.jsonl"
    rows.write_text("".join(f'{{"text": "No {n}", "label": {n % 2}}}\n' for n in range(9)))
    calls = [
        lambda: tinyzo.predict(model, texts, **task),
        lambda: tinyzo.predict(model, texts[:1], **task),
        lambda: tinyzo.evaluate(model, data=rows, **task),
        lambda: model.logits([[0, 9, 2]])[0].tobytes(),
    ]
    expected = [call() for call in calls]
    unused = tinyzo.load(folder / "model", engine=engine, residency=residency)
    assert together(*calls) == expected
    assert together(*[lambda: unused.tokenizer] * 4) == [unused.tokenizer] * 4
