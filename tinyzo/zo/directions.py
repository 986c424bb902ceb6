"""Directions."""

from tinyzo.models.trainable import low_rank, magnitude_limits, renew

DIRECTIONS = ("gaussian", "rademacher", "low-rank", "magnitude")
__all__ = ["DIRECTIONS", "low_rank", "magnitude_limits", "renew"]
