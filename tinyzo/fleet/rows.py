"""The rows of one data set as those of many clients, to simulate a fleet."""

from collections.abc import Sequence

import numpy as np

from tinyzo.errors import DataError


def split(labels: Sequence[int], parts: int, alpha: float, seed: int) -> list[list[int]]:
    """The numbers of each client's rows, one at least.

    The rows of each label are divided by shares from Dirichlet(alpha): a large alpha gives all
    clients nearly the same labels, a small one a label or two (arXiv 1909.06335).
    raises: DataError for fewer rows than clients
    """
    if len(labels) < parts:
        hint = "each needs one: take fewer clients, or more rows"
        raise DataError(f"{len(labels)} rows for {parts} clients", hint)
    random = np.random.RandomState([seed, parts])
    held: list[list[int]] = [[] for _ in range(parts)]
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(np.array(labels) == label))
        shares = random.dirichlet([alpha] * parts)
        ends = np.rint(np.cumsum(shares)[:-1] * len(rows)).astype(int)
        for own, piece in zip(held, np.split(rows, ends), strict=True):
            own.extend(piece.tolist())
    for own in held:
        if not own:
            own.append(max(held, key=len).pop())
    return held
