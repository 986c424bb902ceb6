"""The local cache of the Hugging Face hub, in which a name such as facebook/opt-125m is a folder.

    <cache>/models--<org>--<name>/refs/<revision>     the hash of a revision such as main
    <cache>/models--<org>--<name>/snapshots/<hash>    its files, symbolic links to ../../blobs

Source: github.com/huggingface/huggingface_hub, constants.py and file_download.py.
differs: nothing is ever downloaded
"""

import os
import re
from pathlib import Path

_NAME = re.compile(r"(?:[\w.-]{1,96}/)?[\w.-]{1,96}", re.ASCII)
_LONGEST = 100  # bytes of a hash


def cache_folder() -> Path:
    """Where the hub's own programs keep what they download."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(variable):
            return _expanded(folder)
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(caches, "huggingface")
    return _expanded(home) / "hub"


def _expanded(folder: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(folder)))


def place_of(name: str) -> Path | None:
    """Where the cache would have a model; None for what is no name of one."""
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        return None
    return cache_folder() / f"models--{name.replace('/', '--')}"


def cached_model(name: str, revision: str = "main") -> Path | None:
    """The folder of a model in the cache; None when it is not there.

    revision: a branch, a tag or a hash
    """
    place = place_of(name)
    if place is None or not re.fullmatch(r"[\w./-]+", revision, re.ASCII) or ".." in revision:
        return None
    snapshots = place / "snapshots"
    for commit in (_commit(place / "refs" / revision), revision):
        if re.fullmatch(r"\w+", commit, re.ASCII) and os.path.isdir(snapshots / commit):
            return snapshots / commit
    return None


def _commit(ref: Path) -> str:
    """The hash in a file of refs/; "" when there is none."""
    try:
        with open(ref, "rb") as file:
            return file.read(_LONGEST).decode("ascii", "replace").strip()
    except OSError:
        return ""


def looked_in(name: str, revision: str = "main") -> str:
    """A hint where a model of that name was sought in the cache."""
    place = place_of(name)
    if place is None:
        return ""
    return f"; {place} has no snapshot of {revision} either, and nothing is downloaded"


def name_of(folder: Path) -> str:
    """The last part of a model's name, whose folder may be in the cache."""
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.rpartition("--")[2]
    return folder.name
