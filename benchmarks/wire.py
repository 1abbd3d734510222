"""A message to another process and back over ZeroMQ, with nothing done to it: the wire's floor.

Imported, it asks (``ping``); run as a script (python wire.py ENDPOINT) it is the other process.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zmq
from processes import BenchmarkError, companion, percentile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PAYLOAD = b"x" * 256
_PEER = b"pong"
_PATIENCE_MS = 10_000


@dataclass(frozen=True)
class WireWindow:
    """Round trips, one at a time."""

    rate: float
    p50_ms: float


class Wire:
    """The asking end: a ROUTER, as in the frontend."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    def ping(self, seconds: float) -> WireWindow:
        """Round trips for ``seconds``."""
        took: list[float] = []
        started = before = time.perf_counter()
        while before - started < seconds:
            try:
                self._socket.send_multipart([_PEER, _PAYLOAD])
                self._socket.recv_multipart()
            except zmq.Again:
                raise BenchmarkError("the other end of the wire does not answer.") from None
            now = time.perf_counter()
            took.append(now - before)
            before = now
        return WireWindow(len(took) / (before - started), percentile(sorted(took), 0.5) * 1000)


@contextmanager
def wire(folder: Path) -> Iterator[Wire]:
    """Two processes with a ZeroMQ connection over a socket file in ``folder``."""
    endpoint = f"ipc://{folder / 'wire'}"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, _PATIENCE_MS)
        socket.bind(endpoint)
        with companion("wire.py", endpoint):
            try:
                socket.recv_multipart()  # the other end says that it is there
            except zmq.Again:
                raise BenchmarkError("the other end of the wire did not start.") from None
            yield Wire(socket)


def pong(endpoint: str) -> None:
    """The answering end: a DEALER, as in a worker."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTING_ID, _PEER)
        socket.connect(endpoint)
        socket.send(b"")
        while True:
            socket.send(socket.recv())


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pong(sys.argv[1])
