"""The worker's end of the line: a DEALER socket to the frontend, and the watch on its life."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

import zmq

from .io_threads import let_them_batch
from .protocol import Message, decode, encode

_PR_SET_PDEATHSIG = 1
_LINGER_MS = 2000


class Link:
    """Blocking messages to and from the frontend. Used by one thread."""

    def __init__(self, endpoint: str, identity: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.ROUTING_ID, identity.encode())
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.connect(endpoint)
        let_them_batch()

    def send(self, message: Message) -> None:
        frames = encode(message)
        if len(frames) == 1:
            self._socket.send(frames[0])
        else:
            self._socket.send_multipart(frames, copy=False)

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message; None when ``timeout`` seconds passed without one.

        Raises ProtocolError for what is no message.
        """
        if timeout is not None and not self._socket.poll(int(timeout * 1000)):
            return None
        frames: list[bytes | memoryview] = [self._socket.recv()]
        while self._socket.getsockopt(zmq.RCVMORE):
            # Large bodies stay in libzmq's memory until the handler's own copy is made.
            frames.append(self._socket.recv(copy=False).buffer)
        return decode(frames)

    def close(self) -> None:
        """Deliver what was sent, then close."""
        self._socket.close()
        self._context.term()


def die_with_parent(parent_fd: int, *, is_child: bool = True) -> None:
    """End this process at once when the frontend ends, however it ends.

    The frontend holds the other end of a pipe and never writes: end of file means that it is gone.
    The kernel's own signal comes on top, for a handler that never lets the watching thread run: to
    the frontend's children. A copy of the template is killed by that.
    """
    if is_child and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        try:
            os.read(parent_fd, 1)
        finally:
            os._exit(0)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
