"""One side of onnx.py: steps of an engine, or of an exported graph, that are asked for one by one.

In a process of its own, which imports no more than a run or an app does, so not common.py. A JSON
object that says what to open, and its answer; then a line in and a line out for each step.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

EPS, LR = 1e-3, 0.0  # so that every step is from the same theta
Setup = dict[str, Any]
Examples = list[dict[str, Any]]


class EngineStepper:
    """The estimate and update of a run on LoRA-FA, at most `most` probes in a view."""

    def __init__(self, setup: Setup) -> None:
        from tinyzo.models.model import open_model
        from tinyzo.models.trainable import train_only
        from tinyzo.runs.bounded import BoundedLoss
        from tinyzo.text.tasks import BoundTask, Task
        from tinyzo.zo.objectives import Objective

        model = open_model(setup["folder"])
        train_only(model, "lora-fa", 0, setup["rank"], setup["alpha"])
        model.settle(setup["engine"], setup["residency"], setup["threads"])
        task = Task("random", model.family, "", ("a", "b"), ("a", "b"))
        bound = BoundTask(task, None, [], setup["words"], model.config.max_length, 0)
        self.loss = BoundedLoss(Objective(model, bound), setup["micro_batch_tokens"])
        self.weights = model.weights
        self.about: dict[str, Any] = {}

    def step(self, examples: Examples, queries: int, most: int) -> list[float]:
        from tinyzo.text.tasks import Example
        from tinyzo.zo.estimators import zo_step

        batch = [
            Example(tuple(e["prompt"]), tuple(map(tuple, e["candidates"])), e["mask_at"],
                    e["label"], "") for e in examples
        ]  # fmt: skip
        loss = partial(self.losses, most)
        return list(zo_step(self.weights, loss, batch, range(1, queries + 1), EPS, LR).losses)

    def losses(self, most: int, theta: Any, batch: Any) -> Any:
        import numpy as np

        return np.concatenate([self.loss(part, batch) for part in theta.parts(most)])


class GraphStepper:
    """A step as an app takes it: the runtime, a folder that `tinyzo export` wrote, no tinyzo."""

    def __init__(self, setup: Setup) -> None:
        import numpy as np
        import onnxruntime
        from safetensors import safe_open

        self.folder = Path(setup["folder"])
        self.facts = json.loads((self.folder / "tinyzo.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = setup["threads"] or 0
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_mem_pattern = False
        start = time.perf_counter()
        self.session = onnxruntime.InferenceSession(
            self.folder / "step.onnx", options, providers=["CPUExecutionProvider"]
        )
        load_seconds = time.perf_counter() - start
        with safe_open(self.folder / "adapter" / "adapter_model.safetensors", "np") as file:
            trained = self.facts["trained"].items()
            self.trained = {name: file.get_tensor(where["key"]) for name, where in trained}
        self.scalars = {"lr": np.array(LR), "eps": np.array(EPS)}
        graphs = ("step.onnx", "eval.onnx")
        sizes = {name: (self.folder / name).stat().st_size for name in graphs}
        self.about = {"load_seconds": load_seconds, "graph_bytes": sizes}

    def step(self, examples: Examples, queries: int, most: int) -> list[float]:
        import numpy as np

        ids = np.array([example["prompt"] for example in examples], np.int64)
        mask_id = self.facts["mask_id"]
        if mask_id is not None:
            ids[ids == mask_id] = 5
            ids[np.arange(len(ids)), [example["mask_at"] for example in examples]] = mask_id
        batch = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "labels": np.array([example["label"] for example in examples], np.int64),
            "seeds": np.arange(1, queries + 1, dtype=np.int64),
        }
        losses, *_ = self.session.run(None, batch | self.scalars | self.trained)
        return losses.ravel().tolist()


def answer(found: dict[str, Any]) -> None:
    print(json.dumps(found), flush=True)


def opened(setup: Setup) -> EngineStepper | GraphStepper:
    """What takes the steps; the process ends where that is refused, with the reason as answer."""
    from tinyzo.errors import TinyzoError

    kind: Callable[[Setup], EngineStepper | GraphStepper]
    kind = GraphStepper if setup["engine"] == "graph" else EngineStepper
    try:
        return kind(setup)
    except TinyzoError as error:
        answer({"reason": str(error)})
        sys.exit()


def main() -> None:
    setup = json.loads(sys.stdin.readline())
    start = time.perf_counter()
    stepper = opened(setup)
    answer(stepper.about | {"open_seconds": time.perf_counter() - start})
    for line in sys.stdin:
        cpu, start = time.process_time(), time.perf_counter()
        losses = stepper.step(**json.loads(line))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        answer({"losses": losses, "seconds": seconds, "cpu": cpu})


if __name__ == "__main__":
    main()
