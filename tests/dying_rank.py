"""`python dying_rank.py RANK N finetune ...`: tinyzo, but that rank dies at its Nth exchange."""

from __future__ import annotations

import os
import signal
import sys

from tinyzo.cli import main
from tinyzo.runs.ranks import Mpi

RANK, LEFT = int(sys.argv[1]), [int(sys.argv[2])]
gather = Mpi.gather


def dying(wire: Mpi, data: bytes) -> list[bytes]:
    LEFT[0] -= 1
    if wire.number == RANK and LEFT[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return gather(wire, data)


Mpi.gather = dying  # type: ignore[method-assign]
sys.exit(main(sys.argv[3:]))
