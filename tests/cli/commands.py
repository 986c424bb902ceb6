"""Commands as tests give them: in this process, or in one of their own."""

from __future__ import annotations

import json
from subprocess import Popen
from typing import Any

import pytest

from tinyzo.cli import main


def command(*arguments: object) -> int:
    return main([*map(str, arguments)])


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """The JSON document of a command that succeeds, which is all that is on stdout."""
    capsys.readouterr()
    assert command(*arguments, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def finish(process: Popen[Any], given: Any = None) -> tuple[int, Any, Any]:
    """Exit code, stdout and stderr of a process that ends by itself."""
    output, log = process.communicate(given)
    return process.returncode, output, log
