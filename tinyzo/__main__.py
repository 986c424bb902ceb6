"""python -m tinyzo"""

from __future__ import annotations

import sys

from tinyzo.cli import main

if __name__ == "__main__":
    sys.exit(main())
