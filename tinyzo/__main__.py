"""python -m tinyzo"""

import os
import sys
from collections.abc import Sequence

# For how many cycles, a power of 2, a thread of NumPy's BLAS keeps its core busy when it has done
# its part of a product: by default 25 ms, in which one of ours would compute the next thing.
BLAS_WAITS = "OPENBLAS_THREAD_TIMEOUT", "14"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `tinyzo`; Ctrl-C before it has begun is no traceback either."""
    try:
        os.environ.setdefault(*BLAS_WAITS)  # before NumPy is loaded
        from tinyzo.cli import main as command

        return command(arguments)
    except KeyboardInterrupt:
        return 130
    finally:
        exec("")  # after an interrupt within an exec, Python ends by SIGINT unless one more is done


if __name__ == "__main__":
    sys.exit(main())
