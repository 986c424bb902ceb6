"""Headless Chromium for a test, driven over a pipe by the DevTools protocol; no driver is needed.

The browser reads commands from its file 3 and writes to its file 4: JSON, ended by a zero byte.
"""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-extensions", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-default-browser-check",
    "--remote-debugging-pipe",
)  # fmt: skip
# Gives the pipes the numbers that the browser looks for, and becomes the browser.
MOVE = """
import os, sys
commands, answers, *command = sys.argv[1:]
os.dup2(int(commands), 3)
os.dup2(int(answers), 4)
os.execv(command[0], command)
"""
QUIET = 60  # seconds without a word from the browser, after which it is given up


def program() -> str | None:
    """Where a Chromium is; None: there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page of a browser.

    requests: the addresses that the page and its workers asked for
    errors:   what the console said of errors, and what was thrown
    """

    def __init__(self, commands: int, answers: int) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._commands = commands
        self._answers = answers
        self._buffer = b""
        self._count = 0
        self._downloads: set[str] = set()
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self._listen(self._session)

    def open(self, address: str) -> None:
        self.ask("Page.navigate", url=address)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript; of a promise, what it comes to."""
        given = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        found = self.ask("Runtime.evaluate", **given)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < end, (expression, self.errors, self.evaluate(STATUS))
            time.sleep(0.1)

    def downloaded(self, folder: Path, click: str) -> Path:
        """Click on an element, and wait for the file that this downloads."""
        folder.mkdir(exist_ok=True)
        path = str(folder)
        self._ask(
            "Browser.setDownloadBehavior", behavior="allow", downloadPath=path, eventsEnabled=True
        )
        before = len(self._downloads)
        self.evaluate(f"document.querySelector('{click}').click()")
        while len(self._downloads) == before:
            self._receive()
        (found,) = folder.iterdir()
        return found

    def show(self, width: int, height: int, dark: bool = False) -> None:
        """Show the page on a screen of some size; of a phone, if it is narrow."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")

    def controls(self) -> list[tuple[str, str]]:
        """Role and name of everything on the page, as a screen reader has it."""
        nodes = self.ask("Accessibility.getFullAXTree")["nodes"]
        shown = [node for node in nodes if not node["ignored"]]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in shown]

    def screenshot(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        """A picture of the whole page, for a person to look at."""
        self.show(width, height, dark)
        taken = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the DevTools protocol to this page."""
        return self._ask(method, self._session, **params)

    def _listen(self, session: str) -> None:
        """Hear of a page's or a worker's requests and errors, and of workers of its own."""
        for method in ("Runtime.enable", "Network.enable", "Log.enable"):
            self._ask(method, session)
        attach = {"autoAttach": True, "waitForDebuggerOnStart": True, "flatten": True}
        self._ask("Target.setAutoAttach", session, **attach)

    def _ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number = self._send(method, session, params)
        while True:
            message = self._receive()
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                found: dict[str, Any] = message["result"]
                return found

    def _send(self, method: str, session: str | None, params: dict[str, Any]) -> int:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        return self._count

    def _receive(self) -> dict[str, Any]:
        """The next message, after what it tells has been noted."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], QUIET)
            assert ready, "the browser says nothing"
            found = os.read(self._answers, 1 << 20)
            assert found, "the browser is gone"
            self._buffer += found
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(json.dumps(params["entry"]))
        elif method == "Target.attachedToTarget" and params["targetInfo"]["type"] == "worker":
            self._let_run(params["sessionId"])
        elif method == "Browser.downloadProgress" and params["state"] == "completed":
            self._downloads.add(params["guid"])

    def _let_run(self, session: str) -> None:
        """Listen to a worker, which waits for that. Nobody waits for the answers."""
        for method in ("Runtime.enable", "Network.enable", "Log.enable"):
            self._send(method, session, {})
        self._send("Runtime.runIfWaitingForDebugger", session, {})


STATUS = "document.querySelector('[role=status]')?.textContent"


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A new browser with one page. profile: a folder for its files, made here"""
    import fcntl  # of POSIX alone

    found = program()
    assert found, "no chromium"
    its_commands, commands = os.pipe()
    answers, its_answers = os.pipe()
    its_ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (its_commands, its_answers)]
    command = [sys.executable, "-c", MOVE, *map(str, its_ends), found, *ARGUMENTS]
    with open(profile.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}"], pass_fds=its_ends, stdout=log, stderr=log
        )
    for end in (its_commands, its_answers, *its_ends):
        os.close(end)
    try:
        yield Page(commands, answers)
    finally:
        os.close(commands)
        os.close(answers)
        process.terminate()
        process.wait(timeout=30)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder's files on 127.0.0.1, as `python -m http.server` has them. Yields the address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
