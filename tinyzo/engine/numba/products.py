"""The way in which bfloat16 is multiplied here: measured once a machine, kept beside the kernels.

    float32     widened to float32, which rounds nothing
    dpbf16ps    pairs at once, by AVX-512;  bfdot: by Arm's vectors
    amx         tiles of 16 x 32, by Intel's matrices;  bfmmla: 2 x 4, by Arm's
    shifts      pairs where no instruction has them: for tests and comparisons

Products in bfloat16 round both operands, so an instruction has to be faster by a clear margin to be
chosen: some CPUs' dpbf16ps is twice as fast as float32's multiply-add, some others' half. What is
kept is the rates, and the choice follows from those of the ways that this process has: whether it
may use AMX is the system's to say.
"""

import ctypes
import functools
import json
import platform
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from tinyzo.engine.numba import files, objects
from tinyzo.engine.numba.sizes import FLOATS, MATRIX, PAIRS
from tinyzo.errors import ConfigError
from tinyzo.packages import in_a_line, say_once

WIDENED, EMULATED = "float32", "shifts"
MARGIN = 1.1  # how much faster than float32 products in bfloat16 have to be
FILE = "bfloat16.rates"
TURNS = 8  # of which the fastest counts

ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18  # Linux's, on x86-64

Rates = dict[str, float]  # of each way, in Gflop/s a thread


class Way(NamedTuple):
    """A row of doctor's table."""

    name: str
    gigaflops: float
    is_chosen: bool


@functools.cache
def may_use_amx() -> bool:
    """Ask Linux, once a process, whether its threads may use AMX's tiles, and tell its answer.

    False where it does not know of them, or a thread's signals have too small a stack.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0


@functools.cache
def ways() -> dict[str, int]:
    """The ways that this CPU and its system offer, and the number of each in a kernel."""
    build = objects.build()
    found = {WIDENED: FLOATS}
    if build.bf16:
        found[{"avx512bf16": "dpbf16ps"}.get(build.bf16, build.bf16)] = PAIRS
    if build.matrix == "bfmmla" or (build.matrix == "amx" and may_use_amx()):
        found[build.matrix] = MATRIX
    return found


def kind(way: str) -> int:
    """The number of a way in a kernel. raises: ConfigError for one that is not to be had here"""
    offered = ways() if objects.build().bf16 else ways() | {EMULATED: PAIRS}
    if way not in offered:
        raise ConfigError(f"bfloat16 by {way} cannot be had here", f"take {', '.join(offered)}")
    return offered[way]


def choose(rates: Rates) -> str:
    """The fastest way, if it is clearly faster than float32."""
    fastest = max(rates, key=rates.__getitem__)
    return fastest if rates[fastest] > MARGIN * rates[WIDENED] else WIDENED


def choose_rounded(rates: Rates) -> str:
    """The fastest way that multiplies in bfloat16."""
    rounded = {way: rate for way, rate in rates.items() if way != WIDENED}
    return max(rounded, key=rounded.__getitem__, default=EMULATED)


def find_rates(measure: Callable[[Iterable[str]], Rates]) -> Rates:
    """The rates of the ways that are offered: those that are kept, or measured and kept now.

    measure: gives the rates of some ways
    """
    for folder in files.folders():
        kept = read(folder / FILE)
        if ways().keys() <= kept.keys():
            return {way: kept[way] for way in ways()}
    rates = measure(ways())
    chosen, _ = files.choose_folder()
    if chosen is not None:
        try:
            files.write(chosen / FILE, json.dumps(rates).encode())
        except OSError as error:
            say_once(f"{chosen} cannot keep rates ({in_a_line(error)}): measured anew next time")
    return rates


def may_round() -> bool:
    """False where it is known from an earlier process that float32 is the fastest way."""
    for folder in files.folders():
        if kept := read(folder / FILE):
            return choose(kept) != WIDENED
    return True


def read(path: Path) -> Rates:
    """Kept rates; none from a file that is missing, damaged or another user's."""
    data, fault = files.read(path)
    rates: Rates = {} if fault else json.loads(data)
    return rates


def table(rates: Rates) -> list[Way]:
    """Every way, the fastest first."""
    chosen = choose(rates)
    fastest_first = sorted(rates.items(), key=lambda item: -item[1])
    return [Way(name, rate, name == chosen) for name, rate in fastest_first]
