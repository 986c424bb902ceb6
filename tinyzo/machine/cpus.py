"""The CPUs to compute on, and how many threads.

Each thread takes the next task when it is done with one, so a CPU that is a little slower takes
fewer, and none waits for it long. One that is several times slower holds up the rest at the end of
every product; those are left out.
"""

import math
import os
import platform
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from tinyzo.machine import macos
from tinyzo.machine.cgroups import PROC, cpu_quota

CPUS = Path("/sys/devices/system/cpu")
Speeds = dict[int, int]  # by CPU
X86 = ("x86_64", "amd64", "i686", "i386")
USUAL_CACHE = 512 << 10  # bytes of a core's second level
# How many times as fast the next cluster is, at least, for the ones below to be little.
CAPACITY_GAP = 1.5  # 1.9 to 4 from little to big or middle cores; 1.3 among big ones
CLOCK_GAP = 1.2  # 1.22 to 1.4, and 1.0 to 1.1 among cores of one kind
SLOW = 0.6  # of the highest clock of x86: low-power cores have 0.5, all others 0.64 or more


def default_threads(root: Path = CPUS, proc: Path = PROC) -> int:
    """One for each fast CPU, and no more than a quota of time, or Python's own, allows.

    A quota of 1.5 CPUs is spent by two threads, not by one.
    root: as for `fast_cpus`; proc: has the control groups of this process
    """
    return math.ceil(min(len(fast_cpus(root)), cpu_quota(proc), _python_count()))


def _python_count() -> float:
    """The CPUs that Python counts, which PYTHON_CPU_COUNT says since 3.13."""
    count = getattr(os, "process_cpu_count", os.cpu_count)
    with suppress(OSError):
        return count() or math.inf
    return math.inf


def fast_cpus(root: Path = CPUS) -> set[int]:
    """The CPUs that this process may use: one a core, without the little cores among others.

    root: the folder that has cpuN/cpu_capacity, cpuN/cpufreq and cpuN/topology
    """
    cpus = _one_a_core(root, _allowed_cpus(root))
    return cpus - _little_cpus(root, cpus)


def cache_bytes(root: Path = CPUS) -> int:
    """The smallest second-level cache of the fast CPUs; a phone's where nothing tells it."""
    found = []
    for file in (path for cpu in fast_cpus(root) for path in root.glob(f"cpu{cpu}/cache/index*")):
        with suppress(OSError, ValueError):
            if (file / "level").read_text().strip() == "2":
                size = (file / "size").read_text().strip()  # "2048K"
                found.append(int(size.removesuffix("K")) << 10)
    return min(found, default=USUAL_CACHE)


def _allowed_cpus(root: Path) -> set[int]:
    """The CPUs that are online and that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        with suppress(OSError):
            return os.sched_getaffinity(0)
    count = os.cpu_count() or 1
    if sys.platform == "darwin":
        count = macos.performance_cpus() or count
    return _cpu_list(root / "online") or set(range(count))


def _one_a_core(root: Path, cpus: set[int]) -> set[int]:
    """The first thread of each core: its multipliers and caches are one thread's work."""
    siblings = {cpu: _cpu_list(root / f"cpu{cpu}/topology/thread_siblings_list") for cpu in cpus}
    return {min(cpus & siblings[cpu], default=cpu) for cpu in cpus}


def _cpu_list(path: Path) -> set[int]:
    """Numbers as in "0-3,8"; none when the file cannot be read."""
    cpus: set[int] = set()
    with suppress(OSError, ValueError):
        for part in path.read_text().split(","):
            first, _, last = part.partition("-")
            cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def _little_cpus(root: Path, cpus: set[int]) -> set[int]:
    """The CPUs that are so slow that the others are faster without them."""
    clocks = _speeds(root, cpus, "cpufreq/cpuinfo_max_freq")
    if platform.machine().lower() in X86:
        return {cpu for cpu, clock in clocks.items() if clock < SLOW * max(clocks.values())}
    capacities = _speeds(root, cpus, "cpu_capacity")
    if len(set(capacities.values())) > 1:
        return _below_the_gap(capacities, CAPACITY_GAP)
    return _below_the_gap(clocks, CLOCK_GAP)


def _speeds(root: Path, cpus: set[int], file: str) -> Speeds:
    """What a file says of each CPU; nothing unless it does so for all."""
    try:
        speeds = {cpu: int((root / f"cpu{cpu}" / file).read_text()) for cpu in cpus}
    except (OSError, ValueError):  # Android may not let us read it, a virtual machine has none
        return {}
    return speeds if all(speed > 0 for speed in speeds.values()) else {}


def _below_the_gap(speeds: Speeds, least: float) -> set[int]:
    """The CPUs below the widest gap between two speeds, if the ratio there is large enough."""
    gaps = [(high / low, high) for low, high in pairwise(sorted(set(speeds.values())))]
    ratio, start = max(gaps, default=(1, 0))
    return {cpu for cpu, speed in speeds.items() if speed < start and ratio >= least}
