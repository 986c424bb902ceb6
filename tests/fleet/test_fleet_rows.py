"""One data set as that of many clients."""

from __future__ import annotations

import numpy as np
import pytest

from tinyzo.errors import DataError
from tinyzo.fleet.rows import split

LABELS = [0, 1, 2, 3] * 50


@pytest.mark.parametrize("alpha", [0.1, 1.0, 100.0])
def test_each_row_has_one_client_and_each_client_a_row(alpha):
    parts = split(LABELS, 100, alpha, seed=1)
    assert sorted(row for own in parts for row in own) == list(range(200))
    assert all(parts)
    assert parts == split(LABELS, 100, alpha, seed=1) != split(LABELS, 100, alpha, seed=2)


def most_of_one_label(alpha):
    """The share of a client's rows that have its commonest label, in the mean."""
    counts = [np.bincount([LABELS[row] for row in own]) for own in split(LABELS, 10, alpha, 0)]
    return np.mean([count.max() / count.sum() for count in counts])


def test_a_small_alpha_gives_clients_few_labels():
    assert most_of_one_label(100.0) < 0.4 < 0.7 < most_of_one_label(0.1)


def test_fewer_rows_than_clients_are_refused():
    with pytest.raises(DataError, match="3 rows for 4 clients") as error:
        split([0, 0, 1], 4, 1.0, 0)
    assert error.value.hint == "each needs one: take fewer clients, or more rows"
