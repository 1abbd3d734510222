"""How a listener takes connections: TCP, TCP with TLS, or a Unix socket."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from ..errors import ConfigError
from ..settings import Address
from .tls_acceptor import TlsAcceptor

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from .listener import Listener

BACKLOG = 1024
_PROBE_TIMEOUT = 1.0
_TURNS = 3
"""Turns of the loop in which an accepted connection gets its transport."""


class Site(Protocol):
    """What takes connections for a listener, until it is stopped."""

    @property
    def arriving(self) -> int:
        """Connections that it has taken and that are not the listener's yet."""

    async def stop_accepting(self) -> None:
        """Take no more connections, without losing one that was taken, and leave what is bound to
        whoever has it too.
        """


@dataclass(frozen=True, slots=True)
class OpenSite:
    """Where connections are taken, at which sockets, and by what."""

    address: Address
    sockets: Sequence[socket.socket]
    sites: Sequence[Site]


async def open_site(
    listener: Listener,
    runner: web.BaseRunner,
    wanted: Address,
    mode: int,
    tls: ssl.SSLContext | None,
    given: Sequence[socket.socket] = (),
) -> OpenSite:
    """Take connections at ``wanted``, at the sockets that are ``given`` if there are some.

    ``tls`` is needed for an https address only, ``mode`` counts for a Unix socket only: one that
    a dead server left is replaced. Raises OSError, or ConfigError if the path is no socket's.
    """
    if wanted.path:
        unix = UnixSite(runner, listener, wanted.path, mode, *given)
        await unix.start()
        return OpenSite(wanted, [unix.bound], [unix])
    sockets = list(given) or await _bind(wanted.host, wanted.port)
    sites: list[Site] = []
    try:
        if tls is None:
            for each in sockets:
                plain = PlainSite(runner, each, backlog=BACKLOG)
                await plain.start()
                sites.append(plain)
        else:
            secure = TlsSite(runner, listener, wanted, sockets, tls)
            await secure.start()
            sites.append(secure)
    except BaseException:
        for each in sockets:
            each.close()
        raise
    name = sockets[0].getsockname()
    if isinstance(name, str):
        raise ConfigError("A Unix socket is given for an address that has a port.")
    return OpenSite(Address(name[0], name[1], wanted.is_tls), sockets, sites)


async def _stop_reading(sockets: Sequence[socket.socket]) -> None:
    """Accept nothing more, and let what is accepted become connections.

    asyncio refuses connections that it has accepted in the same turn in which its server is closed.
    """
    loop = asyncio.get_running_loop()
    for each in sockets:
        loop.remove_reader(each)
    for _ in range(_TURNS):
        await asyncio.sleep(0)


class PlainSite(web.SockSite):
    """A TCP port where HTTP is spoken."""

    arriving = 0

    async def stop_accepting(self) -> None:
        await _stop_reading([self._sock])
        await self.stop()


class UnixSite(web.BaseSite):
    """A Unix socket with a mode of its own, which goes away with the site if ``is_ours``.

    ``given`` is bound to the path already, and somebody else's at first.
    """

    arriving = 0

    def __init__(
        self,
        runner: web.BaseRunner,
        listener: Listener,
        path: str,
        mode: int,
        given: socket.socket | None = None,
        *_: socket.socket,
    ) -> None:
        super().__init__(runner, backlog=BACKLOG)
        self._listener = listener
        self._path = Path(path)
        self._mode = mode
        self._given = given
        self._inode = 0
        self.is_ours = given is None
        self.bound = given or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    @property
    def name(self) -> str:
        return f"unix:{self._path}"

    async def start(self) -> None:
        await super().start()
        try:
            if self._given is None:
                _clear(self._path)
                self.bound.bind(str(self._path))
            # Nobody can connect before the server listens, so there is no gap.
            self._path.chmod(self._mode)
            self._inode = self._path.lstat().st_ino
            loop = asyncio.get_running_loop()
            options: dict[str, Any] = {}
            if sys.version_info >= (3, 13) and isinstance(loop, asyncio.BaseEventLoop):
                # The path may be a successor's when this server is closed.
                options["cleanup_socket"] = False
            self._server = await loop.create_unix_server(
                self._listener, sock=self.bound, backlog=self._backlog, **options
            )
        except BaseException:
            self.bound.close()
            raise

    async def stop_accepting(self) -> None:
        self.is_ours = False
        await _stop_reading([self.bound])
        await self.stop()

    async def stop(self) -> None:
        await super().stop()
        try:
            if self.is_ours and self._path.lstat().st_ino == self._inode:
                self._path.unlink()
        except FileNotFoundError:
            pass


class TlsSite(web.BaseSite):
    """A TCP port where TLS is spoken, and plain HTTP is told so."""

    def __init__(
        self,
        runner: web.BaseRunner,
        listener: Listener,
        wanted: Address,
        sockets: Sequence[socket.socket],
        tls: ssl.SSLContext,
    ) -> None:
        super().__init__(runner, ssl_context=tls, backlog=BACKLOG)
        self._listener = listener
        self._wanted = wanted
        self._sockets = sockets
        self._tls = tls
        self._acceptor: TlsAcceptor | None = None

    @property
    def name(self) -> str:
        return str(self._wanted)

    @property
    def arriving(self) -> int:
        return 0 if self._acceptor is None else self._acceptor.shaking_hands

    async def start(self) -> None:
        await super().start()
        self._acceptor = TlsAcceptor(self._sockets, self._listener, self._tls)
        # aiohttp asks it for its sockets, and closes it.
        self._server = self._acceptor  # type: ignore[assignment]

    async def stop_accepting(self) -> None:
        if self._acceptor is not None:
            self._acceptor.stop_accepting()

    async def stop(self) -> None:
        await super().stop()
        if self._acceptor is not None:
            await self._acceptor.wait_closed()


async def _bind(host: str, port: int) -> list[socket.socket]:
    """One listening socket for each address of ``host`` that this machine has."""
    infos = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    bound: list[socket.socket] = []
    fault: OSError | None = None
    for family, *_, address in dict.fromkeys(infos):
        try:
            bound.append(socket.create_server(address, family=family, backlog=BACKLOG))
        except OSError as error:
            fault = fault or error
            # Else the name has an address of a family that this machine does not use.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
    if fault is not None and (not bound or fault.errno == errno.EADDRINUSE):
        for each in bound:
            each.close()
        raise fault
    return bound


def _clear(path: Path) -> None:
    """Remove the socket of a server that is gone; raises OSError if one still listens."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(f"{path} is there and is no socket; choose another path.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
