"""One batch in, one Result out: a handler that works on one batch at a time."""

from __future__ import annotations

import logging
import time
from inspect import isasyncgen
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any

from .coroutines import pieces_of
from .errors import words
from .isolation import Failure, Isolation, Next
from .log_lines import set_requests
from .memory import lacks_memory, release_memory, spoils
from .messages import Chunk, Result, Work
from .rows import Rows, failure
from .streaming import set_emitter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .context import Context
    from .messages import Answer

    EntryPoint = Callable[[list[dict[str, Any]], Context], Any]

logger = logging.getLogger("flambeau.worker")

IN_PIECES = frozenset({GeneratorType, AsyncGeneratorType})
"""Types of answers that are given away piece by piece."""


def never(batch_id: int, row: int) -> bool:
    """No client ever leaves."""
    return False


class Service:
    """A loaded model: answers batches through its handler's entry point, by way of ``rows``.

    ``emit`` sends a piece of an answer, ``is_cancelled(batch_id, row)`` tells whether its client
    has left. Without ``isolation`` a batch that its handler fails is failed as a whole.
    """

    def __init__(
        self,
        entry_point: EntryPoint,
        context: Context,
        rows: Rows,
        *,
        emit: Callable[[Chunk], None] | None = None,
        is_cancelled: Callable[[int, int], bool] = never,
        isolation: Isolation | None = None,
    ) -> None:
        self._emit = emit
        self._entry_point = entry_point
        self._context = context
        self._rows = rows
        self._is_cancelled = is_cancelled
        self._isolation = isolation or Isolation(is_on=False)
        self._work = Work(0, ())
        self._first = 0
        """The request of the batch that is the handler's first row."""
        self._has_emitted = False
        self._handled = 0.0
        self._samples: list[list[Any]] = []
        self._told: set[str] = set()
        """Errors of this batch that are in the log."""
        self.is_spoilt = False
        """A CUDA error other than a lack of memory has left the GPU context unusable for good."""
        context.ask_for_cancelled(self._has_left)

    def run(self, work: Work) -> Result:
        """The answers of one batch, in order. Handler errors become answers; nothing is raised,
        apart from SystemExit and KeyboardInterrupt, which end the worker.
        """
        self._work = work
        self._handled = 0.0
        isolation = self._isolation
        answers = isolation.answers(len(work.requests), self._attempt)
        samples = self._context.drain_samples()
        if self._samples or self._told:
            samples, self._samples = self._samples + samples, []
            self._told.clear()
        shortages, isolation.shortages = isolation.shortages, 0
        safe = isolation.safe.size
        spoilt = self.is_spoilt
        return Result(work.batch_id, self._handled, answers, samples, safe, shortages, spoilt)

    def _attempt(self, first: int, last: int) -> list[Answer] | Failure:
        """Have the handler work on some requests of the batch, as if they were all of it."""
        requests: Sequence[Any] = self._work.requests
        if first:
            # Those of the parts before, which have their answers.
            self._samples += self._context.drain_samples()
        if last - first < len(requests):
            requests = requests[first:last]
        rows, context = self._rows, self._context
        ids = [request.id for request in requests]
        headers = [rows.headers(request) for request in requests]
        data = [rows.row(request) for request in requests]
        self._first, self._has_emitted = first, False
        context.begin_batch(ids, headers)
        set_requests(ids)
        set_emitter(self._give_away)
        started = time.perf_counter()
        try:
            returned = self._entry_point(data, context)
            if type(returned) is list and not IN_PIECES.isdisjoint(map(type, returned)):
                returned = self._exhaust(returned)
        except Exception as error:
            failed = self._failure(error, ids, time.perf_counter() - started)
        else:
            self._handled += time.perf_counter() - started
            return rows.answers(context, returned, ids)
        finally:
            set_emitter(None)
            set_requests(())
        self._handled += failed.seconds
        if failed.lacks_memory:
            release_memory()
        return failed

    def _failure(self, error: Exception, ids: list[str], seconds: float) -> Failure:
        self.is_spoilt = spoils(error)
        next = Next.LEAVE if self.is_spoilt else Next.KEEP if self._has_emitted else Next.DIVIDE
        self._log_failure(error, ids)
        if next is Next.DIVIDE and len(ids) > 1 and self._isolation.divides:
            # What it has reported will be reported again.
            self._context.drain_samples()
        return Failure(failure(error), seconds, next, lacks_memory(error))

    def _log_failure(self, error: Exception, ids: list[str]) -> None:
        """With its traceback, once in a batch; later the requests that fail alone are named."""
        told = words(error)
        if told not in self._told:
            self._told.add(told)
            logger.exception("Prediction failed for request %s", ", ".join(ids))
        elif len(ids) == 1:
            logger.warning("Prediction failed for request %s: %s", ids[0], told)

    def _give_away(self, row: int, item: object) -> None:
        """Send a piece of an answer; raises TypeError or ValueError for what has no bytes."""
        self._has_emitted = True
        if self._emit is None:
            return
        piece = self._rows.piece(self._context, row, item)
        self._emit(Chunk(self._work.batch_id, self._first + row, piece))

    def _has_left(self, row: int) -> bool:
        """The client of a row that the handler sees has left."""
        return self._is_cancelled(self._work.batch_id, self._first + row)

    def _exhaust(self, returned: list[Any]) -> list[Any]:
        """Send what generators among the answers yield, turn by turn, until all have ended.

        One that raises ends its own answer; the others go on. One whose client left is closed.
        """
        answers = [b"" if type(item) in IN_PIECES else item for item in returned]
        going = {
            row: pieces_of(item) if isasyncgen(item) else item
            for row, item in enumerate(returned)
            if type(item) in IN_PIECES
        }
        while going:
            for row, generator in list(going.items()):
                try:
                    if self._has_left(row):
                        del going[row]
                        generator.close()
                    else:
                        self._give_away(row, next(generator))
                except StopIteration:
                    del going[row]
                except Exception as error:
                    going.pop(row, None)
                    answers[row] = error
        return answers
