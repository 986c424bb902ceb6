"""What derivatives are compared with: central differences of tiny.Float64View, and tiny models.

Float64View is extended by all that a gradient may go through: tensors that are not trained,
adapters, prefixes, LayerNorms without vectors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.compare import seeded_model
from golden.seeded import (
    ADAPTER_SCALE,
    GRADIENTS,
    WORDS,
    adapted,
    lora_halves,
    prompts,
)
from tiny import Float64View, by_default, examples_for, tiny_opt, tiny_roberta, toy_task

from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights
from tinyzo.models.model import Model
from tinyzo.runs.bounded import BoundedLoss
from tinyzo.text.tasks import Example
from tinyzo.zo.objectives import Objective

GOLDEN = Path(__file__).parents[1] / "golden" / "gradients.npz"
H = 1e-6  # the step of a difference: small, so that few cross a kink of relu
POST = {"do_layer_norm_before": False, "word_embed_proj_dim": 6}
CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "roberta": (tiny_roberta, {"num_hidden_layers": 2, "type_vocab_size": 2}),
    "opt": (tiny_opt, {"num_hidden_layers": 2}),
    "opt-post": (tiny_opt, {"num_hidden_layers": 2, **POST}),
    "opt-gelu": (tiny_opt, {"activation_function": "gelu"}),
    "opt-bare": (tiny_opt, {"enable_bias": False, "layer_norm_elementwise_affine": False}),
    "opt-no-final": (tiny_opt, {"_remove_final_layer_norm": True}),
}
CASES = [
    (name, loss)
    for name in CONFIGS
    for loss in ("classification", "lm", "one token")
    if name != "roberta" or loss == "classification"
]


FEW = {("roberta", "classification"), ("opt", "lm")}  # each architecture
CORE = FEW | {  # each model and each loss once
    ("opt-post", "classification"),
    ("opt-gelu", "one token"),
    ("opt-bare", "lm"),
}


def cases(chosen: set[tuple[str, str]]) -> pytest.MarkDecorator:
    """These by default, and the others in the exhaustive tests."""
    return pytest.mark.parametrize(("name", "loss"), by_default(chosen, CASES))


core_cases, few_cases = cases(CORE), cases(FEW)


def tiny_model(name: str, dtype: str = "f32") -> Model:
    make, config = CONFIGS[name]
    return make(dtype, **config)


def task_of(model: Model, loss: str, max_tokens: int = 4096) -> tuple[BoundedLoss, list[Example]]:
    """An objective and examples for it. "one token": no sum over the vocabulary."""
    examples = examples_for(model.family, 5)
    if loss == "one token":
        ragged = [((5,), (9,)), ((9,), (5,)), ((3,), (4,), (28,))]
        examples = [Example((2, 7 + i, 11), c, -1, i % 2, "") for i, c in enumerate(ragged)]
    loss = "lm" if loss == "lm" else "classification"
    return BoundedLoss(Objective(model, toy_task(model.family, loss)), max_tokens), examples


def add_tensors(model: Model, shapes: dict[str, tuple[int, ...]], scale: float = 1.0) -> None:
    """Give a model more tensors, random ones, and train them alone."""
    random, tensors = np.random.RandomState(8), dict(model.weights.store.tensors)
    more = {n: 0.3 * random.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    model.weights = Weights({**tensors, **more}, model.weights.engine)
    model.weights.trained, model.weights.adapter_scale = dict.fromkeys(more), scale


def attention_parts(model: Model) -> list[tuple[str, ...]]:
    """Of each layer: its attention, and two of its linears."""
    layer, parts = "model.decoder.layers", ("self_attn", "self_attn.q_proj", "fc2")
    if model.family == "roberta":
        layer, parts = (
            "roberta.encoder.layer",
            ("attention.self", "attention.self.query", "output.dense"),
        )
    layers = range(model.config.num_hidden_layers)
    return [tuple(f"{layer}.{i}.{part}" for part in parts) for i in layers]


def add_adapters(model: Model, rank: int = 3) -> None:
    """LoRA on the tied table and on two linears of each layer."""
    table, shapes = model.weights.names()[0].removesuffix(".weight"), {}
    for module in (table, *(part for parts in attention_parts(model) for part in parts[1:])):
        out, width = model.weights.shape(f"{module}.weight")
        shapes[f"{module}.lora_A.weight"] = rank, width
        shapes[f"{module}.lora_B.weight"] = out, rank
    add_tensors(model, shapes, scale=2.0)


def add_prefixes(model: Model, length: int = 2) -> None:
    shape, names = (length, model.config.hidden_size), [n for n, *_ in attention_parts(model)]
    add_tensors(model, {f"{n}.prefix.{part}": shape for n in names for part in ("key", "value")})


def add_golden_adapters(model: Model) -> None:
    """The adapters of golden/make_gradients.py."""
    own = {}
    for module in adapted(model.weights.names()):
        shape = model.weights.shape(f"{module}.weight")
        own |= {f"{module}.lora_{half}.weight": w for half, w in lora_halves(module, shape).items()}
    model.weights = Weights(dict(model.weights.store.tensors) | own, model.weights.engine)
    model.weights.trained = dict.fromkeys(own)
    model.weights.adapter_scale = ADAPTER_SCALE


class Adapted(dict):
    """Tensors by name, f64[P, ...], with W + s B A in place of a W that has an adapter."""

    scale = 1.0

    def __getitem__(self, name: str) -> np.ndarray:
        a, b = (self.get(f"{name.removesuffix('.weight')}.lora_{part}.weight") for part in "AB")
        return self.get(name) if b is None else self.get(name) + self.scale * b @ a


class Exact(Float64View):
    """theta: name -> f64[P, ...], where it is trained, or else f64[1, ...]."""

    def __init__(self, weights: Weights, probes: Sequence[Probe]) -> None:
        super().__init__(weights, list(probes))
        self.theta = Adapted(self.theta)
        self.theta.scale = weights.adapter_scale

    @staticmethod
    def _perturbed(weights: Weights, name: str, probes: Sequence[Probe]) -> np.ndarray:
        used = probes if name in weights.trained and probes else [Probe(0, 0.0)]
        return Float64View._perturbed(weights, name, used)

    def norm(self, name, x, ln_eps) -> np.ndarray:
        if f"{name}.weight" in self.theta:
            return super().norm(name, x, ln_eps)
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + ln_eps)

    def attention(self, name, q, k, v, batch, causal, rows=None) -> np.ndarray:
        """With the prefix as keys that are not normalised with the others, but added to them."""
        if f"{name}.prefix.key" not in self.theta:
            return super().attention(name, q, k, v, batch, causal, rows)
        parts = (self.theta[f"{name}.prefix.{part}"] for part in ("key", "value"))
        more_k, more_v = (p.reshape(*p.shape[:2], *k.shape[2:]) for p in parts)
        segment = np.repeat(np.arange(len(batch.parents)), np.diff(batch.starts))
        seen = (segment[:, None] == segment) | (batch.parents[segment][:, None] == segment)
        if causal:
            seen &= batch.positions[:, None] >= batch.positions
        seen, root = seen if rows is None else seen[rows], math.sqrt(q.shape[-1])
        weight = np.where(seen, np.exp(np.einsum("pqhk,pnhk->phqn", *self._match(q, k)) / root), 0)
        more = np.exp(np.einsum("pqhk,pnhk->phqn", *self._match(q, more_k)) / root)
        total = weight.sum(-1, keepdims=True) + more.sum(-1, keepdims=True)
        sums = (
            np.einsum("phqn,pnhk->pqhk", *self._match(each / total, values))
            for each, values in ((weight, v), (more, more_v))
        )
        return sum(sums)


def exact_derivatives(loss: BoundedLoss, probes: Sequence[Probe], examples) -> np.ndarray:
    """d/dt of the loss at theta + t scale z, for each probe: f64[k]."""
    pairs = [Probe(p.seed, sign * H * p.scale) for p in probes for sign in (1, -1)]
    losses = loss(Exact(loss.objective.model.weights, pairs), examples)
    losses = np.broadcast_to(losses, len(pairs))  # one, where no tensor is trained
    return (losses[::2] - losses[1::2]) / (2 * H)


def exact_loss(loss: BoundedLoss, examples) -> float:
    return loss(Exact(loss.objective.model.weights, []), examples)[0]


def exact_gradient(loss: BoundedLoss, name: str, examples) -> np.ndarray:
    """The derivative by each element of one tensor: f64 of its shape."""
    theta = Exact(loss.objective.model.weights, [])
    w = theta.theta.get(name)[0]
    steps = H * np.eye(w.size).reshape(-1, *w.shape)
    theta.theta[name] = np.concatenate([w + steps, w - steps])
    plus, minus = np.split(loss(theta, examples), 2)
    return ((plus - minus) / (2 * H)).reshape(w.shape)


def golden_case(name: str) -> tuple[BoundedLoss, list[Example]]:
    """The model, the loss and the rows of a case of golden/make_gradients.py."""
    family, loss = name.split(".")
    model = seeded_model(GRADIENTS[name])
    task = dataclasses.replace(toy_task(family, loss), label_word_ids=WORDS)
    examples = [
        Example(tuple(ids), tuple(map(tuple, candidates)), mask_at, label, "")
        for ids, mask_at, candidates, label in prompts()
    ]
    return BoundedLoss(Objective(model, task), 4096), examples
