"""Examples packed into batches, and the rows that each step reads.

The candidates of an example share their prompt, as children of its segment. The last token of a
candidate needs no place at all: its probability is read one token earlier. The loss is that of the
published code, for a fraction of its work.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from tinyzo.batch import Batch
from tinyzo.dtypes import Integers
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
        """Append one segment, which goes on from its parent's end.

        returns: the segment's number
        """
        position = 0
        if parent >= 0:
            position = self.starts[parent + 1] - self.starts[parent]
        self.ids += ids
        self.positions += range(position, position + len(ids))
        self.starts.append(len(self.ids))
        self.parents.append(parent)
        return len(self.parents) - 1

    def batch(self) -> Batch:
        """The segments so far, with every hidden state read."""
        return Batch(
            ids=_integers(self.ids),
            positions=_integers(self.positions),
            starts=_integers(self.starts),
            parents=_integers(self.parents),
        )


def _integers(values: Sequence[int]) -> Integers:
    return np.array(values, np.int64)


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
    masks = []
    for example in examples:
        masks.append(len(packer.ids) + example.mask_at)
        packer.segment(example.prompt)
    return replace(
        packer.batch(),
        read=_integers(masks),
        words=_integers(words),
        counts=_integers([len(words)] * len(examples)),
        labels=_integers([example.label for example in examples]),
    )


def pack_candidates(examples: Sequence[Example]) -> Batch:
    """OPT's prompts: a segment for each prompt, a child for each candidate of several tokens."""
    packer = Packer()
    readers: list[int] = []  # the token at which each target is scored
    targets: list[int] = []
    for example in examples:
        prompt = packer.segment(example.prompt)
        last = len(packer.ids) - 1
        for candidate in example.candidates:
            start = len(packer.ids)
            if len(candidate) > 1:
                packer.segment(candidate[:-1], prompt)
            readers += [last, *range(start, len(packer.ids))]
            targets += candidate
    read, at = np.unique(_integers(readers), return_inverse=True)
    lengths = [len(candidate) for example in examples for candidate in example.candidates]
    return replace(
        packer.batch(),
        read=read,
        at=at,
        targets=_integers(targets),
        lengths=_integers(lengths),
        counts=_integers([len(example.candidates) for example in examples]),
        labels=_integers([example.label for example in examples]),
    )


def with_gold_only(example: Example) -> Example:
    """An example without its other candidates, which a language model's loss never reads."""
    gold = example.candidates[example.label]
    return replace(example, candidates=(gold,), label=0)


def packed_size(example: Example) -> int:
    """The tokens that an example takes in a packed batch."""
    return len(example.prompt) + sum(len(candidate) - 1 for candidate in example.candidates)


def micro_batches(
    examples: Sequence[Example], max_tokens: int, size_of: Callable[[Example], int] = packed_size
) -> Iterator[Sequence[Example]]:
    """Consecutive parts of a batch of at most max_tokens, one example at least.

    size_of: the tokens of an example; by default those that it takes when packed
    """
    start = 0
    tokens = 0
    for index, example in enumerate(examples):
        size = size_of(example)
        if index > start and tokens + size > max_tokens:
            yield examples[start:index]
            start = index
            tokens = 0
        tokens += size
    yield examples[start:]


def batch_rows(step: int, rows: int, batch_size: int, data_seed: int) -> Integers:
    """The training rows that step `step` (from 0) reads: a new permutation in each epoch.

    No row is dropped, so the last batch of an epoch may be smaller. A pure function, so that
    resuming needs no state.

    returns: i64[<= batch_size]
    """
    steps_per_epoch = -(-rows // batch_size)
    epoch, place = divmod(step, steps_per_epoch)
    order = np.random.RandomState([data_seed, epoch]).permutation(rows)
    return order[place * batch_size : (place + 1) * batch_size]
