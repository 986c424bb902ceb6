"""What the kernels are given that has a type of its own. Nothing of Numba is imported."""

from typing import NamedTuple

import numpy as np

# How elements are stored. A kernel is compiled once for all of them: raw is u8[rows, bytes].
F32, BF16, F16, INT4, INT8 = 0, 1, 2, 3, 4  # the last two: groups, checkpoints/groups.py


class Terms(NamedTuple):
    """The terms that are added to a tensor as it is read: pending ones, then a z for each probe.

    keys: u32[T + S, 2], noise.key of the pending terms, then of the probes' seeds
    kept, added: f32[T], w <- kept w + added z, in this order
    rounds: bool[T], an update ends there, after which w is rounded; salts: u32[T, 2], for that
    seeds: i64[C], for each copy of the weights the place of its z in keys, or -1; scales: f32[C]
    is_signs: z is rademacher; limit: z is 0 where |w| is larger
    is_moment: bool[T], the term is AdaMeZO's, and not one of a sum
    moments: f32[T, 2], AdaMeZO's factor of z^2, and at its update's end the rate
    """

    keys: np.ndarray
    kept: np.ndarray
    added: np.ndarray
    rounds: np.ndarray
    salts: np.ndarray
    seeds: np.ndarray
    scales: np.ndarray
    is_signs: bool
    is_moment: np.ndarray
    moments: np.ndarray
    limit: float
