"""Sizes of the numba engine's work. Nothing is imported, so that a memory plan can read them."""

BLOCK = 128  # rows of W that a thread takes at once, at most
DEPTH = 512  # words of k at once: a tile of W, BLOCK rows of them, stays in L2
