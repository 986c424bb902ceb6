"""What a run holds in memory: planned before it is allocated, and chosen to fit.

A plan is compared with the peak of the resident set, machine.memory.peak_bytes.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from tinyzo.checkpoints.groups import is_grouped, stored_shape
from tinyzo.engine.numba.objects import will_load_numba
from tinyzo.engine.numba.products import may_round
from tinyzo.engine.numba.sizes import BLOCK, DEPTH, score_rows
from tinyzo.engine.numpy_engine import QUERIES
from tinyzo.engine.past import past_bytes
from tinyzo.engine.select import may_have_numba
from tinyzo.engine.stores.overlay import Overlay
from tinyzo.engine.tiles import TILE, tile_rows
from tinyzo.errors import ConfigError
from tinyzo.machine.cpus import default_threads
from tinyzo.machine.memory import free_bytes, resident_bytes, status_bytes
from tinyzo.models.activations import fit_bytes, fitted_at_once
from tinyzo.models.architecture import ModelConfig
from tinyzo.models.generate import AT_ONCE, READ_AT_ONCE
from tinyzo.models.model import Model
from tinyzo.runs.bounded import WRITTEN, most_probes
from tinyzo.runs.settings import RunSettings, parse_bytes

Parts = dict[str, int]  # bytes, by what they are for
FLOAT_BYTES = 4
NUMBA_BYTES = 107 << 20  # Numba and LLVM, loaded, where kernels need them: measured
KERNELS_BYTES = 2 << 20  # our compiled kernels, loaded: measured
RUNTIME_BYTES = 4 << 20  # what ONNX Runtime allocates for itself: measured
RUNTIME_PAGES = 28 << 20  # pages of its own files, once it has computed: measured
LAYER_BYTES = 1 << 20  # that a session and glibc keep for a layer of a model: measured
FURTHER_BYTES = 12 << 20  # the most that each further session adds to it: measured
GAPS_BYTES = 8 << 20  # that its arena leaves unused beside matrices it makes: measured
READ_AROUND = 1 << 16  # bytes that Linux maps where one row of a file is read
LEFT = 4  # hidden states of each token whose memory a layer leaves in the heap: measured
NOISE = 6  # arrays as large as z while z is made in a graph
STAGED = 150  # rows of DEPTH on which a thread works beside tiles of W, at most
MAPPED, LIBRARIES = PAGES = ("mapped", "libraries")  # parts that are pages of files
SPARE_MB = 1  # by which the interpreter may be larger the next time: measured


class Load(NamedTuple):
    """What a training step or an evaluation computes.

    tokens:  packed tokens of the whole batch, which micro-batches may divide
    longest: tokens of its longest example
    probes:  copies of the model that are computed at once
    keeps_gradients: whether it ends in a backward pass
    targets: those of the tokens that are scored against the whole vocabulary
    share:   the largest share of targets in an example's tokens
    seen:    the most tokens that one token sees; 0: all of its example
    is_written: whether texts grow token by token; the tokens are then of whole texts, and a target
        of each text is scored at a time
    widest:  the inputs of the widest matrix that a run's start fits, by NumPy; 0: it is none
    """

    tokens: int
    longest: int
    probes: int
    keeps_gradients: bool = False
    targets: int = 0
    share: float = 1.0
    seen: int = 0
    is_written: bool = False
    widest: int = 0

    def scored(self, tokens: int) -> int:
        """Targets among so many tokens, at most."""
        return min(self.targets, int(self.share * tokens) + 1)

    @property
    def sight(self) -> int:
        """The most tokens that one token sees."""
        return self.seen or self.longest


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

    @property
    def anonymous(self) -> int:
        """All but pages of files, which the system takes back when others want memory."""
        return self.total - sum(self.parts.get(name, 0) for name in PAGES)

    def __str__(self) -> str:
        parts = self.parts | {"total": self.total}
        sizes = ", ".join(f"{name} {value / 2**20:.0f} MB" for name, value in parts.items())
        if self.anonymous < self.total:
            sizes += f" ({self.anonymous / 2**20:.0f} MB without pages of files)"
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
    residencies = _residencies(model, settings)
    threads = settings.threads or default_threads()
    tokens = settings.micro_batch_tokens
    for engine, residency, size in product(engines, residencies, SIZES):
        if not is_fixed:
            tokens = min(size.tokens, settings.micro_batch_tokens)
        every = [_computing(model, engine, threads, tokens, load) for load in loads]
        largest = max(every, key=_total)
        parts = _weights(model, engine, residency, size.tiles) | largest
        if engine == "onnx":
            parts |= _around_onnx(model, residency, tokens, loads)
        yield Plan(engine, residency, tokens, size.tiles, parts)


def choose(
    model: Model,
    settings: RunSettings,
    loads: Sequence[Load],
    is_fixed: bool = False,
    processes: int = 1,
) -> Plan:
    """The fastest plan within the budget; without one, weights in memory if half of it suffices.

    model: not settled yet; the others as for `plans`
    processes: that take as much at the same time, of which a budget is each one's
    raises: ConfigError when none fits, with the smallest budget that does
    """
    every = list(plans(model, settings, loads, is_fixed))
    asked = settings.memory_budget
    if asked is None:
        return _within(free_bytes() / 2 / processes, every)
    budget = parse_bytes(asked)
    for plan in every:
        if plan.anonymous <= budget:
            return plan
    least = math.ceil(min(plan.anonymous for plan in every) / 1e6 + SPARE_MB)
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
        if plan.anonymous <= limit:
            return plan
    return alike[-1]


def _total(parts: Parts) -> int:
    return sum(parts.values())


def _residencies(model: Model, settings: RunSettings) -> tuple[str, ...]:
    """Those that the settings and the engine leave open.

    raises: ConfigError, CheckpointError, as `residency_for`
    """
    if settings.engine != "onnx":
        return _choices(settings.residency, ("resident", "streamed"))
    from tinyzo.engine.onnx.places import residency_for

    most = free_bytes() / 2
    return (residency_for(model.weights, settings.residency, most, trains=True),)


def _weights(model: Model, engine: str, residency: str, tiles: int) -> Parts:
    weights = model.weights
    if residency == "resident":
        return {"weights": weights.nbytes()}
    if engine == "onnx":
        return {"weights": sum(tensor.nbytes for tensor in _own(model).values())}
    return {"weights": 2 * weights.store.block_bytes(tiles)}  # one is computed, the next one read


def _own(model: Model) -> dict[str, np.ndarray]:
    """The tensors in memory, in front of a file."""
    store = model.weights.store
    return store.own.tensors if isinstance(store, Overlay) else {}


def _computing(model: Model, engine: str, threads: int, tokens: int, load: Load) -> Parts:
    """Bytes that a load holds beside the weights, at its widest point.

    interpreter: what is resident now: Python, NumPy, tokenizer, data
    activations: of the feed-forward layer, of attention, with its scores in NumPy, or of logits
    code: of the numba engine, as far as it is not loaded yet
    tiles: w, z and the work of making z; activations in bfloat16, and products of one tile
    past: keys and values, where texts are written
    fit: Gram matrices of inputs, and what solves them
    backward: the gradient, what goes into each layer, and what one layer keeps besides
    """
    parts = {"interpreter": resident_bytes()}
    most = tokens
    tokens = max(load.longest, min(most, load.tokens))
    if load.is_written:
        kept = max(load.longest, min(WRITTEN * most, AT_ONCE, load.tokens))
        load = load._replace(targets=math.ceil(load.targets * kept / max(1, load.tokens)))
        tokens = kept  # by ONNX Runtime, which keeps nothing and reads all anew
        if engine != "onnx":
            tokens = max(load.longest, min(READ_AT_ONCE, kept))
            sizes = (model.config.num_hidden_layers, model.config.hidden_size)
            parts["past"] = past_bytes(*sizes, kept)
    if load.widest:
        tokens = max(load.longest, fitted_at_once(tokens, load.widest))
        parts["fit"] = fit_bytes(tokens, load.widest)
    if engine == "numpy" or load.widest:
        parts |= _in_numpy(model, tokens, load)
    elif engine == "onnx":
        parts |= _in_onnx(model, tokens, load, most_probes(tokens, most))
    else:
        parts |= _in_numba(model, tokens, load, threads)
    if load.keeps_gradients:
        parts["backward"] = _backward(model, tokens, load)
    return parts


def _in_numpy(model: Model, tokens: int, load: Load) -> Parts:
    config = model.config
    width = config.hidden_size
    tile = max(TILE, width)
    products = load.probes * tokens * max(1, tile // width)
    scores = load.probes * config.num_attention_heads * min(load.sight, QUERIES) * load.sight
    activations = _activations(config, tokens, load) + 2 * scores
    return {
        "activations": FLOAT_BYTES * max(activations, _scores(model, tokens, load, tile // width)),
        "tiles": FLOAT_BYTES * (8 * tile + products),
    }


def _in_numba(model: Model, tokens: int, load: Load, threads: int) -> Parts:
    config = model.config
    head_width = config.hidden_size // config.num_attention_heads
    code = KERNELS_BYTES
    if "numba" not in sys.modules and will_load_numba():
        code += NUMBA_BYTES
    linear = load.probes * BLOCK * DEPTH + STAGED * DEPTH
    attention = load.sight * (3 * head_width + QUERIES)
    rounded = 0
    if holds_bfloat(model) and may_round():
        rounded = load.probes * tokens * config.feed_forward_size // 2
    part = score_rows(load.probes * load.scored(tokens))
    activations = max(_activations(config, tokens, load), _scores(model, tokens, load, part))
    return {
        "activations": FLOAT_BYTES * activations,
        "code": code,
        "tiles": FLOAT_BYTES * (threads * max(linear, attention) + rounded),
    }


def _in_onnx(model: Model, tokens: int, load: Load, most: int) -> Parts:
    """most: of the probes, so many in a pass

    activations: of the feed-forward layer, and attention's scores
    copies: of matrices in float32, or z, or a part of the vocabulary with its logits
    """
    config = model.config
    rows = min(load.probes, most) * tokens
    scores = config.num_attention_heads * load.sight
    floats = 4 * config.hidden_size + 2 * config.feed_forward_size + scores
    copies = max(_widened(model), _logits(model, rows, load), _noise(model, load))
    return {
        "activations": FLOAT_BYTES * rows * floats,
        "copies": copies,
    }


def _around_onnx(model: Model, residency: str, tokens: int, loads: Sequence[Load]) -> Parts:
    """What a run holds by ONNX Runtime whichever load it computes.

    interpreter: without what is said apart
    libraries: pages of their files
    runtime: ONNX Runtime itself, and what each session keeps
    mapped: pages of the model's file
    """
    pages = status_bytes("RssFile")
    layers = model.config.num_hidden_layers * LAYER_BYTES
    further = _sessions(loads, tokens) - 1
    parts = {
        "interpreter": resident_bytes() - pages - _already_held(model),
        LIBRARIES: pages + ("onnxruntime" not in sys.modules) * RUNTIME_PAGES,
        "runtime": RUNTIME_BYTES + layers + further * min(layers, FURTHER_BYTES),
    }
    if residency == "streamed":
        parts[MAPPED] = _mapped(model, loads)
    return parts


def _already_held(model: Model) -> int:
    """Bytes of the model in memory now: what is 0 throughout has no pages yet."""
    return sum(tensor.nbytes for tensor in _own(model).values() if tensor.any())


def _sessions(loads: Sequence[Load], most: int) -> int:
    """Those of a run: loads of as many probes share theirs."""
    sizes: dict[int, int] = {}
    for load in loads:
        sizes[load.probes] = max(sizes.get(load.probes, 0), _group_sizes(load, most))
    return sum(sizes.values())


def _group_sizes(load: Load, most: int) -> int:
    """Sizes of a group of probes: two where examples differ in length, or some are left."""
    tokens = max(load.longest, min(most, load.tokens))
    together = most_probes(tokens, most)
    if load.probes <= together:
        return 1
    is_even = load.tokens % load.longest == 0 and load.probes % together == 0
    return 1 if is_even else 2


def _mapped(model: Model, loads: Sequence[Load]) -> int:
    """Bytes of a model's file that are read: of the token table, words' rows where these do.

    A text of N tokens has some 10 sqrt(N) different ones (Heaps' law).
    """
    weights, own = model.weights, _own(model)
    every = weights.nbytes() - sum(tensor.nbytes for tensor in own.values())
    name = model.architecture.TOKENS
    if name in own or any(load.targets for load in loads):
        return every
    dtype = weights.dtype(name)
    table = math.prod(stored_shape(weights.shape(name), dtype)) * dtype.itemsize
    words = max(min(load.tokens, 10 * math.isqrt(load.tokens)) for load in loads)
    return every - table + min(table, words * READ_AROUND)


def _widened(model: Model) -> int:
    """Bytes of the matrices that are float32 at once, and are stored as something else.

    Of 16 bits, those of a feed-forward layer and two of attention's. Of groups, one at a time.
    """
    config = model.config
    wide = FLOAT_BYTES * config.hidden_size * config.feed_forward_size
    dtypes = model.weights.store.dtypes.values()
    if any(map(is_grouped, dtypes)):
        return wide + 2 * GAPS_BYTES
    if any(dtype != np.float32 for dtype in dtypes):
        return 2 * wide + 2 * FLOAT_BYTES * config.hidden_size**2 + GAPS_BYTES
    return 0


def _logits(model: Model, rows: int, load: Load) -> int:
    """Bytes of a part of the vocabulary, as stored and as float32, and its logits."""
    from tinyzo.engine.onnx.view import PART

    if not load.targets:
        return 0
    words = PART // model.config.hidden_size
    scored = min(rows, load.probes * load.scored(rows))
    return 2 * FLOAT_BYTES * (PART + scored * words)


def _noise(model: Model, load: Load) -> int:
    """Bytes of the largest z that a graph makes at once, of all seeds."""
    from tinyzo.engine.onnx.view import PART

    sizes = {name: model.weights.elements([name]) for name in model.weights.trained}
    table = model.architecture.TOKENS
    if table in sizes and not load.targets:  # of the rows that are read
        sizes[table] = min(sizes[table], load.tokens * model.config.hidden_size)
    return FLOAT_BYTES * NOISE * min(PART, max(sizes.values())) * max(1, load.probes // 2)


def holds_bfloat(model: Model) -> bool:
    """Whether any of the weights is stored as bfloat16."""
    return any(dtype == np.uint16 for dtype in model.weights.store.dtypes.values())


def _activations(config: ModelConfig, tokens: int, load: Load) -> int:
    """Floats: the hidden states and the wide layer, or attention's."""
    width = config.hidden_size
    widest = max(4 * width + config.feed_forward_size, 9 * width)
    return load.probes * tokens * widest


def _scores(model: Model, tokens: int, load: Load, part: int) -> int:
    """Floats: scores of two parts of the vocabulary, beside what the last layer has left.

    Its hidden states are read no more, but the heap keeps their place: measured.

    part: the words in a part; what is written is scored by all words at once
    """
    words = model.weights.shape(model.architecture.TOKENS)[0]
    if not load.is_written:
        words = min(words, 2 * part)
    left = load.probes * tokens * LEFT * model.config.hidden_size
    return left + load.probes * load.scored(tokens) * words


def _backward(model: Model, tokens: int, load: Load) -> int:
    """Bytes of the gradient and, of a micro-batch, of what is kept for it.

    A layer keeps x^ of two LayerNorms, q, k, v, the shares of attention and the slope of GELU. The
    vocabulary is not at work at the same time: scores of a piece of it, and two arrays as large.
    """
    from tinyzo.autodiff.reverse_mode import PIECE

    config = model.config
    width = config.hidden_size
    heads = config.num_attention_heads
    layer = tokens * (5 * width + config.feed_forward_size + heads * load.sight)
    words = min(config.vocab_size, PIECE * tile_rows((config.vocab_size, width)))
    vocabulary = 3 * load.scored(tokens) * words
    borders = tokens * config.num_hidden_layers * width
    piece = min(PIECE * TILE, model.weights.elements([model.architecture.TOKENS]))
    gradient = model.weights.elements(model.weights.trained)
    return FLOAT_BYTES * (borders + max(layer, vocabulary) + piece + gradient)
