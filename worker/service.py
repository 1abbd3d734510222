"""One batch in, one Result out: a handler that works on one batch at a time."""

from __future__ import annotations

import logging
import time
from inspect import isasyncgen
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any

from .coroutines import pieces_of
from .log_lines import set_requests
from .protocol import Chunk, Result, Work
from .rows import Rows, failure, spoils
from .streaming import set_emitter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .context import Context

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
    has left.
    """

    def __init__(
        self,
        entry_point: EntryPoint,
        context: Context,
        rows: Rows,
        *,
        emit: Callable[[Chunk], None] | None = None,
        is_cancelled: Callable[[int, int], bool] = never,
    ) -> None:
        self._emit = emit
        self._entry_point = entry_point
        self._context = context
        self._rows = rows
        self._is_cancelled = is_cancelled
        self._batch_id = 0
        self.is_spoilt = False
        """A CUDA error other than a lack of memory has left the GPU context unusable for good."""
        context.ask_for_cancelled(lambda row: self._is_cancelled(self._batch_id, row))

    def run(self, work: Work) -> Result:
        """The answers of one batch, in order. Handler errors become answers; nothing is raised,
        apart from SystemExit and KeyboardInterrupt, which end the worker.
        """
        requests: Sequence[Any] = work.requests
        rows, context = self._rows, self._context
        self._batch_id = work.batch_id
        ids = [request.id for request in requests]
        headers = [rows.headers(request) for request in requests]
        data = [rows.row(request) for request in requests]
        context.begin_batch(ids, headers)
        set_requests(ids)
        set_emitter(self._give_away)
        started = time.perf_counter()
        try:
            returned = self._entry_point(data, context)
            if type(returned) is list and not IN_PIECES.isdisjoint(map(type, returned)):
                returned = self._exhaust(returned)
        except Exception as error:
            self.is_spoilt = spoils(error)
            answers = [failure(error)] * len(requests)
            logger.exception("Prediction failed for request %s", ", ".join(ids))
        else:
            answers = rows.answers(context, returned, ids)
        finally:
            set_emitter(None)
            set_requests(())
        handled = time.perf_counter() - started
        return Result(work.batch_id, handled, answers, context.drain_samples())

    def _give_away(self, row: int, item: object) -> None:
        """Send a piece of an answer; raises TypeError or ValueError for what has no bytes."""
        if self._emit is None:
            return
        piece = self._rows.piece(self._context, row, item)
        self._emit(Chunk(self._batch_id, row, piece))

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
                    if self._is_cancelled(self._batch_id, row):
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
