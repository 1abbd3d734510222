"""Continuous batching: requests join and leave a running batch between two rounds of its handler.

The rules are TorchServe's. Each round the handler gets a row for every running request, the oldest
first: the request itself in its first round, then ``{}``. After the round
``context.stopping_criteria[idx](item)`` tells of each row whether ``item`` was its last piece:
True, or False, and the row stays. None, or no criteria at all: the item is the whole answer.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .log_lines import set_requests
from .memory import spoils
from .messages import Answer, Bye, Cancel, Chunk, Ping, Pong, Result, Stop, Work
from .protocol import EXIT_CUDA_ERROR, ProtocolError
from .rows import failure, mismatched, refusal
from .streaming import set_emitter

if TYPE_CHECKING:
    from collections.abc import Callable

    from .context import Context
    from .link import Link
    from .rows import Rows

logger = logging.getLogger("flambeau.worker")

_STREAM_NEXT = "ts_stream_next"
_REMEMBERED = 10_000
"""Ids of requests that are not given to a handler twice."""


@dataclass(slots=True, eq=False)
class Row:
    """A running request. ``id`` is what its handler knows it by, ``data`` its next row."""

    batch_id: int
    request_id: str
    id: str
    headers: dict[str, object]
    data: dict[str, Any]
    seconds: float = 0.0
    is_cancelled: bool = False

    @property
    def is_description(self) -> bool:
        """It asks what the model says of itself; handlers look at the first row for that."""
        return self.headers.get("describe") == "True"


class ContinuousBatches:
    """Runs rounds while there are requests, and takes new ones before each without waiting."""

    def __init__(
        self,
        entry_point: Callable[[list[dict[str, Any]], Context], Any],
        context: Context,
        rows: Rows,
        link: Link,
    ) -> None:
        self._entry_point = entry_point
        self._context = context
        self._rows = rows
        self._link = link
        self._running: dict[int, Row] = {}
        self._round: list[Row] = []
        self._ids: set[str] = set()
        self._ids_in_order: deque[str] = deque()
        self._is_stopping = False
        self._is_spoilt = False
        context.ask_for_cancelled(self._is_cancelled)

    def run(self) -> int:
        """Answer requests until told to stop; the exit code. Raises ProtocolError."""
        while not self._is_spoilt:
            self._read(None if not self._running and not self._is_stopping else 0.0)
            self._let_go()
            if self._running:
                for row in [row for row in self._running.values() if row.is_description]:
                    self._run_round([row])
                self._run_round(list(self._running.values()))
            elif self._is_stopping:
                self._link.send(Bye())
                return 0
        return EXIT_CUDA_ERROR

    def _read(self, timeout: float | None) -> None:
        """Take what has arrived; with None wait for it."""
        while (message := self._link.receive(timeout)) is not None:
            timeout = 0.0
            if isinstance(message, Work):
                self._join(message)
            elif isinstance(message, Cancel):
                if message.batch_id in self._running:
                    self._running[message.batch_id].is_cancelled = True
            elif isinstance(message, Ping):
                self._link.send(Pong())
            elif isinstance(message, Stop):
                self._is_stopping = True
            else:
                raise ProtocolError(f"unexpected {type(message).__name__}")

    def _join(self, work: Work) -> None:
        if len(work.requests) != 1:
            raise ProtocolError("with continuous batching requests come one by one")
        request: Any = work.requests[0]
        self._running[work.batch_id] = Row(
            work.batch_id,
            request.id,
            self._unique(request.id),
            self._rows.headers(request),
            self._rows.row(request),
        )

    def _unique(self, request_id: str) -> str:
        """An id by which a handler may keep state: that of the client, unless it has been here."""
        unique, running = request_id, {row.id for row in self._running.values()}
        while unique in self._ids or unique in running:
            # Not to be guessed: it opens a client's state.
            unique = f"{request_id}.{uuid.uuid4()}"
        self._ids.add(unique)
        self._ids_in_order.append(unique)
        if len(self._ids_in_order) > _REMEMBERED:
            self._ids.discard(self._ids_in_order.popleft())
        return unique

    def _let_go(self) -> None:
        """Requests whose clients have left end here; their handler sees them no more."""
        for row in [row for row in self._running.values() if row.is_cancelled]:
            logger.debug("The client of request %s has left", row.request_id)
            self._leave(row, refusal(503, "Prediction failed"))

    def _run_round(self, rows: list[Row]) -> None:
        if not rows:
            return
        self._round, context = rows, self._context
        context.begin_batch([row.id for row in rows], [row.headers for row in rows])
        data = [row.data for row in rows]
        ids = [row.request_id for row in rows]
        for row in rows:
            row.data = {}
        set_requests(ids)
        set_emitter(self._give_away)
        started = time.perf_counter()
        returned: Any = None
        problem: Answer | None = None
        try:
            returned = self._entry_point(data, context)
        except Exception as error:
            self._is_spoilt = spoils(error)
            problem = failure(error)
            logger.exception("Prediction failed for request %s", ", ".join(ids))
        else:
            problem = mismatched(context, returned, ids)
        finally:
            took = time.perf_counter() - started
            set_emitter(None)
        for index, row in enumerate(rows):
            row.seconds += took
            if problem is not None:
                self._leave(row, problem)
            else:
                self._decide(index, row, returned[index])
        set_requests(())

    def _decide(self, index: int, row: Row, item: Any) -> None:
        """Send a row's item, as its last piece, as one of several, or as the whole answer."""
        criteria = None if row.is_description else self._context.stopping_criteria
        try:
            is_last = criteria[index](item) if criteria else None
            if is_last is not None and not is_last and not isinstance(item, Exception):
                self._give_away(index, item)
                return
            if is_last:
                self._context.set_response_header(index, _STREAM_NEXT, "false")
        except Exception as error:
            # A stopping criterion that fails, or an item without bytes.
            item = error
            logger.exception("Prediction failed for request %s", row.request_id)
        self._leave(row, self._rows.answer(self._context, index, item, row.request_id))

    def _give_away(self, index: int, item: object) -> None:
        """Send a piece of an answer; raises TypeError or ValueError for what has no bytes."""
        piece = self._rows.piece(self._context, index, item)
        self._link.send(Chunk(self._round[index].batch_id, 0, piece))

    def _leave(self, row: Row, answer: Answer) -> None:
        del self._running[row.batch_id]
        samples = self._context.drain_samples()
        self._link.answer(Result(row.batch_id, row.seconds, [answer], samples))

    def _is_cancelled(self, index: int) -> bool:
        if self._link.is_readable():
            self._read(0.0)
        return self._round[index].is_cancelled
