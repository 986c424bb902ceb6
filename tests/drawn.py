"""Files of /proc and /sys, drawn as systems have them."""

from __future__ import annotations

from pathlib import Path


def draw_groups(
    folder: Path,
    groups: dict[str, dict[str, str]],
    own: str,
    controllers: str = "",
    root: str = "/",
) -> Path:
    """Control groups, and a /proc/self that says where they are; returns that.

    groups: the files of each group, by its path below the mount's root
    own: the path of this process's group, as /proc/self/cgroup has it
    controllers: of version 1; "": version 2
    root: the group that the mount shows
    """
    name = controllers or "unified"
    point = folder / "cgroup of ours" / name
    for path, files in groups.items():
        group = point / path.lstrip("/")
        group.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (group / file).write_text(f"{text}\n")
    kind = f"cgroup cgroup rw,{controllers}" if controllers else "cgroup2 cgroup rw,nsdelegate"
    number = 4 if controllers else 0
    where = str(point).replace(" ", "\\040")
    proc = folder / "proc"
    proc.mkdir(exist_ok=True)
    for file, line in (
        ("cgroup", f"{number}:{controllers}:{own}"),
        ("mountinfo", f"31 23 0:28 {root} {where} rw,nosuid shared:9 - {kind}"),
    ):
        before = (proc / file).read_text() if (proc / file).exists() else ""
        (proc / file).write_text(f"{before}{line}\n")
    return proc
