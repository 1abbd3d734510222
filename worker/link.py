"""The worker's end of the line: a DEALER socket to the frontend, and the watch on its life."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from collections import deque

import zmq

from .io_threads import batching
from .messages import Answer, Cancel, Chunk, Message, Ping, Pong, Result, Work
from .protocol import decode, encode

logger = logging.getLogger("flambeau.worker")

_PR_SET_PDEATHSIG = 1
_LINGER_MS = 2000


class Link:
    """Blocking messages to and from the frontend. Used by one thread.

    A process that a handler has forked, and that came back from the handler as if it were the
    worker, ends at the first message that it would send.
    """

    def __init__(self, endpoint: str, identity: str) -> None:
        self._pid = os.getpid()
        self.is_silent = False
        """Batches are reported as done, without answers: another process's answers count."""
        self._context = zmq.Context()
        with batching():
            self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.ROUTING_ID, identity.encode())
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.connect(endpoint)

    def send(self, message: Message) -> None:
        if os.getpid() != self._pid:
            os._exit(0)
        if self.is_silent and isinstance(message, Chunk):
            return
        if self.is_silent and isinstance(message, Result):
            message = Result(message.batch_id, message.handler_seconds, [])
        frames = encode(message)
        if len(frames) == 1:
            self._socket.send(frames[0])
        else:
            self._socket.send_multipart(frames, copy=False)

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message; None when ``timeout`` seconds passed without one.

        Raises ProtocolError for what is no message.
        """
        if timeout is not None and not self.is_readable(timeout):
            return None
        frame = self._socket.recv(copy=False)
        frames: list[bytes | memoryview] = [frame.bytes]
        while frame.more:
            # Large bodies stay in libzmq's memory until the handler's own copy is made.
            frame = self._socket.recv(copy=False)
            frames.append(frame.buffer)
        return decode(frames)

    def answer(self, result: Result) -> None:
        """Send ``result``; one that cannot be written down becomes an error for its requests."""
        try:
            self.send(result)
        except (TypeError, ValueError, OverflowError):
            # A header or a metric of the handler's; nothing is sent yet.
            logger.exception("The answer to batch %d cannot be sent", result.batch_id)
            failure = Answer(503, None, [], b"Invalid model predict output", True)
            answers = [failure] * len(result.answers)
            self.send(Result(result.batch_id, result.handler_seconds, answers))

    def fileno(self) -> int:
        """Becomes readable when something may have arrived: once, until all of it is received.

        Sending may use that up; so whoever waits for it receives after each ``send``, too.
        """
        return int(self._socket.get(zmq.FD))

    def is_readable(self, timeout: float = 0.0) -> bool:
        """A message is there, or comes within ``timeout`` seconds."""
        if timeout <= 0:
            return bool(int(self._socket.get(zmq.EVENTS)) & int(zmq.POLLIN))
        return bool(self._socket.poll(int(timeout * 1000)))

    def close(self) -> None:
        """Deliver what was sent, then close."""
        self._socket.close()
        self._context.term()


class Inbox:
    """Messages in their order, where what is said of the batch in work can be read before its end.

    Cancel is kept here and Ping answered; neither is handed out.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._ahead: deque[Message] = deque()
        self._cancelled: set[tuple[int, int | None]] = set()

    def take(self) -> Message:
        """The next message, however long that takes."""
        message = self._ahead.popleft() if self._ahead else self._receive(None)
        while message is None:
            message = self._receive(None)
        if self._cancelled and isinstance(message, Work):
            # Batches are numbered as they come: what was said of earlier ones came too late.
            self._cancelled = {each for each in self._cancelled if each[0] >= message.batch_id}
        return message

    def is_cancelled(self, batch_id: int, row: int) -> bool:
        """The client of that row has left, as far as that has arrived."""
        while self._link.is_readable():
            if (message := self._receive(0.0)) is not None:
                self._ahead.append(message)
        return not self._cancelled.isdisjoint({(batch_id, row), (batch_id, None)})

    def _receive(self, timeout: float | None) -> Message | None:
        """The next message; None for none in time, and for one that is dealt with here."""
        message = self._link.receive(timeout)
        if isinstance(message, Ping):
            self._link.send(Pong())
            return None
        if isinstance(message, Cancel):
            self._cancelled.add((message.batch_id, message.index))
            return None
        return message


def end_with_parent(wanted: bool) -> None:
    """Have the kernel kill this process when its parent ends, or not any more."""
    if sys.platform == "linux":
        number = signal.SIGKILL if wanted else 0
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


def die_with_parent(parent_fd: int, *, is_child: bool = True) -> None:
    """End this process at once when the frontend ends, however it ends.

    The frontend holds the other end of a pipe and never writes: end of file means that it is gone.
    The kernel's own signal comes on top, for a handler that never lets the watching thread run: to
    the frontend's children. A copy of the template is killed by that.
    """
    if is_child:
        end_with_parent(True)

    def watch() -> None:
        try:
            os.read(parent_fd, 1)
        finally:
            os._exit(0)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
