"""Commands that die, or find the disk full, at any chosen write; run as a script by `Workers`.

A worker imports tinyzo once and forks for each command. In the fork every change below one folder
is an event, named by what it does, to which file, for the how-manieth time ("write journal 3").
At the chosen one the command

    kill     dies, with a write torn at a random byte
    power    dies so too, and each file goes back to what was synced of it, or a little more; names
             given, changed and removed since a folder was last synced may come undone
    full     gets ENOSPC, with a write torn at a random byte, and again at every later one
"""

from __future__ import annotations

import builtins
import dataclasses
import errno
import importlib
import io
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

DEAD = 137  # the exit code of a command that a fault ended
LAST = "the end"  # an event after all others: the command is done
MODES = ("kill", "power", "full")
FREEING = ("unlink", "truncate")  # what a full disk still lets be done


@dataclasses.dataclass
class Fault:
    """At which event something goes wrong: its name, or how many come before it; None: never.

    mode: one of MODES, or "signal": a real SIGKILL from outside, after `delay` seconds; a command
        that has ended before waits for it
    seed: draws the byte that a write is torn at, and what is lost with the power
    """

    mode: str = "kill"
    at: str | int | None = None
    seed: int = 0
    delay: float = 0.0


@dataclasses.dataclass
class Case:
    """A command, its faults one after the other, and then undisturbed until it is done.

    root: the folder whose files are at risk. output: of the command, below it.
    A `finetune` goes on by --resume as soon as there is a run; other commands are given again.
    then: further commands, after it.
    """

    command: list[str]
    root: str
    output: str
    faults: list[Fault] = dataclasses.field(default_factory=list)
    then: list[list[str]] = dataclasses.field(default_factory=list)

    def next_command(self) -> list[str]:
        if self.command[0] == "finetune" and (Path(self.output) / "run.toml").exists():
            return ["finetune", "--resume", self.output]
        return self.command


@dataclasses.dataclass
class Ending:
    """How one command ended: what it printed, its events, and what it restored.

    redone: for each model that it brought to a step, how many steps had to be done again
    """

    code: int
    log: str = ""
    events: list[str] = dataclasses.field(default_factory=list)
    redone: list[int] = dataclasses.field(default_factory=list)


class Workers(AbstractContextManager):
    """A worker on each processor."""

    def __init__(self, environment: dict[str, str]) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command, count = [sys.executable, __file__], os.cpu_count() or 1
        environment = os.environ | environment
        self._all = [subprocess.Popen(command, env=environment, **pipes) for _ in range(count)]

    def run(self, cases: Sequence[Case]) -> list[list[Ending]]:
        """The endings of each case's commands."""
        count = len(self._all)
        with ThreadPoolExecutor(count) as pool:
            parts = list(
                pool.map(self._run_part, self._all, (cases[n::count] for n in range(count)))
            )
        return [parts[n % count][n // count] for n in range(len(cases))]

    def _run_part(self, worker: subprocess.Popen, cases: Sequence[Case]) -> list[list[Ending]]:
        print(
            json.dumps([dataclasses.asdict(case) for case in cases]), file=worker.stdin, flush=True
        )
        return [[Ending(**e) for e in endings] for endings in json.loads(worker.stdout.readline())]

    def __exit__(self, *exc: object) -> None:
        for worker in self._all:
            worker.communicate()


# --- the disk, inside the fork ---


class Disk:
    """All changes below `root`, one at a time, until the one that goes wrong."""

    def __init__(self, root: Path, fault: Fault) -> None:
        self.root, self.fault, self.events = root, fault, []
        self.on_death: Callable[[], None] = lambda: None
        self._random, self._lock = random.Random(fault.seed), threading.RLock()
        self._count: Counter[str] = Counter()
        self._is_full = False
        self._synced: dict[int, bytes] = {}  # by inode: what is safe of a file's bytes
        self._undo: list[Callable[[], object]] = []  # of names, since the last sync of a folder
        self._folders: dict[int, Path] = {}  # by file descriptor
        self._files: dict[int, Path] = {}
        self._graves = root.with_name(f"{root.name}.graves")
        self._real = {"open": builtins.open, "os_open": os.open, "fsync": os.fsync,
                      "replace": os.replace, "unlink": os.unlink, "mkdir": os.mkdir}  # fmt: skip

    def install(self) -> None:
        """Stand between tinyzo and the system."""
        builtins.open = io.open = self.open
        os.open, os.fsync, os.replace = self.os_open, self.fsync, self.replace
        os.rename, os.mkdir, os.unlink, os.remove = self.replace, self.mkdir, *2 * [self.unlink]
        shutil._USE_CP_SENDFILE = False  # copies then pass through `write`
        if accessor := getattr(pathlib, "_NormalAccessor", None):  # Python 3.10 keeps its own
            accessor.open, accessor.unlink = staticmethod(self.open), staticmethod(self.unlink)
            accessor.mkdir, accessor.replace = staticmethod(self.mkdir), staticmethod(self.replace)

    def event(self, what: str, path: Path, act: Callable[[], Any],
              data: bytes = b"", tear: Callable[[bytes], Any] = len) -> Any:  # fmt: skip
        """Do `act`, unless it is here that things go wrong; tear: write the beginning of `data`."""
        with self._lock:
            name = f"{what} {path.relative_to(self.root)}"
            self._count[name] += 1
            name = f"{name} {self._count[name]}"
            is_here = self.fault.at in (name, len(self.events))
            self.events.append(name)
            if is_here or (self._is_full and what not in FREEING):
                torn = data[: self._random.randint(0, len(data))] if is_here else b""
                if torn:
                    tear(torn)
                if self.fault.mode != "full":
                    self.die()
                self._is_full = True
                if torn and self._random.random() < 0.5:
                    return len(torn)  # as the system says it: a short count first, then the error
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return act()

    def die(self) -> None:
        with self._lock:
            if self.fault.mode == "power":
                self._lose()
            self.on_death()
            os._exit(DEAD)

    def _lose(self) -> None:
        kept = self._random.randint(0, len(self._undo))
        for undo in reversed(self._undo[kept:]):
            undo()
        for path in filter(Path.is_file, self.root.rglob("*")):
            if (safe := self._synced.get(path.stat().st_ino)) is not None:
                path.write_bytes(self._survives(safe, path.read_bytes()))

    def _survives(self, safe: bytes, written: bytes) -> bytes:
        """What was synced, or all that was written, or what was synced and some of the rest."""
        least = len(safe) if written.startswith(safe) else len(written)
        cut = self._random.randint(least, len(written))
        return self._random.choice([safe, written, written[:cut]])

    def _path(self, path: Any) -> Path | None:
        """A path below the root; None for any other."""
        if isinstance(path, int):
            return None
        full = Path(os.path.abspath(path))
        return full if full.is_relative_to(self.root) else None

    def open(self, file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None,
             errors: Any = None, newline: Any = None, **others: Any) -> Any:  # fmt: skip
        path = self._path(file)
        if path is None or not set(mode) & set("wax+"):
            return self._real["open"](file, mode, buffering, encoding, errors, newline, **others)
        raw = self._open_raw(path, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def _open_raw(self, path: Path, mode: str) -> _File:
        if not path.exists():
            raw = self.event("create", path, lambda: _File(self, path, mode))
            self._synced[os.fstat(raw.fileno()).st_ino] = b""
            self._undo.append(lambda: self._real["unlink"](path))
        else:
            self._synced.setdefault(path.stat().st_ino, path.read_bytes())
            if "w" in mode:
                raw = self.event("empty", path, lambda: _File(self, path, mode))
            else:
                raw = _File(self, path, mode)
        self._folders.pop(raw.fileno(), None)
        self._files[raw.fileno()] = path
        return raw

    def os_open(self, path: Any, flags: int, *others: Any, **more: Any) -> int:
        descriptor = self._real["os_open"](path, flags, *others, **more)
        self._files.pop(descriptor, None)
        self._folders.pop(descriptor, None)
        if (known := self._path(path)) and known.is_dir():
            self._folders[descriptor] = known
        return descriptor

    def fsync(self, descriptor: int) -> None:
        folder, path = self._folders.get(descriptor), self._files.get(descriptor)
        if folder:
            self.event("fsync", folder, self._undo.clear)
        elif path:

            def sync() -> None:
                self._synced[path.stat().st_ino] = path.read_bytes()

            self.event("fsync", path, sync)

    def replace(self, source: Any, target: Any, **others: Any) -> None:
        old, new = self._path(source), self._path(target)
        if old is None or new is None:
            return self._real["replace"](source, target, **others)

        def act() -> None:
            grave = self._bury(new) if new.exists() else None
            self._real["replace"](old, new)

            def undo() -> None:
                self._real["replace"](new, old)
                if grave:
                    self._real["replace"](grave, new)

            self._undo.append(undo)

        return self.event("replace", new, act)

    def unlink(self, path: Any, **others: Any) -> None:
        known = self._path(path)
        if known is None or not known.is_file():
            return self._real["unlink"](path, **others)

        def act() -> None:
            grave = self._bury(known)
            self._real["unlink"](known)
            self._undo.append(lambda: self._real["replace"](grave, known))

        return self.event("unlink", known, act)

    def _bury(self, path: Path) -> Path:
        """A second name of a file, that can be given back, and keeps its inode from a new file."""
        grave = self._graves / str(len(self.events))
        os.link(path, grave)
        return grave

    def mkdir(self, path: Any, *others: Any, **more: Any) -> None:
        known = self._path(path)
        if known is None or known.exists() or not known.parent.exists():
            return self._real["mkdir"](path, *others, **more)

        def act() -> None:
            self._real["mkdir"](known, *others, **more)
            self._undo.append(known.rmdir)

        return self.event("mkdir", known, act)


class _File(io.FileIO):
    """A file opened to be written."""

    def __init__(self, disk: Disk, path: Path, mode: str) -> None:
        super().__init__(path, mode)
        self._disk, self._at = disk, path

    def write(self, data: Any) -> int:
        whole, write = bytes(memoryview(data).cast("B")), super().write
        return self._disk.event("write", self._at, lambda: write(whole), whole, write)

    def truncate(self, size: int | None = None) -> int:
        cut, end = super().truncate, os.fstat(self.fileno()).st_size
        if size == end:
            return end
        return self._disk.event("truncate", self._at, lambda: cut(size))


# --- the worker, and its forks ---


def _in_fork(command: list[str], disk: Disk, report: Path) -> None:
    """Run a command, write a report of it, and end the process."""
    from tinyzo import cli
    from tinyzo.runs.snapshots import Snapshots

    log = os.open(report.with_suffix(".log"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    redone, restore, save = [], Snapshots.restore, open

    def counted(self: Snapshots, model: Any, way: Sequence[Any]) -> int:
        at = restore(self, model, way)
        redone.append(sum(number >= at for number, _ in way))
        return at

    def write_report() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        with save(report, "w") as file:
            json.dump({"events": disk.events, "redone": redone}, file)

    Snapshots.restore = counted
    disk.on_death = write_report
    if disk.fault.mode in MODES:
        disk.install()
    code = 70  # a traceback
    try:
        code = cli.main(command)
        if disk.fault.mode == "signal":
            signal.pause()
        if disk.fault.at == LAST:
            disk.die()
        disk.on_death()
    except SystemExit as error:
        code = error.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run(command: list[str], root: Path, fault: Fault) -> Ending:
    report = root.with_name(f"{root.name}.report")
    graves = root.with_name(f"{root.name}.graves")
    shutil.rmtree(graves, ignore_errors=True)
    graves.mkdir()
    report.write_text("{}")
    report.with_suffix(".log").write_text("")  # of a child that is killed before it opens it
    child = os.fork()
    if not child:
        _in_fork(command, Disk(root, fault), report)
    if fault.mode == "signal":
        time.sleep(fault.delay)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    log = report.with_suffix(".log").read_text(errors="replace")
    return Ending(code, log, **json.loads(report.read_text()))


def _run_case(case: Case) -> list[Ending]:
    root = Path(case.root)
    root.mkdir(parents=True, exist_ok=True)
    endings = [_run(case.next_command(), root, fault) for fault in (*case.faults, Fault())]
    return endings + [_run(command, root, Fault()) for command in case.then]


def _work() -> None:
    for module in ("tqdm", "tokenizers", "tinyzo.cli"):  # once for all forks
        with suppress(ImportError):
            importlib.import_module(module)
    from tinyzo.runs import report

    report.plot = lambda path: "not drawn"
    for line in sys.stdin:
        endings = []
        for case in json.loads(line):
            case["faults"] = [Fault(**fault) for fault in case["faults"]]
            endings.append([dataclasses.asdict(ending) for ending in _run_case(Case(**case))])
        print(json.dumps(endings), flush=True)


if __name__ == "__main__":
    _work()
