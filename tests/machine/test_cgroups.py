"""The groups of a process, found and read as systems of both versions have them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from drawn import draw_groups

from tinyzo.machine import cgroups

MB = 1 << 20
NO_LIMIT = "9223372036854771712"  # as version 1 says it
STAT = f"anon {300 * MB}\nfile {90 * MB}\ninactive_file {50 * MB}\nactive_file {30 * MB}"
STAT_1 = f"inactive_file 1\nactive_file 1\ntotal_inactive_file {50 * MB}\ntotal_active_file 0"


def version_2(limit: str, used: int, stat: str = STAT, high: str = "max") -> dict[str, str]:
    return {
        "memory.max": limit,
        "memory.high": high,
        "memory.current": str(used),
        "memory.stat": stat,
    }


def version_1(limit: str, used: int, stat: str = STAT_1) -> dict[str, str]:
    return {
        "memory.limit_in_bytes": limit,
        "memory.usage_in_bytes": str(used),
        "memory.stat": stat,
    }


# -- memory


@pytest.mark.parametrize(
    ("files", "free"),
    [
        (version_2("max", 400 * MB), math.inf),
        (version_2(str(500 * MB), 400 * MB), 180 * MB),  # 80 of the 400 are cache
        (version_2(str(500 * MB), 400 * MB, stat=""), 100 * MB),
        (version_2("max", 400 * MB, high=str(450 * MB)), 130 * MB),
        (version_2(str(500 * MB), 400 * MB, high=str(600 * MB)), 180 * MB),
        (version_2(str(300 * MB), 400 * MB), 0),  # lowered below what was used
        (version_2(str(500 * MB), 10 * MB), 500 * MB),  # the cache counts later than the use
        (version_2("", 0), math.inf),
        (version_2("nonsense", 0), math.inf),
        ({}, math.inf),  # the root has none
        ({"memory.max": str(500 * MB)}, 500 * MB),
    ],
)
def test_what_a_group_of_version_2_leaves(
    tmp_path: Path, files: dict[str, str], free: float
) -> None:
    assert cgroups.free_bytes(draw_groups(tmp_path, {"/": {}, "/job": files}, "/job")) == free


@pytest.mark.parametrize(
    ("files", "free"),
    [
        (version_1(NO_LIMIT, 400 * MB), int(NO_LIMIT) - 350 * MB),
        (version_1(str(500 * MB), 400 * MB), 150 * MB),
        (version_1(str(500 * MB), 400 * MB, stat=f"inactive_file {MB}"), 101 * MB),
        ({}, math.inf),
    ],
)
def test_what_a_group_of_version_1_leaves(
    tmp_path: Path, files: dict[str, str], free: float
) -> None:
    groups = {"/": {}, "/docker/5af": files}
    proc = draw_groups(tmp_path, groups, "/docker/5af", controllers="memory")
    assert cgroups.free_bytes(proc) == free


@pytest.mark.parametrize(("sizes", "free"), [((900, 500, 700), 500), ((300, 500, 700), 300),
                                             ((900, 800, 200), 200)])  # fmt: skip
def test_the_least_on_the_way_up_counts(
    tmp_path: Path, sizes: tuple[int, int, int], free: int
) -> None:
    names = ("/a.slice", "/a.slice/b.scope", "/a.slice/b.scope/c")
    groups = {
        name: version_2(str(size * MB), 0, "") for name, size in zip(names, sizes, strict=True)
    }
    groups["/z"] = version_2(str(MB), 0)  # of others
    assert cgroups.free_bytes(draw_groups(tmp_path, groups, names[-1])) == free * MB


@pytest.mark.parametrize(
    ("own", "root"),
    [
        ("/", "/"),  # of its own namespace
        ("/docker/5af", "/docker/5af"),  # the mount shows the group itself
        ("/../5af", "/"),  # it was moved out of the namespace's root
        ("/../../user.slice", "/.."),
        ("/docker/5af", "/kubepods/pod7"),  # two views that do not fit
    ],
)
@pytest.mark.parametrize("controllers", ["", "memory"])
def test_a_container_that_sees_itself_as_the_root(
    tmp_path: Path, own: str, root: str, controllers: str
) -> None:
    files = version_1(str(9 * MB), 0, "") if controllers else version_2(str(9 * MB), 0, "")
    proc = draw_groups(tmp_path, {"/": files}, own, controllers, root)
    assert cgroups.free_bytes(proc) == 9 * MB


def test_a_group_below_the_one_that_is_mounted(tmp_path: Path) -> None:
    groups = {"/": version_2(str(9 * MB), 0), "/in": version_2(str(4 * MB), 0)}
    proc = draw_groups(tmp_path, groups, "/docker/5af/in", root="/docker/5af")
    assert cgroups.free_bytes(proc) == 4 * MB


def test_both_versions_at_once(tmp_path: Path) -> None:
    draw_groups(tmp_path, {"/a": version_1(str(9 * MB), 0)}, "/a", controllers="memory")
    draw_groups(tmp_path, {"/b": {"cpu.cfs_quota_us": "5", "cpu.cfs_period_us": "2"}}, "/b",
                controllers="cpu,cpuacct")  # fmt: skip
    proc = draw_groups(tmp_path, {"/c": {"cgroup.procs": "1"}}, "/c")
    assert cgroups.free_bytes(proc) == 9 * MB
    assert cgroups.cpu_quota(proc) == 2.5


def test_a_path_with_a_colon(tmp_path: Path) -> None:
    proc = draw_groups(tmp_path, {"/a:b c": version_2(str(9 * MB), 0)}, "/a:b c")
    assert cgroups.free_bytes(proc) == 9 * MB


# -- what cannot be read


def test_without_proc_nothing_is_limited(tmp_path: Path) -> None:
    assert cgroups.free_bytes(tmp_path) == cgroups.cpu_quota(tmp_path) == math.inf


@pytest.mark.parametrize("file", ["cgroup", "mountinfo"])
@pytest.mark.parametrize("text", ["", "nonsense\n", "1:2\n", "a b - c\n"])
def test_damaged_files_limit_nothing(tmp_path: Path, file: str, text: str) -> None:
    proc = draw_groups(tmp_path, {"/": version_2(str(MB), 0)}, "/")
    (proc / file).write_text(text)
    assert cgroups.free_bytes(proc) == math.inf


def test_groups_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc = draw_groups(tmp_path, {"/": version_2(str(MB), 0)}, "/")
    read_text = Path.read_text

    def denied(path: Path, **how: str) -> str:
        if path.name.startswith("memory"):
            raise PermissionError(13, "Permission denied")
        return read_text(path, **how)

    monkeypatch.setattr(Path, "read_text", denied)
    assert cgroups.free_bytes(proc) == math.inf


def test_this_process() -> None:
    assert cgroups.free_bytes() > 0
    assert cgroups.cpu_quota() > 0
