"""Packed tokens: all sequences of a batch one after another, with offsets; no padding, no masks.

A segment may have a parent whose tokens it sees before its own: the candidates of an example share
their prompt that way. `text/packing.py` makes batches of examples; nothing here knows of text.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tinyzo.dtypes import Integers, Rows


def none() -> Integers:
    """No numbers: what a batch has of a field that its kind of loss does not read."""
    return np.empty(0, np.int64)


class AttentionBlock(NamedTuple):
    """Some queries and the keys that they may see.

    queries: a slice of the rows that ask; keys: the tokens they see, a parent's first
    places:  i64[T], each query's own place among the keys, which bounds what it sees if causal
    """

    queries: slice
    keys: slice | Integers
    places: Integers


@dataclass(frozen=True)
class Batch:
    """Packed sequences and what the loss reads of them.

    ids, positions: i64[N], tokens and their place in their sequence (counted from 0)
    starts:  i64[S + 1], the segments' offsets; parents: i64[S], a segment's parent or -1
    read:    i64[M], ascending: the tokens whose last hidden state is read; None: all
    words:   i64[C], label words, scored at each read token (RoBERTa); or there are none, and
    at, targets: i64[K], target token k is scored at read token at[k] (OPT)
    lengths: i64[candidates], how many targets each candidate has
    counts:  i64[B], how many candidates each example has; labels: i64[B], the gold one
    """

    ids: Integers
    positions: Integers
    starts: Integers
    parents: Integers
    read: Integers | None = None
    words: Integers = field(default_factory=none)
    at: Integers = field(default_factory=none)
    targets: Integers = field(default_factory=none)
    lengths: Integers = field(default_factory=none)
    counts: Integers = field(default_factory=none)
    labels: Integers = field(default_factory=none)

    def attention_blocks(self, rows: Rows, size: int, prefix: int = 0) -> Iterator[AttentionBlock]:
        """The queries of each segment, at most `size` at once, with the keys that they see.

        rows:   the tokens that ask, ascending; None for all
        prefix: the number of keys after the tokens' own, which all see, before all others
        """
        if rows is None:
            rows = np.arange(len(self.ids))
        for segment in range(len(self.parents)):
            keys, before = self._keys(segment, prefix)
            start, stop = self._span(segment)
            first, last = np.searchsorted(rows, (start, stop))
            for at in range(first, last, size):
                queries = slice(at, min(at + size, last))
                yield AttentionBlock(queries, keys, before + rows[queries] - start)

    def _span(self, segment: int) -> tuple[int, int]:
        """The first token of a segment and the one after its last; 0, 0 for -1, no parent."""
        if segment < 0:
            return 0, 0
        return int(self.starts[segment]), int(self.starts[segment + 1])

    def _keys(self, segment: int, prefix: int) -> tuple[slice | Integers, int]:
        """The tokens that a segment sees, and how many of them come before its own."""
        start, stop = self._span(segment)
        parent_start, parent_stop = self._span(self.parents[segment])
        before = prefix + parent_stop - parent_start
        if not before:
            return slice(start, stop), 0
        tokens = len(self.ids)
        keys = np.r_[tokens : tokens + prefix, parent_start:parent_stop, start:stop]
        return keys, before
