"""Commands as processes: standard streams. Nothing here depends on who is faster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from commands import finish
from folders import ROOT, shell


@pytest.fixture
def pipe_that_nobody_reads() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_a_reader_that_leaves_early(home: Path) -> None:
    """As `| head -1`."""
    process = shell("predict", "--model", home / "opt", stdin=subprocess.PIPE)
    given, output, log = process.stdin, process.stdout, process.stderr
    assert given and output and log
    given.write("No 1\n")
    given.flush()
    assert output.readline().endswith("\tNo 1\n")
    output.close()
    with pytest.raises(BrokenPipeError):  # it ends, so nobody reads on
        for _ in range(10_000):
            given.write("Yes\n" * 100)
            given.flush()
    process.wait()
    assert (process.returncode, log.read()) == (1, "")
    log.close()
    with suppress(BrokenPipeError):
        given.close()


@pytest.mark.parametrize("arguments", [("inspect", "{home}/opt"), (), ("finetune", "-h")])
def test_a_reader_that_is_gone(
    home: Path, pipe_that_nobody_reads: int, arguments: tuple[str, ...]
) -> None:
    given = (argument.format(home=home) for argument in arguments)
    code, _, log = finish(shell(*given, stdout=pipe_that_nobody_reads))
    assert (code, log) == (1, "")


def test_an_interrupt_leaves_the_text_so_far(home: Path) -> None:
    """Ctrl-C. There is more to write than the pipe takes, so it cannot have come to its end."""
    process = shell("generate", "--model", home / "opt", stdin=subprocess.PIPE)
    given, output = process.stdin, process.stdout
    assert given and output
    given.write("No 1\n" * 3000)
    given.close()
    first = output.read(1)
    process.send_signal(signal.SIGINT)
    rest, log = output.read(), process.stderr and process.stderr.read()
    assert (process.wait(), log) == (130, "tinyzo: interrupted\n")
    assert first and (first + rest).endswith("\n")
    for stream in (output, process.stderr):
        assert stream
        stream.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, the disk without room")
def test_a_full_disk(home: Path) -> None:
    with open("/dev/full", "w") as full:
        code, _, log = finish(shell("inspect", home / "opt", stdout=full))
    assert code == 1
    assert log.startswith("tinyzo: stdout: No space left on device\n  hint: nothing more can be")
    assert len(log.splitlines()) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, the disk without room")
def test_a_log_without_room_stops_nothing(home: Path, tmp_path: Path) -> None:
    options = ("--task", "reviews", "--data", home / "data", "--steps", 2, "--batch-size", 4)
    with open("/dev/full", "w") as full:
        tune = ("finetune", "--model", home / "opt", *options, "--output", tmp_path / "run")
        code, output, _ = finish(shell(*tune, "--json", stderr=full))
        assert (code, json.loads(output)["steps"]) == (0, 2)
        assert finish(shell("inspect", home / "none", stderr=full))[:2] == (1, "")


@pytest.mark.parametrize(("closed", "output"), [("<&-", ""), (">&- a", ""), ("2>&- a", "a")])
def test_streams_that_are_closed(home: Path, closed: str, output: str) -> None:
    line = f"{sys.executable} -m tinyzo predict --model {home / 'opt'} {closed}"
    found = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout[-2:].strip() == output and found.stderr == ""


def test_a_run_with_its_log_closed(home: Path) -> None:
    line = f"{sys.executable} -m tinyzo finetune --resume {home / 'opt-run'} --json 2>&-"
    found = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=ROOT, check=True)
    (document,) = found.stdout.splitlines()
    assert json.loads(document)["steps"] == 6


def test_bytes_that_are_no_text(home: Path) -> None:
    arguments = ("predict", "--model", home / "opt")
    process = shell(*arguments, stdin=subprocess.PIPE, text=False)
    code, output, log = finish(process, b"No\nNo \xff\nNo\n")
    assert code == 1 and output.endswith(b"\tNo\n") and len(output.splitlines()) == 1
    hint = b"save or give the texts as UTF-8"
    assert log == b"tinyzo: line 2 of stdin is not UTF-8\n  hint: " + hint + b"\n"
    code, output, log = finish(shell(*arguments, "\udcff"))
    assert (code, output) == (1, "") and log.startswith("tinyzo: text 1 is not UTF-8\n")


def test_an_interrupt_within_an_exec_leaves_the_exit_code(tmp_path: Path) -> None:
    """As while a module defines a NamedTuple: Python ends by SIGINT then, whoever caught it."""
    (tmp_path / "stopped.py").write_text(
        "import sys\n"
        "import tinyzo.cli\n"
        "from tinyzo.__main__ import main\n"
        "tinyzo.cli.main = lambda arguments: exec('raise KeyboardInterrupt')\n"
        "sys.exit(main([]))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    done = subprocess.run([sys.executable, "-m", "stopped"], env=environment, check=False)
    assert done.returncode == 130


@pytest.mark.parametrize("given", ["", "26"])
def test_threads_of_blas_let_go_of_their_cores(given):
    """The command says so before it loads NumPy, unless somebody has chosen otherwise."""
    code = (
        "import os, sys; from tinyzo.__main__ import main; assert 'numpy' not in sys.modules;"
        "main(['recipes']); print(os.environ['OPENBLAS_THREAD_TIMEOUT'])"
    )
    environment = dict(os.environ)
    environment.pop("OPENBLAS_THREAD_TIMEOUT", None)
    if given:
        environment["OPENBLAS_THREAD_TIMEOUT"] = given
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == (given or "14")
