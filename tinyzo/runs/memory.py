"""What a run holds in memory: planned before it is allocated, chosen to fit, and measured.

The peak is VmHWM of /proc/self/status, the largest resident set of this process: ru_maxrss
survives exec and would count the parent's too.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

from tinyzo.engine.numpy_engine import QUERIES
from tinyzo.engine.select import may_have_numba
from tinyzo.engine.tiles import TILE
from tinyzo.errors import ConfigError
from tinyzo.models.model import Model
from tinyzo.runs.settings import RunSettings as Settings
from tinyzo.runs.settings import parse_bytes
from tinyzo.system import fast_cpus, free_bytes, status_bytes
from tinyzo.zo.methods import METHODS

Parts = dict[str, int]  # bytes, by what they are for
NUMBA, KERNELS = 107 << 20, 8 << 20  # measured: Numba and LLVM, loaded; our compiled kernels
BLOCK, DEPTH = 128, 512  # of the numba engine: rows of W that a thread takes, words of k at once
SIZES = ((2**32, 32), (256, 8), (128, 2), (64, 1))  # most tokens at once, tiles of a block


class Load(NamedTuple):
    """What is computed at once: so many packed tokens, unless micro-batches are smaller."""

    tokens: int
    longest: int
    probes: int


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


def plans(model: Model, settings: Settings, loads: Sequence[Load],
          is_fixed: bool = False) -> Iterator[Plan]:  # fmt: skip
    """Every way that the settings leave open, the fastest first; is_fixed: no other micro-batch."""
    s, weights = settings, model.weights
    auto = ("numba", "numpy") if may_have_numba() else ("numpy",)
    engines = auto if s.engine == "auto" else (s.engine,)
    places = ("resident", "streamed") if s.residency == "auto" else (s.residency,)
    for engine, where, (tokens, tiles) in product(engines, places, SIZES):
        tokens = min(2**32 if is_fixed else tokens, s.micro_batch_tokens or 512)
        every = [_parts(model, engine, s.threads, tokens, load) for load in loads]
        if METHODS[s.method].gradient:  # the gradient, and what all layers of a step keep for it
            kept = model.config.num_hidden_layers * every[0]["activations"] // loads[0].probes
            every[0]["backward"] = kept + 4 * weights.elements(weights.trained)
        parts = max(every, key=lambda parts: sum(parts.values()))
        held = weights.nbytes() if where == "resident" else 2 * weights.store.block_bytes(tiles)
        yield Plan(engine, where, tokens, tiles, {"weights": held, **parts})


def choose(model: Model, settings: Settings, loads: Sequence[Load], is_fixed: bool = False) -> Plan:
    """The fastest plan within the budget; without one, weights in memory if half of it suffices.

    model: not settled yet
    raises: ConfigError when none fits, with the smallest budget that does
    """
    every, asked = list(plans(model, settings, loads, is_fixed)), settings.memory_budget
    if asked is None:
        every = [p for p in every if (p.engine, p.tiles) == (every[0].engine, every[0].tiles)]
    budget = free_bytes() / 2 if asked is None else parse_bytes(asked)
    fitting = [plan for plan in every if plan.total <= budget]
    if asked and not fitting:
        least = math.ceil(min(plan.total for plan in every) / 1e6)
        why = f"--memory-budget {asked} is too small"
        raise ConfigError(why, f"the smallest that fits is {least}MB")
    return (fitting or every[-1:])[0]


def _parts(model: Model, engine: str, threads: int | None, tokens: int, load: Load) -> Parts:
    """Bytes that a forward pass holds beside the weights, at its widest point.

    interpreter: what is resident now: Python, NumPy, tokenizer, data
    code: of the numba engine, as far as it is not loaded yet
    activations: of the feed-forward layer, or of attention, with its scores in NumPy
    tiles: w, z and the work of making z; packed activations, and products of one tile
    """
    config, longest, probes = model.config, load.longest, load.probes
    width = config.hidden_size
    wide = getattr(config, "intermediate_size", None) or config.ffn_dim
    heads, tokens = config.num_attention_heads, max(longest, min(tokens, load.tokens))
    floats = tokens * max(4 * width + wide, 9 * width)
    parts = {"interpreter": status_bytes("VmRSS"), "activations": 4 * probes * floats}
    if engine == "numpy":
        tile, scores = max(TILE, width), heads * min(longest, QUERIES) * longest
        parts["activations"] += 8 * probes * scores
        return parts | {"tiles": 4 * (8 * tile + probes * tokens * max(1, tile // width))}
    linear = probes * BLOCK * (DEPTH + tokens) + 4 * DEPTH
    keys = longest * (3 * width // heads + QUERIES)
    each = (threads or len(fast_cpus())) * max(linear, keys)
    loaded = "tinyzo.engine.numba_engine" in sys.modules
    return parts | {"code": KERNELS if loaded else NUMBA + KERNELS,
                    "tiles": 4 * (each + probes * tokens * wide)}
