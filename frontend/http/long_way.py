"""aiohttp's end of a connection: for all requests but plain predictions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from .middlewares import Guard

logger = logging.getLogger(__name__)


def finish_head(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """For a response that is sent before its route returns: what the guard adds to its head."""
    if isinstance(request.protocol, LongWay):
        request.protocol.guard.add_cors(response)
        if request.protocol.guard.ends_connections:
            response.force_close()


class LongWay(web.RequestHandler):
    """aiohttp's connection, except that a malformed request gets TorchServe's answer."""

    __slots__ = ("_answered", "guard")

    def __init__(self, listener: web.Server, guard: Guard, **options: Any) -> None:
        super().__init__(listener, **options)
        self.guard = guard
        self._answered = 0

    @property
    def is_idle(self) -> bool:
        """Every request that it was given whole is answered."""
        return self._answered == self._request_count

    def close(self) -> None:
        """Close the connection after the answer under way, or at once where none is.

        aiohttp alone would stop to read what comes, and leave the client waiting.
        """
        waits_for_request = self._waiter is not None
        super().close()
        if waits_for_request and self.transport is not None:
            self.transport.close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        finished = await super().finish_response(request, resp, start_time)
        self._answered += 1
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status != 400:
            return super().handle_error(request, status, exc, message)

        logger.debug("malformed HTTP from %s: %s", request.remote, message)
        return self.guard.refuse(request)
