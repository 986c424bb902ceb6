"""Directions: which z a step moves along.

    gaussian, rademacher   every trained element, independently             engine/noise.py
    low-rank               z = U V^T in matrices; V is kept for a while     LOZO, 2410.07698
    magnitude              gaussian, only where weights are small           Sparse-MeZO, 2402.15751

The first two are a kind of noise. The others prepare the weights, here.
"""

import math

import numpy as np

from tinyzo.engine.noise import noise
from tinyzo.engine.weights import Weights
from tinyzo.models.trainable import Trained, matrices_of, new_adapters, put_in_front

DIRECTIONS = ("gaussian", "rademacher", "low-rank", "magnitude")
RANK = 2  # of U and V, as LOZO has it
SHARE = 0.25  # of a tensor's elements, the smallest, that move
SAMPLE = 1 << 18  # elements of a tensor that are looked at


def low_rank(weights: Weights, seed: int) -> None:
    """Let matrices move by z = U V^T alone, and vectors as ever.

    That is LoRA with B = U, the m x r numbers that move, and A = V^T, from the seed.
    """
    vectors = {
        name: weights.stored(name) for name in weights.names() if len(weights.shape(name)) == 1
    }
    adapters = new_adapters(weights, matrices_of(weights), RANK, seed)
    moved = [name for name in adapters if ".lora_B." in name]
    trained = Trained(
        own=adapters | vectors,
        names=[*moved, *vectors],
        adapter_scale=1.0,
    )
    put_in_front(weights, trained, saved=weights.names())
    renew(weights, seed)


def renew(weights: Weights, seed: int) -> None:
    """Another V, with U at 0; what has moved must have been merged."""
    for name in weights.names():
        half = weights.stored(name)
        if ".lora_A." in name:
            half[...] = noise(seed, name, half.shape)
        elif ".lora_B." in name:
            half[...] = 0


def magnitude_limits(weights: Weights, share: float = SHARE) -> dict[str, float]:
    """For each trained tensor, the size that so large a share of its elements does not exceed.

    differs: a percentile of whole rows, evenly spaced, of some SAMPLE elements in all
    """
    limits = {}
    for name in weights.trained:
        shape = weights.shape(name)
        every = max(1, math.prod(shape) // SAMPLE)
        rows = np.arange(0, shape[0], every)
        sizes = np.abs(weights.gather(name, rows))
        sizes = np.sort(sizes, axis=None)
        place = int(share * (sizes.size - 1))
        limits[name] = float(sizes[place])
    return limits
