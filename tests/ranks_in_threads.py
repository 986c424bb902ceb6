"""Ranks that are threads of one process: all of a shared run but MPI itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tinyzo.runs.ranks import Ranks

LONGEST = 60  # seconds, after which it is a hang


class Ended(BaseException):
    """What a rank meets that waits for one that has failed."""


class Hub:
    """What the wires of some ranks have in common."""

    def __init__(self, count: int) -> None:
        self.given = [b""] * count
        self.barrier = threading.Barrier(count)

    def meet(self) -> None:
        try:
            self.barrier.wait(LONGEST)
        except threading.BrokenBarrierError:
            raise Ended from None


class ThreadWire:
    """A Wire between threads. sent: bytes that this rank gave"""

    def __init__(self, number: int, hub: Hub) -> None:
        self.number, self.count, self.hub = number, len(hub.given), hub
        self.host = f"host-{number}"
        self.sent = 0
        self.ended: list[int] = []

    def gather(self, data: bytes) -> list[bytes]:
        self.sent += len(data)
        self.hub.given[self.number] = data
        self.hub.meet()
        found = list(self.hub.given)
        self.hub.meet()
        assert {len(each) for each in found} == {len(data)}, "all give equally many bytes"
        return found

    def send(self, data: bytes) -> bytes:
        return self.gather(data)[0]

    def abort(self, code: int) -> None:
        self.ended.append(code)


def ranks_do(count: int, share: str, work: Callable[[Ranks], Any]) -> list[Any]:
    """What the work of each rank returns, or raises; one that raises ends the others."""
    hub = Hub(count)
    found: list[Any] = [None] * count

    def do(number: int) -> None:
        try:
            found[number] = work(Ranks(share, ThreadWire(number, hub)))
        except BaseException as error:
            found[number] = error
            hub.barrier.abort()

    threads = [threading.Thread(target=do, args=(each,), daemon=True) for each in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST)
    return found
