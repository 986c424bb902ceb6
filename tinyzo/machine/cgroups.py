"""What the control groups of this process leave to it (Linux; versions 1, 2 and both at once).

A group's limits hold for all below it, so the least on the way up to the mount counts. What cannot
be read limits nothing. A container may see its own group as the root of its mount.
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

PROC = Path("/proc/self")


def cpu_quota(proc: Path = PROC) -> float:
    """How many CPUs' time this process may take, such as 1.5; infinite without a limit."""
    return min(map(_quota, _groups("cpu", proc)), default=math.inf)


def free_bytes(proc: Path = PROC) -> float:
    """The memory that this process may still take; infinite without a limit."""
    return min(map(_room, _groups("memory", proc)), default=math.inf)


# -- limits of one group ---------------------------------------------------------------


def _quota(group: Path) -> float:
    words = _words(group / "cpu.max")
    if not words:  # version 1
        words = _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
    numbers = [int(word) for word in words if word.isdecimal()]  # neither "max" nor -1
    if len(numbers) == 2 and all(numbers):
        return numbers[0] / numbers[1]
    return math.inf


def _room(group: Path) -> float:
    """The least limit, less what is used. The cache of files is not: it yields to what is new."""
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")
    limit = min(_number(group / name, math.inf) for name in names)
    used = _number(group / "memory.current", 0) + _number(group / "memory.usage_in_bytes", 0)
    return max(0, limit - max(0, used - _cache(group)))


def _cache(group: Path) -> int:
    """Bytes of the files that are cached, on either list; in-memory files are on neither."""
    words = _words(group / "memory.stat")
    stat = dict(zip(words[::2], map(int, words[1::2]), strict=False))
    names = ("inactive_file", "active_file")
    return sum(stat.get(f"total_{name}", stat.get(name, 0)) for name in names)


def _number(path: Path, otherwise: float) -> float:
    words = _words(path)
    return int(words[0]) if words and words[0].isdecimal() else otherwise


def _words(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text().split()
    return []


# -- where the groups are --------------------------------------------------------------


class Mount(NamedTuple):
    """A line of mountinfo: the group `root` is seen in the folder `point`."""

    root: str
    point: Path
    system: str
    options: list[str]


def _groups(controller: str, proc: Path) -> Iterator[Path]:
    """The folders of this process's groups and of all above them, of either version."""
    paths = _paths(proc)
    for mount in _mounts(proc):
        name = {"cgroup": controller, "cgroup2": ""}.get(mount.system)
        if name in paths and (not name or name in mount.options):
            yield from _upwards(mount, PurePosixPath(paths[name]))


def _paths(proc: Path) -> dict[str, str]:
    """The path of this process's group by controller; that of version 2 by ""."""
    paths: dict[str, str] = {}
    with suppress(OSError, ValueError):
        for line in _lines(proc / "cgroup"):
            _, controllers, path = line.split(":", 2)
            paths |= dict.fromkeys(controllers.split(","), path)
    return paths


def _mounts(proc: Path) -> Iterator[Mount]:
    with suppress(OSError, ValueError):
        for line in _lines(proc / "mountinfo"):
            left, _, right = line.partition(" - ")
            _, _, _, root, point, *_ = left.split(" ")
            system, _, options = right.split(" ", 2)
            yield Mount(root, Path(point.replace("\\040", " ")), system, options.split(","))


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _upwards(mount: Mount, path: PurePosixPath) -> Iterator[Path]:
    """The folder of a group and those above it, as far as they are seen."""
    folder = mount.point
    if path.is_relative_to(mount.root) and ".." not in path.parts:
        folder /= path.relative_to(mount.root)
    yield folder
    while folder != mount.point:
        folder = folder.parent
        yield folder
