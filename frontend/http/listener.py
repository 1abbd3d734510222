"""What a listener's connections have in common: who serves them, and their end."""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from aiohttp import web

from .connection import Connection
from .long_way import LongWay

if TYPE_CHECKING:
    from collections.abc import Callable

    from .direct import Direct
    from .middlewares import Guard

KEEP_ALIVE = 3600.0
"""Seconds that a client may ask for nothing: longer than proxies wait."""
_FOR_EVER = 1e8
_LOOK_EVERY = 60.0
_WATCH = 0.02


class Listener(web.Server):
    """aiohttp's low-level server around one ``Guard``; plain predictions are ``direct``'s.

    A handler whose client leaves is cancelled. Bodies reach the worker as they were sent:
    compressed ones are not unpacked, as in TorchServe, so none can grow beyond the limit.
    """

    def __init__(self, guard: Guard, direct: Direct | None = None) -> None:
        super().__init__(guard, handler_cancellation=True)
        self.guard = guard
        self.refuse_plain_http = guard.refuse_plain_http
        self.clients: set[Connection] = set()
        self._direct = direct
        self._looking: asyncio.TimerHandle | None = None

    def __call__(self) -> Connection:  # type: ignore[override]
        if self._looking is None:
            self._look()
        return Connection(self, self._direct)

    def long_way(self) -> LongWay:
        """aiohttp's end of a connection, for the requests that are not direct."""
        return LongWay(
            self,
            self.guard,
            loop=asyncio.get_running_loop(),
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=_FOR_EVER,
        )

    def close_idle(self) -> None:
        """Close the connections that wait for their clients."""
        for each in list(self.clients):
            if each.is_idle:
                each.close()

    def pre_shutdown(self) -> None:
        """Close each connection after the answer that is under way on it."""
        for each in list(self.clients):
            each.close()

    async def shutdown(self, timeout: float | None = None) -> None:
        """Give the answers that are under way ``timeout`` seconds, then close everything."""
        if self._looking is not None:
            self._looking.cancel()
        deadline = inf if timeout is None else monotonic() + timeout
        await self._wait_while(lambda client: client.is_busy, deadline)
        # For aiohttp no time at all is all the time in the world.
        left = None if timeout is None else max(_WATCH, deadline - monotonic())
        await super().shutdown(left)
        await self._wait_while(lambda client: client.is_sending, deadline)
        for each in list(self.clients):
            each.abort()

    async def _wait_while(self, is_at_work: Callable[[Connection], bool], deadline: float) -> None:
        while any(map(is_at_work, self.clients)):
            if monotonic() > deadline:
                break
            await asyncio.sleep(_WATCH)

    def _look(self) -> None:
        """Close what has been idle for too long, now and again."""
        self._looking = asyncio.get_running_loop().call_later(_LOOK_EVERY, self._look)
        before = monotonic() - KEEP_ALIVE
        for each in list(self.clients):
            if each.is_idle and each.idle_since < before:
                each.close()
