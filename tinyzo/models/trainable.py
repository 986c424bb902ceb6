"""What of a model is trained: all of it, some tensors by name, or small ones added to it.

    full                 every parameter
    'lm_head.*,*.bias'   the parameters that a pattern names; `bias` and `head` are two such
    lora, lora-fa        W + s B A beside projections; lora-fa keeps A (Zhang et al. 2023)
    prefix               keys and values that every query of a layer sees (Li & Liang 2021)
    label-words          the rows of the task's words in the table that scores and embeds them

But for `full`, what is trained lies in memory, in front of a checkpoint that nobody writes, and is
all that a snapshot or an adapter file holds.
"""

import math
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from tinyzo.engine.adapters import adapter
from tinyzo.engine.noise import noise
from tinyzo.engine.numpy_engine import NumpyView
from tinyzo.engine.stores.overlay import Overlay
from tinyzo.engine.weights import Weights
from tinyzo.errors import ConfigError
from tinyzo.models.model import Model
from tinyzo.text.packing import pack_sequences

ALIASES = {"bias": "*.bias", "head": "lm_head.*"}
TARGETS = ("query", "value", "q_proj", "v_proj")
HINT = "names as 'lm_head.*,*.bias'; label-words where a task's words are no columns of the data"
PREFIX, LOW_RANK = 5, 2  # tokens; the rank of U and V, as LOZO has it
SAMPLE = 1 << 18


def train_only(model: Model, what: str, seed: int, rank: int, alpha: float,
               targets: Sequence[str] | None = None, ids: Sequence[int] = ()) -> None:  # fmt: skip
    """Train `what` of a model, whose weights are still in their file, instead of all.

    Of a model that has an adapter already, from a PEFT folder, that is trained, and nothing else.

    seed: makes LoRA's A, and the tokens of a prefix. rank, alpha: a new LoRA's r and alpha
    targets: the projections that get one, by the last part of their names
    ids: the tokens of the label words, each once
    raises: ConfigError when a pattern or the targets name nothing, or for an adapter something else
    """
    weights, names = model.weights, model.weights.names()
    adapters = {name: weights.stored(name) for name in names if ".lora_" in name}
    if adapters and (what not in ("lora", "lora-fa") or targets):
        raise ConfigError("the model has an adapter", "--train lora goes on with all of it")
    if what == "full":
        return
    if what in ("lora", "lora-fa"):
        ends = tuple(f".{target}.weight" for target in targets or TARGETS)
        matrices = [n for n in names if n.endswith(ends) and len(weights.shape(n)) == 2]
        own = adapters or lora(weights, matrices, rank, seed)
        trained = [name for name in own if what == "lora" or ".lora_B." in name]
        weights.adapter_scale = weights.adapter_scale if adapters else alpha / rank
    elif what == "prefix":
        own = trained = prefixes(model, seed)
        weights.adapter_scale = 1.0
    elif what == "label-words" and ids:
        a, b = own = lora(weights, [model.architecture.TOKENS], len(ids), seed)
        own[a][...], own[b][ids, np.arange(len(ids))] = 0, 1  # row k of A is added to row ids[k]
        trained = [a]
        weights.adapter_scale = 1.0
    else:
        patterns = ALIASES.get(what, what).split(",")
        matching = [n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns)]
        own = trained = {name: weights.stored(name) for name in matching}
    if not own:
        raise ConfigError(f"{what!r} names no tensor of the model", HINT)
    _overlay(weights, own, trained, trained)


def _overlay(weights: Weights, own: dict[str, Any], trained: Iterable, saved: Iterable) -> None:
    weights.store = Overlay(weights.store, own)
    weights.trained, weights.saved = dict.fromkeys(trained), dict.fromkeys(saved)


def lora(weights: Weights, names: Iterable[str], rank: int, seed: int) -> dict[str, np.ndarray]:
    """Adapters of matrices. A: f32[r, in], from the seed, of PEFT's variance; B: f32[out, r], 0."""
    own = {}
    for name in names:
        (rows, width), (a, b) = weights.shape(name), adapter(name)
        own[a] = noise(seed, a, (rank, width)) * np.float32(1 / math.sqrt(3 * width))
        own[b] = np.zeros((rows, rank), np.float32)
    return own


def prefixes(model: Model, seed: int) -> dict[str, np.ndarray]:
    """The keys and values that a few random tokens have in each layer: f32[PREFIX, D] each."""
    own: dict[str, np.ndarray] = {}

    class Recorder(NumpyView):
        def attention(self, name: str, q: Any, k: Any, v: Any, *others: Any, **more: Any) -> Any:
            own[f"{name}.prefix.key"] = k.reshape(k.shape[1], -1).copy()
            own[f"{name}.prefix.value"] = v.reshape(v.shape[1], -1).copy()
            return super().attention(name, q, k, v, *others, **more)

    ids = np.random.RandomState(seed % 2**32).randint(0, model.config.vocab_size, PREFIX)
    batch = pack_sequences([ids.tolist()])
    model.architecture.hidden(Recorder(model.weights, []), model.config, batch)
    return own


def low_rank(weights: Weights, seed: int) -> None:
    """Let matrices move by z = U V^T alone, of which V is kept for a while (LOZO, 2410.07698).

    That is LoRA with B = U, the m x r numbers that move, and A = V^T, from the seed.
    """
    matrices = [name for name in weights.names() if len(weights.shape(name)) == 2]
    own = lora(weights, matrices, LOW_RANK, seed)
    moved = [name for name in own if ".lora_B." in name]
    vectors = {n: weights.stored(n) for n in weights.names() if len(weights.shape(n)) == 1}
    _overlay(weights, own | vectors, [*moved, *vectors], saved=weights.names())
    weights.adapter_scale = 1.0
    renew(weights, seed)


def renew(weights: Weights, seed: int) -> None:
    """Another V, with U at 0; what has moved must have been merged."""
    for name in weights.names():
        if ".lora_" in name:
            v = noise(seed, name, weights.shape(name)) if ".lora_A." in name else 0
            weights.stored(name)[...] = v


def magnitude_limits(weights: Weights, share: float = 0.25) -> dict[str, float]:
    """For each trained tensor, what so large a share of its elements does not exceed.

    differs: a percentile of whole rows, evenly spaced, of some SAMPLE elements in all
    """
    limits = {}
    for name in weights.trained:
        rows, *rest = weights.shape(name)
        every = max(1, rows * math.prod(rest) // SAMPLE)
        sizes = np.sort(np.abs(weights.gather(name, np.arange(0, rows, every))), axis=None)
        limits[name] = float(sizes[int(share * (sizes.size - 1))])
    return limits
