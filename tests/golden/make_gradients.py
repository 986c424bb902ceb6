"""Writes gradients.npz beside it: what PyTorch's autograd and optimisers make of seeded weights.

    PYTHONPATH=. python tests/golden/make_gradients.py    # torch 2, transformers 5, peft; not in CI

Losses without dropout, in float64, kept as float32: `<case>.<tensor>` is a gradient, `<case>.loss`
the loss. `adam.<tensor>` and `adamw.<tensor>` are the first case's tensors after three steps of
torch.optim.Adam and AdamW (decay on matrices only), less what they were. Two tensors of eps 1e-8
alone, `formula.*`, show the rule itself: there a gradient of rounding errors cannot be, which Adam
would divide by itself. `lora.<case>.<tensor>` and `lora.<case>.loss` are those of peft's adapters
on the same models. Written with torch 2.13.0, transformers 5.24.0 and peft 0.21.2.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from make_golden import build
from peft import LoraConfig, get_peft_model
from seeded import (
    ADAPTER_RANK,
    ADAPTER_SCALE,
    DECAY,
    GRADIENTS,
    LR,
    STEPS,
    WORDS,
    Case,
    adapted,
    lora_halves,
    prompts,
)

import tinyzo

EPS = 1e-2  # of Adam on a model


def masked_loss(model: torch.nn.Module) -> torch.Tensor:
    """RoBERTa: the cross-entropy of the label words' logits at the mask."""
    losses = []
    for ids, mask_at, _, label in prompts():
        scores = model(torch.tensor([ids])).logits[0, mask_at, WORDS]
        losses.append(torch.nn.functional.cross_entropy(scores, torch.tensor(label)))
    return torch.stack(losses).mean()


def log_p(model: torch.nn.Module, ids: list[int], candidate: list[int]) -> torch.Tensor:
    """log p of each token of a candidate after a prompt."""
    table = model(torch.tensor([ids + candidate])).logits[0].log_softmax(-1)
    places = torch.arange(len(ids) - 1, len(ids) - 1 + len(candidate))
    return table[places, candidate]


def candidates_loss(model: torch.nn.Module) -> torch.Tensor:
    """OPT: the cross-entropy of the candidates' mean log p."""
    losses = []
    for ids, _, candidates, label in prompts():
        scores = torch.stack([log_p(model, ids, c).mean() for c in candidates])
        losses.append(torch.nn.functional.cross_entropy(scores, torch.tensor(label)))
    return torch.stack(losses).mean()


def lm_loss(model: torch.nn.Module) -> torch.Tensor:
    """OPT: -mean log p over all tokens of the gold candidates."""
    return -torch.cat([log_p(model, ids, c[label]) for ids, _, c, label in prompts()]).mean()


LOSSES = dict(zip(GRADIENTS, (masked_loss, candidates_loss, lm_loss), strict=True))


def optimiser(kind: str, parameters: list[torch.nn.Parameter], eps: float) -> torch.optim.Optimizer:
    if kind == "adam":
        return torch.optim.Adam(parameters, LR, eps=eps)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, LR, eps=eps)


def steps(kind: str, name: str, case: Case) -> dict[str, np.ndarray]:
    """What three steps change."""
    model = build(case).double().eval()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    rule = optimiser(kind, list(model.parameters()), EPS)
    for _ in range(STEPS):
        rule.zero_grad()
        LOSSES[name](model).backward()
        rule.step()
    return {f"{kind}.{n}": (p - before[n]).detach().numpy() for n, p in model.named_parameters()}


def formula() -> dict[str, np.ndarray]:
    """AdamW on a matrix and a vector whose gradients are z(step)."""
    made = {}
    for name, shape in (("matrix", (4, 5)), ("vector", (7,))):
        w = torch.nn.Parameter(torch.from_numpy(tinyzo.noise(0, name, shape)).double())
        rule = optimiser("adamw", [w], 1e-8)
        for step in range(1, STEPS + 1):
            w.grad = torch.from_numpy(tinyzo.noise(step, name, shape)).double()
            rule.step()
        made[f"formula.{name}"] = w.detach().numpy()
    return made


def lora(name: str, case: Case) -> dict[str, np.ndarray]:
    """The loss and the gradients of both halves of each adapter."""
    base = build(case)
    shapes = {n: tuple(p.shape) for n, p in base.named_parameters()}
    targets = adapted(shapes)
    settings = LoraConfig(
        r=ADAPTER_RANK, lora_alpha=ADAPTER_SCALE * ADAPTER_RANK, target_modules=targets
    )
    model = get_peft_model(base, settings).double().eval()
    halves = {}
    for module in targets:
        layer = model.get_submodule(f"base_model.model.{module}")
        for half, values in lora_halves(module, shapes[f"{module}.weight"]).items():
            parameter = getattr(layer, f"lora_{half}")["default"].weight
            parameter.data.copy_(torch.from_numpy(values))
            halves[f"lora.{name}.{module}.lora_{half}.weight"] = parameter
    loss = LOSSES[name](model)
    loss.backward()
    gradients = {key: parameter.grad.numpy() for key, parameter in halves.items()}
    return gradients | {f"lora.{name}.loss": loss.detach().numpy()}


def main() -> None:
    torch.set_num_threads(1)
    kept = formula()
    for name, case in GRADIENTS.items():
        model = build(case).double().eval()
        loss = LOSSES[name](model)
        loss.backward()
        kept[f"{name}.loss"] = loss.detach().numpy()
        kept |= {f"{name}.{n}": p.grad.numpy() for n, p in model.named_parameters()}
        kept |= lora(name, case)
    first = next(iter(GRADIENTS.items()))
    kept |= steps("adam", *first) | steps("adamw", *first)
    path = Path(__file__).with_name("gradients.npz")
    np.savez_compressed(path, **{name: np.float32(values) for name, values in kept.items()})
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
