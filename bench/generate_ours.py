"""Our greedy generation on synthetic weights of a real model's shapes. Run by generate.py."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from ours import synthetic

from tinyzo.engine.numba.engine import shared_engine
from tinyzo.models.generate import stream
from tinyzo.models.model import MODELS, Model


class Stepper:
    """A model with random weights and prompts of random ids; `about` is what it says of itself."""

    def __init__(self, setup: dict[str, Any]) -> None:
        architecture = MODELS[setup["family"]]
        config = architecture.Config(**setup["config"])
        engine = shared_engine(setup["threads"])
        weights = synthetic(architecture.shapes(config), setup["dtype"], engine)
        self.model = Model(setup["family"], config, weights, Path())
        self.new = setup["new"]
        shape = (setup["batch_size"], setup["tokens"])
        self.prompts = np.random.RandomState(0).randint(3, config.vocab_size, shape).tolist()
        self.about = {"threads": engine.threads, "weight_bytes": weights.nbytes()}
        self.about["prompts"] = self.prompts
        self.step(0)  # warm-up

    def step(self, seed: int) -> dict[str, float]:
        """The seconds of one generation, and of its first tokens."""
        start = time.perf_counter()
        times = [time.perf_counter() for _ in stream(self.model, self.prompts, self.new)]
        assert len(times) == len(self.prompts) * self.new
        return {
            "seconds": times[-1] - start,
            "first_seconds": times[len(self.prompts) - 1] - start,
        }
