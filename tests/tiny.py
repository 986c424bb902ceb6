"""Tiny random models, examples and tasks, built in memory, and a reference in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import tinyzo
from tinyzo.batch import Batch
from tinyzo.dtypes import DTYPES, narrow
from tinyzo.engine.numpy_engine import NumpyEngine, NumpyView
from tinyzo.engine.select import why_no_numba
from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights
from tinyzo.models import opt, roberta
from tinyzo.models.model import Model
from tinyzo.text.tasks import BoundTask, Example, Task

VOCABULARY, POSITIONS, DTYPE_NAMES = 29, 20, tuple(DTYPES)
# And Numba's where it is, with two threads; products of bfloat16 as such are a test of their own.
ENGINES: dict[str, Any] = {"numpy": NumpyEngine()}
if not why_no_numba():
    from tinyzo.engine.numba.engine import NumbaEngine, ensure_compiled

    ensure_compiled()
    ENGINES["numba"] = NumbaEngine(2, bf16=False)
if find_spec("onnxruntime"):
    from tinyzo.engine.onnx.engine import OnnxEngine

    ENGINES["onnx"] = OnnxEngine(2)
# ONNX Runtime neither trains what is in a file nor reads groups in memory.
ANY_STORE = {name: engine for name, engine in ENGINES.items() if name != "onnx"}


class EngineOf(NumpyEngine):
    """The NumPy engine with other views: a faulty one, or the reference's."""

    def __init__(self, view: Any) -> None:
        self.make = view

    def view(self, weights: Any, probes: Any) -> Any:
        return self.make(weights, probes)


WORDS = [11, 17, 5]  # RoBERTa's label words


def tiny_roberta(dtype: str = "f32", engine: Any = NumpyView, **config: Any) -> Model:
    """A RoBERTa of 950 parameters: D = 8, H = 2, F = 12, L = 1."""
    settings = {
        "vocab_size": VOCABULARY, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": POSITIONS,
        "type_vocab_size": 1, "layer_norm_eps": 1e-5,
    }  # fmt: skip
    return _model("roberta", roberta, {**settings, **config}, dtype, engine)


def tiny_opt(dtype: str = "f32", engine: Any = NumpyView, **config: Any) -> Model:
    """An OPT of the same size; `do_layer_norm_before=False, word_embed_proj_dim=6`: as 350m."""
    settings = {
        "vocab_size": VOCABULARY, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "ffn_dim": 12, "max_position_embeddings": POSITIONS,
    }  # fmt: skip
    return _model("opt", opt, {**settings, **config}, dtype, engine)


def _model(family: str, architecture: ModuleType, settings: dict, dtype: str, engine: Any) -> Model:
    config, random, tensors = architecture.Config(**settings), np.random.RandomState(7), {}
    for name, shape in architecture.shapes(config):
        is_norm = "norm" in name.lower() and name.endswith("weight")
        values = random.standard_normal(shape) * (0.1 if len(shape) == 1 else 0.4) + is_norm
        tensors[name] = narrow(values.astype(np.float32), np.dtype(DTYPES[dtype]), None)
    engine = EngineOf(engine) if isinstance(engine, type) else engine
    return Model(family, config, Weights(tensors, engine), Path("tiny"))


MODELS = {
    "roberta": tiny_roberta,
    "opt": tiny_opt,
    "opt-post": lambda *args, **config: tiny_opt(
        *args, do_layer_norm_before=False, word_embed_proj_dim=6, **config
    ),
}


def toy_task(family: str, loss: str = "classification") -> BoundTask:
    """A task that is bound by hand, since its examples are made as token ids."""
    task = Task("toy", family, "", ("a", "b", "c"), ("a", "b", "c"), loss=loss)
    return BoundTask(task, None, [], WORDS, POSITIONS, 0)


def examples_for(family: str, rows: int = 4) -> list[Example]:
    """Ragged examples: for RoBERTa a mask somewhere, for OPT three candidates of 1 to 3 tokens."""
    random, examples = np.random.RandomState(3), []
    for i in range(rows):
        prompt = tuple(random.randint(2, VOCABULARY, 3 + i % 5).tolist())
        label, candidates, mask_at = i % 3, (), i % len(prompt)
        if family == "opt":
            sizes, mask_at = (1, 1 + i % 3, 2), -1
            candidates = tuple(tuple(random.randint(2, VOCABULARY, n).tolist()) for n in sizes)
        examples.append(Example(prompt, candidates, mask_at, label, f"row {i}"))
    return examples


def raw_bytes(weights: Weights) -> dict[str, bytes]:
    """theta as it is stored."""
    return {name: weights.stored(name).tobytes() for name in weights.names()}


def masked(seed: int, name: str, w: np.ndarray, limit: float | None) -> np.ndarray:
    """z, but 0 where weights are larger than the limit."""
    z = tinyzo.noise(seed, name, w.shape)
    return z if limit is None else np.where(np.abs(w) <= np.float32(limit), z, np.float32(0))


class Float64View:
    """The verbs in float64 with dense masks, written apart from any engine: the reference.

    theta: name -> f64[P or 1, ...]; replace an entry to differentiate by hand.
    """

    def __init__(self, weights: Weights, probes: list[Probe]) -> None:
        self.theta = {name: self._perturbed(weights, name, probes) for name in weights.names()}

    def parts(self, most: int) -> list[Float64View]:
        return [self]

    @staticmethod
    def _perturbed(weights: Weights, name: str, probes: list[Probe]) -> np.ndarray:
        w, shape = weights.read(name).astype(np.float64), weights.shape(name)
        kind = weights.direction.kind
        z = [tinyzo.noise(p.seed, name, shape, kind).astype(np.float64) for p in probes]
        return np.stack([w + probe.scale * each for probe, each in zip(probes, z, strict=True)])

    def embed(self, name: str, ids: np.ndarray) -> np.ndarray:
        return self.theta[name][:, ids]

    def linear(self, name: str, x: np.ndarray, residual: np.ndarray | float = 0.0) -> np.ndarray:
        y = x @ self.theta[f"{name}.weight"].swapaxes(1, 2) + residual
        bias = self.theta.get(f"{name}.bias")
        return y if bias is None else y + bias[:, None]

    def cross_entropy(self, scores, labels, counts) -> np.ndarray:
        return NumpyView.cross_entropy(self, scores, labels, counts)

    def norm(self, name: str, x: np.ndarray, ln_eps: float) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + ln_eps)
        return x * self.theta[f"{name}.weight"][:, None] + self.theta[f"{name}.bias"][:, None]

    def scores(
        self, name: str, h: np.ndarray, rows: np.ndarray | None = None, bias: str | None = None
    ) -> np.ndarray:
        y = h @ self.theta[name].swapaxes(1, 2)
        y = y if bias is None else y + self.theta[bias][:, None]
        return y if rows is None else y[..., rows]

    def nll(
        self, name: str, h: np.ndarray, at: np.ndarray, targets: np.ndarray, bias: str | None = None
    ) -> np.ndarray:
        y = self.scores(name, h, bias=bias)
        log_p = y - np.log(np.exp(y).sum(-1, keepdims=True))
        return -log_p[:, at, targets]

    def attention(self, name, q, k, v, batch: Batch, causal: bool, rows=None) -> np.ndarray:
        segment = np.repeat(np.arange(len(batch.parents)), np.diff(batch.starts))
        seen = (segment[:, None] == segment) | (batch.parents[segment][:, None] == segment)
        if causal:
            seen &= batch.positions[:, None] >= batch.positions
        score = np.einsum("pqhk,pnhk->phqn", *self._match(q, k)) / math.sqrt(q.shape[-1])
        weight = np.where(seen if rows is None else seen[rows], np.exp(score), 0.0)
        weight /= weight.sum(-1, keepdims=True)
        return np.einsum("phqn,pnhk->pqhk", *self._match(weight, v))

    @staticmethod
    def _match(a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
        p = max(len(a), len(b))
        return [np.broadcast_to(x, (p, *x.shape[1:])) for x in (a, b)]

    def gelu(self, x: np.ndarray) -> np.ndarray:
        return x * 0.5 * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2)))

    def relu(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0)


def exact_slope(weights: Weights, loss: Callable, batch: list, seed: int, eps: float) -> float:
    """(L(theta + eps z) - L(theta - eps z)) / 2 eps in float64."""
    plus, minus = loss(Float64View(weights, [Probe(seed, eps), Probe(seed, -eps)]), batch)
    return (plus - minus) / (2 * eps)
