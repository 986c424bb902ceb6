"""Adam without state: its moments are made again from the terms of the last K steps (AdaMeZO).

    theta <- theta - 100 lr M / (sqrt(V) + 1e-5)
    M = sum_k b1^k g_k z_k,  V = sum_k b2^k g_k^2 z_k^2        k = 0 the newest; arXiv 2605.00650
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

BETA_1, BETA_2, BOOST, FLOOR = 0.7, 0.9, 100.0, np.float32(1e-5)


def adam_terms(terms: Sequence[tuple[int, float]],
               each: int) -> tuple[list[tuple[int, float, float]], float]:  # fmt: skip
    """(seed, b1^k g, b2^k g^2) of the last K steps, `each` terms a step, newest first; - 100 lr.

    terms: (seed, g) of those steps, and at their end (any seed, lr)
    """
    aged = [(i // each, seed, g) for i, (seed, g) in enumerate(terms[:-1])]
    return [(seed, BETA_1**k * g, BETA_2**k * g * g) for k, seed, g in aged], -BOOST * terms[-1][1]


def adam_change(weights: Any, terms: Sequence[tuple[int, float]], name: str, w: np.ndarray,
                index: np.ndarray) -> np.ndarray:  # fmt: skip
    """What an update adds to some elements of a tensor, now w: f32; index: u32, kept."""
    moments, rate = adam_terms(terms, weights.adam)
    m = v = np.float32(0)
    for seed, first, second in moments:
        z = weights.direction(seed, name, w, index)
        m, v = m + np.float32(first) * z, v + np.float32(second) * (z * z)
    return np.float32(rate) * (m / (np.sqrt(v) + FLOOR))
