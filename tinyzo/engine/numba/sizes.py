"""Sizes of the numba engine's work. Nothing is imported, so that a memory plan can read them."""

BLOCK = 128  # rows of W that a thread takes at once, at most
DEPTH = 512  # words of k at once: a panel of X, and the rows of W that meet it, stay in L2
CHUNK = 1 << 14  # elements of a task that goes through memory once
