"""Sequences that go on, token by token, many at once; each leaves as it ends.

Prompts are read in passes of whole sequences, then each pass reads one token of each. Keys and
values are kept (engine/past.py); an engine whose views keep nothing reads whole sequences anew.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, cast

import numpy as np

from tinyzo.batch import Batch
from tinyzo.dtypes import Array
from tinyzo.engine.numpy_engine import NumpyView
from tinyzo.engine.past import PastView, past_bytes, prefix_rows
from tinyzo.engine.protocols import View
from tinyzo.errors import ConfigError, DataError, UsageError
from tinyzo.machine.memory import free_bytes
from tinyzo.models.model import Model
from tinyzo.models.sampling import Sampler
from tinyzo.text.packing import pack_sequences

AT_ONCE = 8192  # tokens of sequences that grow together, at most; one of more grows alone
READ_AT_ONCE = 512  # tokens of prompts in a pass, at most
CONTINUES = ("opt",)  # the families that are language models
STOP, LENGTH = "stop", "length"  # why a sequence ends

Ends = Callable[[int, int], bool]  # (sequence, its newest token) -> whether it ends there


class Token(NamedTuple):
    """A token of a sequence. end: STOP or LENGTH, where it is the last; else "" """

    sequence: int
    id: int
    end: str


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: Sequence[int] = (),
    theta: View | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[list[int]]:
    """What follows each prompt: its new tokens, without the one of `stop` that ended it.

    prompts: token ids, of any lengths, each with the bos that it begins with
    stop:    tokens that end a sequence, as the eos; none counts unasked
    theta:   a view of one probe, as theta.parts(1) gives of several; None: the model as it is
    temperature, top_p, seed: as for Sampler; 0: the likeliest token always
    raises:  as `stream`
    """
    sampler = Sampler(temperature, top_p, seed)
    found: list[list[int]] = [[] for _ in prompts]
    with model.weights.lock:  # of one theta, whoever else trains it
        for token in stream(model, prompts, max_new_tokens, stop, theta, sampler):
            if token.id not in stop:
                found[token.sequence].append(token.id)
    return found


def stream(
    model: Model,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: Sequence[int] = (),
    theta: View | None = None,
    sampler: Sampler = Sampler(),  # noqa: B008 (frozen)
    ends: Ends | None = None,
) -> Iterator[Token]:
    """The tokens of all sequences as they come, those of `stop` too.

    ends: says of any other token whether its sequence ends with it
    raises: ConfigError for a model that continues no text; DataError for an empty prompt, an
        unknown id, a sequence beyond the model's positions, or no memory for keys and values;
        UsageError for fewer than one token, or a view of several probes; NumericError
    """
    check(model, prompts, max_new_tokens)
    view = model.weights.view() if theta is None else theta
    if len(view.probes) > 1:
        found = f"a view of {len(view.probes)} probes, which choose different tokens"
        raise UsageError(found, "generate for each of theta.parts(1)")
    generation = Generation(model, view, max_new_tokens, frozenset(stop), sampler, ends)
    return generation.run(prompts)


def check(model: Model, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """raises: as `stream` says, for what can be known before"""
    if model.family not in CONTINUES:
        found = f"{model.family} is a masked language model, which continues no text"
        raise ConfigError(found, "take an OPT model, as opt-tiny")
    if max_new_tokens < 1:
        raise UsageError(f"{max_new_tokens} new tokens", "ask for one at least")
    if not prompts:
        return
    model.check(pack_sequences(prompts))
    longest = max(map(len, prompts))
    positions = model.config.max_length
    if longest + max_new_tokens > positions:
        found = f"a prompt of {longest} tokens and {max_new_tokens} new ones"
        hint = f"the model has {positions} positions: a shorter prompt, or fewer new tokens"
        raise DataError(found, hint)


class Source(Protocol):
    """The scores of the token that comes next in each sequence."""

    def logits(self, numbers: Sequence[int], sequences: Sequence[Sequence[int]]) -> Array:
        """f32[B, V]. numbers: which ones; sequences: those, as long as they are now"""


class Kept:
    """A Source that reads each token once."""

    def __init__(self, model: Model, theta: NumpyView, sizes: Sequence[int]) -> None:
        """raises: DataError when the memory for keys and values is not there"""
        tokens = sum(sizes) + len(sizes) * prefix_rows(model.weights)
        config = model.config
        needed = past_bytes(config.num_hidden_layers, config.hidden_size, tokens)
        free = free_bytes()
        if needed > free:
            found = f"keys and values of {tokens} tokens take {needed / 1e6:.3g} MB"
            hint = f"{free / 1e6:.3g} MB are free: fewer new tokens, or a shorter prompt"
            raise DataError(found, hint)
        self._model = model
        self._past = PastView(theta, sizes)
        self._begun: set[int] = set()

    def logits(self, numbers: Sequence[int], sequences: Sequence[Sequence[int]]) -> Array:
        is_begun = self._begun.issuperset(numbers)
        batch = newest_of(sequences) if is_begun else whole(sequences)
        self._begun.update(numbers)
        self._past.begin(batch, numbers)
        # Its other verbs are those of the view behind it.
        return self._model.scores(cast(View, self._past), batch)[0]


class Anew:
    """A Source that reads whole sequences in each pass, by a new view each time."""

    def __init__(self, model: Model, theta: View) -> None:
        self._model = model
        self._theta = theta

    def logits(self, numbers: Sequence[int], sequences: Sequence[Sequence[int]]) -> Array:
        weights = self._model.weights
        theta = weights.engine.view(weights, self._theta.probes)
        return self._model.scores(theta, whole(sequences))[0]


def whole(sequences: Sequence[Sequence[int]]) -> Batch:
    """All tokens of some sequences, of which the last ones are read."""
    batch = pack_sequences(sequences)
    return replace(batch, read=batch.starts[1:] - 1)


def newest_of(sequences: Sequence[Sequence[int]]) -> Batch:
    """The last token of each sequence."""
    return Batch(
        ids=np.array([sequence[-1] for sequence in sequences], np.int64),
        positions=np.array([len(sequence) - 1 for sequence in sequences], np.int64),
        starts=np.arange(len(sequences) + 1),
        parents=np.full(len(sequences), -1),
    )


class Generation(NamedTuple):
    """The arguments of `stream`, checked."""

    model: Model
    theta: View
    max_new_tokens: int
    stop: frozenset[int]
    sampler: Sampler
    ends: Ends | None

    def run(self, prompts: Sequence[Sequence[int]]) -> Iterator[Token]:
        """All sequences, as many at once as AT_ONCE says."""
        sizes = [len(prompt) + self.max_new_tokens for prompt in prompts]
        for group in groups(sizes, AT_ONCE):
            yield from self.grow(group[0], [list(prompts[i]) for i in group])

    def grow(self, first: int, sequences: list[list[int]]) -> Iterator[Token]:
        """The sequences from number `first` on, which are longer by a token after each pass."""
        lengths = [len(sequence) for sequence in sequences]
        source = self.source([length + self.max_new_tokens for length in lengths])
        parts = groups(lengths, READ_AT_ONCE)
        for step in range(self.max_new_tokens):
            left = []
            for part in parts:
                scores = source.logits(part, [sequences[i] for i in part])
                for i, logits in zip(part, scores, strict=True):
                    token = self.next(first + i, logits, step)
                    sequences[i].append(token.id)
                    if not token.end:
                        left.append(i)
                    yield token
            if not left:
                return
            parts = [left]

    def source(self, sizes: Sequence[int]) -> Source:
        """What remembers, where the engine's views can."""
        if isinstance(self.theta, NumpyView):
            return Kept(self.model, self.theta, sizes)
        return Anew(self.model, self.theta)

    def next(self, sequence: int, logits: Array, step: int) -> Token:
        """A sequence's token number `step`."""
        token = self.sampler.choose(logits, sequence, step)
        end = LENGTH if step == self.max_new_tokens - 1 else ""
        if token in self.stop or (self.ends is not None and self.ends(sequence, token)):
            end = STOP
        return Token(sequence, token, end)


def groups(sizes: Sequence[int], most: int) -> list[list[int]]:
    """The numbers of consecutive sizes that come to at most so much together; one at least."""
    found: list[list[int]] = []
    total = 0
    for number, size in enumerate(sizes):
        if not found or total + size > most:
            found.append([])
            total = 0
        found[-1].append(number)
        total += size
    return found
