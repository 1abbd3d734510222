"""What every listener does with every request, and the one place that renders errors.

``Guard`` stands around a listener's route: it gives the request its id, turns what the route
raises into TorchServe's JSON, counts the answer and writes the access log. For a dozen routes a
``match`` statement says as much as a router.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, hdrs, web
from multidict import CIMultiDict, istr

from ... import FlambeauError
from ..access_log import log_access
from ..errors import (
    BadRequestError,
    ExpectationFailedError,
    MalformedPathError,
    ServiceUnavailableError,
    UnauthenticatedError,
)
from ..server_timing import total_only
from .payload import clean_text

if TYPE_CHECKING:
    import asyncio

    from ..jobs import Body

Route = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]
"""Takes a request and its id; raises FlambeauError where there is no good answer."""

X_REQUEST_ID = istr("x-request-id")
_HTTPS_ONLY = "This TorchServe instance only accepts HTTPS requests"
_RETRY_AFTER = istr("Retry-After")
SERVER_TIMING = istr("Server-Timing")
# A client's own id goes into logs and headers: nothing that separates fields there.
_USABLE_ID = re.compile(r"[0-9A-Za-z._~:/@+=-]{1,128}")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_random_bits = random.Random().getrandbits  # noqa: S311 - see _new_id
NO_CACHE = CIMultiDict(
    {
        "Pragma": "no-cache",
        "Cache-Control": "no-cache; no-store, must-revalidate, private",
        "Expires": "Thu, 01 Jan 1970 00:00:00 UTC",
    }
)

_quoted = json.JSONEncoder(ensure_ascii=False).encode

logger = logging.getLogger(__name__)


class Answer(web.Response):
    """A response as TorchServe sends it.

    It forbids caching, says whether the connection stays open, and has neither Server nor Date;
    Content-Type only where one is given. ``reason`` is the status line's phrase, ``None`` for the
    standard one.
    """

    def __init__(self, body: Body = b"", status: int = 200, reason: str | None = None) -> None:
        if isinstance(body, memoryview):
            # aiohttp would wrap a memoryview in a payload object that is written in pieces.
            body = bytes(body)
        super().__init__(body=body, status=status, reason=reason, headers=NO_CACHE)

    async def _prepare_headers(self) -> None:
        # In place of aiohttp's own, which adds Server, Date and a Content-Type and costs a tenth of
        # the throughput. What it decides besides does not arise here: the body is whole, neither
        # compressed nor chunked, and aiohttp has put its length into the headers before this.
        if self._keep_alive is None and self._req is not None:
            self._keep_alive = self._req.keep_alive
        if self.status == 204:
            self.headers.popall(hdrs.CONTENT_LENGTH, None)
        self.headers[hdrs.CONNECTION] = "keep-alive" if self._keep_alive else "close"


def head_of(status: int, reason: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Status line and headers as they are sent."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {status} {reason}\r\n{lines}\r\n".encode()


def sent_bytes(answer: Answer, *, keep_alive: bool) -> bytes:
    """The whole answer, as aiohttp would send it; to be called once."""
    body = answer.body if isinstance(answer.body, bytes) else b""
    if answer.status != 204 and (body or answer.status != 304):
        answer.headers[hdrs.CONTENT_LENGTH] = str(len(body))
    answer.headers[hdrs.CONNECTION] = "keep-alive" if keep_alive else "close"
    if answer.status in (204, 304):
        body = b""
    return head_of(answer.status, answer.reason, answer.headers.items()) + body


def json_answer(value: object, status: int = 200) -> Answer:
    """``value`` as the server's own JSON: two spaces of indent, no ``None`` fields, a newline."""
    text = json.dumps(_without_none(value), indent=2, ensure_ascii=False)
    answer = Answer((text + "\n").encode(errors="replace"), status)
    answer.headers[hdrs.CONTENT_TYPE] = "application/json"
    return answer


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}

    if isinstance(value, list):
        return [_without_none(item) for item in value]

    return value


def render_error(error: FlambeauError, identity: str) -> Answer:
    """TorchServe's error envelope, and the request's id for whoever reports the error.

    The connection stays open: only this request has failed.
    """
    envelope = {
        "code": error.status,
        "type": error.type,
        "message": error.message,
        "requestId": identity,
        "reason": error.reason,
        "clock": error.clock,
        "pendingRequests": error.pending if isinstance(error, ServiceUnavailableError) else None,
    }
    # As json_answer would have it. The library indents in Python, which would be most of the work
    # for a refusal, and refusals are made when there is no time.
    lines = [
        f'  "{name}": {_quoted(value) if isinstance(value, str) else value}'
        for name, value in envelope.items()
        if value is not None
    ]
    body = "{\n" + ",\n".join(lines) + "\n}\n"
    answer = Answer(body.encode(errors="replace"), error.status)
    answer.headers[hdrs.CONTENT_TYPE] = "application/json"
    if isinstance(error, ServiceUnavailableError):
        answer.headers[_RETRY_AFTER] = str(error.retry_after)
    if error.timing is not None:
        answer.headers[SERVER_TIMING] = error.timing
    if isinstance(error, UnauthenticatedError):
        answer.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    return answer


def request_id(headers: Mapping[str, str]) -> str:
    """The client's own id where it is fit for logs and headers, else a fresh UUID4."""
    given = headers.get(X_REQUEST_ID)
    if given is not None and _USABLE_ID.fullmatch(given):
        return given

    return _new_id()


def _new_id() -> str:
    """A random UUID4. Ids need not be unguessable, so no system call is spent on each."""
    digits = f"{_random_bits(128):032x}"
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def path_segments(target: str) -> list[str]:
    """The decoded segments of a request target's path, without empty ones at the end.

    As in TorchServe an escaped slash separates segments too. Raises MalformedPathError.
    """
    path = clean_text(target.partition("?")[0])
    if "%" in path:
        bad = _BAD_PERCENT.search(path)
        if bad is not None:
            digits = path[bad.end() : bad.end() + 2]
            raise MalformedPathError(
                f"invalid hex byte '{digits}' at index {bad.end()} of '{target}'"
            )

        path = unquote(path)

    segments = path.split("/")
    while segments and not segments[-1]:
        segments.pop()
    return segments[1:]


def _check_expectation(expected: str) -> None:
    if expected.lower() != "100-continue":
        raise ExpectationFailedError


class RequestLine(Protocol):
    """What a request's first line says."""

    @property
    def method(self) -> str: ...
    @property
    def raw_path(self) -> str: ...
    @property
    def version(self) -> HttpVersion: ...


class Guard:
    """Answers every request that reaches a listener, whatever its route raises.

    ``admit`` raises, or gives an answer, for a request that is not to reach the route. ``timed``:
    every error says how long it took.
    """

    def __init__(
        self,
        route: Route,
        admit: Callable[[web.BaseRequest], Answer | None],
        count_response: Callable[[int], None],
        access_log: bool,
        cors: Mapping[str, str] = MappingProxyType({}),
        *,
        timed: bool = False,
    ) -> None:
        self._route = route
        self._admit = admit
        self._count_response = count_response
        self._logs = access_log
        self._timed = timed
        self._cors = cors
        self.ends_connections = False
        """Every connection is closed after the answer that comes next."""

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request._version is not HttpVersion11 and request._version != HttpVersion10:
            # The parser lets HTTP/0.9 and 2.0 through.
            return self.refuse(request)
        identity = request_id(request.headers)
        started = monotonic() if self._timed or self._logs else 0.0
        try:
            if hdrs.EXPECT in request.headers:
                _check_expectation(request.headers[hdrs.EXPECT])
            early = self._admit(request)
            response = await self._route(request, identity) if early is None else early
        except FlambeauError as error:
            response = self.render(error, identity, started)
        except ConnectionError:
            # The client left; aiohttp closes its side.
            raise
        except Exception:
            response = self.confess(identity, request.method, request.raw_path)
        response.headers[X_REQUEST_ID] = identity
        if self._cors:
            self.add_cors(response)
        if self.ends_connections and not response.prepared:
            response.force_close()
        self.note(request, request.transport, response.status, started, identity)
        return response

    def render(self, error: FlambeauError, identity: str, started: float) -> Answer:
        """The answer to a request whose headers were there at ``started``."""
        answer = render_error(error, identity)
        if self._timed and error.timing is None:
            answer.headers[SERVER_TIMING] = total_only(monotonic() - started)
        return answer

    def confess(self, identity: str, method: str, raw_path: str) -> Answer:
        """The answer to a request that met a bug: the exception at hand goes into the log."""
        logger.exception("request %s failed: %s %s", identity, method, clean_text(raw_path))
        bug = FlambeauError("Internal server error. The server's log tells more by the request id.")
        return render_error(bug, identity)

    def note(
        self,
        request: RequestLine,
        transport: asyncio.BaseTransport | None,
        status: int,
        started: float,
        identity: str,
    ) -> None:
        """Count an answer, and write it into the access log."""
        self._count_response(status)
        if self._logs:
            peer = transport.get_extra_info("peername") if transport is not None else None
            path, version = clean_text(request.raw_path), request.version
            line = f"{request.method} {path} HTTP/{version[0]}.{version[1]}"
            log_access(peer, line, status, monotonic() - started, identity)

    def refuse(self, request: web.BaseRequest) -> Answer:
        """The answer to bytes that are not HTTP/1; the connection is closed after it."""
        # It is in HTTP/1.1, whatever the client spoke; aiohttp makes up a request of HTTP/1.0 where
        # it could not read one.
        request._version = HttpVersion11
        identity = _new_id()
        response = render_error(BadRequestError("Invalid HTTP message."), identity)
        response.headers[X_REQUEST_ID] = identity
        response.force_close()
        self.add_cors(response)
        self._count_response(response.status)
        return response

    def refuse_plain_http(self) -> bytes:
        """The whole answer to plain HTTP where TLS is spoken, in TorchServe's words."""
        answer = json_answer({"status": _HTTPS_ONLY}, 403)
        self.add_cors(answer)
        self._count_response(answer.status)
        return sent_bytes(answer, keep_alive=False)

    @property
    def has_cors(self) -> bool:
        """Answers get headers for browsers."""
        return bool(self._cors)

    def add_cors(self, response: web.StreamResponse) -> None:
        """The configured headers, unless the handler has set them itself."""
        for name, value in self._cors.items():
            response.headers.setdefault(name, value)
