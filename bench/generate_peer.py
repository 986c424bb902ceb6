"""The peer: greedy `generate` of transformers, with its cache. Run by generate.py."""

from __future__ import annotations

import time
from typing import Any

import torch
from peer import random_model
from transformers.generation import BaseStreamer


class Clock(BaseStreamer):
    """Notes when tokens come; the prompt comes first."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


class Stepper:
    """A model with random weights; `about` is what it says of itself."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.model = random_model(setup)
        self.model.generation_config.eos_token_id = None
        self.ids = torch.tensor(setup["prompts"])
        self.new = setup["new"]
        self.about = {"threads": torch.get_num_threads()}
        self.step(0)  # warm-up

    @torch.inference_mode()
    def step(self, seed: int) -> dict[str, float]:
        """The seconds of one generation; of the first tokens, where the batch is of one."""
        clock = Clock() if len(self.ids) == 1 else None  # it takes no more
        start = time.perf_counter()
        found = self.model.generate(
            self.ids,
            attention_mask=torch.ones_like(self.ids),
            do_sample=False,
            max_new_tokens=self.new,
            streamer=clock,
        )
        seconds = time.perf_counter() - start
        assert found.shape[1] == self.ids.shape[1] + self.new
        return {"seconds": seconds} | ({"first_seconds": clock.times[1] - start} if clock else {})
