"""The heads of requests: parsed once, known again by their bytes.

A client on a connection that stays open says the same, byte by byte, before each of its requests:
looking that up costs a twentieth of parsing it. What is not known is parsed by aiohttp's parser,
so that both ways of a request through the server understand the same bytes in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import HttpVersion, HttpVersion11, hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser, RawRequestMessage

from ... import FlambeauError
from .middlewares import path_segments
from .payload import FORM, MULTIPART, clean_text, client_headers, form_type
from .predictions import added_headers, time_limit
from .streaming import wants_events

if TYPE_CHECKING:
    import asyncio

    from multidict import CIMultiDictProxy

_END = b"\r\n\r\n"
_LONGEST = 4096
"""Bytes of a head that is looked at here."""
_MANY = 512
"""Heads that are remembered."""
_READ_SIZE = 2**16
_PREDICTIONS = "/predictions/"


@dataclass(frozen=True, slots=True)
class Asked:
    """What ``POST /predictions/{model}[/{version}]`` asks whose body is one input.

    ``shown`` is what a handler sees of the headers: to be copied, as it serves many requests.
    """

    method: str
    raw_path: str
    version: HttpVersion
    headers: CIMultiDictProxy[str]
    shown: dict[str, str]
    model: str
    model_version: str | None
    media_type: str
    time_limit: float | None
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request: ``size`` bytes, with ``length`` bytes of body behind them.

    ``asked`` is None for all but plain predictions.
    """

    size: int
    length: int
    asked: Asked | None


class Heads:
    """Finds heads. ``limit``: bytes that the body of a plain prediction may have."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self._limit = limit
        self._protocol = BaseProtocol(loop)
        self._known: dict[bytes, Head | None] = {}

    def find(self, data: bytes) -> Head | None:
        """The head at the beginning of ``data``; None where there is none, or no end of one, or
        where the length of the body is not known from it.
        """
        end = data.find(_END, 0, _LONGEST)
        if end < 0:
            return None
        head = data[: end + len(_END)]
        if head in self._known:
            return self._known[head]
        if len(self._known) >= _MANY:
            self._known.clear()
        found = self._known[head] = self._parse(head)
        return found

    def _parse(self, head: bytes) -> Head | None:
        parser = HttpRequestParser(self._protocol, self._loop, _READ_SIZE, auto_decompress=False)
        try:
            messages, upgraded, tail = parser.feed_data(head)
        except HttpProcessingError:
            return None
        if len(messages) != 1 or upgraded or tail:
            return None
        message, payload = messages[0]
        lengths = message.headers.getall(hdrs.CONTENT_LENGTH, [])
        if message.chunked or message.upgrade or len(lengths) > 1 or payload.total_bytes:
            return None
        length = int(lengths[0]) if lengths else 0
        if payload.is_eof() != (length == 0):
            # The parser sees the end of the body elsewhere.
            return None
        is_plain = 0 < length <= self._limit and _is_plain(message)
        return Head(len(head), length, _asked(message) if is_plain else None)


def _is_plain(message: RawRequestMessage) -> bool:
    headers, path = message.headers, message.path
    kind = form_type(clean_text(headers.get(hdrs.CONTENT_TYPE, "")))
    return (
        message.method == hdrs.METH_POST
        and message.version == HttpVersion11
        and path.startswith(_PREDICTIONS)
        and "?" not in path
        and hdrs.EXPECT not in headers
        and kind not in (FORM, MULTIPART)
        and not wants_events(headers)
    )


def _asked(message: RawRequestMessage) -> Asked | None:
    headers = message.headers
    try:
        segments = path_segments(message.path)
        limit = time_limit(headers)
    except FlambeauError:
        return None
    if len(segments) < 2 or segments[0] != "predictions":
        return None
    _, model, *rest = segments
    return Asked(
        method=message.method,
        raw_path=message.path,
        version=message.version,
        headers=headers,
        shown={**client_headers(message.raw_headers), **added_headers(rest, explain=False)},
        model=model,
        model_version=rest[0] if rest else None,
        media_type=clean_text(headers.get(hdrs.CONTENT_TYPE, "")).partition(";")[0],
        time_limit=limit,
        keep_alive=not message.should_close,
    )
