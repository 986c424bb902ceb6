"""Gives every reader of files a million damaged ones: python tests/fuzz/run.py [READER ...]

A reader passes when it answers each with a result or with one of tinyzo's own errors, within two
seconds and in bounded memory. A file that makes it do otherwise is kept, and named.

--engine own       changes of ours (mutate.py). From Python 3.12 on, a file that reaches a line of
                   tinyzo that none did before is kept, and changed further
--engine atheris   changes that the coverage of branches guides; needs `pip install atheris`
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import CodeType

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":  # its own folder has names that others have too
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from fuzz.mutate import mutate  # noqa: E402 (the path first)
from fuzz.reader import Reader, load, names  # noqa: E402

from tinyzo.errors import TinyzoError  # noqa: E402

SECONDS = 2.0  # that one file may take
GROWTH = 256 << 10  # kB by which the process may grow
BATCH = 1000  # files, for which there is one alarm clock
HANGS = 300  # seconds after which a batch is said to hang


class Coverage:
    """Whether a line of tinyzo has been reached for the first time; never before Python 3.12."""

    def __init__(self) -> None:
        self.is_new = False
        self.lines = 0
        if sys.version_info >= (3, 12):
            monitor = sys.monitoring
            self._once = monitor.DISABLE  # each line is told once, so all later ones are free
            monitor.use_tool_id(monitor.COVERAGE_ID, "tinyzo")
            monitor.register_callback(monitor.COVERAGE_ID, monitor.events.LINE, self._reached)
            monitor.set_events(monitor.COVERAGE_ID, monitor.events.LINE)

    def _reached(self, code: CodeType, line: int) -> object:
        if "tinyzo" in code.co_filename:
            self.is_new = True
            self.lines += 1
        return self._once


def fault_of(reader: Reader, data: bytes) -> str:
    """What is wrong with how a reader takes a file; "" when nothing is."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    try:
        reader.read(data)
    except TinyzoError:
        pass
    except Exception:
        return traceback.format_exc()
    seconds = time.perf_counter() - start
    if seconds > SECONDS:
        return f"it took {seconds:.1f} s"
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size > GROWTH:
        return f"the process grew by more than {GROWTH >> 10} MB"
    return ""


class Faults:
    """What was found, each kind once: by its last line, or by where in tinyzo it came from."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self.kinds: set[str] = set()

    def add(self, fault: str, data: bytes) -> None:
        places = [line for line in fault.splitlines() if line.startswith('  File "')]
        kind = places[-1] if places else fault.split()[0]
        if kind in self.kinds:
            return
        self.kinds.add(kind)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._name}-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        print(f"{path}: {fault}", flush=True)


@contextmanager
def alarm_clock() -> Iterator[None]:
    """End the process, with a traceback, when what is inside hangs."""
    faulthandler.dump_traceback_later(HANGS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def fuzz(name: str, executions: int, seed: int, folder: Path) -> int:
    """Give one reader so many files; returns the number of faults."""
    reader = load(name)
    coverage = Coverage()
    for data in reader.seeds:
        if fault := fault_of(reader, data):
            raise SystemExit(f"{name}: a file that is right: {fault}")
    corpus = list(reader.seeds)
    random = Random(f"{name} {seed}")
    faults = Faults(name, folder)
    start = time.perf_counter()
    for first in range(0, executions, BATCH):
        with alarm_clock():
            for _ in range(min(BATCH, executions - first)):
                data = mutate(random.choice(corpus), corpus, reader.words, random)
                coverage.is_new = False
                if fault := fault_of(reader, data):
                    faults.add(fault, data)
                elif coverage.is_new:
                    corpus.append(data)
    seconds = time.perf_counter() - start
    print(
        f"{name}: {executions:,} files in {seconds:.0f} s: {len(faults.kinds)} faults; "
        f"{len(corpus) - len(reader.seeds)} files reached new lines",
        flush=True,
    )
    return len(faults.kinds)


def fuzz_by_atheris(name: str, executions: int, seed: int, folder: Path) -> None:
    """The same by atheris, which ends the process itself."""
    import atheris

    with atheris.instrument_imports(include=["tinyzo"]):
        reader = load(name)
    faults = Faults(name, folder)

    def one(data: bytes) -> None:
        if fault := fault_of(reader, data):
            faults.add(fault, data)
            raise AssertionError(fault)

    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(reader.seeds):
            (Path(corpus) / str(number)).write_bytes(data)
        options = [
            f"-runs={executions}",
            f"-seed={seed}",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *options, corpus], one)
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(names()))
    parser.add_argument("--executions", type=int, default=1_000_000, help="files for each reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("own", "atheris"), default="own")
    parser.add_argument(
        "--faults", type=Path, default=Path("fuzz-faults"), help="folder of what is found"
    )
    options = parser.parse_args()
    readers = options.readers or names()
    if unknown := set(readers) - set(names()):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if (
        len(readers) > 1
    ):  # a process each: a reader that hangs or runs out of memory ends only its own
        rest = ["--executions", str(options.executions), "--seed", str(options.seed)]
        rest += ["--engine", options.engine, "--faults", str(options.faults)]
        codes = [subprocess.call([sys.executable, __file__, name, *rest]) for name in readers]
        return int(any(codes))
    if options.engine == "atheris":
        fuzz_by_atheris(readers[0], options.executions, options.seed, options.faults)
    return int(fuzz(readers[0], options.executions, options.seed, options.faults) > 0)


if __name__ == "__main__":
    sys.exit(main())
