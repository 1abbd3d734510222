"""What all services do around a call: keys, errors, the access log, and the names of methods."""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from typing import TYPE_CHECKING, Any

import grpc

from ... import FlambeauError
from ..access_log import log_access
from ..disciplines import PRIORITY_HEADER
from ..errors import ServiceUnavailableError
from ..server_timing import total_only
from .messages import message, service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from ..access import Access, Grant, Scope

    Translate = Callable[[FlambeauError], tuple[grpc.StatusCode, str]]

SERVER_TIMING = "server-timing"
_PUSHBACK = "grpc-retry-pushback-ms"
"""gRPC's own name for it (proposal A6, client retries)."""

logger = logging.getLogger(__name__)


class Caller:
    """Asks for keys and renders errors, for one service.

    ``translate`` gives an error's code and details. ``timed``: errors say how long they took.
    """

    def __init__(
        self,
        access: Access,
        scope: Scope,
        translate: Translate,
        access_log: bool,
        *,
        timed: bool = False,
    ) -> None:
        self._access = access
        self._scope = scope
        self._translate = translate
        self._access_log = access_log
        self._timed = timed

    def admit(self, context: Any) -> Grant:
        """What the caller may do; raises a FlambeauError for who may not call at all."""
        metadata = dict(context.invocation_metadata() or ())
        return self._access.authorize(self._scope, metadata.get("authorization"))

    def leaves_open(self, segments: list[str]) -> bool:
        """The call that is ``segments`` over HTTP needs no key."""
        return self._access.leaves_open(self._scope, segments)

    def handlers(self, name: str, methods: Mapping[str, Callable[..., Any]]) -> Any:
        """The generic handler of service ``name``: ``methods`` by the names in its definition."""
        descriptor = service(name)
        made = {}
        for method in descriptor.methods:
            if method.name in methods:
                made[method.name] = self._handler(name, method, methods[method.name])
        return grpc.method_handlers_generic_handler(name, made)

    def _handler(self, name: str, method: Any, behave: Callable[..., Any]) -> Any:
        line = f"gRPC {name}/{method.name} HTTP/2.0"
        request = message(method.input_type.full_name)
        response = message(method.output_type.full_name)
        kinds = {
            (False, False): (grpc.unary_unary_rpc_method_handler, self._unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, self._stream),
            (True, True): (grpc.stream_stream_rpc_method_handler, self._stream),
        }
        make, around = kinds[method.client_streaming, method.server_streaming]
        return make(
            functools.partial(around, line, behave),
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )

    async def _unary(
        self, line: str, behave: Callable[..., Any], request: Any, context: Any
    ) -> Any:
        started, peer = asyncio.get_running_loop().time(), context.peer()
        # This is what is logged where the client gives the call up, which ends in no Exception.
        code, details = grpc.StatusCode.CANCELLED, ""
        trailers: tuple[tuple[str, str], ...] = ()
        try:
            response = await behave(request, context)
            code = grpc.StatusCode.OK
            return response
        except Exception as error:
            code, details = self._explain(error)
            trailers = self._trailers(error, started)
        finally:
            self._log(line, code, started, peer)
        await context.abort(code, details, trailers)

    async def _stream(
        self, line: str, behave: Callable[..., Any], request: Any, context: Any
    ) -> AsyncIterator[Any]:
        started, peer = asyncio.get_running_loop().time(), context.peer()
        code, details = grpc.StatusCode.CANCELLED, ""
        trailers: tuple[tuple[str, str], ...] = ()
        try:
            async for response in behave(request, context):
                yield response
            code = grpc.StatusCode.OK
        except Exception as error:
            code, details = self._explain(error)
            trailers = self._trailers(error, started)
        finally:
            self._log(line, code, started, peer)
        if code is not grpc.StatusCode.OK:
            await context.abort(code, details, trailers)

    def explain(self, error: FlambeauError) -> tuple[grpc.StatusCode, str]:
        """Code and details of an error."""
        return self._translate(error)

    def _explain(self, error: Exception) -> tuple[grpc.StatusCode, str]:
        if isinstance(error, FlambeauError):
            return self._translate(error)
        logger.error("a gRPC call failed", exc_info=error)
        return grpc.StatusCode.INTERNAL, "Internal server error. The server's log tells more."

    def _trailers(self, error: Exception, started: float) -> tuple[tuple[str, str], ...]:
        """Where the time went, and when to come again: what clients with a retry policy obey."""
        trailers = []
        if self._timed:
            seconds = asyncio.get_running_loop().time() - started
            timing = error.timing if isinstance(error, FlambeauError) else None
            trailers.append((SERVER_TIMING, timing or total_only(seconds)))
        if isinstance(error, ServiceUnavailableError):
            trailers.append((_PUSHBACK, str(1000 * error.retry_after)))
        return tuple(trailers)

    def _log(self, line: str, code: grpc.StatusCode, started: float, peer: str) -> None:
        if self._access_log:
            seconds = asyncio.get_running_loop().time() - started
            log_access(peer, line, code.value[0], seconds)


def new_request_id() -> str:
    return str(uuid.uuid4())


def priority_header(context: Any) -> dict[str, str]:
    """The call's ``x-request-priority``, as a header of the request."""
    for name, value in context.invocation_metadata() or ():
        if name == PRIORITY_HEADER:
            return {name: value}
    return {}


def time_left(context: Any) -> float | None:
    """Seconds that the client waits for its answer, None where it did not say."""
    left = context.time_remaining()
    return None if left is None else max(0.001, float(left))
