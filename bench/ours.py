"""Our MeZO step on synthetic weights of a real model's shapes, and the floor under its time.

The floor is the multiply-adds of all weight matmuls that the engine really does in a step,
counted once, at the rate of the best plain matmul there is here, on the shape that the step uses
most.
Run by step.py, in a process of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import common
import numpy as np

from tinyzo.dtypes import DTYPES, narrow
from tinyzo.engine.numba.engine import NumbaEngine, NumbaView, shared_engine
from tinyzo.engine.weights import Weights
from tinyzo.models.model import MODELS, Model
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.settings import RunSettings
from tinyzo.text.datasets import load_splits
from tinyzo.text.packing import batch_rows, packed_size
from tinyzo.text.tasks import BoundTask, Example, Task, get_task
from tinyzo.text.tokenizer import Tokenizer, load_tokenizer
from tinyzo.zo.mezo import mezo_step
from tinyzo.zo.objectives import Objective

EPS, LR, SPREAD = 1e-3, 1e-6, 0.02
WORDS = [100, 200]  # label words, or candidates, of random examples
Calls = Counter[tuple[int, int, int]]  # (M, K, N) of matmuls: how many


class Stepper:
    """A model with random weights and one batch; `about` is what it says of itself."""

    def __init__(self, setup: dict[str, Any]) -> None:
        architecture = MODELS[setup["family"]]
        config = architecture.Config(**setup["config"])
        self.engine = shared_engine(setup["threads"])
        self.weights = synthetic(architecture.shapes(config), setup["dtype"], self.engine)
        model = Model(setup["family"], config, self.weights, Path())
        make_batch = task_batch if setup["task"] else random_batch
        bound, self.examples = make_batch(setup, config)
        self.objective = BoundedLoss(Objective(model, bound), RunSettings.micro_batch_tokens)
        self.calls = self.count()
        self.flops = sum(2 * m * k * n * count for (m, k, n), count in self.calls.items())
        self.about = {
            "parameters": sum(int(np.prod(self.weights.shape(n))) for n in self.weights.names()),
            "weight_bytes": self.weights.nbytes(), "threads": self.engine.threads,
            "bf16_products": self.engine.bf16 and setup["dtype"] == "bf16", "flops": self.flops,
            "packed_tokens": sum(map(packed_size, self.examples)),
            "most_used_shape": self.calls.most_common(1)[0][0],
            "examples": [asdict(e) for e in self.examples], "words": bound.label_word_ids,
        }  # fmt: skip

    def step(self, seed: int) -> dict[str, float]:
        """One step: its loss, its seconds, and those of its matmuls at the rate found just now."""
        losses: list[float] = []
        seconds = common.timed(lambda: losses.append(self.mezo(seed)))
        return {"loss": losses[0], "seconds": seconds, "floor_seconds": self.floor()}

    def mezo(self, seed: int) -> float:
        return mezo_step(self.weights, self.objective, self.examples, seed, EPS, LR).loss

    def count(self) -> Calls:
        """The matmuls of a step, which is also the warm-up."""
        calls: Calls = Counter()
        multiply = NumbaView.multiply_rows

        def counting(view: NumbaView, name: str, x: np.ndarray, *rest: Any, **more: Any) -> Any:
            out = multiply(view, name, x, *rest, **more)
            calls[x.shape[1], x.shape[2], out.shape[2]] += len(out)
            return out

        with patch.object(NumbaView, "multiply_rows", counting):
            self.mezo(0)
        return calls

    def floor(self) -> float:
        """Seconds of the step's matmuls without z, were all as fast as the most used one.

        That is timed by the engine and by NumPy's BLAS, of which the faster counts.
        """
        m, k, n = self.calls.most_common(1)[0][0]
        name = next(name for name in self.weights.names() if self.weights.shape(name) == (n, k))
        theta, x = self.weights.view(), np.ones((1, m, k), np.float32)
        w, out = self.weights.read(name), np.empty((m, n), np.float32)

        def multiply() -> np.ndarray:
            return theta.multiply_rows(name, x, self.weights.store.blocks(name), n, bf16=True)

        calls = {"ours": multiply, "blas": lambda: np.matmul(x[0], w.T, out=out)}
        seconds = common.alternate(calls, common.QUICK)
        fastest = min(timing.median for timing in seconds.values())
        return self.flops * fastest / (2 * m * k * n)


def synthetic(shapes: Any, dtype: str, engine: NumbaEngine) -> Weights:
    """0.02 z in matrices, 1 in the weights of norms, 0 in biases; never wider than stored."""
    tensors = {name: np.zeros(shape, DTYPES[dtype]) for name, shape in shapes}
    weights = Weights(tensors, engine)
    weights.add([(1 << 32, SPREAD)])
    for name, vector in ((n, t) for n, t in tensors.items() if t.ndim == 1):
        value = np.full(1, name.endswith("weight"), np.float32)
        vector[:] = narrow(value, vector.dtype, None)
    return weights


def random_batch(setup: dict[str, Any], config: Any) -> tuple[BoundTask, list[Example]]:
    """Rows of random tokens, all of one length: a mask in the middle, or two candidates."""
    family, rows, tokens = setup["family"], setup["batch_size"], setup["tokens"]
    task = Task("random", family, "", ("a", "b"), ("a", "b"))
    bound = BoundTask(task, None, [], WORDS, config.max_length, 0)
    candidates = tuple((word,) for word in WORDS) if family == "opt" else ()
    mask_at = tokens // 2 if family == "roberta" else -1
    ids = np.random.default_rng(0).integers(5, 50_000, (rows, tokens)).tolist()
    return bound, [Example(tuple(row), candidates, mask_at, i % 2, "") for i, row in enumerate(ids)]


def task_batch(setup: dict[str, Any], config: Any) -> tuple[BoundTask, list[Example]]:
    """The first batch of a task's training file."""
    task = get_task(setup["task"], setup["family"])
    bound = task.bind(family_tokenizer(Path(setup["tokenizer"]), task.family), config.max_length)
    rows = load_splits(task, Path(setup["data"])).train
    chosen = batch_rows(0, len(rows), setup["batch_size"], data_seed=0)
    return bound, [bound.encode(rows[i]) for i in chosen]


def family_tokenizer(folder: Path, family: str) -> Tokenizer:
    """The folder's tokenizer for a family, whether or not a config.json there names it."""
    with TemporaryDirectory() as place:
        for file in (f for f in folder.resolve().iterdir() if f.name != "config.json"):
            (Path(place) / file.name).symlink_to(file)
        (Path(place) / "config.json").write_text(json.dumps({"model_type": family}))
        return load_tokenizer(Path(place))
