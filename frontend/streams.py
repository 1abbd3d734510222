"""An answer that comes in pieces, on its way from the engine to whoever sends it on."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from .errors import InferenceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .. import FlambeauError
    from .jobs import Body, Outcome

MAX_BACKLOG = 64 * 1024 * 1024
"""Bytes that may wait for a client that reads more slowly than its model speaks."""


def _nothing() -> None:
    pass


def refuse_longer(size: int, limit: int) -> None:
    """Raise InferenceError for an answer, or a piece of one, of more than ``limit`` bytes."""
    if size > limit:
        raise InferenceError(
            f"The model's answer of {size} bytes exceeds max_response_size={limit} of the server's "
            "configuration.",
            500,
        )


class BodyStream:
    """The pieces of one answer, in order; iterate over it once.

    Raises the error that the answer ended with. A client that lets more than MAX_BACKLOG bytes
    wait loses its stream: the memory of all must not go to one that does not read.
    ``on_end`` is called once, with the outcome at the end of the answer.
    """

    def __init__(self) -> None:
        self.on_end: Callable[[Outcome], None] | None = None
        self.abandon: Callable[[], None] = _nothing
        """Nobody wants the rest: to be called by whoever stops reading before the end."""
        self.longest_piece = MAX_BACKLOG
        """Bytes; a longer piece ends the stream with an error."""
        self._pieces: deque[Body] = deque()
        self._backlog = 0
        self._is_finished = False
        self._error: FlambeauError | None = None
        self._news = asyncio.Event()

    def put(self, piece: Body) -> None:
        """Add a piece; empty ones are left out."""
        if not len(piece) or self._error is not None:
            return
        self._pieces.append(piece)
        self._backlog += len(piece)
        if self._backlog > MAX_BACKLOG:
            self._pieces.clear()
            limit = f"{MAX_BACKLOG // (1024 * 1024)} MB"
            self._error = InferenceError(
                f"More than {limit} of the answer waited to be read. Read it as it comes.", 500
            )
        self._news.set()

    def finish(self, outcome: Outcome) -> None:
        """The answer is complete, or has failed: what ``outcome`` holds is its last piece."""
        if outcome.error is None:
            self.put(outcome.body)
        elif self._error is None:
            self._error = outcome.error
        self._is_finished = True
        self._news.set()
        if self.on_end is not None:
            self.on_end(outcome)

    def __aiter__(self) -> AsyncIterator[Body]:
        return self

    async def __anext__(self) -> Body:
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._is_finished:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        piece = self._pieces.popleft()
        self._backlog -= len(piece)
        refuse_longer(len(piece), self.longest_piece)
        return piece
