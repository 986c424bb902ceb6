"""The CPUs to compute on, on machines whose /sys is drawn as theirs is."""

from __future__ import annotations

import itertools
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from drawn import draw_groups

from tinyzo.machine import cpus, macos


class Kind(NamedTuple):
    """Cores that are alike.

    cpus: of each core, the numbers of its threads
    clock: cpuinfo_max_freq, in MHz; None: there is no cpufreq
    capacity: cpu_capacity, where there is one
    """

    cpus: Iterable[tuple[int, ...]]
    clock: float | None = None
    capacity: int | None = None


def alone(*numbers: int) -> list[tuple[int, ...]]:
    return [(number,) for number in numbers]


def pairs(first: Iterable[int], distance: int) -> list[tuple[int, ...]]:
    return [(number, number + distance) for number in first]


def draw(root: Path, kinds: Iterable[Kind]) -> Path:
    """A /sys/devices/system/cpu."""
    for kind in kinds:
        for core in kind.cpus:
            for cpu in core:
                files = {"topology/thread_siblings_list": ",".join(map(str, core))}
                if kind.clock:
                    files["cpufreq/cpuinfo_max_freq"] = str(round(kind.clock * 1000))
                if kind.capacity:
                    files["cpu_capacity"] = str(kind.capacity)
                for name, text in files.items():
                    path = root / f"cpu{cpu}" / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(f"{text}\n")
    return root


class Machine(NamedTuple):
    """architecture: as platform.machine() has it. fast: the CPUs that should be used."""

    architecture: str
    fast: Iterable[int]
    kinds: list[Kind]


# What amd_pstate says of the two dies of a 7950X: no two clocks in a die need be alike.
RYZEN = (5881, 5881, 5733, 5733, 5586, 5586, 5439, 5439, 5367, 5295, 5224, 5152, 5080, 5080, 5009)
MACHINES = {
    "Ryzen 9 5950X": Machine(
        "x86_64",
        range(16),
        [Kind(pairs(range(2), 16), 5083.4), Kind(pairs(range(2, 16), 16), 4991.2)],
    ),
    "Ryzen 9 7950X": Machine(
        "x86_64",
        range(16),
        [Kind([(n, n + 16)], clock) for n, clock in enumerate((*RYZEN, 4937))],
    ),
    "Ryzen 9 7950X3D": Machine(
        "x86_64",
        range(16),
        [Kind(pairs(range(8), 16), 5250), Kind(pairs(range(8, 16), 16), 5759)],
    ),
    "Ryzen AI 9 HX 370": Machine(
        "x86_64",
        range(12),
        [Kind(pairs(range(4), 12), 5157.9), Kind(pairs(range(4, 12), 12), 3306.6)],
    ),
    "Threadripper 3970X": Machine("x86_64", range(32), [Kind(pairs(range(32), 32), 4549.1)]),
    "Core i9-12900K": Machine(
        "x86_64",
        [*range(0, 16, 2), *range(16, 24)],
        [
            Kind(pairs((0, 2, 4, 6, 12, 14), 1), 5100),
            Kind(pairs((8, 10), 1), 5200),
            Kind(alone(*range(16, 24)), 3900),
        ],
    ),
    "Core Ultra 7 155H, whose last two have no share of the cache": Machine(
        "x86_64",
        [*range(0, 12, 2), *range(12, 20)],
        [
            Kind(pairs(range(0, 12, 2), 1), 4800),
            Kind(alone(*range(12, 20)), 3800),
            Kind(alone(20, 21), 2500),
        ],
    ),
    "two Xeons": Machine("x86_64", range(48), [Kind(pairs(range(48), 48), 3900)]),
    "Windows's name of a PC": Machine(
        "AMD64", range(6), [Kind(alone(0, 1), 4900), Kind(alone(2, 3, 4, 5), 3500)]
    ),
    "Snapdragon 8 Gen 1": Machine(
        "aarch64",
        range(4, 8),
        [
            Kind(alone(0, 1, 2, 3), 1785.6, 261),
            Kind(alone(4, 5, 6), 2496, 821),
            Kind(alone(7), 2995.2, 1024),
        ],
    ),
    "Snapdragon 8 Gen 3": Machine(
        "aarch64",
        range(2, 8),
        [
            Kind(alone(0, 1), 2265.6, 379),
            Kind(alone(2, 3, 4), 3148.8, 923),
            Kind(alone(5, 6), 2956.8, 867),
            Kind(alone(7), 3302.4, 1024),
        ],
    ),
    "Snapdragon 8 Elite, which has no little ones": Machine(
        "aarch64", range(8), [Kind(alone(*range(6)), 3532.8, 768), Kind(alone(6, 7), 4320, 1024)]
    ),
    "Snapdragon 865": Machine(
        "aarch64",
        range(4, 8),
        [
            Kind(alone(0, 1, 2, 3), 1804.8, 284),
            Kind(alone(4, 5, 6), 2419.2, 871),
            Kind(alone(7), 2841.6, 1024),
        ],
    ),
    "Snapdragon 750G": Machine(
        "aarch64", (6, 7), [Kind(alone(*range(6)), 1804.8, 452), Kind(alone(6, 7), 2208, 1024)]
    ),
    "Tensor": Machine(
        "aarch64",
        range(4, 8),
        [
            Kind(alone(0, 1, 2, 3), 1803, 160),
            Kind(alone(4, 5), 2253, 498),
            Kind(alone(6, 7), 2802, 1024),
        ],
    ),
    "Tensor G2": Machine(
        "aarch64",
        range(4, 8),
        [
            Kind(alone(0, 1, 2, 3), 1803, 166),
            Kind(alone(4, 5), 2348, 620),
            Kind(alone(6, 7), 2850, 1024),
        ],
    ),
    "Helio X20, with little ones of two kinds": Machine(
        "aarch64",
        (8, 9),
        [
            Kind(alone(0, 1, 2, 3), 1391, 260),
            Kind(alone(4, 5, 6, 7), 1950, 364),
            Kind(alone(8, 9), 2314, 1024),
        ],
    ),
    "Raspberry Pi 4": Machine("aarch64", range(4), [Kind(alone(0, 1, 2, 3), 1800)]),
    "Raspberry Pi 5": Machine("aarch64", range(4), [Kind(alone(0, 1, 2, 3), 2400, 1024)]),
    "Apple M1, in Linux": Machine(
        "aarch64",
        range(4, 8),
        [Kind(alone(0, 1, 2, 3), 2064, 459), Kind(alone(4, 5, 6, 7), 3204, 1024)],
    ),
    "a virtual machine": Machine("x86_64", range(4), [Kind(alone(0, 1, 2, 3))]),
    "a virtual machine that shows its threads": Machine(
        "x86_64", (0, 2), [Kind(pairs((0, 2), 1), None, 1024)]
    ),
    "numbers with holes": Machine("x86_64", (0, 5, 9), [Kind([(0, 64), (5, 69), (9, 73)], 3000)]),
}
PHONES = [name for name in MACHINES if "Snapdragon" in name or "Tensor" in name]


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Draws a machine and lets this process run on it; returns its /sys/devices/system/cpu."""

    def place(machine: Machine, mask: Iterable[int] | None = None) -> Path:
        every = {cpu for kind in machine.kinds for core in kind.cpus for cpu in core}
        allowed = set(every if mask is None else mask)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(allowed), raising=False)
        monkeypatch.setattr(os, "process_cpu_count", lambda: len(allowed), raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: len(every))
        monkeypatch.setattr(platform, "machine", lambda: machine.architecture)
        return draw(tmp_path / "cpu", machine.kinds)

    return place


# -- which


@pytest.mark.parametrize("name", MACHINES)
def test_every_machine_has_its_fast_cores(on: Any, tmp_path: Path, name: str) -> None:
    root = on(MACHINES[name])
    assert cpus.fast_cpus(root) == set(MACHINES[name].fast)
    assert cpus.default_threads(root, tmp_path) == len(set(MACHINES[name].fast))


@pytest.mark.parametrize("name", [name for name in PHONES if "Elite" not in name])
def test_a_phone_that_shows_only_clocks(on: Any, name: str) -> None:
    kinds = [kind._replace(capacity=None) for kind in MACHINES[name].kinds]
    assert cpus.fast_cpus(on(MACHINES[name]._replace(kinds=kinds))) == set(MACHINES[name].fast)


@pytest.mark.parametrize(
    ("mask", "fast"),
    [
        ({0}, {0}),
        ({0, 1, 2, 3}, {0, 1, 2, 3}),
        ({2, 5}, {5}),
        ({4, 5, 6, 7}, {4, 5, 6, 7}),
        ({5, 7}, {5, 7}),
    ],
)
def test_an_affinity_is_kept_to(on: Any, mask: set[int], fast: set[int]) -> None:
    assert cpus.fast_cpus(on(MACHINES["Snapdragon 8 Gen 1"], mask)) == fast


@pytest.mark.parametrize(
    ("mask", "fast"),
    [({1}, {1}), ({1, 3}, {1, 3}), ({0, 1, 3}, {0, 3}), ({1, 16, 23}, {1, 16, 23})],
)
def test_a_second_thread_of_a_core_is_used_without_the_first(
    on: Any, mask: set[int], fast: set[int]
) -> None:
    assert cpus.fast_cpus(on(MACHINES["Core i9-12900K"], mask)) == fast


def test_a_core_whose_second_thread_is_offline(on: Any) -> None:
    machine = Machine("x86_64", (), [Kind(pairs(range(4), 4), 3000)])
    assert cpus.fast_cpus(on(machine, {0, 1, 2, 3, 5})) == {0, 1, 2, 3}


# -- what cannot be read


def failing(*_: Any, **__: Any) -> Any:
    raise PermissionError(13, "Permission denied")


def test_a_sys_that_cannot_be_read(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = on(MACHINES["Snapdragon 865"])
    monkeypatch.setattr(Path, "read_text", failing)
    assert cpus.fast_cpus(root) == set(range(8))


@pytest.mark.parametrize("text", ["<unknown>\n", "", "0\n", "-1\n"])
def test_a_clock_that_is_no_number(on: Any, text: str) -> None:
    kinds = [kind._replace(capacity=None) for kind in MACHINES["Snapdragon 865"].kinds]
    root = on(Machine("aarch64", (), kinds))
    (root / "cpu1/cpufreq/cpuinfo_max_freq").write_text(text)
    (root / "cpu1/topology/thread_siblings_list").write_text("<unknown>\n")
    assert cpus.fast_cpus(root) == set(range(8))


def test_a_system_without_affinity(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = on(MACHINES["Snapdragon 865"])
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for change in (lambda: monkeypatch.setattr(os, "sched_getaffinity", failing),
                   lambda: monkeypatch.delattr(os, "sched_getaffinity")):  # fmt: skip
        change()
        monkeypatch.setattr(os, "process_cpu_count", failing, raising=False)
        (root / "online").write_text("0-1,6\n")
        assert cpus.default_threads(root, root) == 1
        (root / "online").write_text("0-1,6\n")
        assert cpus.fast_cpus(root) == {6}
        (root / "online").unlink()
        assert cpus.fast_cpus(root) == {0, 1, 2, 3}
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.fast_cpus(root) == {0}


def test_a_mac_has_its_performance_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(sys, "platform", "darwin")
    for count, fast in ((6, 6), (0, 8)):
        monkeypatch.setattr(macos, "performance_cpus", lambda count=count: count)
        assert cpus.fast_cpus(tmp_path) == set(range(fast))


# -- how many threads


@pytest.mark.parametrize(
    ("quota", "threads"),
    [("150000 100000", 2), ("50000 100000", 1), ("300000 100000", 3), ("max 100000", 16),
     ("6400000 100000", 16), ("100001 100000", 2), ("", 16), ("nonsense", 16), ("0 0", 16)],
)  # fmt: skip
def test_a_quota_is_spent_and_not_exceeded(
    on: Any, tmp_path: Path, quota: str, threads: int
) -> None:
    root = on(MACHINES["Ryzen 9 5950X"])
    proc = draw_groups(tmp_path, {"/": {}, "/job": {"cpu.max": quota}}, "/job")
    assert cpus.default_threads(root, proc) == threads
    assert cpus.fast_cpus(root) == set(range(16))  # a quota is of time, on whichever CPU


@pytest.mark.parametrize(("own", "above", "threads"), [(400, 150, 2), (150, 400, 2), (-1, 250, 3)])
def test_the_least_quota_on_the_way_up(
    on: Any, tmp_path: Path, own: int, above: int, threads: int
) -> None:
    root = on(MACHINES["Ryzen 9 5950X"])
    groups = {
        "/": {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"},
        "/a": {"cpu.cfs_quota_us": f"{above}", "cpu.cfs_period_us": "100"},
        "/a/b": {"cpu.cfs_quota_us": f"{own}", "cpu.cfs_period_us": "100"},
    }
    proc = draw_groups(tmp_path, groups, "/a/b", controllers="cpu,cpuacct")
    assert cpus.default_threads(root, proc) == threads


def test_python_may_be_told_how_many(
    on: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = on(MACHINES["Ryzen 9 5950X"])
    for told, threads in ((3, 3), (99, 16), (None, 16)):
        monkeypatch.setattr(os, "process_cpu_count", lambda told=told: told, raising=False)
        assert cpus.default_threads(root, tmp_path) == threads
    monkeypatch.delattr(os, "process_cpu_count")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cpus.default_threads(root, tmp_path) == 5


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python knows PYTHON_CPU_COUNT since 3.13")
def test_the_variable_of_python(tmp_path: Path) -> None:
    from folders import python

    code = "from tinyzo.machine.cpus import default_threads; print(default_threads())"
    process = python("-X", "cpu_count=1", "-c", code)
    assert process.communicate()[0] == "1\n"


def test_this_machine() -> None:
    assert 1 <= cpus.default_threads() <= len(cpus.fast_cpus()) <= (os.cpu_count() or 1)


def test_the_cache_is_the_smallest_of_the_fast_cpus(tmp_path, monkeypatch):
    """Each core's own second level; 512 kB where the system does not tell it, or in other words."""
    monkeypatch.setattr(cpus, "_allowed_cpus", lambda root: {0, 1})
    sizes = {0: ("1", "48K"), 1: ("2", "2048K"), 2: ("3", "32768K")}
    assert cpus.cache_bytes(tmp_path) == 512 << 10
    for cpu, index in itertools.product((0, 1, 2), sizes):
        folder = tmp_path / f"cpu{cpu}/cache/index{index}"
        folder.mkdir(parents=True)
        for file, text in zip(("level", "size"), sizes[index], strict=True):
            (folder / file).write_text(f"{text}\n")
    assert cpus.cache_bytes(tmp_path) == 2 << 20
    (tmp_path / "cpu1/cache/index1/size").write_text("1024K\n")
    (tmp_path / "cpu2/cache/index1/size").write_text("64K\n")
    assert cpus.cache_bytes(tmp_path) == 1 << 20
    for cpu in (0, 1):
        (tmp_path / f"cpu{cpu}/cache/index1/size").write_text("much\n")
    assert cpus.cache_bytes(tmp_path) == 512 << 10
