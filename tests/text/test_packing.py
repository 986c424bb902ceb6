"""Examples into batches: offsets, parents, what is read; and which rows a step takes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from tiny import examples_for

from tinyzo.errors import DataError
from tinyzo.text.packing import (
    batch_rows,
    micro_batches,
    pack_candidates,
    pack_masks,
    pack_sequences,
    with_gold_only,
)
from tinyzo.text.tasks import Example


def fields(batch) -> dict:
    """The arrays that are there, as lists."""
    return {k: v.tolist() for k, v in vars(batch).items() if v is not None and len(v)}


# -- packing -------------------------------------------------------------------------------


def test_sequences():
    batch = pack_sequences([[7, 8, 9], [5], (4, 3)])
    assert fields(batch) == {
        "ids": [7, 8, 9, 5, 4, 3],
        "positions": [0, 1, 2, 0, 0, 1],
        "starts": [0, 3, 4, 6],
        "parents": [-1, -1, -1],
    }
    assert all(a.dtype == np.int64 for a in vars(batch).values() if a is not None)


@pytest.mark.parametrize("sequences", [[], [[]], [[1], []]])
def test_empty_sequences_are_refused(sequences):
    with pytest.raises(DataError, match=r"an empty sequence\n.*at least one token"):
        pack_sequences(sequences)


def test_masks():
    first = Example((0, 10, 28, 2), (), 2, 1, "")
    second = Example((0, 28, 2), (), 1, 0, "")
    assert fields(pack_masks([first, second], [21, 22, 23])) == {
        "ids": [0, 10, 28, 2, 0, 28, 2],
        "positions": [0, 1, 2, 3, 0, 1, 2],
        "starts": [0, 4, 7],
        "parents": [-1, -1],
        "read": [2, 5],
        "words": [21, 22, 23],
        "counts": [3, 3],
        "labels": [1, 0],
    }


TWO = [
    Example((2, 10, 11), ((5,), (6, 7, 8)), -1, 1, ""),  # tokens 0..2, then 6 7 at 3 4
    Example((2, 12), ((5,), (9,)), -1, 0, ""),  # tokens 5 6; its candidates need none
]


def test_candidates():
    assert fields(pack_candidates(TWO)) == {
        "ids": [2, 10, 11, 6, 7, 2, 12],
        "positions": [0, 1, 2, 3, 4, 0, 1],
        "starts": [0, 3, 5, 7],
        "parents": [-1, 0, -1],
        "read": [2, 3, 4, 6],  # the first candidate token's probability is the prompt's to give
        "at": [0, 0, 1, 2, 3, 3],
        "targets": [5, 6, 7, 8, 5, 9],
        "lengths": [1, 3, 1, 1],
        "counts": [2, 2],
        "labels": [1, 0],
    }


def test_gold_candidates_only():
    assert fields(pack_candidates([with_gold_only(each) for each in TWO])) == {
        "ids": [2, 10, 11, 6, 7, 2, 12],
        "positions": [0, 1, 2, 3, 4, 0, 1],
        "starts": [0, 3, 5, 7],
        "parents": [-1, 0, -1],
        "read": [2, 3, 4, 6],
        "at": [0, 1, 2, 3],
        "targets": [6, 7, 8, 5],
        "lengths": [3, 1],
        "counts": [1, 1],
        "labels": [0, 0],
    }


def test_positions_of_each_example_go_on_from_its_own_prompt():
    first = Example((2, 10), ((5, 6),), -1, 0, "")
    second = Example((2, 12, 13), ((8, 9),), -1, 0, "")
    batch = pack_candidates([first, second])
    assert batch.parents.tolist() == [-1, 0, -1, 2]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1, 2, 3]


def test_candidates_of_several_tokens_are_children_of_one_prompt():
    batch = pack_candidates([Example((2, 10), ((5, 6), (7, 8, 9)), -1, 0, "")])
    assert batch.ids.tolist() == [2, 10, 5, 7, 8]
    assert batch.parents.tolist() == [-1, 0, 0]
    assert batch.positions.tolist() == [0, 1, 2, 2, 3]


# -- micro-batches -------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["roberta", "opt"])
@pytest.mark.parametrize("max_tokens", [1, 9, 12, 30, 10**6])
def test_micro_batches_keep_order_and_bound(family, max_tokens):
    examples = examples_for(family, 9)
    parts = list(micro_batches(examples, max_tokens))
    assert [e for part in parts for e in part] == examples
    for part in parts:
        batch = pack_masks(part, [1]) if family == "roberta" else pack_candidates(part)
        assert len(part) == 1 or len(batch.ids) <= max_tokens
    for part, following in pairwise(parts):  # no part could take one more
        both = [*part, following[0]]
        batch = pack_masks(both, [1]) if family == "roberta" else pack_candidates(both)
        assert len(batch.ids) > max_tokens


# -- rows ----------------------------------------------------------------------------------

FROZEN = [[8, 9], [5, 0, 6, 4], [2, 7, 3, 1], [3, 1, 2, 9]]


@pytest.mark.parametrize(("rows", "size"), [(10, 3), (12, 4), (5, 1), (7, 7)])
def test_every_row_once_an_epoch_and_the_last_batch_partial(rows, size):
    per_epoch = -(-rows // size)
    epochs = []
    for epoch in range(3):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        batches = [batch_rows(step, rows, size, data_seed=5) for step in steps]
        assert [len(b) for b in batches[:-1]] == [size] * (per_epoch - 1)
        assert len(batches[-1]) == rows - size * (per_epoch - 1)
        epochs.append(np.concatenate(batches).tolist())
        assert sorted(epochs[-1]) == list(range(rows))
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_larger_than_the_data_is_all_of_it():
    for step in (0, 1, 17):
        assert sorted(batch_rows(step, 6, 64, 0).tolist()) == [0, 1, 2, 3, 4, 5]


def test_rows_are_a_pure_function_of_the_step_with_frozen_values():
    assert [batch_rows(step, 10, 4, 42).tolist() for step in (2, 0, 1, 3)] == FROZEN
    assert [batch_rows(step, 10, 4, 42).tolist() for step in (2, 0, 1, 3)] == FROZEN
    assert batch_rows(0, 10, 4, 43).tolist() != FROZEN[1]
    assert batch_rows(10**9, 10, 4, 42).shape == (4,)
