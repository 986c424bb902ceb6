"""What a run begins with that no seed makes: A of `--train lora-act` and `lora-fit`, from its rows.

start.safetensors    the A of each adapter, f32; run.toml has its SHA-256

No two machines make the same singular vectors to the bit, so they are made once, before the first
step, and read wherever the run goes on or is replayed.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from tinyzo.checkpoints.safetensors import SafetensorsWriter
from tinyzo.checkpoints.sources import TensorInfo
from tinyzo.engine.numpy_engine import NumpyEngine, present
from tinyzo.engine.weights import Weights
from tinyzo.errors import RunError
from tinyzo.models.activations import Errors, Float64, lead_by_errors, lead_by_inputs
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.data import Data
from tinyzo.runs.settings import RunSettings
from tinyzo.system import os_errors
from tinyzo.text.packing import batch_rows, micro_batches
from tinyzo.text.tasks import Example

FILE = "start.safetensors"
LED = ("lora-act", "lora-fit")  # the values of --train that have such a start
ROWS = 128  # that lora-fit reads, each twice


def make_start(loss: BoundedLoss, data: Data, settings: RunSettings) -> None:
    """Set A by forward passes: lora-act by one, over the rows of the first step as far as a
    micro-batch has them; lora-fit by two, over ROWS rows."""
    objective = loss.objective
    weights = objective.model.weights
    count = settings.batch_size if settings.train == "lora-act" else ROWS
    rows = batch_rows(0, len(data.train), count, settings.data_seed)
    parts = micro_batches([data.train[row] for row in rows], loss.max_tokens)
    if settings.train == "lora-fit":
        lead_by_errors(weights, errors_of(loss, parts))
        return
    first = next(parts)
    lead_by_inputs(weights, lambda theta: objective.sums(theta, first))


def errors_of(loss: BoundedLoss, parts: Iterable[Sequence[Example]]) -> Iterator[Errors]:
    """How wrong the model is on each part."""
    objective = loss.objective
    theta = NumpyEngine().view(objective.model.weights, [])
    for part in parts:
        batch = objective.pack(part)
        forward = partial(objective.scores, batch=batch)
        scores = present(forward(theta), batch.counts)[0]
        yield Errors(forward, batch, errors(scores, batch.labels))


def errors(scores: Float64, labels: np.ndarray) -> Float64:
    """softmax(scores) less 1 at the label. scores: f64[B, C]"""
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return p


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
