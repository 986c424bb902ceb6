"""A fleet by Flower itself: a SuperLink and SuperNodes as processes, on this machine's loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="flwr carries the messages of a fleet")

from folders import ROOT, write_model, write_reviews

from tinyzo.runs.journal import read_journal
from tinyzo.runs.run import Run

NEW_ENOUGH = tuple(map(int, version("flwr").split(".")[:2])) >= (1, 42)
MOST = 120  # seconds, of which it takes ten on an idle machine
BIN = Path(sys.executable).parent


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def begin(stack, home, program, *arguments):
    """Start one of Flower's programs, which ends with all that it has started."""
    own = {"FLWR_HOME": f"{home}/flwr", "FLWR_TELEMETRY_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    environment = os.environ | own | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    null = subprocess.DEVNULL
    process = subprocess.Popen(
        [program, *arguments], env=environment, cwd=home, stdout=null, stderr=null
    )
    stack.callback(end, process)
    return process


def end(process):
    """Have a program of Flower end, with what it has started."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


def wait_for(found):
    """What is found, as soon as it is."""
    last = time.monotonic() + MOST
    while time.monotonic() < last:
        if found():
            return
        time.sleep(0.1)
    raise AssertionError("it has not come")


def is_heard(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.exhaustive
@pytest.mark.skipif(not NEW_ENOUGH, reason="older ones have other ports and options")
def test_two_nodes_and_a_server_on_loopback(tmp_path):
    write_model(tmp_path / "model")
    app = shutil.copytree(ROOT / "examples" / "fleet", tmp_path / "app")
    port = free_port()
    (tmp_path / "flwr").mkdir()
    link = f'[superlink]\ndefault = "l"\n[superlink.l]\naddress = "127.0.0.1:{port}"\n'
    (tmp_path / "flwr" / "config.toml").write_text(link + "insecure = true\n")
    config = {"model": str(tmp_path / "model"), "task": "reviews", "steps": 2, "eval-every": 2,
              "fewest": 2, "output": str(tmp_path / "run"), "timeout": 60.0}  # fmt: skip
    pyproject = (app / "pyproject.toml").read_text().partition("[tool.flwr.app.config]")[0]
    values = [f"{key} = {json.dumps(value)}\n" for key, value in config.items()]
    data = write_reviews(tmp_path / "data")
    lines = ["[tool.flwr.app.config]\n", *values, f'data = "{data}"\n', 'engine = "numpy"\n']
    (app / "pyproject.toml").write_text(pyproject + "".join(lines))
    with ExitStack() as stack:
        begin(stack, tmp_path, "flower-superlink", "--insecure", "--port", f"{port}")
        wait_for(lambda: is_heard(port))
        for number in range(2):
            mine = write_reviews(tmp_path / f"mine{number}", train=6 + number)
            node = f'data="{mine}" folder="{tmp_path}/node{number}"'
            address = ("--superlink", f"127.0.0.1:{port}", "--port", f"{free_port()}")
            begin(
                stack, tmp_path, "flower-supernode", "--insecure", *address, "--node-config", node
            )
        assert begin(stack, tmp_path, "flwr", "run", str(app), "l").wait(MOST) == 0
        wait_for(lambda: (tmp_path / "run" / "result.json").exists())
    run = Run.open(tmp_path / "run")
    assert run.result["steps"] == 2
    for number in range(2):
        own = Run.open(tmp_path / f"node{number}")
        assert own.settings.data == str(tmp_path / f"mine{number}")
        assert len(read_journal(own.journal_path).steps) == 1
        assert run.journal_path.read_bytes().startswith(own.journal_path.read_bytes())
