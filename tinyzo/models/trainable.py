"""The part of a model that is trained: all of it, some tensors by name, or small added ones.

    full                 every parameter
    'lm_head.*,*.bias'   the parameters that a pattern names; `bias` and `head` are two such
    lora, lora-fa        W + s B A beside projections; lora-fa keeps A (Zhang et al. 2023)
    lora-act, lora-fit   lora-fa along inputs of the layers: models/activations.py makes A
    head-fit             lora-fit, beside rows of the label words that it makes, too, and that stay
    prefix               keys and values that every query of a layer sees (Li & Liang 2021)
    label-words          the rows of the task's words in the table that scores and embeds them

But for `full`, what is trained lies in memory, in front of a checkpoint that nobody writes, and is
all that a snapshot or an adapter file holds.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple, cast

import numpy as np

from tinyzo.engine.adapters import adapter
from tinyzo.engine.groups import check_still
from tinyzo.engine.noise import noise
from tinyzo.engine.numpy_engine import NumpyView
from tinyzo.engine.protocols import View
from tinyzo.engine.stores.overlay import Overlay
from tinyzo.engine.weights import Weights
from tinyzo.errors import ConfigError
from tinyzo.models.context import Reader
from tinyzo.models.model import Model
from tinyzo.text.packing import pack_sequences

ALIASES = {"bias": "*.bias", "head": "lm_head.*"}
TARGETS = ("query", "value", "q_proj", "v_proj")
HINT = (
    "one of full, lora, lora-fa, lora-act, lora-fit, head-fit, prefix, bias, head, or names as "
    "'lm_head.*,*.bias'; label-words where a task's words are no columns of the data"
)
PREFIX = 5  # tokens

Tensors = dict[str, np.ndarray]


class Request(NamedTuple):
    """The arguments of `train_only`."""

    what: str
    seed: int
    rank: int
    alpha: float
    targets: Sequence[str] | None
    ids: Sequence[int]


class Trained(NamedTuple):
    """An answer to a request.

    own:           tensors in memory, in front of the model's
    names:         those of them that move
    adapter_scale: alpha / r of the adapters among them
    """

    own: Tensors
    names: Iterable[str]
    adapter_scale: float | None = None


def train_only(
    model: Model,
    what: str,
    seed: int,
    rank: int,
    alpha: float,
    targets: Sequence[str] | None = None,
    ids: Sequence[int] = (),
) -> None:
    """Train `what` of a model, whose weights are still in their file, instead of all.

    Of a model that has an adapter already, from a PEFT folder, that is trained, and nothing else.

    seed:    makes LoRA's A, and the tokens of a prefix
    rank, alpha: a new LoRA's r and alpha
    targets: the projections that get one, by the last part of their names; None: TARGETS
    ids:     the tokens of the label words, each once
    raises: ConfigError when a pattern or the targets name nothing, or for an adapter something else
    """
    is_adapted = bool(adapters_of(model.weights))
    if is_adapted and (what not in ("lora", "lora-fa") or targets):
        raise ConfigError("the model has an adapter", "--train lora goes on with all of it")
    if what == "full":
        check_still(model.weights, model.weights.trained)
        return
    choose = CHOICES.get(what, named)
    trained = choose(model, Request(what, seed, rank, alpha, targets, ids))
    if not trained.own:
        raise ConfigError(f"{what!r} names no tensor of the model", HINT)
    put_in_front(model.weights, trained, saved=trained.names)


def put_in_front(weights: Weights, trained: Trained, saved: Iterable[str]) -> None:
    """Lay tensors over the weights; z reaches the trained ones, and a snapshot holds the saved."""
    weights.store = Overlay(weights.store, trained.own)
    weights.trained = dict.fromkeys(trained.names)
    weights.saved = dict.fromkeys(saved)
    weights.adapter_scale = trained.adapter_scale


def adapters_of(weights: Weights) -> Tensors:
    """The halves of LoRA that a model came with."""
    return {name: weights.stored(name) for name in weights.names() if ".lora_" in name}


# -- what can be asked for: (model, request) -> Trained


def named(model: Model, request: Request) -> Trained:
    """The model's own parameters that a pattern names; several patterns with commas between."""
    patterns = ALIASES.get(request.what, request.what).split(",")
    names = [
        name
        for name in model.weights.names()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    check_still(model.weights, names)
    own = {name: model.weights.stored(name) for name in names}
    return Trained(own, own)


def lora(model: Model, request: Request) -> Trained:
    """The adapter that the model has, or a new one on each target."""
    weights = model.weights
    own = adapters_of(weights)
    if own:
        return Trained(own, own, weights.adapter_scale)
    ends = tuple(f".{target}.weight" for target in request.targets or TARGETS)
    known = matrices_of(weights)
    matrices = [name for name in known if name.endswith(ends)]
    if not matrices:
        found = f"--lora-targets {','.join(request.targets or TARGETS)} names no matrix"
        ends_known = ", ".join(dict.fromkeys(name.split(".")[-2] for name in known))
        raise ConfigError(f"{found} of the model", f"some of {ends_known}")
    own = new_adapters(weights, matrices, request.rank, request.seed)
    return Trained(own, own, request.alpha / request.rank)


def lora_fa(model: Model, request: Request) -> Trained:
    """The same, of which only B moves."""
    trained = lora(model, request)
    return trained._replace(names=[name for name in trained.own if ".lora_B." in name])


def lora_fit(model: Model, request: Request) -> Trained:
    """The same beside every linear module, unless targets are given; B A is added as it is."""
    tables = model.architecture.TABLES
    modules = [name.split(".")[-2] for name in matrices_of(model.weights) if name not in tables]
    targets = request.targets or modules
    return lora_fa(model, request._replace(targets=targets))._replace(adapter_scale=1.0)


def label_words(model: Model, request: Request) -> Trained:
    """An adapter of the token table whose B is fixed: row k of A is added to row ids[k]."""
    if not request.ids:
        return Trained({}, ())
    table, rank = model.architecture.TOKENS, len(request.ids)
    own = new_adapters(model.weights, [table], rank, request.seed)
    a, b = adapter(table)
    own[a][...] = 0
    own[b][request.ids, np.arange(rank)] = 1
    return Trained(own, [a], adapter_scale=1.0)


def head_fit(model: Model, request: Request) -> Trained:
    """lora-fit, and an adapter of the token table as label_words has, which does not move."""
    trained = lora_fit(model, request)
    return trained._replace(own=trained.own | label_words(model, request).own)


def prefix(model: Model, request: Request) -> Trained:
    """The keys and values that a few random tokens have in each layer: f32[PREFIX, D] each."""
    random = np.random.RandomState(request.seed % 2**32)
    ids = random.randint(0, model.config.vocab_size, PREFIX)
    reader = Reader(NumpyView(model.weights, []))
    model.architecture.hidden(cast(View, reader), model.config, pack_sequences([ids.tolist()]))
    return Trained(reader.seen, reader.seen, adapter_scale=1.0)


CHOICES: dict[str, Callable[[Model, Request], Trained]] = {
    "lora": lora,
    "lora-fa": lora_fa,
    "lora-act": lora_fa,
    "lora-fit": lora_fit,
    "head-fit": head_fit,
    "prefix": prefix,
    "label-words": label_words,
}


# -- adapters


def matrices_of(weights: Weights) -> list[str]:
    return [name for name in weights.names() if len(weights.shape(name)) == 2]


def new_adapters(weights: Weights, names: Iterable[str], rank: int, seed: int) -> Tensors:
    """Adapters of matrices. A: f32[r, in], from the seed, of PEFT's variance; B: f32[out, r], 0."""
    own: Tensors = {}
    for name in names:
        rows, width = weights.shape(name)
        a, b = adapter(name)
        own[a] = noise(seed, a, (rank, width)) * np.float32(1 / math.sqrt(3 * width))
        own[b] = np.zeros((rows, rank), np.float32)
    return own
