"""Answers that come in pieces: chunked, or as Server-Sent Events where they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import HttpVersion11, hdrs, web

from ... import FlambeauError
from .long_way import finish_head
from .middlewares import NO_CACHE, X_REQUEST_ID, render_error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from multidict import CIMultiDictProxy

    from ..jobs import Body, Stream

EVENT_STREAM = "text/event-stream"
STREAM_NEXT = "ts_stream_next"


class StreamAnswer(web.StreamResponse):
    """A response of unknown length in TorchServe's form: neither Server nor Date.

    A client of HTTP/1.0 knows the end by the closing of its connection.
    """

    async def _prepare_headers(self) -> None:
        # In place of aiohttp's own, as in Answer.
        request, writer = self._req, self._payload_writer
        if request is None or writer is None:
            raise RuntimeError("The answer has no request.")
        keep_alive = self._keep_alive is not False and bool(request.keep_alive)
        if request.version >= HttpVersion11:
            writer.enable_chunking()
            self.headers[hdrs.TRANSFER_ENCODING] = "chunked"
        else:
            keep_alive = False
        self._keep_alive = keep_alive
        self.headers[hdrs.CONNECTION] = "keep-alive" if keep_alive else "close"


def wants_events(headers: CIMultiDictProxy[str]) -> bool:
    """The client asks for Server-Sent Events."""
    return EVENT_STREAM in headers.get(hdrs.ACCEPT, "").lower()


async def send_stream(
    request: web.BaseRequest,
    request_id: str,
    status: int,
    reason: str | None,
    headers: Iterable[tuple[str, str]],
    stream: Stream,
) -> StreamAnswer:
    """Send the pieces of ``stream`` as they come; ``status`` and headers are the first one's.

    When the stream breaks, so does the connection, without the end that would make what was sent
    look complete; a client of Server-Sent Events gets the error as an event ``error`` and an end.
    A client that leaves gives up the rest.
    """
    answer = StreamAnswer(status=status, reason=reason, headers=NO_CACHE)
    for name, value in headers:
        answer.headers.add(name, value)
    answer.headers[STREAM_NEXT] = "true"
    answer.headers[X_REQUEST_ID] = request_id
    finish_head(request, answer)
    as_events = wants_events(request.headers)
    if as_events:
        answer.headers[hdrs.CONTENT_TYPE] = f"{EVENT_STREAM}; charset=utf-8"
    try:
        await answer.prepare(request)
        async for piece in stream:
            await answer.write(_event(piece) if as_events else bytes(piece))
        await answer.write_eof()
    except FlambeauError as error:
        stream.abandon()
        if as_events:
            rendered = render_error(error, request_id)
            text = (rendered.text or "").rstrip()
            await answer.write(b"event: error\n" + _event(text.encode()))
            await answer.write_eof()
        else:
            _break(request)
    except BaseException:
        stream.abandon()
        raise
    return answer


def _event(piece: Body) -> bytes:
    """A piece as one event; its lines are the event's, whatever they end with (HTML, 9.2.6)."""
    text = bytes(piece).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return b"".join(b"data: " + line + b"\n" for line in text.split(b"\n")) + b"\n"


def _break(request: web.BaseRequest) -> None:
    transport = request.transport
    if transport is not None:
        transport.abort()
