"""The command line: results on stdout, progress and logs on stderr.

Exit codes: 0 done, 1 failed with a reason and a hint, 2 wrong usage, 130 after Ctrl-C, 128 + N
after another signal N.
"""

from tinyzo.cli.main import build_parser, main

__all__ = ["build_parser", "main"]
