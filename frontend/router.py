"""The frontend's end of the line: one ROUTER socket, read straight from the event loop.

The socket's descriptor is edge-triggered: it fires when something changes, not while something is
there. So every wake-up drains the socket, and after every send it is looked at again, because a
send may have swallowed the edge.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

import zmq

from ..worker.io_threads import batching
from ..worker.protocol import INLINE_LIMIT, Frame, ProtocolError, decode, encode
from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..worker.messages import Message

logger = logging.getLogger("flambeau.router")

# As plain numbers: combining the library's flag objects costs as much as half a send.
_MORE = int(zmq.SNDMORE)
_FIRST = int(zmq.SNDMORE) | int(zmq.DONTWAIT)
_NOW = int(zmq.DONTWAIT)
_READABLE = int(zmq.POLLIN)
_DRAIN_AT_ONCE = 64
"""Messages read in one loop turn before others get theirs."""
_LONGEST_PATH = 107
"""What fits into a Unix socket address."""


class Router:
    """Messages to and from workers by identity. Raises ConfigError if the socket cannot be made.

    ``on_message(identity, message)`` is called for each message, ``on_violation(identity, what)``
    for what is none; both on the event loop.
    """

    def __init__(
        self,
        path: Path,
        on_message: Callable[[str, Message], None],
        on_violation: Callable[[str, str], None],
    ) -> None:
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise ConfigError(
                f"run_dir is too long: the path of a socket in it may have {_LONGEST_PATH} bytes, "
                f"and this one has {len(os.fsencode(path))}. Choose a shorter one with --run-dir."
            )
        self.endpoint = f"ipc://{path}"
        self._on_message = on_message
        self._on_violation = on_violation
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        with batching():
            self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            self._socket.bind(self.endpoint)
        except zmq.ZMQError as error:
            self._socket.close()
            self._context.term()
            raise ConfigError(f"No socket can be made in run_dir: {error.strerror}.") from None
        self._scheduled = False
        self._draining = False
        self._fd = int(self._socket.get(zmq.FD))
        self._loop.add_reader(self._fd, self.drain)

    def send(self, identity: str, message: Message) -> bool:
        """Hand ``message`` to libzmq; False when that worker cannot be reached."""
        frames = encode(message)
        try:
            self._socket.send(identity.encode(), _FIRST)
            for frame in frames[:-1]:
                self._socket.send(frame, _MORE, copy=len(frame) <= INLINE_LIMIT)
            self._socket.send(frames[-1], 0, copy=len(frames[-1]) <= INLINE_LIMIT)
        except zmq.ZMQError as error:
            logger.warning("worker %s cannot be reached: %s", identity, error)
            return False
        self._look_again()
        return True

    def drain(self) -> None:
        """Read what is there, up to a fair share, and pass it on."""
        self._scheduled = False
        if self._socket.closed or self._draining:
            return
        self._draining = True
        try:
            for _ in range(_DRAIN_AT_ONCE):
                # Asking first is cheaper than the exception for an empty socket.
                if not int(self._socket.get(zmq.EVENTS)) & _READABLE:
                    return
                self._pass_on(*self._read())
        finally:
            self._draining = False
        self._look_again()

    def _read(self) -> tuple[str, list[Frame]]:
        identity = self._socket.recv(_NOW)
        frames: list[Frame] = []
        more = True
        while more:
            # The frame knows: asking the socket would be one more call for each.
            frame = self._socket.recv(copy=False)
            frames.append(frame.bytes)
            more = frame.more
        return identity.decode(errors="replace"), frames

    def _pass_on(self, identity: str, frames: list[Frame]) -> None:
        try:
            message = decode(frames)
        except ProtocolError as error:
            self._on_violation(identity, f"sent an {error}")
            return
        try:
            self._on_message(identity, message)
        except Exception:
            # A bug; but the descriptor does not fire again for what is left unread.
            logger.exception("a message of worker %s could not be handled", identity)

    def close(self) -> None:
        """Stop reading and drop what was not delivered."""
        self._loop.remove_reader(self._fd)
        self._socket.close()
        self._context.term()

    def _look_again(self) -> None:
        """Drain again in the next loop turn: once, however much was sent in this one."""
        # Whoever sends while the socket is being drained has nothing to fear: that goes on until
        # nothing is left.
        if not self._scheduled and not self._draining:
            self._scheduled = True
            self._loop.call_soon(self.drain)
