"""Which tokens attend to which in a packed batch."""

from __future__ import annotations

import numpy as np

from tinyzo.batch import Batch


def batch_of(lengths: list[int], parents: list[int]) -> Batch:
    """Segments of these lengths; no ids or positions, which attention does not read."""
    zeros = np.zeros(sum(lengths), np.int64)
    starts = np.array([0, *np.cumsum(lengths)])
    return Batch(zeros, zeros, starts, np.array(parents))


# A prompt (tokens 0 to 2), its child (3, 4), and a prompt of its own (5, 6)
THREE = batch_of([3, 2, 2], [-1, 0, -1])


def blocks(
    batch: Batch, rows: list[int] | None = None, size: int = 128, prefix: int = 0
) -> list[tuple[list[int], list[int], list[int]]]:
    """(rows of the queries, tokens of the keys, places) of each attention block."""
    tokens = np.arange(len(batch.ids) + prefix)
    asking = None if rows is None else np.array(rows)
    queries_of = tokens if asking is None else asking
    return [
        (queries_of[queries].tolist(), tokens[keys].tolist(), places.tolist())
        for queries, keys, places in batch.attention_blocks(asking, size, prefix)
    ]


def test_two_children_share_one_parent_and_not_each_other():
    assert blocks(batch_of([2, 1, 2], [-1, 0, 0])) == [
        ([0, 1], [0, 1], [0, 1]),
        ([2], [0, 1, 2], [2]),
        ([3, 4], [0, 1, 3, 4], [2, 3]),
    ]


def test_blocks_are_bounded():
    assert blocks(THREE, size=2) == [
        ([0, 1], [0, 1, 2], [0, 1]),
        ([2], [0, 1, 2], [2]),
        ([3, 4], [0, 1, 2, 3, 4], [3, 4]),
        ([5, 6], [5, 6], [0, 1]),
    ]


def test_only_the_rows_that_ask_are_queries():
    assert blocks(THREE, rows=[2, 3, 4, 6]) == [
        ([2], [0, 1, 2], [2]),
        ([3, 4], [0, 1, 2, 3, 4], [3, 4]),
        ([6], [5, 6], [1]),
    ]
    assert blocks(THREE, rows=[4]) == [([4], [0, 1, 2, 3, 4], [4])]


def test_a_prefix_comes_before_every_segment_and_its_parent():
    assert blocks(THREE, prefix=2) == [
        ([0, 1, 2], [7, 8, 0, 1, 2], [2, 3, 4]),
        ([3, 4], [7, 8, 0, 1, 2, 3, 4], [5, 6]),
        ([5, 6], [7, 8, 5, 6], [2, 3]),
    ]


def test_the_keys_of_a_segment_alone_are_a_slice_which_copies_nothing():
    first, child, last = THREE.attention_blocks(None, 128)
    assert (first.keys, last.keys) == (slice(0, 3), slice(5, 7))
    assert isinstance(child.keys, np.ndarray)
