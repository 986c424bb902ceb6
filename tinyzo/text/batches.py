"""Packed tokens: all sequences of a batch one after another, with offsets; no padding, no masks.

A segment may have a parent whose tokens it sees before its own. The candidates of an example
share their prompt that way, and the last token of a candidate needs no place at all: its
probability is read one token earlier. Same loss as the published code, a fraction of its work.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from tinyzo.errors import DataError
from tinyzo.text.tasks import Example

Block = tuple[slice, slice | np.ndarray, np.ndarray]  # queries, keys, places of the queries


@dataclass(frozen=True)
class Batch:
    """Packed sequences and what the loss reads of them.

    ids, positions: i64[N], tokens and their place in their sequence (counted from 0)
    starts: i64[S + 1], the segments' offsets; parents: i64[S], a segment's parent or -1
    read: i64[M], ascending: the tokens whose last hidden state is read; None: all
    words: i64[C] label words, scored at each read token; or None, and then
    at, targets: i64[K]: target token k is scored at read token at[k]
    lengths: i64[candidates], how many targets each candidate has
    counts: i64[B], how many candidates each example has; labels: i64[B], the gold one
    """

    ids: np.ndarray
    positions: np.ndarray
    starts: np.ndarray
    parents: np.ndarray
    read: np.ndarray | None = None
    words: np.ndarray | None = None
    at: np.ndarray | None = None
    targets: np.ndarray | None = None
    lengths: np.ndarray | None = None
    counts: np.ndarray | None = None
    labels: np.ndarray | None = None

    def attention_blocks(self, rows: np.ndarray | None, size: int,
                         prefix: int = 0) -> Iterator[Block]:  # fmt: skip
        """What attends to what, segment by segment, at most `size` queries at once.

        prefix: so many keys after the tokens' come before all others.

        rows: the tokens that ask (ascending), None for all. Yields the queries as a slice of
        rows, the keys as tokens (parent's first), and each query's own place among the keys.
        """
        n = len(self.ids)
        rows = np.arange(n) if rows is None else rows
        for start, stop, parent in zip(self.starts, self.starts[1:], self.parents, strict=False):
            first, last = self.starts[parent : parent + 2] if parent >= 0 else (0, 0)
            keys, before = slice(start, stop), prefix + last - first
            if before:
                keys = np.r_[n : n + prefix, first:last, start:stop]
            begin, end = np.searchsorted(rows, (start, stop))
            for i in range(begin, end, size):
                queries = slice(i, min(i + size, end))
                yield queries, keys, before + rows[queries] - start


class Packer:
    """Grows a batch segment by segment."""

    def __init__(self) -> None:
        self.ids, self.positions, self.starts, self.parents = [], [], [0], []

    def segment(self, ids: Sequence[int], parent: int = -1) -> int:
        """Append one segment; returns its number."""
        before = self.starts[parent + 1] - self.starts[parent] if parent >= 0 else 0
        self.ids += ids
        self.positions += range(before, before + len(ids))
        self.starts.append(len(self.ids))
        self.parents.append(parent)
        return len(self.parents) - 1

    def batch(self, **what) -> Batch:
        """The segments, and what is read of them."""
        return Batch(**{name: np.array(w, np.int64) for name, w in (vars(self) | what).items()})


def pack_sequences(sequences: Sequence[Sequence[int]]) -> Batch:
    """Plain sequences, every hidden state read.

    raises: DataError when there is none, or one is empty
    """
    if not sequences or not all(len(s) for s in sequences):
        raise DataError("an empty sequence", "give at least one token id in each sequence")
    packer = Packer()
    for sequence in sequences:
        packer.segment(sequence)
    return packer.batch()


def pack_masks(examples: Sequence[Example], words: Sequence[int]) -> Batch:
    """RoBERTa's prompts: the label words are scored at each mask."""
    packer = Packer()
    read = [packer.starts[packer.segment(e.prompt)] + e.mask_at for e in examples]
    labels = [e.label for e in examples]
    return packer.batch(read=read, words=words, counts=[len(words)] * len(read), labels=labels)


def pack_candidates(examples: Sequence[Example], gold_only: bool = False) -> Batch:
    """OPT's prompts: a segment for each prompt, a child for each candidate of several tokens.

    gold_only leaves the other candidates out, since the language-model loss never reads them.
    """
    packer, readers = Packer(), []
    chosen = [(e.candidates[e.label],) if gold_only else e.candidates for e in examples]
    for example, candidates in zip(examples, chosen, strict=True):
        prompt = packer.segment(example.prompt)
        last = len(packer.ids) - 1
        for candidate in candidates:
            if len(candidate) > 1:
                packer.segment(candidate[:-1], prompt)
            readers += [last, *range(len(packer.ids) + 1 - len(candidate), len(packer.ids))]
    read, at = np.unique(readers, return_inverse=True)
    every = list(chain(*chosen))
    return packer.batch(read=read, at=at, targets=list(chain(*every)),
                        lengths=list(map(len, every)), counts=list(map(len, chosen)),
                        labels=[0 if gold_only else e.label for e in examples])  # fmt: skip


def packed_size(example: Example) -> int:
    """The tokens that an example takes in a packed batch."""
    return len(example.prompt) + sum(len(c) - 1 for c in example.candidates)


def micro_batches(examples: Sequence[Example], max_tokens: int) -> Iterator[Sequence[Example]]:
    """Consecutive parts of a batch of at most max_tokens packed tokens, one example at least."""
    start = tokens = 0
    for i, e in enumerate(examples):
        tokens += packed_size(e)
        if i > start and tokens > max_tokens:
            yield examples[start:i]
            start, tokens = i, packed_size(e)
    yield examples[start:]


def batch_rows(step: int, rows: int, batch_size: int, data_seed: int) -> np.ndarray:
    """Which training rows step `step` (from 0) reads: a fresh permutation each epoch, none dropped.

    A pure function, so that resuming needs no state. returns i64[<= batch_size]
    """
    epoch, place = divmod(step, -(-rows // batch_size))
    order = np.random.RandomState([data_seed, epoch]).permutation(rows)
    return order[place * batch_size : (place + 1) * batch_size]
