"""python -m tinyzo"""

import sys


def main() -> int:
    """The command `tinyzo`; Ctrl-C before it has begun is no traceback either."""
    try:
        from tinyzo.cli import main as command

        return command()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
