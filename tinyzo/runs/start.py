"""What a run begins with that no seed makes: the A of `--train lora-act`, from its first rows.

start.safetensors    the A of each adapter, f32; run.toml has its SHA-256

No two machines make the same singular vectors to the bit, so they are made once, before the first
step, and read wherever the run goes on or is replayed.
"""

import hashlib
from pathlib import Path

from tinyzo.checkpoints.safetensors import SafetensorsWriter
from tinyzo.checkpoints.sources import TensorInfo
from tinyzo.engine.weights import Weights
from tinyzo.errors import RunError
from tinyzo.models.activations import lead_by_inputs
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.runs.data import Data
from tinyzo.runs.settings import RunSettings
from tinyzo.system import os_errors
from tinyzo.text.packing import batch_rows, micro_batches

FILE = "start.safetensors"
LED = "lora-act"  # the value of --train that has such a start


def make_start(loss: BoundedLoss, data: Data, settings: RunSettings) -> None:
    """Set A by a forward pass over the rows of the first step, as far as a micro-batch has them."""
    rows = batch_rows(0, len(data.train), settings.batch_size, settings.data_seed)
    batch = [data.train[row] for row in rows]
    first = next(micro_batches(batch, loss.max_tokens))
    objective = loss.objective
    lead_by_inputs(objective.model.weights, lambda theta: objective.sums(theta, first))


def write_start(run: Path, weights: Weights) -> str:
    """Write the file into a run's directory; returns its SHA-256.

    raises: CheckpointError when it cannot be written
    """
    names = [name for name in weights.names() if ".lora_A." in name]
    infos = {name: TensorInfo("F32", weights.shape(name)) for name in names}
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


def _sha256(path: Path) -> str:
    hint = "restore it from a copy, or begin a new run"
    with os_errors(RunError, path, hint), open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
