"""A connection of the load generator: one request under way at a time."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import urlsplit

from .answers import AnswerParser, NotHttpError
from .requests import BenchError

if TYPE_CHECKING:
    from .answers import Answer

_PORTS = {"http": 80, "https": 443}


class DialError(Exception):
    """A connection was not made; the message is a sentence."""


class Owner(Protocol):
    """Who hears what becomes of a connection."""

    def answered(
        self, connection: Connection, answer: Answer, now: float, first_chunk: float
    ) -> None:
        """Its answer is there."""

    def broke(self, connection: Connection, what: str, message: str) -> None:
        """It is of no use any more, and its request, if it had one, has no answer."""


class Connection(asyncio.Protocol):
    """Sends requests one at a time. ``due`` is what latency counts from, None while it is idle."""

    def __init__(self, owner: Owner, has_body: bool) -> None:
        self.due: float | None = None
        self._owner = owner
        self._parser = AnswerParser(has_body)
        self._first_chunk = 0.0
        self._is_over = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do what this class says but do not descend from it.
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self._first_chunk = 0.0
        if self._transport is not None:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if self._is_over:
            return
        if self.due is None:
            self._break("not HTTP", f"More came than was asked for: {data[:40]!r}.")
            return
        try:
            answer = self._parser.feed(data)
        except NotHttpError as error:
            self._break("not HTTP", f"The answer is not HTTP. {error}")
            return
        if answer is not None:
            self._owner.answered(self, answer, now, self._first_chunk or now)
        elif not self._first_chunk and self._parser.in_body:
            self._first_chunk = now

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_over:
            return
        answer = self._parser.end() if exc is None else None
        if answer is not None and self.due is not None:
            self._owner.answered(self, answer, time.monotonic(), self._first_chunk)
        elif self._parser.is_idle:
            self._break("closed", "The server closed the connection without an answer.")
        else:
            self._break("closed", "The server closed the connection in the middle of an answer.")

    def expire(self, seconds: float) -> None:
        """Its answer has not come in time."""
        self._break("timeout", f"No answer came within {seconds:g} s.")

    def close(self) -> None:
        """Without a word to the owner."""
        self._is_over = True
        if self._transport is not None:
            self._transport.abort()

    def _break(self, what: str, message: str) -> None:
        self.close()
        self._owner.broke(self, what, message)


class Dialer:
    """Makes connections to the listener at ``base``, whose name is looked up once."""

    def __init__(self, base: str, context: ssl.SSLContext | None, has_body: bool) -> None:
        self._base = base
        self._context = context
        self._has_body = has_body
        self._host = ""
        self._addresses: list[tuple[str, int]] = []

    async def find(self) -> None:
        """Look the name up; raises BenchError."""
        if self._base.startswith("unix:"):
            return
        parts = urlsplit(self._base)
        self._host = parts.hostname or ""
        port = parts.port or _PORTS[parts.scheme]
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise BenchError(f"The host {self._host} is not known.") from None
        self._addresses = [(str(entry[4][0]), port) for entry in found]

    async def dial(self, owner: Owner, timeout: float) -> Connection:
        """A connection; raises DialError."""
        try:
            return await asyncio.wait_for(self._dial(owner), timeout)
        except asyncio.TimeoutError:
            raise DialError(f"{self._base} took no connection within {timeout:g} s.") from None
        except ssl.SSLCertVerificationError as error:
            raise DialError(
                f"The certificate of {self._base} is not trusted ({error.verify_message}); name a "
                "file with those that vouch for it with --cacert, or take any with --insecure."
            ) from None
        except ssl.SSLError as error:
            raise DialError(f"{self._base} speaks no TLS ({error.reason}).") from None
        except (ConnectionRefusedError, FileNotFoundError):
            raise DialError(f"No server answers at {self._base}.") from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise DialError(f"No connection to {self._base} could be made: {reason}.") from None

    async def _dial(self, owner: Owner) -> Connection:
        loop = asyncio.get_running_loop()

        def make() -> Connection:
            return Connection(owner, self._has_body)

        if self._base.startswith("unix:"):
            return (await loop.create_unix_connection(make, self._base[len("unix:") :]))[1]
        tls: dict[str, Any] = {}
        if self._context is not None:
            tls = {"ssl": self._context, "server_hostname": self._host}
        while True:
            try:
                return (await loop.create_connection(make, *self._addresses[0], **tls))[1]
            except ConnectionRefusedError:
                # A name such as localhost has an address for which nobody listens.
                if len(self._addresses) == 1:
                    raise
                del self._addresses[0]
