"""Shared runs as processes under mpiexec: their bytes, what they say, and deaths at any moment."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from disturbed import record
from folders import ROOT, SHAPES, write_model, write_reviews

from tinyzo.cli import main
from tinyzo.runs.journal import read_journal

BESIDE = Path(sys.executable).parent / "mpiexec"  # where the wheel of MPICH puts it
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec")
pytestmark = pytest.mark.skipif(
    not (MPIEXEC and find_spec("mpi4py")), reason="no mpiexec with mpi4py here"
)
exhaustive = pytest.mark.exhaustive
KILLS = 50
LONGEST = 120  # seconds, after which it is a hang
STEPS = 12
DYING = ROOT / "tests" / "dying_rank.py"
# Ranks of threads of their own would fight for two cores.
ENVIRONMENT = {"PYTHONPATH": f"{ROOT}", "OPENBLAS_NUM_THREADS": "1", "TINYZO_NO_NUMBA": "1"}


class Home:
    """A model, data, and what a run leaves that nobody shares."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(SHAPES, "opt", SHAPES["opt"] | {"num_hidden_layers": 1})
            write_model(path / "model", "opt")
        write_reviews(path / "data", train=8, dev=4, test=4)
        assert main([*self.command(), "--output", str(path / "alone")]) == 0
        self.record = record(path / "alone")

    def command(self, *others: str) -> list[str]:
        return [
            "finetune", "--model", str(self.path / "model"), "--task", "reviews",
            "--data", str(self.path / "data"), "--steps", str(STEPS), "--batch-size", "4",
            "--lr", "1e-2", "--eval-every", "6", "--engine", "numpy",
            "--micro-batch-tokens", "24", *others,
        ]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Home]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinyzo.runs.report.plot", lambda path: "not drawn")
        yield Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))


def tinyzo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tinyzo", *arguments]


def started(*command: str, **environment: str) -> subprocess.Popen[str]:
    """mpiexec, in a folder where no other tinyzo lies."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    place: dict[str, Any] = {"cwd": os.environ["TMPDIR"], "start_new_session": True}
    environment = {**os.environ, **ENVIRONMENT, **environment}
    return subprocess.Popen([str(MPIEXEC), *command], env=environment, **pipes, **place)


def mpiexec(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    process = started(*command, **environment)
    try:
        said, _ = process.communicate(timeout=LONGEST)
    finally:
        process.kill()
    return subprocess.CompletedProcess(command, process.returncode, said)


def until(process: subprocess.Popen[str], run: Path, steps: int) -> None:
    """Wait until a run has so many steps, or has ended."""
    deadline = time.monotonic() + LONGEST
    size = 76 + 52 * steps  # of the header and so many records
    while process.poll() is None and time.monotonic() < deadline:
        if (run / "journal").exists() and (run / "journal").stat().st_size >= size:
            return
        time.sleep(0.002)


# --- the same bytes ---


@pytest.mark.parametrize(
    ("share", "count"),
    [
        ("queries", 2),
        *(pytest.param("queries", count, marks=exhaustive) for count in (1, 4)),
        *(pytest.param(share, 3, marks=exhaustive) for share in ("rows", "both")),
    ],
)
def test_processes_make_the_bytes_of_one(home, tmp_path, share, count):
    output = tmp_path / "run"
    done = mpiexec(
        "-n", str(count), *tinyzo(*home.command("--share", share, "--output", str(output)))
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("memory plan: ") == done.stdout.count("accuracy on 4 test rows") == 1
    assert ("ranks waited " in done.stdout) == (count > 1)
    assert record(output) == home.record
    assert list((tmp_path / "temporary").iterdir()) == []


@exhaustive
def test_one_rank_without_mpiexec(home, tmp_path):
    command = tinyzo(*home.command("--share", "both", "--output", str(tmp_path / "run")))
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert record(tmp_path / "run") == home.record


@exhaustive
def test_unlike_cpus(home, tmp_path):
    """Losses are what is exchanged: however a rank computes them, all have the same weights."""
    run = home.command("--share", "queries", "--output", str(tmp_path / "run"))
    old = {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX2 FMA3"}
    options = [word for name, value in old.items() for word in ("-env", name, value)]
    done = mpiexec("-n", "1", *tinyzo(*run), ":", "-n", "1", *options, *tinyzo(*run))
    assert done.returncode == 0, done.stdout  # each evaluation has compared weights, too
    losses = [step.losses for step in read_journal(tmp_path / "run" / "journal").steps]
    alone = [step.losses for step in read_journal(home.path / "alone" / "journal").steps]
    flat = [loss for step in alone for loss in step]
    assert [loss for step in losses for loss in step] == pytest.approx(flat, rel=1e-3)


# --- what ends one rank ends all ---


@exhaustive
def test_what_all_find_is_said_once(home, tmp_path):
    output = str(tmp_path / "run")
    run = home.command("--share", "queries", "--lr", "1e30", "--output", output)
    done = mpiexec("-n", "3", *tinyzo(*run))
    assert done.returncode == 1
    assert done.stdout.count("tinyzo: the run has diverged: losses [nan, nan]\n  hint: ") == 1
    assert "Traceback" not in done.stdout


@exhaustive
@pytest.mark.parametrize("number", [0, 1])
def test_what_one_finds_is_said_once(home, tmp_path, number):
    """A rank that has no model: all others wait for it."""
    runs = [home.command("--share", "rows", "--output", str(tmp_path / "run")) for _ in range(2)]
    runs[number] += ["--model", "/nowhere"]
    first, second = (tinyzo(*run) for run in runs)
    start = time.monotonic()
    done = mpiexec("-n", "1", *first, ":", "-n", "1", *second)
    assert time.monotonic() - start < LONGEST / 2
    assert done.returncode == 1
    assert done.stdout.count("/nowhere: no such folder\n  hint: ") == 1
    assert ("tinyzo: rank 1 on " in done.stdout) == (number == 1)
    assert not (tmp_path / "run").exists()


@exhaustive
@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "int"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_to_mpiexec(home, tmp_path, number, name):
    run = tmp_path / "run"
    command = home.command("--share", "queries", "--output", str(run), "--steps", "10000")
    process = started("-n", "2", *tinyzo(*command))
    until(process, run, 3)
    process.send_signal(number)
    said, _ = process.communicate(timeout=LONGEST)
    assert process.returncode == 128 + number, said
    assert said.count(f"--resume {run} goes on") == 1
    assert name in said and "Traceback" not in said


@exhaustive
def test_a_full_disk(home, tmp_path):
    """On rank 0, which has the run: the others wait for it."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(small)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        command = home.command("--share", "queries", "--output", str(small / "run"))
        done = mpiexec("-n", "2", *tinyzo(*command, "--steps", "10000", "--eval-every", "9999"))
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert done.returncode == 1
    assert "No space left on device" in done.stdout and "then --resume" in done.stdout
    assert done.stdout.count("\n  hint: ") == 1 and "Traceback" not in done.stdout


@exhaustive
def test_deaths_at_any_moment(home, tmp_path):
    """SIGKILL to a rank at one of its exchanges, or to mpiexec: the same bytes in the end."""
    chance = random.Random(7)
    run = tmp_path / "run"
    kills = finished = 0
    while kills < KILLS or run.exists():
        command = home.command("--output", str(run))
        if (run / "run.toml").exists():
            command = ["finetune", "--resume", str(run)]
        elif run.exists():
            shutil.rmtree(run)
        command += ["--share", chance.choice(("queries", "rows", "both"))]
        count = chance.choice((2, 2, 2, 2, 3))
        is_rank = chance.random() < 0.8 and kills < KILLS
        at = chance.randrange(60) if is_rank else 10**9
        words = [sys.executable, str(DYING), str(chance.randrange(count)), str(at), *command]
        process = started("-n", str(count), *words)
        if not is_rank and kills < KILLS:
            until(process, run, chance.randrange(STEPS))
            os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate(timeout=LONGEST)
        if process.returncode:
            assert process.returncode in (9, 137, -9), said
            kills += 1
            continue
        assert record(run) == home.record
        shutil.rmtree(run)
        finished += 1
    print(f"{kills} kills, {finished} runs")
    assert finished >= 3


# --- hosts ---


@pytest.fixture
def hosts(tmp_path) -> Iterator[list[str]]:
    """The addresses of two network namespaces with a cable between them."""
    ip = shutil.which("ip")
    if os.geteuid() or not ip:
        pytest.skip("only root has network namespaces, by iproute2")

    def do(*words: str) -> bool:
        return not subprocess.run([ip, *words], capture_output=True, check=False).returncode

    names = [f"tinyzo{os.getpid()}{end}" for end in "ab"]
    addresses = ["10.77.0.1", "10.77.0.2"]
    try:
        made = all(do("netns", "add", name) for name in names)
        ends = [f"tz{os.getpid() % 10**6}{end}" for end in "ab"]
        made = made and do("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for name, end, address in zip(names, ends, addresses, strict=True):
            made = made and do("link", "set", end, "netns", name)
            within = ("netns", "exec", name, ip)
            made = made and do(*within, "addr", "add", f"{address}/24", "dev", end)
            made = made and do(*within, "link", "set", end, "up")
            made = made and do(*within, "link", "set", "lo", "up")
        if not made:
            pytest.skip("no network namespaces here")
        launcher = tmp_path / "launcher"
        launcher.write_text(
            "#!/bin/sh\n"  # -x HOST COMMAND..., as ssh is called
            f'while [ "${{1#-}}" != "$1" ]; do shift; done\n'
            f"case $1 in {addresses[0]}) name={names[0]};; *) name={names[1]};; esac\n"
            f'shift; exec {ip} netns exec "$name" sh -c "$*"\n'
        )
        launcher.chmod(0o755)
        yield [ip, "netns", "exec", names[0], str(launcher), *addresses]
    finally:
        for name in names:
            do("netns", "del", name)


@exhaustive
def test_two_hosts(home, tmp_path, hosts):
    """With nothing but a network between them; the second sees no folder of the run."""
    *within, launcher, first, second = hosts
    words = ["-launcher", "ssh", "-launcher-exec", launcher, "-hosts", f"{first},{second}"]
    command = home.command("--share", "queries", "--output", str(tmp_path / "run"))
    environment = {**os.environ, **ENVIRONMENT, "UCX_TLS": "tcp,self", "FI_PROVIDER": "tcp"}
    done = subprocess.run(
        [*within, str(MPIEXEC), *words, "-n", "2", "-ppn", "1", *tinyzo(*command)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=LONGEST, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert record(tmp_path / "run") == home.record
