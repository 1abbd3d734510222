"""Takes connections on a port where TLS is spoken, and answers those that speak plain HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from .listener import Listener

HANDSHAKE_TIMEOUT = 60.0
"""Seconds that a client has to begin the handshake, and again to finish it."""
LINGER = 2.0
"""Seconds for which the rest of a refused request is read, so that the refusal arrives."""
_HANDSHAKE_RECORD = b"\x16"
_ACCEPTS_PER_TURN = 64
_OUT_OF_DESCRIPTORS_PAUSE = 1.0

logger = logging.getLogger(__name__)


class TlsAcceptor:
    """Stands where asyncio's server stands for a plain listener.

    asyncio closes a connection whose first bytes are not TLS. TorchServe tells such a client what
    is wrong; so the first byte is looked at, and left where it is, before TLS begins.
    """

    def __init__(
        self, sockets: Sequence[socket.socket], listener: Listener, context: ssl.SSLContext
    ) -> None:
        self.sockets = tuple(sockets)
        self._listener = listener
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._is_open = True
        self._admissions: set[asyncio.Task[None]] = set()
        for each in self.sockets:
            each.setblocking(False)
            self._watch(each)

    @property
    def shaking_hands(self) -> int:
        """Connections that are not through the handshake."""
        return len(self._admissions)

    def stop_accepting(self) -> None:
        """Take no more connections."""
        if not self._is_open:
            return
        self._is_open = False
        for each in self.sockets:
            self._loop.remove_reader(each)
            each.close()

    def close(self) -> None:
        """Take no more connections; those that are not through the handshake are dropped."""
        self.stop_accepting()
        for task in self._admissions:
            task.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._admissions, return_exceptions=True)

    def _watch(self, listening: socket.socket) -> None:
        if self._is_open:
            self._loop.add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                connection, _peer = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.error("cannot accept connections for now: %s", error)
                self._loop.remove_reader(listening)
                self._loop.call_later(_OUT_OF_DESCRIPTORS_PAUSE, self._watch, listening)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._admit(connection))
            self._admissions.add(task)
            task.add_done_callback(self._admissions.discard)

    async def _admit(self, connection: socket.socket) -> None:
        try:
            first = await asyncio.wait_for(self._first_byte(connection), HANDSHAKE_TIMEOUT)
            if first == _HANDSHAKE_RECORD:
                await self._loop.connect_accepted_socket(
                    self._listener,
                    connection,
                    ssl=self._context,
                    ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
                )
                return
            if first:
                await asyncio.wait_for(self._refuse(connection), LINGER)
        except (OSError, asyncio.TimeoutError) as error:
            logger.debug("no TLS connection came about: %r", error)
        except BaseException:
            connection.close()
            raise
        connection.close()

    async def _first_byte(self, connection: socket.socket) -> bytes:
        """What the client sends first, without taking it; nothing if it leaves."""
        readable = asyncio.Event()
        self._loop.add_reader(connection, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(connection)
        return connection.recv(1, socket.MSG_PEEK)

    async def _refuse(self, connection: socket.socket) -> None:
        await self._loop.sock_sendall(connection, self._listener.refuse_plain_http())
        connection.shutdown(socket.SHUT_WR)
        while await self._loop.sock_recv(connection, 65536):
            pass
