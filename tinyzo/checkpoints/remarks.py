"""What is said of a checkpoint that is read although something in it is odd."""

import sys
from functools import cache


@cache
def remark(what: object, why: str) -> None:
    """Print one line to stderr, once for a file and a reason."""
    print(f"tinyzo: {what}: {why}", file=sys.stderr, flush=True)
