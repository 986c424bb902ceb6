"""Packed tokens as attention reads them: in segments, filled up to the longest.

All other verbs work on the packed tokens, so what fills a segment up costs nothing there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tinyzo.batch import Batch
from tinyzo.dtypes import Rows
from tinyzo.engine.onnx.graph import Value

HIDDEN = np.float32(-1e30)  # the score of a key that a query may not see: e^HIDDEN is 0


class Layout(NamedTuple):
    """Packed tokens as S segments, filled up to the longest: attention alone works on these.

    queries: i64[S, T], the token at each place, of those that ask
    keys:    i64[S, K], the same of those that are seen
    hidden:  f32[S, 1, T or 1, K], HIDDEN where a query does not see a key, and 0
    places:  i64[M], the place of each token that asks, counted through [S, T]
    """

    queries: Value
    keys: Value
    hidden: Value
    places: Value


def segments(batch: Batch, rows: Rows, prefix: int, causal: bool) -> tuple[np.ndarray, ...]:
    """A Layout's arrays."""
    blocks = list(batch.attention_blocks(rows, len(batch.ids), prefix))
    tokens = np.arange(len(batch.ids) + prefix)
    asking = [np.arange(block.queries.start, block.queries.stop) for block in blocks]
    seen = [tokens[block.keys] for block in blocks]
    queries = filled(asking)
    keys = filled(seen)
    count, longest = queries.shape
    hidden = np.full((count, 1, longest, keys.shape[1]), HIDDEN)
    for at, block in enumerate(blocks):
        visible = np.zeros((len(asking[at]), len(seen[at])), np.float32)
        if causal:
            is_later = np.arange(len(seen[at])) > block.places[:, None]
            visible[is_later] = HIDDEN
        hidden[at, 0, : len(asking[at]), : len(seen[at])] = visible
    places = [at * longest + np.arange(len(own)) for at, own in enumerate(asking)]
    return queries, keys, hidden, np.concatenate(places)


def filled(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of any length as i64[S, T]; 0 where one is shorter."""
    longest = max(map(len, rows))
    out = np.zeros((len(rows), longest), np.int64)
    for at, row in enumerate(rows):
        out[at, : len(row)] = row
    return out
