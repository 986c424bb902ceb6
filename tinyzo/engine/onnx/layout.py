"""Packed tokens as attention reads them: in segments, filled up to the longest.

All other verbs work on the packed tokens, so what fills a segment up costs nothing there.
"""

from __future__ import annotations

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
    asking = max(block.queries.stop - block.queries.start for block in blocks)
    tokens = np.arange(len(batch.ids) + prefix)
    seen = max(len(tokens[block.keys]) for block in blocks)
    queries = np.zeros((len(blocks), asking), np.int64)
    keys = np.zeros((len(blocks), seen), np.int64)
    hidden = np.full((len(blocks), 1, asking, seen), HIDDEN)
    places = []
    for at, block in enumerate(blocks):
        own = np.arange(block.queries.start, block.queries.stop)
        visible = tokens[block.keys]
        queries[at, : len(own)] = own
        keys[at, : len(visible)] = visible
        is_seen = np.arange(len(visible)) <= block.places[:, None] if causal else True
        hidden[at, 0, : len(own), : len(visible)] = np.where(is_seen, np.float32(0), HIDDEN)
        places.append(at * asking + np.arange(len(own)))
    return queries, keys, hidden, np.concatenate(places)
