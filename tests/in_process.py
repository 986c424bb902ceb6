"""Flower's Grid without Flower: clients in this process, for the tests and bench/fleet.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.serverapp import Grid

from tinyzo.fleet import client


class InProcess(Grid):
    """Flower's Grid as a list of clients in this process, each asked in turn.

    nodes: their --node-config, by id; config: the run's
    lies:  (node, losses) -> what that node says instead; is_there: (node, message) -> answers
    up, down: bytes of all messages from and to clients
    """

    def __init__(self, nodes: dict[int, dict], config: dict[str, Any]) -> None:
        with suppress(ImportError):  # newer ones ask a task who it is
            from flwr.supercore.task_identity import TaskIdentity

            TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.contexts = {
            node: Context(1, node, own, RecordDict(), config) for node, own in nodes.items()
        }
        self.lies: Callable[[int, list[float]], list[float]] = lambda node, losses: losses
        self.is_there: Callable[[int, Message], bool] = lambda node, message: True
        self.up = self.down = self.messages = 0

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return list(self._answers(messages))

    def _answers(self, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            node = message.metadata.dst_node_id
            self.down += message_to_proto(message).ByteSize()
            if self.is_there(node, message):
                reply = client.app(message, self.contexts[node])
                answer = reply.content["answer"]
                if "losses" in answer and message.metadata.message_type == "train":
                    answer["losses"] = self.lies(node, list(answer["losses"]))
                self.up += message_to_proto(reply).ByteSize()
                self.messages += 1
                yield reply

    # what a fleet does not use
    run = None
    set_run = create_message = push_messages = pull_messages = lambda self, *args, **kwargs: None


def simulated(parts: int, config: dict[str, Any]) -> InProcess:
    """A grid of clients that have a part of one data set each."""
    nodes = {n + 1: {"partition-id": n, "num-partitions": parts} for n in range(parts)}
    return InProcess(nodes, config)
