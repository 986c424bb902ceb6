"""python -m tinyzo"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `tinyzo`; Ctrl-C before it has begun is no traceback either."""
    try:
        from tinyzo.cli import main as command

        return command(arguments)
    except KeyboardInterrupt:
        return 130
    finally:
        exec("")  # after an interrupt within an exec, Python ends by SIGINT unless one more is done


if __name__ == "__main__":
    sys.exit(main())
