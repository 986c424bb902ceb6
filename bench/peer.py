"""The peer: a MeZO step in PyTorch as Malladi et al. (2023) publish it, timed by phase.

The weights are walked to theta + eps z, theta - eps z and back, each time with z drawn anew by
a generator that is set to the step's seed; then updated. Sequences are padded, with a mask.
RoBERTa's head is computed at the masks only; OPT gives all logits, one sequence a candidate.
Run by step.py, in a process of its own.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
from torch.nn.functional import cross_entropy

EPS, LR, PAD = 1e-3, 1e-6, 1
CLASSES = {
    "roberta": (transformers.RobertaConfig, transformers.RobertaForMaskedLM),
    "opt": (transformers.OPTConfig, transformers.OPTForCausalLM),
}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def random_model(setup: dict[str, Any]) -> Any:
    """A model with random weights, of the setup's family, sizes and dtype, on its threads."""
    if setup["threads"]:
        torch.set_num_threads(setup["threads"])
    config, model = CLASSES[setup["family"]]
    torch.set_default_dtype(DTYPES[setup["dtype"]])
    made = model(config(**setup["config"])).eval()
    torch.set_default_dtype(torch.float32)
    return made


class Stepper:
    """A model with random weights and one batch; `about` is what it says of itself."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.model = random_model(setup)
        self.parameters = list(self.model.parameters())
        losses = {"roberta": MaskLoss, "opt": CandidateLoss}
        self.loss = losses[setup["family"]](self.model, setup)
        rows, longest = self.loss.ids.shape
        self.about = {
            "parameters": sum(p.numel() for p in self.parameters),
            "threads": torch.get_num_threads(), "sequences": rows, "padded_to": longest,
        }  # fmt: skip
        self.step(0)  # warm-up

    @torch.no_grad()
    def step(self, seed: int) -> dict[str, float]:
        """One step: its loss, its seconds, and those of its phases."""
        marks = [time.perf_counter()]
        self.walk(seed, 1)
        marks.append(time.perf_counter())
        plus = self.loss()
        marks.append(time.perf_counter())
        self.walk(seed, -2)
        marks.append(time.perf_counter())
        minus = self.loss()
        marks.append(time.perf_counter())
        self.walk(seed, 1)
        self.update(seed, (plus - minus) / (2 * EPS))
        marks.append(time.perf_counter())
        first, forward_1, second, forward_2, third = (marks[i + 1] - marks[i] for i in range(5))
        return {
            "loss": (plus + minus) / 2, "seconds": marks[-1] - marks[0],
            "noise_seconds": first + second + third, "forward_seconds": forward_1 + forward_2,
        }  # fmt: skip

    def walk(self, seed: int, steps: float) -> None:
        """theta <- theta + steps z eps"""
        torch.manual_seed(seed)
        for p in self.parameters:
            z = torch.normal(mean=0, std=1, size=p.size(), dtype=p.dtype)
            p.data = p.data + steps * z * EPS

    def update(self, seed: int, projected_gradient: float) -> None:
        """theta <- theta - lr g z"""
        torch.manual_seed(seed)
        for p in self.parameters:
            z = torch.normal(mean=0, std=1, size=p.size(), dtype=p.dtype)
            p.data = p.data - LR * (projected_gradient * z)


def pad(sequences: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids, padded at the right to the longest, and the mask: i64[B, T] each."""
    longest = max(map(len, sequences))
    ids = torch.tensor([s + [PAD] * (longest - len(s)) for s in sequences])
    return ids, torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])


class MaskLoss:
    """RoBERTa: cross-entropy of the label words' logits at the masks."""

    def __init__(self, model: Any, setup: dict[str, Any]) -> None:
        examples = setup["examples"]
        self.model, self.words = model, setup["words"]
        self.ids, self.mask = pad([e["prompt"] for e in examples])
        self.places = torch.arange(len(examples)), torch.tensor([e["mask_at"] for e in examples])
        self.labels = torch.tensor([e["label"] for e in examples])

    @torch.inference_mode()
    def __call__(self) -> float:
        h = self.model.roberta(self.ids, attention_mask=self.mask).last_hidden_state
        logits = self.model.lm_head(h[self.places])[:, self.words]
        return cross_entropy(logits.float(), self.labels).item()


class CandidateLoss:
    """OPT: cross-entropy of the candidates' mean log p; without candidates, of the last token."""

    def __init__(self, model: Any, setup: dict[str, Any]) -> None:
        self.model, examples = model, setup["examples"]
        if setup["task"]:
            self.labels = torch.tensor([e["label"] for e in examples])
            pairs = [(e["prompt"], c) for e in examples for c in e["candidates"]]
        else:
            self.labels = None
            pairs = [(e["prompt"][:-1], e["prompt"][-1:]) for e in examples]
        self.ids, self.mask = pad([prompt + candidate for prompt, candidate in pairs])
        self.spans = [(len(p), len(p) + len(c)) for p, c in pairs]

    @torch.inference_mode()
    def __call__(self) -> float:
        logits = self.model(input_ids=self.ids, attention_mask=self.mask).logits
        means = []
        for row, target, (start, stop) in zip(logits, self.ids, self.spans, strict=True):
            log_p = row[start - 1 : stop - 1].float().log_softmax(-1)
            means.append(log_p.gather(1, target[start:stop, None]).mean())
        scores = torch.stack(means)
        if self.labels is None:
            return -scores.mean().item()
        return cross_entropy(scores.view(len(self.labels), -1), self.labels).item()
