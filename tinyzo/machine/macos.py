"""What macOS says of the machine, by its own commands; 0 for what it does not say."""

import os
import re
import subprocess


def performance_cpus() -> int:
    """The CPUs of the fast kind, on Apple's chips."""
    return _first_number(_output("sysctl", "-n", "hw.perflevel0.logicalcpu"))


def free_bytes() -> int:
    """The memory that is free or can be at once: pages free, read ahead, and inactive."""
    about = _output("vm_stat")
    names = ("free", "inactive", "speculative")
    pages = sum(_first_number(about, f"Pages {name}:") for name in names)
    return pages * _first_number(about, "page size of")


def resident_bytes() -> int:
    """The resident set of this process."""
    return _first_number(_output("ps", "-o", "rss=", "-p", str(os.getpid()))) * 1024


def _first_number(text: str, after: str = "") -> int:
    found = re.search(rf"{after}\s*(\d+)", text)
    return int(found[1]) if found else 0


def _output(*command: str) -> str:
    """What a command prints; nothing if it cannot be run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""
