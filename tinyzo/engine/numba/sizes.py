"""Sizes of the numba engine's work. No Numba is imported, so that a memory plan can read them."""

DEPTH = 512  # words of k at once; the sum of a product is one of such parts, on every machine
BLOCK = 128  # rows of W that a thread takes at once, at most
FEW = 2  # tokens of a product for which W is not packed, at most
FEW_ROWS = 32  # rows of W that a thread then takes at once
TASKS = 3  # the first of the numbers that threads share, which are of tasks; then:
DONE, THREADS, TURNS, LEAVE = 3, 4, 5, 6  # kernels.rest
COUNTERS = 8  # all of them, which the caller has; the other threads have one less
VOCABULARY = 4096  # rows of the decoder whose scores exist at once, at most
SCORES = 1 << 22  # of those scores, at most: 16 MB
CHUNK = 1 << 14  # elements of a task that goes through memory once
CACHE_SHARE = 4  # the part of a core's second-level cache that a tile of W may have
FLOATS, PAIRS, MATRIX = 0, 1, 2  # a product: of float32, of bfloat16 by pairs, by a matrix's words
UNITS = {"": 1, "amx": 16, "bfmmla": 2}  # words of k that an instruction for matrices takes at once
ROOM = {"": 0, "amx": 16, "bfmmla": 0}  # tokens beyond the last that it may read


def block_rows(cache: int, least: int) -> int:
    """The rows of W that a thread takes at once; the rest of the cache is for tokens and sums.

    cache: bytes of a core's second level; least: what the result is a multiple of
    """
    rows = cache // (CACHE_SHARE * 4 * DEPTH)
    return max(least, min(BLOCK, rows) // least * least)


def score_rows(tokens: int) -> int:
    """The rows of the decoder whose scores of so many tokens exist at once."""
    return max(BLOCK, min(VOCABULARY, SCORES // max(1, tokens)) // BLOCK * BLOCK)
