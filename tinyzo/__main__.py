"""python -m tinyzo"""

import sys

from tinyzo.cli import main

if __name__ == "__main__":
    sys.exit(main())
