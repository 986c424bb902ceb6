"""Compiled kernels, kept in files from one process to the next.

Numba's own cache knows of changes of the file that a kernel stands in, not of those that are
compiled into it; a torn file of it is an error; and two machines that share it may take each
other's code. Here a folder is of one content: of the sources, of the versions of what compiles
them, and of one kind of CPU. A file is of one kernel, begins with its digest, and is replaced as a
whole, so one that is damaged is as one that is missing. All may be deleted at any time.
"""

import functools
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tinyzo.engine.numba import host, loader

LOADER: Any = __spec__.loader  # of files, or of what is in a ZIP
ENGINE = Path(__file__).parents[1]
OWN = Path(__file__).parent / "__pycache__"
SOURCES = (  # whose code or constants are compiled
    *("numba/amx.py", "numba/bfmmla.py", "numba/few.py", "numba/gather.py"),
    "numba/groups.py",
    *("numba/kernels.py", "numba/layers.py", "numba/matmul.py", "numba/matrix.py"),
    *("numba/noise.py", "numba/sizes.py", "numba/softmax.py", "numba/storage.py"),
    *("numba/tensors.py", "numba/terms.py", "numba/vectors.py", "numba/wide.py"),
    *("noise.py", "gelu.py", "moments.py"),
)
FORMATS = ("numba/cache.py", "numba/objects.py")  # which write the files
DIGEST_BYTES = 32
KERNELS = {  # those that are kept, and where they stand
    "linear": "matmul",
    "linear_of_few": "few",
    "attention": "layers",
    "attend": "few",
    "gelu": "layers",
    "norm": "layers",
    "gather": "gather",
    "fold": "tensors",
}


# -- folders ---------------------------------------------------------------------------------


def digest(*parts: object) -> str:
    """16 hexadecimal digits, others for any other parts."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def of_sources() -> str:
    """The beginning of a folder's name: kernels-A-, where A is of what is compiled."""
    content = [LOADER.get_data(str(ENGINE / source)) for source in SOURCES + FORMATS]
    return f"kernels-{digest(content)}-"


def of_compiler() -> str:
    """The end of a folder's name: of what compiles, and for which CPU."""
    return digest(host.versions(), host.settings(), host.cpu())


@functools.cache
def folders() -> list[Path]:
    """Where kernels may be kept, the first choice first."""
    parents = [OWN]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(home):  # some have none
        parents.append(Path(home, "tinyzo"))
    if os.environ.get("NUMBA_CACHE_DIR"):
        parents.insert(0, Path(os.environ["NUMBA_CACHE_DIR"], "tinyzo"))
    name = of_sources() + of_compiler()
    return [parent / name for parent in parents]


@functools.cache
def choose_folder() -> tuple[Path | None, str]:
    """The folder that kernels are written to; or none, and why there is none."""
    faults = []
    for folder in folders():
        try:
            make_ready(folder)
        except OSError as error:
            faults.append(f"{folder.parent}: {error.strerror}")
        else:
            return folder, ""
    return None, "; ".join(faults)


def make_ready(folder: Path) -> None:
    """Make a folder where there is none, and an empty one where it has a file that is not sound.

    raises: OSError where nothing can be written
    """
    ours = [*folder.glob("*.kernel"), *folder.glob("*.object")]
    if any(read(file)[1] for file in ours):
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
    if folder.parent == OWN:  # older sources will not come back here
        for other in OWN.glob("kernels-*"):
            if not other.name.startswith(of_sources()):
                shutil.rmtree(other, ignore_errors=True)


# -- files -----------------------------------------------------------------------------------


def read(path: Path) -> tuple[bytes, str]:
    """What a kernel's file holds; or nothing, and what is wrong with it.

    It is code that will run, so it has to be of who runs it, of who owns our sources, or of root.
    """
    try:
        owner = path.stat().st_uid
        content = path.read_bytes() if path.is_file() else b""
    except OSError as error:
        return b"", f"cannot be read ({error.strerror})"
    if owner not in trusted_owners():
        return b"", "is another user's"
    data = content[DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != content[:DIGEST_BYTES]:
        return b"", "is damaged"
    return data, ""


def trusted_owners() -> set[int]:
    """Who runs this, root, and who owns our sources, where these are files."""
    owners = {getattr(os, "getuid", int)(), 0}
    return owners | {ENGINE.stat().st_uid} if ENGINE.is_dir() else owners


def write(path: Path, data: bytes) -> None:
    """Write or replace a kernel's file, whole or not at all; others may do so at the same time.

    raises: OSError
    """
    partial = path.with_name(f"{os.urandom(8).hex()}.partial")
    try:
        partial.write_bytes(hashlib.sha256(data).digest() + data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def why_compile() -> str:
    """Why kernels have to be compiled, as a line of log says it; "" when all are kept."""
    kinds = ("kernel",) if loader.why_not() else ("kernel", "object")
    for pattern in [f"{name}-*.{kind}" for name in KERNELS for kind in kinds]:
        files = [file for folder in folders() for file in folder.glob(pattern)]
        faults = [read(file)[1] for file in files]
        if not all(faults):
            continue
        folder, why_not = choose_folder()
        if folder is None:
            hint = "set NUMBA_CACHE_DIR to a folder that can be written"
            return f"for this process alone, since none can be kept ({why_not}): {hint}"
        return f"anew, since {files[0]} {faults[0]}" if files else "once on this machine"
    return ""
