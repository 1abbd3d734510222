"""A client's connection: plain predictions are answered here, all else is aiohttp's."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, cast

from aiohttp.tcp_helpers import tcp_keepalive

from ... import FlambeauError
from .direct import Exchange

if TYPE_CHECKING:
    from ..jobs import Stream
    from .direct import Direct
    from .listener import Listener
    from .long_way import LongWay

_MOST_AHEAD = 2**16
"""Bytes of later requests that are read while one is worked on."""


class Connection(asyncio.Protocol):
    """Looks at what comes, and answers it itself or hands it on: one request after the other.

    It is handed on to a ``LongWay`` that is made for the first of them. As long as that may be in
    the middle of a request it gets whatever comes.
    """

    __slots__ = (
        "_ahead",
        "_body",
        "_direct",
        "_drained",
        "_ends_whole",
        "_exchange",
        "_is_paused",
        "_listener",
        "_long_way",
        "_missing",
        "_streaming",
        "idle_since",
        "is_closing",
        "transport",
    )

    def __init__(self, listener: Listener, direct: Direct | None) -> None:
        self._listener = listener
        self._direct = direct
        self.transport: asyncio.Transport | None = None
        self.idle_since = monotonic()
        self._exchange: Exchange | None = None
        self._body: list[bytes] = []
        self._missing = 0
        """Bytes of the body that are to come; the exchange asks when they are there."""
        self._ahead = b""
        self._long_way: LongWay | None = None
        self._ends_whole = True
        """What ``_long_way`` has been given ends with the end of a request."""
        self.is_closing = False
        """It is closed after the answer that is under way."""
        self._is_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._streaming: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """It answers a request itself, or reads one."""
        return self._exchange is not None

    @property
    def is_sending(self) -> bool:
        """Some of an answer waits for the client to read."""
        return self.transport is not None and self.transport.get_write_buffer_size() > 0

    @property
    def is_idle(self) -> bool:
        """Its client has asked for nothing."""
        if self._exchange is not None or self._ahead:
            return False
        return self._long_way is None or self._long_way.is_idle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self._listener.clients.add(self)
        tcp_keepalive(self.transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._listener.clients.discard(self)
        self.transport = None
        exchange, self._exchange = self._exchange, None
        if self._streaming is not None:
            self._streaming.cancel()
        if exchange is not None:
            exchange.abandon()
        if self._long_way is not None:
            self._long_way.connection_lost(error)

    def eof_received(self) -> bool | None:
        """The client sends no more: the connection ends, as with aiohttp."""
        return None

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._read_on(data)
        elif self._exchange is not None or self._ahead or self._is_paused:
            # What has come before goes first, if it waits for its turn only.
            self._keep(data)
        elif self._ends_whole:
            self._begin(data)
        else:
            self._hand_on(data, ends_whole=False)

    def _begin(self, data: bytes) -> None:
        direct = self._direct
        head = direct.find(data) if direct is not None else None
        if direct is None or head is None:
            self._hand_on(data, ends_whole=False)
            return
        end = head.size + head.length
        is_possible = self.is_idle and len(data) <= end and not self.is_closing
        key = None
        if head.asked is not None and is_possible:
            key = direct.takes(head.asked, is_whole=len(data) == end)
        if head.asked is None or key is None:
            self._hand_on(data, ends_whole=len(data) == end)
            return
        self._exchange = exchange = Exchange(direct, head.asked, key, self)
        self._missing = end - len(data)
        body = data[head.size :]
        if self._missing:
            self._body = [body]
        else:
            exchange.ask(body)

    def _read_on(self, data: bytes) -> None:
        """More of the body of the request at hand."""
        if len(data) > self._missing:
            self._ahead = data[self._missing :]
            data = data[: self._missing]
        self._missing -= len(data)
        self._body.append(data)
        if not self._missing and self._exchange is not None:
            body, self._body = b"".join(self._body), []
            self._exchange.ask(body)

    def _keep(self, data: bytes) -> None:
        """A client that does not wait for its answer."""
        self._ahead += data
        if len(self._ahead) > _MOST_AHEAD:
            self._pause_reading()

    def _hand_on(self, data: bytes, *, ends_whole: bool) -> None:
        self.idle_since = monotonic()
        self._ends_whole = ends_whole
        if self._long_way is None:
            if self.transport is None:
                return
            self._long_way = self._listener.long_way()
            self._long_way.connection_made(self.transport)
        self._long_way.data_received(data)

    def answer(self, data: bytes, *, keep_alive: bool) -> None:
        """Send this, and wait for the next request or close."""
        if self.transport is not None:
            self.transport.write(data)
        self._done(keep_alive=keep_alive)

    def answer_in_pieces(self, head: bytes, stream: Stream, *, keep_alive: bool) -> None:
        """Send this, then the pieces as they come."""
        if self.transport is None:
            stream.abandon()
            return
        sending = self._send(self.transport, head, stream, keep_alive=keep_alive)
        self._streaming = asyncio.get_running_loop().create_task(sending)

    async def _send(
        self, transport: asyncio.Transport, head: bytes, stream: Stream, *, keep_alive: bool
    ) -> None:
        try:
            transport.write(head)
            async for piece in stream:
                transport.write(b"".join((b"%x\r\n" % len(piece), piece, b"\r\n")))
                if self._drained is not None:
                    await self._drained
            transport.write(b"0\r\n\r\n")
        except FlambeauError:
            # Without the end that would make what was sent look complete.
            stream.abandon()
            keep_alive = False
            transport.abort()
        except BaseException:
            stream.abandon()
            self.abort()
            raise
        if self._exchange is not None:
            self._exchange.end()
        self._streaming = None
        self._done(keep_alive=keep_alive)

    def _done(self, *, keep_alive: bool) -> None:
        """The exchange is over."""
        self._exchange = None
        self.idle_since = monotonic()
        transport = self.transport
        if transport is None:
            return
        if self.is_closing or not keep_alive:
            transport.close()
        elif self._ahead:
            # Not at once: this is called in the middle of the engine's work.
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """The client may have sent more than one request: go on if it reads the answers."""
        if self._exchange is not None or self._is_paused or self.is_closing:
            return
        data, self._ahead = self._ahead, b""
        self._resume_reading()
        if self.transport is not None and data:
            self.data_received(data)

    def pause_writing(self) -> None:
        """The client does not read: nothing more is read from it, and a stream waits."""
        if self._exchange is None and self._long_way is not None and not self._long_way.is_idle:
            self._long_way.pause_writing()
            return
        self._is_paused = True
        self._drained = asyncio.get_running_loop().create_future()
        self._pause_reading()

    def resume_writing(self) -> None:
        if not self._is_paused:
            if self._long_way is not None:
                self._long_way.resume_writing()
            return
        self._is_paused = False
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
        if self._exchange is None:
            self._go_on()
        elif len(self._ahead) <= _MOST_AHEAD:
            self._resume_reading()

    def _pause_reading(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def close(self) -> None:
        """Close it, after the answer that is under way."""
        self.is_closing = True
        if self._exchange is not None:
            return
        if self._long_way is not None:
            self._long_way.close()
        elif self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close it now."""
        if self.transport is not None:
            self.transport.abort()
