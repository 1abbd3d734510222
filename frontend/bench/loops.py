"""How the requests of a load go out: in a closed loop or an open one."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from .alarm import Alarm
from .connection import DialError
from .requests import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .answers import Answer
    from .connection import Connection, Dialer
    from .tally import Tally

_PAUSE = 0.05
"""Seconds before another connection is tried in the place of one that broke."""


class Loop(ABC):
    """Sends ``requests`` in turn, until ``tally.last`` or until ``count`` that count are sent.

    ``over`` ends when the last is answered. It gets a BenchError for the first failure if nothing
    was ever answered, so that nobody waits for a load on what is no server, but with ``goes_on``.
    """

    def __init__(
        self,
        dialer: Dialer,
        requests: Iterator[bytes],
        tally: Tally,
        *,
        count: int | None = None,
        timeout: float,
        keeps_alive: bool = True,
        goes_on: bool = False,
    ) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._dialer = dialer
        self._requests = requests
        self._tally = tally
        self._left = count
        self._timeout = timeout
        self._keeps_alive = keeps_alive
        self._goes_on = goes_on
        self._pending = 0
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    def start(self) -> None:
        """Begin to send."""

    @abstractmethod
    def _is_free(self, connection: Connection, now: float) -> None:
        """It may take another request."""

    @abstractmethod
    def _is_lost(self, connection: Connection | None) -> None:
        """It, or one that was not made, takes no more requests."""

    def answered(
        self, connection: Connection, answer: Answer, now: float, first_chunk: float
    ) -> None:
        due, connection.due = connection.due, None
        if due is not None:
            self._tally.answer(answer, due, now, first_chunk)
            self._pending -= 1
        if answer.keeps_alive and self._keeps_alive:
            self._is_free(connection, now)
        else:
            connection.close()
            self._forget(connection)
        if not self._pending:
            self.look(now)

    def broke(self, connection: Connection, what: str, message: str) -> None:
        due, connection.due = connection.due, None
        if due is not None:
            self._fail(what, message, due)
        self._forget(connection)

    def look(self, now: float) -> None:
        """End if nothing is to come."""
        if not self._pending and not self._has_more(now) and not self.over.done():
            self._tally.close(now)
            self.over.set_result(None)

    def expire(self, now: float) -> None:
        """Give up what has had its time."""
        for connection in list(self._connections):
            if connection.due is not None and now - connection.due > self._timeout:
                connection.expire(self._timeout)

    def stop(self) -> None:
        """End as it is."""
        if not self.over.done():
            self.over.set_result(None)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self._connections:
            connection.close()
        # The transports say that they are closed in the loop's next turn.
        await asyncio.sleep(0)

    def _has_more(self, now: float) -> bool:
        return now < self._tally.last and self._left != 0

    def _take(self, due: float) -> bytes:
        """The next request, which counts as under way from now on."""
        request = next(self._requests)
        self._pending += 1
        if self._tally.send(due, len(request)) and self._left is not None:
            self._left -= 1
        return request

    def _fail(self, what: str, message: str, due: float) -> None:
        self._tally.fail(what, message, due)
        self._pending -= 1
        is_hopeless = not self._tally.has_answers and what != "timeout" and not self._goes_on
        if is_hopeless and not self.over.done():
            self.over.set_exception(BenchError(message))
        self.look(time.monotonic())

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._is_lost(connection)

    async def _dial(self) -> Connection:
        connection = await self._dialer.dial(self, self._timeout)
        self._connections.add(connection)
        return connection

    def _spawn(self, due: float | None, request: bytes | None) -> None:
        task = asyncio.get_running_loop().create_task(self._dial_and_send(due, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _dial_and_send(self, due: float | None, request: bytes | None) -> None:
        """With None the request is the next, and due before its connection is made."""
        if request is None or due is None:
            due = time.monotonic()
            if not self._has_more(due):
                return
            request = self._take(due)
        try:
            connection = await self._dial()
        except DialError as error:
            self._fail("no connection", str(error), due)
            await asyncio.sleep(_PAUSE)
            self._is_lost(None)
            return
        connection.send(request, due)


class ClosedLoop(Loop):
    """So many connections; each sends its next request when it has the answer to its last."""

    def __init__(
        self,
        connections: int,
        dialer: Dialer,
        requests: Iterator[bytes],
        tally: Tally,
        **how: object,
    ) -> None:
        super().__init__(dialer, requests, tally, **how)  # type: ignore[arg-type]
        self._count = connections

    def start(self) -> None:
        for _ in range(self._count):
            self._spawn(None, None)

    def _is_free(self, connection: Connection, now: float) -> None:
        if self._has_more(now):
            connection.send(self._take(now), now)

    def _is_lost(self, connection: Connection | None) -> None:
        if not self.over.done():
            self._spawn(None, None)


class OpenLoop(Loop):
    """Requests go out when they are due, whatever became of those before.

    Each takes a connection that is free, or a new one; where there are ``connections`` already,
    it waits for one, and that belongs to its latency.
    """

    def __init__(
        self,
        connections: int,
        arrivals: Iterator[float],
        dialer: Dialer,
        requests: Iterator[bytes],
        tally: Tally,
        **how: object,
    ) -> None:
        super().__init__(dialer, requests, tally, **how)  # type: ignore[arg-type]
        self._most = connections
        self._arrivals = arrivals
        self._places = 0
        """Connections that are there or being made."""
        self._free: list[Connection] = []
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._begun = self._due = 0.0
        self._alarm = Alarm(asyncio.get_running_loop(), self._ring)

    def start(self) -> None:
        self._begun = time.monotonic()
        self._due = self._begun + next(self._arrivals)
        self._alarm.set(self._due)

    async def close(self) -> None:
        self._alarm.close()
        await super().close()

    def expire(self, now: float) -> None:
        super().expire(now)
        while self._waiting and now - self._waiting[0][0] > self._timeout:
            due, _ = self._waiting.popleft()
            self._fail("timeout", f"No connection was free within {self._timeout:g} s.", due)

    def _ring(self) -> None:
        while (now := time.monotonic()) >= self._due:
            if not self._has_more(self._due):
                self.look(now)
                return
            if self._due >= self._tally.first:
                self._tally.lateness.add(now - self._due)
            self._send(self._due, self._take(self._due))
            self._due = self._begun + next(self._arrivals)
        self._alarm.set(self._due)

    def _send(self, due: float, request: bytes) -> None:
        if self._free:
            self._free.pop().send(request, due)
        elif self._places < self._most:
            self._places += 1
            self._spawn(due, request)
        else:
            self._waiting.append((due, request))

    def _is_free(self, connection: Connection, now: float) -> None:
        if self._waiting:
            due, request = self._waiting.popleft()
            connection.send(request, due)
        else:
            self._free.append(connection)

    def _is_lost(self, connection: Connection | None) -> None:
        self._places -= 1
        if connection in self._free:
            self._free.remove(connection)
        if self._waiting and not self.over.done():
            due, request = self._waiting.popleft()
            self._send(due, request)
