"""Every listener of a server, whatever it speaks: opened together, seen off, closed."""

from __future__ import annotations

import asyncio
import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .app import Listeners, start_listeners
from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .app import Services
    from .grpc.server import GrpcListeners
    from .inherited import InheritedSockets, ListeningSocket

_LOOK_EVERY = 0.05

logger = logging.getLogger("flambeau.server")


class Entrances:
    """The open listeners of a server."""

    def __init__(self, http: Listeners, grpc: GrpcListeners | None) -> None:
        self._http = http
        self._grpc = grpc
        self.urls = {**http.urls, **(grpc.urls if grpc is not None else {})}
        """Where each really listens, by its name."""

    @property
    def sockets(self) -> Sequence[ListeningSocket]:
        """What a successor can go on listening at. gRPC's are not among them."""
        return self._http.sockets

    @property
    def uses_tls(self) -> bool:
        return self._http.uses_tls or (self._grpc is not None and self._grpc.uses_tls)

    def reload_certificates(self) -> None:
        """Read keys and certificates again; if they do not fit, the old ones stay in use."""
        if self._http.uses_tls:
            self._http.reload_certificate()
        if self._grpc is not None and self._grpc.uses_tls:
            self._grpc.reload_certificate()

    def own(self) -> None:
        """What was inherited is this server's, and goes with it."""
        self._http.own()

    def end_connections(self) -> None:
        """Close each connection after its next answer: who asks again finds another server."""
        self._http.end_connections()

    async def see_off(self, timeout: float, hurry: asyncio.Event) -> None:
        """Take no more connections and serve those that exist until they are gone.

        Each ends with its next answer. After ``timeout`` seconds, or when there is a ``hurry``,
        those that nobody uses are closed, and what is asked on the others is left to ``close``.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        self.end_connections()
        await self._http.stop_accepting()
        grpc = asyncio.ensure_future(self._stop_grpc(timeout))
        while loop.time() < deadline and not hurry.is_set():
            if not self._http.connections and grpc.done():
                break
            await asyncio.sleep(_LOOK_EVERY)
        self._http.close_idle()
        if hurry.is_set():
            grpc.cancel()
        await asyncio.gather(grpc, return_exceptions=True)

    async def _stop_grpc(self, timeout: float) -> None:
        if self._grpc is not None:
            await self._grpc.close(timeout)

    async def close(self) -> None:
        """Close everything, after a short wait for the answers that are under way."""
        if self._grpc is not None:
            await self._grpc.close()
        await self._http.close()


async def open_entrances(services: Services, inherited: InheritedSockets | None) -> Entrances:
    """All listeners, or none; raises ConfigError if one cannot listen.

    Those at sockets that were ``inherited`` are the last.
    """
    grpc = await _start_grpc(services, beside=inherited is not None)
    try:
        http = await start_listeners(services, inherited)
    except BaseException:
        if grpc is not None:
            await grpc.close()
        raise
    return Entrances(http, grpc)


async def _start_grpc(services: Services, *, beside: bool) -> GrpcListeners | None:
    """The gRPC listeners, None where there are to be none; raises ConfigError."""
    wanted = services.config.enable_grpc
    if wanted == "false" or (wanted == "auto" and find_spec("grpc") is None):
        return None
    try:
        from .grpc.server import start_grpc
    except ImportError:
        raise ConfigError(
            "enable_grpc=true needs the gRPC library: pip install 'flambeau[grpc]'"
        ) from None
    listeners = await start_grpc(services, beside=beside)
    for name, url in listeners.urls.items():
        logger.info("%s listens on %s", name, url)
    return listeners
