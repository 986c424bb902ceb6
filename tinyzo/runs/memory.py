"""What a run holds in memory: planned before it is allocated, and chosen to fit.

A plan is compared with the peak of the resident set, system.peak_bytes.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from tinyzo.engine.numba.sizes import BLOCK, DEPTH
from tinyzo.engine.numpy_engine import QUERIES
from tinyzo.engine.select import may_have_numba
from tinyzo.engine.tiles import TILE
from tinyzo.errors import ConfigError
from tinyzo.models.model import Model
from tinyzo.runs.settings import RunSettings, parse_bytes
from tinyzo.system import fast_cpus, free_bytes, status_bytes

Parts = dict[str, int]  # bytes, by what they are for
FLOAT_BYTES = 4
NUMBA_BYTES = 107 << 20  # measured: Numba and LLVM, loaded
KERNELS_BYTES = 8 << 20  # and our compiled kernels


class Load(NamedTuple):
    """What is computed at once: so many packed tokens, unless micro-batches are smaller."""

    tokens: int
    longest: int
    probes: int


class Size(NamedTuple):
    """The most tokens of a micro-batch, and tiles of a block of streamed weights."""

    tokens: int
    tiles: int


SIZES = (Size(2**32, 32), Size(256, 8), Size(128, 2), Size(64, 1))  # the fastest first


class Plan(NamedTuple):
    """A way to hold a run in memory."""

    engine: str
    residency: str
    micro_batch_tokens: int
    tiles: int
    parts: Parts

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = self.parts | {"total": self.total}
        sizes = ", ".join(f"{name} {value / 2**20:.0f} MB" for name, value in parts.items())
        return f"{self.engine}, {self.residency}, {self.micro_batch_tokens} tokens at once: {sizes}"


def plans(
    model: Model,
    settings: RunSettings,
    loads: Sequence[Load],
    is_fixed: bool = False,
    keeps_gradients: bool = False,
) -> Iterator[Plan]:
    """Every way that the settings leave open, the fastest first.

    loads: a training step's, and whatever else is computed
    is_fixed: no other micro-batch than the settings'
    keeps_gradients: whether a step goes back through the layers
    """
    engines = _open(settings.engine, ("numba", "numpy") if may_have_numba() else ("numpy",))
    residencies = _open(settings.residency, ("resident", "streamed"))
    most = settings.micro_batch_tokens
    for engine, residency, size in product(engines, residencies, SIZES):
        tokens = most if is_fixed else min(size.tokens, most)
        every = [_forward(model, engine, settings.threads, tokens, load) for load in loads]
        if keeps_gradients:
            every[0]["backward"] = _backward(model, loads[0], every[0])
        widest = max(every, key=lambda parts: sum(parts.values()))
        weights = _weights(model, residency, size.tiles)
        yield Plan(engine, residency, tokens, size.tiles, {"weights": weights, **widest})


def choose(
    model: Model,
    settings: RunSettings,
    loads: Sequence[Load],
    is_fixed: bool = False,
    keeps_gradients: bool = False,
) -> Plan:
    """The fastest plan within the budget; without one, weights in memory if half of it suffices.

    model: not settled yet; the others as for `plans`
    raises: ConfigError when none fits, with the smallest budget that does
    """
    every = list(plans(model, settings, loads, is_fixed, keeps_gradients))
    asked = settings.memory_budget
    if asked is None:
        return _within(free_bytes() / 2, every)
    budget = parse_bytes(asked)
    for plan in every:
        if plan.total <= budget:
            return plan
    least = math.ceil(min(plan.total for plan in every) / 1e6)
    why = f"--memory-budget {asked} is too small"
    raise ConfigError(why, f"the smallest that fits is {least}MB")


def _open(asked: str, every: tuple[str, ...]) -> tuple[str, ...]:
    """What a choice leaves open."""
    return every if asked == "auto" else (asked,)


def _within(limit: float, every: Sequence[Plan]) -> Plan:
    """The fastest engine with the largest blocks; streamed where that alone is within a limit."""
    fastest = every[0]
    alike = [p for p in every if (p.engine, p.tiles) == (fastest.engine, fastest.tiles)]
    return next((plan for plan in alike if plan.total <= limit), alike[-1])


def _weights(model: Model, residency: str, tiles: int) -> int:
    if residency == "resident":
        return model.weights.nbytes()
    return 2 * model.weights.store.block_bytes(tiles)  # one is computed, the next one read


def _forward(model: Model, engine: str, threads: int | None, tokens: int, load: Load) -> Parts:
    """Bytes that a forward pass holds beside the weights, at its widest point.

    interpreter: what is resident now: Python, NumPy, tokenizer, data
    activations: of the feed-forward layer, or of attention, with its scores in NumPy
    code: of the numba engine, as far as it is not loaded yet
    tiles: w, z and the work of making z; packed activations, and products of one tile
    """
    tokens = max(load.longest, min(tokens, load.tokens))
    parts = {"interpreter": status_bytes("VmRSS")}
    if engine == "numpy":
        return parts | _in_numpy(model.config, tokens, load)
    return parts | _in_numba(model.config, tokens, load, threads or len(fast_cpus()))


def _in_numpy(config: Any, tokens: int, load: Load) -> Parts:
    width = config.hidden_size
    tile = max(TILE, width)
    products = load.probes * tokens * max(1, tile // width)
    scores = load.probes * config.num_attention_heads * min(load.longest, QUERIES) * load.longest
    return {
        "activations": FLOAT_BYTES * (_activations(config, tokens, load) + 2 * scores),
        "tiles": FLOAT_BYTES * (8 * tile + products),
    }


def _in_numba(config: Any, tokens: int, load: Load, threads: int) -> Parts:
    is_loaded = "tinyzo.engine.numba.engine" in sys.modules
    linear = load.probes * BLOCK * (DEPTH + tokens) + 4 * DEPTH
    attention = load.longest * (3 * config.hidden_size // config.num_attention_heads + QUERIES)
    packed = load.probes * tokens * _feed_forward_width(config)
    return {
        "activations": FLOAT_BYTES * _activations(config, tokens, load),
        "code": KERNELS_BYTES if is_loaded else NUMBA_BYTES + KERNELS_BYTES,
        "tiles": FLOAT_BYTES * (threads * max(linear, attention) + packed),
    }


def _activations(config: Any, tokens: int, load: Load) -> int:
    """Floats: the hidden states and the wide layer, or attention's."""
    width: int = config.hidden_size
    return load.probes * tokens * max(4 * width + _feed_forward_width(config), 9 * width)


def _feed_forward_width(config: Any) -> int:
    """F, which the two families call differently."""
    found = getattr(config, "intermediate_size", None) or config.ffn_dim
    return int(found)


def _backward(model: Model, load: Load, forward: Parts) -> int:
    """The gradient, and what all layers of a step keep for it, of one copy of the weights."""
    layers: int = model.config.num_hidden_layers
    kept = layers * forward["activations"] // load.probes
    return kept + FLOAT_BYTES * model.weights.elements(model.weights.trained)
