"""What a run holds in memory: planned before it is allocated, and chosen to fit.

A plan is compared with the peak of the resident set, machine.memory.peak_bytes.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from tinyzo.engine.numba.objects import will_load_numba
from tinyzo.engine.numba.products import may_round
from tinyzo.engine.numba.sizes import BLOCK, DEPTH
from tinyzo.engine.numpy_engine import QUERIES
from tinyzo.engine.select import may_have_numba
from tinyzo.engine.tiles import TILE
from tinyzo.errors import ConfigError
from tinyzo.machine.cpus import default_threads
from tinyzo.machine.memory import free_bytes, resident_bytes
from tinyzo.models.architecture import ModelConfig
from tinyzo.models.model import Model
from tinyzo.runs.settings import RunSettings, parse_bytes

Parts = dict[str, int]  # bytes, by what they are for
FLOAT_BYTES = 4
NUMBA_BYTES = 107 << 20  # Numba and LLVM, loaded, where kernels need them: measured
KERNELS_BYTES = 2 << 20  # our compiled kernels, loaded: measured
STAGED = 150  # rows of DEPTH on which a thread works beside tiles of W, at most
SPARE_MB = 1  # by which the interpreter may be larger the next time: measured


class Load(NamedTuple):
    """What a training step or an evaluation computes.

    tokens:  packed tokens of the whole batch, which micro-batches may divide
    longest: tokens of its longest example
    probes:  copies of the model that are computed at once
    keeps_gradients: whether it ends in a backward pass
    """

    tokens: int
    longest: int
    probes: int
    keeps_gradients: bool = False


class Size(NamedTuple):
    """The most tokens of a micro-batch, and the tiles of a block of streamed weights."""

    tokens: int
    tiles: int


# The fastest first.
SIZES = (
    Size(2**32, 32),
    Size(256, 8),
    Size(128, 2),
    Size(64, 1),
)


class Plan(NamedTuple):
    """A way to hold a run in memory."""

    engine: str
    residency: str
    micro_batch_tokens: int
    tiles: int
    parts: Parts

    @property
    def total(self) -> int:
        return _total(self.parts)

    def __str__(self) -> str:
        parts = self.parts | {"total": self.total}
        sizes = ", ".join(f"{name} {value / 2**20:.0f} MB" for name, value in parts.items())
        return f"{self.engine}, {self.residency}, {self.micro_batch_tokens} tokens at once: {sizes}"


def plans(
    model: Model, settings: RunSettings, loads: Sequence[Load], is_fixed: bool = False
) -> Iterator[Plan]:
    """Every way that the settings leave open, the fastest first.

    loads:    all that the run computes, of which the largest counts
    is_fixed: micro-batches are as the settings say, and not smaller
    """
    installed = ("numba", "numpy") if may_have_numba() else ("numpy",)
    engines = _choices(settings.engine, installed)
    residencies = _choices(settings.residency, ("resident", "streamed"))
    threads = settings.threads or default_threads()
    tokens = settings.micro_batch_tokens
    for engine, residency, size in product(engines, residencies, SIZES):
        if not is_fixed:
            tokens = min(size.tokens, settings.micro_batch_tokens)
        every = [_computing(model, engine, threads, tokens, load) for load in loads]
        largest = max(every, key=_total)
        parts = {"weights": _weights(model, residency, size.tiles), **largest}
        yield Plan(engine, residency, tokens, size.tiles, parts)


def choose(
    model: Model, settings: RunSettings, loads: Sequence[Load], is_fixed: bool = False
) -> Plan:
    """The fastest plan within the budget; without one, weights in memory if half of it suffices.

    model: not settled yet; the others as for `plans`
    raises: ConfigError when none fits, with the smallest budget that does
    """
    every = list(plans(model, settings, loads, is_fixed))
    asked = settings.memory_budget
    if asked is None:
        return _within(free_bytes() / 2, every)
    budget = parse_bytes(asked)
    for plan in every:
        if plan.total <= budget:
            return plan
    least = math.ceil(min(plan.total for plan in every) / 1e6 + SPARE_MB)
    why = f"--memory-budget {asked} is too small"
    raise ConfigError(why, f"the smallest that fits is {least}MB")


def _choices(asked: str, every: tuple[str, ...]) -> tuple[str, ...]:
    """The values that a setting leaves open."""
    return every if asked == "auto" else (asked,)


def _within(limit: float, every: Sequence[Plan]) -> Plan:
    """The fastest engine with the largest blocks: resident within the limit, else streamed."""
    fastest = every[0]
    alike = [p for p in every if (p.engine, p.tiles) == (fastest.engine, fastest.tiles)]
    for plan in alike:
        if plan.total <= limit:
            return plan
    return alike[-1]


def _total(parts: Parts) -> int:
    return sum(parts.values())


def _weights(model: Model, residency: str, tiles: int) -> int:
    if residency == "resident":
        return model.weights.nbytes()
    return 2 * model.weights.store.block_bytes(tiles)  # one is computed, the next one read


def _computing(model: Model, engine: str, threads: int, tokens: int, load: Load) -> Parts:
    """Bytes that a load holds beside the weights, at its widest point.

    interpreter: what is resident now: Python, NumPy, tokenizer, data
    activations: of the feed-forward layer, or of attention, with its scores in NumPy
    code: of the numba engine, as far as it is not loaded yet
    tiles: w, z and the work of making z; activations in bfloat16, and products of one tile
    backward: the gradient, and what all layers keep for it
    """
    tokens = max(load.longest, min(tokens, load.tokens))
    parts = {"interpreter": resident_bytes()}
    if engine == "numpy":
        parts |= _in_numpy(model.config, tokens, load)
    else:
        parts |= _in_numba(model, tokens, load, threads)
    if load.keeps_gradients:
        parts["backward"] = _backward(model, load, parts["activations"])
    return parts


def _in_numpy(config: ModelConfig, tokens: int, load: Load) -> Parts:
    width = config.hidden_size
    heads = config.num_attention_heads
    tile = max(TILE, width)
    products = load.probes * tokens * max(1, tile // width)
    scores = load.probes * heads * min(load.longest, QUERIES) * load.longest
    activations = _activations(config, tokens, load) + 2 * scores
    return {
        "activations": FLOAT_BYTES * activations,
        "tiles": FLOAT_BYTES * (8 * tile + products),
    }


def _in_numba(model: Model, tokens: int, load: Load, threads: int) -> Parts:
    config = model.config
    head_width = config.hidden_size // config.num_attention_heads
    code = KERNELS_BYTES
    if "numba" not in sys.modules and will_load_numba():
        code += NUMBA_BYTES
    linear = load.probes * BLOCK * DEPTH + STAGED * DEPTH
    attention = load.longest * (3 * head_width + QUERIES)
    rounded = 0
    if holds_bfloat(model) and may_round():
        rounded = load.probes * tokens * config.feed_forward_size // 2
    return {
        "activations": FLOAT_BYTES * _activations(config, tokens, load),
        "code": code,
        "tiles": FLOAT_BYTES * (threads * max(linear, attention) + rounded),
    }


def holds_bfloat(model: Model) -> bool:
    """Whether any of the weights is stored as bfloat16."""
    return any(dtype == np.uint16 for dtype in model.weights.store.dtypes.values())


def _activations(config: ModelConfig, tokens: int, load: Load) -> int:
    """Floats: the hidden states and the wide layer, or attention's."""
    width = config.hidden_size
    widest = max(4 * width + config.feed_forward_size, 9 * width)
    return load.probes * tokens * widest


def _backward(model: Model, load: Load, activations: int) -> int:
    """activations: of the widest layer, of all probes; a backward pass is of one copy."""
    kept = model.config.num_hidden_layers * activations // load.probes
    gradient = FLOAT_BYTES * model.weights.elements(model.weights.trained)
    return kept + gradient
