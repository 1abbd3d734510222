"""Async handlers: each batch is a task of one event loop, and many are in work at once.

As with TorchServe's ``asyncCommunication``. Each batch has a context of its own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import aclosing
from functools import partial
from inspect import isasyncgen, isawaitable
from typing import TYPE_CHECKING, Any

from .errors import words
from .isolation import Rest
from .log_lines import set_task_requests
from .memory import spoils
from .messages import Answer, Bye, Cancel, Chunk, Ping, Pong, Result, Stop, Work
from .protocol import EXIT_CUDA_ERROR, ProtocolError
from .rows import failure, refusal
from .service import IN_PIECES
from .streaming import set_task_emitter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from .context import Context
    from .link import Link
    from .messages import Message
    from .rows import Rows

logger = logging.getLogger("flambeau.worker")

_FAREWELL = 1.0
"""Seconds that tasks of the handler's own get to end when the worker leaves."""


class Running:
    """A batch in work: ``answers`` are None until its task has them."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.ids = [request.id for request in work.requests]
        self.cancelled: set[int] = set()
        self.answers: list[Answer] | None = None
        self.has_pieces = False
        self.seconds = 0.0
        self.task: asyncio.Task[None] | None = None

    def cancel(self, index: int | None) -> None:
        """Nobody waits for that row, or for any: the task ends when that leaves nobody."""
        rows = range(len(self.ids))
        self.cancelled.update(rows if index is None else {index}.intersection(rows))
        if len(self.cancelled) == len(self.ids) and self.task is not None:
            self.task.cancel()


class AsyncBatches:
    """Takes batches as they come and answers each when its handler is done with it.

    Runs on ``loop``, in the thread that calls ``run``. A handler that does not return to the loop
    holds up all of them.
    """

    def __init__(
        self,
        entry_point: Callable[[list[dict[str, Any]], Context], Any],
        context: Context,
        rows: Rows,
        link: Link,
        loop: asyncio.AbstractEventLoop,
        *,
        retries_lost: bool = False,
        isolates: bool = False,
    ) -> None:
        self._entry_point = entry_point
        self._context = context
        self._rows = rows
        self._link = link
        self._loop = loop
        self._retries_lost = retries_lost
        self._isolates = isolates
        self._rest = Rest()
        self._thread = threading.get_ident()
        self._running: dict[int, Running] = {}
        self._will_read = False
        self._is_stopping = False
        self._has_left = False
        self._exit_code = 0
        self._problem: ProtocolError | None = None

    def run(self) -> int:
        """Answer batches until told to stop; the exit code. Raises ProtocolError."""
        self._loop.add_reader(self._link.fileno(), self._read)
        self._read_soon()
        try:
            self._loop.run_forever()
        finally:
            self._has_left = True
            self._loop.remove_reader(self._link.fileno())
            self._loop.run_until_complete(self._end_tasks())
        if self._problem is not None:
            raise self._problem
        return self._exit_code

    def _read(self) -> None:
        self._will_read = False
        try:
            while (message := self._link.receive(0.0)) is not None:
                self._take(message)
        except ProtocolError as error:
            self._problem = error
            self._leave()

    def _read_soon(self) -> None:
        # The link's descriptor fires once; whatever is sent may use that up.
        if not self._will_read:
            self._will_read = True
            self._loop.call_soon(self._read)

    def _take(self, message: Message) -> None:
        if isinstance(message, Work):
            running = self._running[message.batch_id] = Running(message)
            running.task = self._loop.create_task(self._handle(running))
            running.task.add_done_callback(partial(self._finished, running))
        elif isinstance(message, Cancel):
            if message.batch_id in self._running:
                self._running[message.batch_id].cancel(message.index)
        elif isinstance(message, Ping):
            self._send(Pong())
        elif isinstance(message, Stop):
            self._is_stopping = True
            self._leave_if_done()
        else:
            raise ProtocolError(f"unexpected {type(message).__name__}")

    async def _handle(self, running: Running) -> None:
        started = time.perf_counter()
        try:
            running.answers = await self._answers(running, range(len(running.ids)))
            self._rest.succeeded()
        except Exception as error:
            logger.exception("Prediction failed for request %s", ", ".join(running.ids))
            if self._divides(running, error):
                alone = (self._alone(running, row) for row in range(len(running.ids)))
                running.answers = await asyncio.gather(*alone)
                failed = all(answer.is_error for answer in running.answers)
                self._rest.failed(nobody_succeeded=failed)
            else:
                self._exit_code = EXIT_CUDA_ERROR if spoils(error) else self._exit_code
                running.answers = [failure(error)] * len(running.ids)
        finally:
            running.seconds = time.perf_counter() - started

    def _divides(self, running: Running, error: Exception) -> bool:
        """The requests of a batch that failed are tried one by one, all at once."""
        if len(running.ids) == 1 or not self._isolates or running.has_pieces or spoils(error):
            return False
        if self._rest:
            self._rest.failed(nobody_succeeded=True)
            return False
        return True

    async def _alone(self, running: Running, row: int) -> Answer:
        try:
            (answer,) = await self._answers(running, [row])
        except Exception as error:
            logger.warning("Prediction failed for request %s: %s", running.ids[row], words(error))
            return failure(error)
        return answer

    async def _answers(self, running: Running, rows: Sequence[int]) -> list[Answer]:
        """The answers to these requests, as to a batch; raises what the handler raises."""
        requests = [running.work.requests[row] for row in rows]
        ids = [running.ids[row] for row in rows]
        context = self._context.copy_for_batch()
        data: list[Any] = requests
        context.begin_batch(ids, [self._rows.headers(request) for request in data])
        context.ask_for_cancelled(lambda index: rows[index] in running.cancelled)
        set_task_requests(ids)
        give_away = partial(self._give_away, running, context, rows)
        set_task_emitter(give_away)
        returned = self._entry_point([self._rows.row(request) for request in data], context)
        if isawaitable(returned):
            returned = await returned
        if type(returned) is list and not IN_PIECES.isdisjoint(map(type, returned)):
            whose = zip(range(len(rows)), rows, returned, strict=False)
            lasts = [_last(*each, running, give_away) for each in whose]
            # What are too many, or too few, is refused below.
            returned = [*await asyncio.gather(*lasts), *returned[len(rows) :]]
        return self._rows.answers(context, returned, ids)

    def _finished(self, running: Running, task: asyncio.Task[None]) -> None:
        if self._has_left:
            # What is not answered by now is lost with this worker: the frontend tries it again.
            if not task.cancelled():
                task.exception()
            return
        answers = running.answers
        if answers is None:
            # Cancelled, by us or by the handler itself: then somebody waits for an answer.
            if not running.cancelled:
                logger.error("The handler cancelled request %s", ", ".join(running.ids))
            answers = [refusal(503, "Prediction failed")] * len(running.ids)
        is_spoilt = self._exit_code != 0
        if is_spoilt and self._retries_lost and len(answers) > 1:
            # Lost with this worker, they are tried alone: only the culprit fails.
            self._leave()
            return
        batch_id = running.work.batch_id
        del self._running[batch_id]
        samples = self._context.drain_samples()
        result = Result(batch_id, running.seconds, answers, samples, is_spoilt=is_spoilt)
        self._link.answer(result)
        self._read_soon()
        if is_spoilt:
            self._leave()
        else:
            self._leave_if_done()

    def _give_away(
        self, running: Running, context: Context, rows: Sequence[int], index: int, item: object
    ) -> None:
        """Send a piece of an answer; raises TypeError or ValueError for what has no bytes."""
        piece = self._rows.piece(context, index, item)
        chunk = Chunk(running.work.batch_id, rows[index], piece)
        running.has_pieces = True
        if threading.get_ident() == self._thread:
            self._send(chunk)
        else:
            self._loop.call_soon_threadsafe(self._send, chunk)

    def _send(self, message: Message) -> None:
        self._link.send(message)
        self._read_soon()

    def _leave_if_done(self) -> None:
        if self._is_stopping and not self._running:
            self._link.send(Bye())
            self._leave()

    def _leave(self) -> None:
        self._has_left = True
        self._loop.stop()

    async def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_FAREWELL)
        # Those that had just ended are told, too.
        await asyncio.sleep(0)


async def _last(
    index: int,
    row: int,
    item: Any,
    running: Running,
    give_away: Callable[[int, object], None],
) -> object:
    """What is left to answer after the pieces of ``item``: itself where it comes in one.

    An exception is its own row's answer. A row whose client left is closed.
    """
    if type(item) not in IN_PIECES:
        return item
    try:
        async with aclosing(item if isasyncgen(item) else _in_turns(item)) as pieces:
            async for piece in pieces:
                if row in running.cancelled:
                    break
                give_away(index, piece)
    except Exception as error:
        return error
    return b""


async def _in_turns(pieces: Iterator[object]) -> AsyncGenerator[object, None]:
    """An ordinary generator, between whose pieces others get their turn."""
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)
