"""The short way of a plain prediction: from a request's bytes to its answer's, without a task.

aiohttp makes a task, a request and a response for each request; together they cost more than all
that is done with the request. The requests of ``heads.Asked`` do without: the answer is formed
where the outcome comes in. Everything else goes through ``Guard`` and its route, and both ways
answer the same: this one only takes what it is sure of.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from aiohttp import hdrs

from ... import FlambeauError
from ..access import Scope
from ..jobs import Job, Part
from ..predictor import Call
from ..server_timing import timing_of
from .heads import Heads
from .middlewares import (
    NO_CACHE,
    SERVER_TIMING,
    X_REQUEST_ID,
    Answer,
    head_of,
    request_id,
    sent_bytes,
)
from .predictions import answer_of, check_outcome, handlers_headers
from .streaming import STREAM_NEXT

if TYPE_CHECKING:
    from ..jobs import Outcome, Stream
    from ..lifecycle import VersionKey
    from ..predictor import Predictor
    from .gate import Gate
    from .heads import Asked, Head
    from .middlewares import Guard

_NEVER_CACHED = "".join(f"{name}: {value}\r\n" for name, value in NO_CACHE.items())


class Client(Protocol):
    """Who is answered."""

    @property
    def transport(self) -> asyncio.Transport | None: ...
    @property
    def is_closing(self) -> bool: ...

    def answer(self, data: bytes, *, keep_alive: bool) -> None:
        """Send this, and wait for the next request or close."""

    def answer_in_pieces(self, head: bytes, stream: Stream, *, keep_alive: bool) -> None:
        """Send this, then the pieces as they come."""


class Direct:
    """Takes plain predictions for a listener, whose requests ``gate`` and ``guard`` look after.

    Made inside a running event loop. ``longest_body`` is in bytes.
    """

    def __init__(
        self,
        predictor: Predictor,
        gate: Gate,
        guard: Guard,
        longest_body: int,
    ) -> None:
        self.predictor = predictor
        self.guard = guard
        self.timing = predictor.timing
        self._gate = gate
        self._heads = Heads(asyncio.get_running_loop(), longest_body)

    def find(self, data: bytes) -> Head | None:
        """The head of the request that begins with ``data``, where that is all there."""
        return self._heads.find(data)

    def takes(self, asked: Asked, *, is_whole: bool) -> VersionKey | None:
        """The version that answers; None where the request has to go the long way.

        That is where it is refused, too, without its body if it is not there as a whole.
        """
        try:
            grant = self._gate.grant(asked.raw_path, asked.headers)
            grant.require_scope(Scope.INFER)
            grant.require_model(asked.model)
        except FlambeauError:
            return None
        key = self.predictor.finds(asked.model, asked.model_version)
        if key is None or not (is_whole or self.predictor.may_send(key, asked.time_limit)):
            return None
        return key


class Exchange:
    """One request and its answer. Its headers were there at ``started``."""

    __slots__ = (
        "_asked",
        "_call",
        "_client",
        "_direct",
        "_identity",
        "_is_asked",
        "_started",
        "_status",
    )

    def __init__(self, direct: Direct, asked: Asked, key: VersionKey, client: Client) -> None:
        self._direct = direct
        self._asked = asked
        self._client = client
        self._identity = request_id(asked.headers)
        self._started = started = monotonic()
        job = Job(
            self._identity,
            {},
            [],
            started,
            requested_version=asked.model_version,
            time_limit=asked.time_limit,
        )
        self._call = Call(key, job, started)
        self._is_asked = False
        self._status = 0
        """Of the answer; 0: there is none yet."""

    def ask(self, body: bytes) -> None:
        """The body is there: ask for the outcome."""
        self._is_asked = True
        job, asked = self._call.job, self._asked
        job.headers, job.parts = asked.shown.copy(), [Part("body", asked.media_type, body)]
        try:
            self._direct.predictor.submit(self._call, check_outcome, self._answer)
        except Exception:
            self._confess(keep_alive=asked.keep_alive)

    def abandon(self) -> None:
        """The client left."""
        if self._is_asked:
            self._direct.predictor.abandon(self._call)

    def end(self) -> None:
        """The answer is with the client, or as much of it as there was."""
        guard, transport = self._direct.guard, self._client.transport
        guard.note(self._asked, transport, self._status, self._started, self._identity)

    def _answer(self, outcome: Outcome) -> None:
        if self._status:
            # It has been told of a bug, and there is one answer to one request.
            return
        ends = self._direct.guard.ends_connections or self._client.is_closing
        keep_alive = self._asked.keep_alive and not ends
        self._status = outcome.status
        try:
            if outcome.stream is not None:
                head = self._head_of_stream(outcome, keep_alive=keep_alive)
                self._client.answer_in_pieces(head, outcome.stream, keep_alive=keep_alive)
                return
            data = self._bytes(outcome, keep_alive=keep_alive)
        except Exception:
            self._confess(keep_alive=keep_alive)
            return
        self.end()
        self._client.answer(data, keep_alive=keep_alive)

    def _confess(self, *, keep_alive: bool) -> None:
        """Answer that there is a bug, of which the exception at hand tells."""
        asked = self._asked
        answer = self._direct.guard.confess(self._identity, asked.method, asked.raw_path)
        data = self._sealed(answer, keep_alive=keep_alive)
        self.end()
        self._client.answer(data, keep_alive=keep_alive)

    def _bytes(self, outcome: Outcome, *, keep_alive: bool) -> bytes:
        direct = self._direct
        if outcome.error is not None:
            answer = direct.guard.render(outcome.error, self._identity, self._started)
            return self._sealed(answer, keep_alive=keep_alive)
        timing = timing_of(outcome) if direct.timing else None
        if outcome.headers or outcome.status != 200 or direct.guard.has_cors:
            answer = answer_of(outcome)
            if timing is not None:
                answer.headers.add(SERVER_TIMING, timing)
            return self._sealed(answer, keep_alive=keep_alive)
        timed = "" if timing is None else f"Server-Timing: {timing}\r\n"
        reason = "OK" if outcome.reason is None else outcome.reason
        head = (
            f"HTTP/1.1 200 {reason}\r\n{_NEVER_CACHED}{timed}x-request-id: {self._identity}\r\n"
            f"Content-Length: {len(outcome.body)}\r\n"
            f"Connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
        )
        return b"".join((head.encode(), outcome.body))

    def _sealed(self, answer: Answer, *, keep_alive: bool) -> bytes:
        self._status = answer.status
        answer.headers[X_REQUEST_ID] = self._identity
        self._direct.guard.add_cors(answer)
        return sent_bytes(answer, keep_alive=keep_alive)

    def _head_of_stream(self, outcome: Outcome, *, keep_alive: bool) -> bytes:
        answer = Answer(b"", outcome.status, outcome.reason)
        answer.headers.update(handlers_headers(outcome.headers))
        if self._direct.timing:
            answer.headers.add(SERVER_TIMING, timing_of(outcome))
        answer.headers[STREAM_NEXT] = "true"
        answer.headers[X_REQUEST_ID] = self._identity
        self._direct.guard.add_cors(answer)
        answer.headers[hdrs.TRANSFER_ENCODING] = "chunked"
        answer.headers[hdrs.CONNECTION] = "keep-alive" if keep_alive else "close"
        return head_of(answer.status, answer.reason, answer.headers.items())
