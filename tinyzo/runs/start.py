"""What a run begins with that no seed makes: A of `--train lora-act`, `lora-fit` and `head-fit`.

start.safetensors    the A of each adapter, f32; run.toml has its SHA-256

What a fit adds to the head is there from the first step on: before, the model is as it came.
No two machines make the same singular vectors to the bit, so they are made once, before the first
step, and read wherever the run goes on or is replayed.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyzo.batch import Batch
from tinyzo.checkpoints.safetensors import SafetensorsWriter
from tinyzo.checkpoints.sources import TensorInfo
from tinyzo.dtypes import Array
from tinyzo.engine.adapters import adapter
from tinyzo.engine.numpy_engine import present
from tinyzo.engine.protocols import View
from tinyzo.engine.weights import Weights
from tinyzo.errors import RunError
from tinyzo.models.activations import (
    Errors,
    Float64,
    errors,
    fitted_at_once,
    fitted_rows,
    lead_by_errors,
    lead_by_inputs,
    watch,
    widest,
)
from tinyzo.models.model import Model
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.data import Data
from tinyzo.runs.settings import RunSettings
from tinyzo.system import os_errors
from tinyzo.text.packing import batch_rows, micro_batches
from tinyzo.text.tasks import Example
from tinyzo.zo.objectives import Objective

FILE = "start.safetensors"
FITTED = ("lora-fit", "head-fit")  # the values of --train whose A foretells errors
LED = ("lora-act", *FITTED)  # those that have such a start
ROWS = 128  # that lora-fit and head-fit read, each twice


class Reading(NamedTuple):
    """What the model says of a batch. states: f32[.., D] that scored it; scores: f64[B, C]"""

    forward: Callable[[View], Float64]
    batch: Batch
    states: list[Array]
    scores: Float64


def make_start(loss: BoundedLoss, data: Data, settings: RunSettings) -> None:
    """Set A by forward passes: lora-act by one, over the rows of the first step as far as a
    micro-batch has them; lora-fit and head-fit by two, over ROWS rows."""
    objective = loss.objective
    weights = objective.model.weights
    rows = batch_rows(0, len(data.train), rows_read(settings), settings.data_seed)
    tokens = fitted_at_once(loss.max_tokens, widest(weights))
    parts = micro_batches([data.train[row] for row in rows], tokens)
    if settings.train == "lora-act":
        first = next(parts)
        lead_by_inputs(weights, lambda theta: objective.sums(theta, first))
        return
    readings = [read(objective, part) for part in parts]
    if settings.train == "head-fit":
        readings = fit_head(objective, readings)
    found = [Errors(r.forward, r.batch, errors(r.scores, r.batch.labels)) for r in readings]
    lead_by_errors(weights, found)


def read(objective: Objective, part: Sequence[Example]) -> Reading:
    """A forward pass over some rows."""
    model = objective.model
    batch = objective.pack(part)
    forward = partial(objective.scores, batch=batch)
    states: list[Array] = []

    def seen(name: str, x: Array) -> None:
        if name == model.architecture.TOKENS:
            states.append(x)

    scores = present(watch(model.weights, forward, seen), batch.counts)[0]
    return Reading(forward, batch, states, scores)


def fit_head(objective: Objective, readings: Sequence[Reading]) -> list[Reading]:
    """Add D to the rows of the label words, and to what was read with them.

    Of an adapter of the table, which `trainable.head_fit` made: B names the rows, A is D.
    """
    model = objective.model
    x = np.concatenate([state for r in readings for state in r.states]).astype(np.float64)
    scores = np.concatenate([r.scores for r in readings])
    labels = np.concatenate([r.batch.labels for r in readings])
    d = fitted_rows(x, scores, labels)
    a, b = adapter(model.architecture.TOKENS)
    tokens = [model.tokenizer.encode(word)[0] for word in objective.bound.task.fixed_words]
    model.weights.stored(a)[...] = model.weights.stored(b)[tokens].T @ d
    return [r._replace(scores=r.scores + np.concatenate(r.states) @ d.T) for r in readings]


def rows_read(settings: RunSettings) -> int:
    """At most."""
    return settings.batch_size if settings.train == "lora-act" else ROWS


def passes_before(settings: RunSettings, rows: int) -> int:
    """The forward passes of batch_size rows that a run costs before its first step.

    rows: of the training split
    """
    if settings.train == "lora-act":
        return 1
    return 2 * -(-min(ROWS, rows) // settings.batch_size) if settings.train in LED else 0


@contextmanager
def as_it_came(model: Model) -> Iterator[None]:
    """Meanwhile, a model before its first step has nothing that the fit added to its head."""
    weights = model.weights
    a, _ = adapter(model.architecture.TOKENS)
    if a not in weights or a in weights.trained:
        yield
        return
    rows = weights.stored(a)
    fitted = rows.copy()
    rows[...] = 0
    try:
        yield
    finally:
        rows[...] = fitted


def write_start(run: Path, weights: Weights) -> str:
    """Write the file into a run's directory; returns its SHA-256.

    raises: CheckpointError when it cannot be written
    """
    infos = {name: TensorInfo("F32", weights.shape(name)) for name in led(weights)}
    with SafetensorsWriter(run / FILE, infos) as writer:
        for name in writer.names():
            writer.write(name, weights.stored(name))
    return _sha256(run / FILE)


def read_start(run: Path, sha256: object, weights: Weights) -> None:
    """Go on with what the file has.

    weights: still in their file, with new adapters
    raises: RunError when it is gone, or another than the run began with
    """
    if _sha256(run / FILE) != sha256:
        found = f"{run / FILE} is not the one that the run began with"
        raise RunError(found, "restore it from a copy, or begin a new run")
    weights.move(run / FILE)


def led(weights: Weights) -> list[str]:
    """The names of what no seed makes, in order."""
    return sorted(name for name in weights.names() if ".lora_A." in name)


def factors_of(weights: Weights) -> list[np.ndarray]:
    """A of each adapter, in the order of their names: f32[r, in]."""
    return [weights.stored(name) for name in led(weights)]


def _sha256(path: Path) -> str:
    hint = "restore it from a copy, or begin a new run"
    with os_errors(RunError, path, hint), open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
