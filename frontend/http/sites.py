"""How a listener takes connections: TCP, TCP with TLS, or a Unix socket."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from ..errors import ConfigError
from ..settings import Address
from .tls_acceptor import TlsAcceptor

if TYPE_CHECKING:
    import ssl

    from .middlewares import Listener

BACKLOG = 1024
_PROBE_TIMEOUT = 1.0


async def open_site(
    listener: Listener,
    runner: web.BaseRunner,
    wanted: Address,
    mode: int,
    tls: ssl.SSLContext | None,
) -> Address:
    """Take connections at ``wanted``; where that really is.

    ``tls`` is needed for an https address only, ``mode`` counts for a Unix socket only: one that
    a dead server left is replaced. Raises OSError, or ConfigError if the path is no socket's.
    """
    if wanted.path:
        await UnixSite(runner, listener, wanted.path, mode).start()
        return wanted
    if tls is None:
        await web.TCPSite(runner, wanted.host, wanted.port, backlog=BACKLOG).start()
    else:
        await TlsSite(runner, listener, wanted, tls).start()
    host, port = runner.addresses[0][:2]
    return Address(host, port, wanted.is_tls)


class UnixSite(web.BaseSite):
    """A Unix socket with a mode of its own, which goes away with the site."""

    def __init__(self, runner: web.BaseRunner, listener: Listener, path: str, mode: int) -> None:
        super().__init__(runner, backlog=BACKLOG)
        self._listener = listener
        self._path = Path(path)
        self._mode = mode
        self._inode = 0

    @property
    def name(self) -> str:
        return f"unix:{self._path}"

    async def start(self) -> None:
        await super().start()
        _clear(self._path)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bound.bind(str(self._path))
            # Nobody can connect before the server listens, so there is no gap.
            self._path.chmod(self._mode)
            self._inode = self._path.lstat().st_ino
            self._server = await asyncio.get_running_loop().create_unix_server(
                self._listener, sock=bound, backlog=self._backlog
            )
        except BaseException:
            bound.close()
            raise

    async def stop(self) -> None:
        await super().stop()
        try:
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()
        except FileNotFoundError:
            pass


class TlsSite(web.BaseSite):
    """A TCP port where TLS is spoken, and plain HTTP is told so."""

    def __init__(
        self, runner: web.BaseRunner, listener: Listener, wanted: Address, tls: ssl.SSLContext
    ) -> None:
        super().__init__(runner, ssl_context=tls, backlog=BACKLOG)
        self._listener = listener
        self._wanted = wanted
        self._tls = tls
        self._acceptor: TlsAcceptor | None = None

    @property
    def name(self) -> str:
        return str(self._wanted)

    async def start(self) -> None:
        await super().start()
        sockets = await _bind(self._wanted.host, self._wanted.port)
        self._acceptor = TlsAcceptor(sockets, self._listener, self._tls)
        # aiohttp asks it for its sockets, and closes it.
        self._server = self._acceptor  # type: ignore[assignment]

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
