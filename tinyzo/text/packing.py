"""Packed tokens: all sequences of a batch one after another, with offsets; no padding, no masks.

A segment may have a parent whose tokens it sees before its own. The candidates of an example
share their prompt that way, and the last token of a candidate needs no place at all: its
probability is read one token earlier. Same loss as the published code, a fraction of its work.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from tinyzo.batch import Batch
from tinyzo.errors import DataError
from tinyzo.text.tasks import Example


class Packer:
    """Grows a batch segment by segment."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.starts: list[int] = [0]
        self.parents: list[int] = []

    def segment(self, ids: Sequence[int], parent: int = -1) -> int:
        """Append one segment, which goes on from its parent's end; returns its number."""
        before = self.starts[parent + 1] - self.starts[parent] if parent >= 0 else 0
        self.ids += ids
        self.positions += range(before, before + len(ids))
        self.starts.append(len(self.ids))
        self.parents.append(parent)
        return len(self.parents) - 1

    def batch(self, **read: Any) -> Batch:
        """The segments; read: further fields of Batch, which say what is read of them."""
        fields = vars(self) | read
        return Batch(**{name: np.array(values, np.int64) for name, values in fields.items()})


def pack_sequences(sequences: Sequence[Sequence[int]]) -> Batch:
    """Plain sequences of token ids, every hidden state read.

    raises: DataError when there is none, or one is empty
    """
    if not sequences or not all(len(sequence) for sequence in sequences):
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
