"""The frontend's end of a worker's link, in the worker's own thread."""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING

from flambeau.worker.messages import Chunk, Part, Request, Result, Stop, Work
from flambeau.worker.protocol import decode, encode

if TYPE_CHECKING:
    from flambeau.worker.messages import Message


class FakeLink:
    """Delivers what ``push`` is given; Stop once there is nothing left and the worker waits.

    ``said`` holds what the worker sent, each message as the wire would deliver it.
    """

    def __init__(self, *messages: Message) -> None:
        self.said: list[Message] = []
        self._waiting: deque[Message] = deque()
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        self.push(*messages)

    def push(self, *messages: Message) -> None:
        self._waiting.extend(messages)
        self._ours.send(b"x")

    def receive(self, timeout: float | None = None) -> Message | None:
        if self._waiting:
            return self._waiting.popleft()
        if timeout is None:
            return Stop()
        try:
            self._theirs.recv(4096)
        except BlockingIOError:
            pass
        return None

    def is_readable(self, timeout: float = 0.0) -> bool:
        return bool(self._waiting)

    def send(self, message: Message) -> None:
        self.said.append(decode([bytes(frame) for frame in encode(message)]))

    def answer(self, result: Result) -> None:
        self.send(result)

    def fileno(self) -> int:
        return self._theirs.fileno()

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()

    def pieces(self, batch_id: int) -> list[bytes]:
        """The bodies of a batch's first row, in order, the result's last."""
        bodies = []
        for message in self.said:
            if isinstance(message, Chunk) and message.batch_id == batch_id and message.index == 0:
                bodies.append(bytes(message.piece.body))
            elif isinstance(message, Result) and message.batch_id == batch_id:
                bodies.append(bytes(message.answers[0].body))
        return bodies

    def result(self, batch_id: int) -> Result:
        """The one result of a batch."""
        (found,) = (
            message
            for message in self.said
            if isinstance(message, Result) and message.batch_id == batch_id
        )
        return found

    def order(self) -> list[int]:
        """The batches in the order in which they were answered."""
        return [message.batch_id for message in self.said if isinstance(message, Result)]


def work(batch_id: int, *bodies: bytes, ids: tuple[str, ...] = ()) -> Work:
    """A batch of a request for each body; ids are ``r<batch>.<row>`` unless they are given."""
    names = ids or tuple(f"r{batch_id}.{row}" for row in range(len(bodies)))
    requests = [
        Request(name, {"x-batch": str(batch_id)}, [Part("body", "text/plain", body)])
        for name, body in zip(names, bodies, strict=True)
    ]
    return Work(batch_id, requests)
