"""Trouble for many minutes: python bench/soak.py --minutes 30

The job that ships is tuned again and again, in several ways. Each time something goes wrong, again
and again, until the run is finished: the process is killed, the disk is full, two processes resume
one run, the run moves, a bit of a snapshot flips, it is tuned in a forked child or beside threads
that predict. At the end its journal, metrics, evaluations, result and model must have the bytes of
a run that nothing disturbed.

Each round has a seed, so `--seed S --minutes 0` repeats the first one. Exit code 1: bytes differed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

STEPS = 40
TEXTS = ["The plot is thin.", "Its battery lasts two days.", "The soup was cold."] * 4
# What may differ between two runs.
PLACES = ("run", "peak_bytes", "resident_bytes", "seconds", "seconds_per_step", "waited_seconds")
LONGEST = 600  # seconds of one command

# Every way of keeping weights, of stepping, and of computing is in one of these.
JOBS = {
    "mezo, resident": ("--residency", "resident"),
    "mezo, streamed": ("--residency", "streamed", "--fold-every", "9"),
    "mezo, bfloat16, streamed": ("--residency", "streamed", "--dtype", "bf16", "--fold-every", "7"),
    "adamezo": ("--method", "adamezo", "--fold-every", "8"),
    "p-rge, streamed": ("--method", "p-rge", "--residency", "streamed"),
    "low rank": ("--direction", "low-rank", "--window", "10", "--residency", "streamed"),
    "mezo, numpy": ("--engine", "numpy", "--batch-size", "8"),
    "opt": ("--model", "opt-tiny", "--task", "topics", "--batch-size", "8"),
}


class RoundError(Exception):
    """What went wrong in a round."""


class UnavailableError(Exception):
    """Why a round cannot be had here."""


# -- commands ----------------------------------------------------------------------------------


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """A tinyzo command, on its way."""
    command = [sys.executable, "-m", "tinyzo", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def end(process: subprocess.Popen[str], *codes: int) -> str:
    """Wait for a command, which must end with one of these codes; returns what it said."""
    _, said = process.communicate(timeout=LONGEST)
    if process.returncode not in codes or "Traceback" in said:
        raise RoundError(f"{' '.join(process.args)}: code {process.returncode}: {said[-2000:]}")
    return said


def new(job: str) -> list[str | Path]:
    options = ("--steps", str(STEPS), "--eval-every", "10", "--limit", "16", *JOBS[job])
    return ["finetune", "--output", "run", *options]


def resume(run: str | Path = "run") -> list[str | Path]:
    return ["finetune", "--resume", run]


def begin_or_resume(folder: Path, job: str) -> list[str | Path]:
    """The next command of someone whose run was stopped, if it had got so far as to be a run."""
    if (folder / "run" / "run.toml").exists():
        return resume()
    shutil.rmtree(folder / "run", ignore_errors=True)
    return new(job)


# -- what must be the same ---------------------------------------------------------------------


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_places(line: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in line.items() if key not in PLACES}


def record(folder: Path, run: Path) -> dict[str, str]:
    """A digest of all that a run leaves, without times and places."""
    shutil.rmtree(folder / "model", ignore_errors=True)
    end(start("replay", run, "--output", "model", cwd=folder), 0)
    evaluations = [e for e in lines(run / "events.jsonl") if e["event"] == "evaluation"]
    evaluations.sort(key=lambda e: (e["step"], e["split"]))
    model = sorted((folder / "model").glob("*.safetensors"))
    parts = {
        "journal": (run / "journal").read_bytes(),
        "metrics": repr(list(map(without_places, lines(run / "metrics.jsonl")))).encode(),
        "evaluations": repr(list(map(without_places, evaluations))).encode(),
        "result": repr(without_places(json.loads((run / "result.json").read_text()))).encode(),
        "model": b"".join(path.read_bytes() for path in model),
    }
    return {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}


# -- trouble -----------------------------------------------------------------------------------
# Each leaves a finished run in folder/run, or where it says.


def under_way(folder: Path, job: str, seconds: float) -> subprocess.Popen[str] | None:
    """A command that begins the run or goes on with it, so many seconds later; None if it ended."""
    process = start(*begin_or_resume(folder, job), cwd=folder)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return process
    end(process, 0)
    return None


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def killed(folder: Path, job: str, random: Random) -> Path:
    """Kill -9, SIGTERM or Ctrl-C after some seconds, until it is finished before."""
    while process := under_way(folder, job, random.uniform(0.3, 8)):
        number = random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
        process.send_signal(number)
        end(process, 0, 130, 1, -number, 128 + number)
    return folder / "run"


def disk_full(folder: Path, job: str, random: Random) -> Path:
    """A disk of its own, with little room left at first, and more after each failure."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tinyzo-soak", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        raise UnavailableError("only root can mount a small disk")
    try:
        filler = disk / "filler"
        fill(filler)
        while True:
            left = filler.stat().st_size
            os.truncate(filler, max(0, left - random.choice((1 << 12, 1 << 16, 1 << 20, 8 << 20))))
            process = start(*begin_or_resume(disk, job), cwd=disk)
            said = end(process, 0, 1)
            if process.returncode == 0:
                break
            if "No space left" not in said:
                raise RoundError(f"a full disk is called: {said[-500:]}")
        shutil.copytree(disk / "run", folder / "run")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    return folder / "run"


def fill(path: Path) -> None:
    """A file that takes all the room of its disk."""
    with open(path, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


def two_at_once(folder: Path, job: str, random: Random) -> Path:
    """Two processes begin, and then resume, one run: never more than one of them goes on."""
    first = [start(*new(job), cwd=folder) for _ in range(2)]
    for process in first:
        end(process, 0, 1)
    if sorted(process.returncode for process in first) != [0, 1]:
        raise RoundError(f"two beginners: {[process.returncode for process in first]}")
    return folder / "run"


def moved(folder: Path, job: str, random: Random) -> Path:
    """Killed, and renamed before it goes on."""
    process = start(*new(job), cwd=folder)
    while process.poll() is None and not (folder / "run" / "journal").exists():
        time.sleep(0.05)
    time.sleep(random.uniform(0, 4))
    kill(process)
    name = "run"
    for turn in range(3):
        moved_to = folder / f"elsewhere {turn}" / "renamed"
        moved_to.parent.mkdir()
        (folder / name).rename(moved_to)
        name = str(moved_to.relative_to(folder))
        process = start(*resume(name), cwd=folder)
        time.sleep(random.uniform(0.5, 4))
        kill(process)
    end(start(*resume(name), cwd=folder), 0)
    return folder / name


def bits_flipped(folder: Path, job: str, random: Random) -> Path:
    """Killed, and a bit of each snapshot flipped, before it goes on."""
    while process := under_way(folder, job, random.uniform(2, 8)):
        kill(process)
        for snapshot in (folder / "run").glob("weights-*.safetensors"):
            data = bytearray(snapshot.read_bytes())
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
            snapshot.write_bytes(data)
    return folder / "run"


def _arguments(job: str) -> dict[str, object]:
    """The options of a job, as `tinyzo.finetune` takes them."""
    given = new(job)[3:]
    names = [str(name)[2:].replace("-", "_") for name in given[::2]]
    values = [int(value) if str(value).isdigit() else str(value) for value in given[1::2]]
    return dict(zip(names, values, strict=True))


def _tune(job: str, run: Path) -> None:
    import tinyzo

    tinyzo.finetune(run, **_arguments(job))  # type: ignore[arg-type]


def _in_forks(folder: Path, job: str) -> None:
    """A process that predicts, and then has two children that tune while it predicts on."""
    import tinyzo

    model = tinyzo.load("roberta-tiny", residency="streamed")
    before = [prediction.scores for prediction in tinyzo.predict(model, TEXTS)]
    context = multiprocessing.get_context("fork")
    children = [
        context.Process(target=_tune, args=(job, folder / name)) for name in ("run", "run-2")
    ]
    for child in children:
        child.start()
    while any(child.is_alive() for child in children):
        if [prediction.scores for prediction in tinyzo.predict(model, TEXTS)] != before:
            raise RoundError("a prediction changed beside forks")
    if any(child.exitcode for child in children):
        raise RoundError(f"forked children ended with {[child.exitcode for child in children]}")


def _in_threads(folder: Path, job: str) -> None:
    """A process that tunes in one thread, while three others predict with one model."""
    import tinyzo

    model = tinyzo.load("roberta-tiny", residency="streamed")
    before = [prediction.scores for prediction in tinyzo.predict(model, TEXTS)]
    done = threading.Event()
    differed: list[int] = []

    def predict(number: int) -> None:
        few = TEXTS[: 3 + 3 * number]
        while not done.is_set():
            if [p.scores for p in tinyzo.predict(model, few)] != before[: len(few)]:
                differed.append(number)

    threads = [threading.Thread(target=predict, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        _tune(job, folder / "run")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    if differed:
        raise RoundError(f"{len(differed)} predictions changed beside a fine-tune")


def _in_a_child(how: Callable[[Path, str], None], folder: Path, job: str) -> Path:
    """In a process of its own, since this one must stay without threads."""
    child = multiprocessing.get_context("spawn").Process(target=how, args=(folder, job))
    child.start()
    child.join(LONGEST)
    if child.exitcode != 0:
        child.kill()
        raise RoundError(f"{how.__name__} ended with {child.exitcode}")
    return folder / "run"


def forked(folder: Path, job: str, random: Random) -> Path:
    """Tuned in two forked children of a process that uses a model itself."""
    run = _in_a_child(_in_forks, folder, job)
    if record(folder, run) != record(folder, folder / "run-2"):
        raise RoundError("two forked children differ")
    return run


def threaded(folder: Path, job: str, random: Random) -> Path:
    """Tuned in a thread, while other threads predict."""
    return _in_a_child(_in_threads, folder, job)


TROUBLES = (killed, killed, disk_full, two_at_once, moved, bits_flipped, forked, threaded)


# -- rounds ------------------------------------------------------------------------------------


def undisturbed(work: Path, job: str) -> dict[str, str]:
    folder = work / f"undisturbed {job}"
    folder.mkdir()
    end(start(*new(job), cwd=folder), 0)
    return record(folder, folder / "run")


def one_round(work: Path, seed: int, expected: dict[str, dict[str, str]]) -> tuple[str, str, str]:
    """(trouble, job, what differed) of a round."""
    random = Random(seed)
    trouble = TROUBLES[seed % len(TROUBLES)]
    job = random.choice(list(JOBS))
    if job not in expected:
        expected[job] = undisturbed(work, job)
    folder = work / str(seed)
    folder.mkdir()
    try:
        found = record(folder, trouble(folder, job, random))
    except UnavailableError as reason:
        return trouble.__name__, job, f"skipped: {reason}"
    except (RoundError, subprocess.TimeoutExpired) as error:
        return trouble.__name__, job, str(error)
    wrong = [name for name in found if found[name] != expected[job][name]]
    if not wrong:
        shutil.rmtree(folder)
    return trouble.__name__, job, ", ".join(wrong)


def main(arguments: Sequence[str] | None = None) -> int:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="a new folder, where runs that differ are left")
    options = parser.parse_args(arguments)
    work = options.work or Path(tempfile.mkdtemp()) / "soak"
    work.mkdir(parents=True)
    began = time.monotonic()
    expected: dict[str, dict[str, str]] = {}
    rounds, bad = Counter[str](), 0
    seed = options.seed
    while seed == options.seed or time.monotonic() < began + 60 * options.minutes:
        trouble, job, wrong = one_round(work, seed, expected)
        minutes = (time.monotonic() - began) / 60
        print(f"{minutes:6.1f} min  seed {seed}  {trouble}, {job}: {wrong or 'same'}", flush=True)
        if wrong.startswith("skipped"):
            rounds[f"{trouble} (skipped)"] += 1
        else:
            rounds[trouble] += 1
            bad += bool(wrong)
        seed += 1
    summary = ", ".join(f"{count} {name}" for name, count in sorted(rounds.items()))
    print(f"{sum(rounds.values())} rounds: {summary}; {bad} differed")
    if not bad:
        shutil.rmtree(work)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
