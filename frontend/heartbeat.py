"""Whether workers that have nothing to do are still there. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..worker.messages import Ping
from ..worker.protocol import PING_SINCE
from .commands import Agenda, Send
from .exits import Exit, ExitReason
from .lifecycle import WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .roster import Worker

BEAT = 1.0
"""Seconds from one look at the idle workers to the next."""
SILENT_AFTER = 2
"""Beats without an answer, after which a worker gets no requests until it answers."""
HANG_AFTER = 10
"""Further beats, after which it is ended."""
_IDLE = (WorkerState.READY, WorkerState.UNRESPONSIVE)


class Heartbeat:
    """Asks idle workers for a sign of life; one that works shows it by its answers.

    What counts is not the time since a question but how often the frontend has looked since: while
    it was away itself (stopped, or asleep with the whole machine), nobody could answer. A look
    that comes too late is not counted either, since answers may wait to be read.

    ``silent`` is told of a worker that does not answer, ``hung`` of one that has to be ended.
    """

    def __init__(
        self,
        agenda: Agenda,
        workers: Mapping[str, Worker],
        silent: Callable[[Worker, float], None],
        hung: Callable[[Worker, Exit, float], None],
    ) -> None:
        self._agenda = agenda
        self._workers = workers
        self._silent = silent
        self._hung = hung
        self._due: float | None = None

    def start(self, now: float) -> None:
        """A worker is ready: there is somebody to ask."""
        if self._due is None:
            self._due = now + BEAT
            self._agenda.alarm(self._due, self._beat)

    def _beat(self, now: float) -> None:
        was_away = self._due is None or now > self._due + BEAT
        self._due = None
        at_work = [worker for worker in self._workers.values() if worker.ready_at is not None]
        for worker in at_work:
            if worker.state in _IDLE and worker.minor >= PING_SINCE:
                self._look(worker, now, was_away=was_away)
        if at_work:
            self.start(now)

    def _look(self, worker: Worker, now: float, *, was_away: bool) -> None:
        if not worker.unanswered:
            worker.unanswered = 1
            self._agenda.command(Send(worker.identity, Ping()))
            return
        if was_away:
            return
        worker.unanswered += 1
        silent_for = worker.unanswered - 1
        if silent_for >= SILENT_AFTER + HANG_AFTER:
            message = f"Idle, it did not answer for {silent_for * BEAT:g} s."
            self._hung(worker, Exit(worker.identity, ExitReason.HANG, message, now), now)
        elif silent_for >= SILENT_AFTER and worker.state is WorkerState.READY:
            self._silent(worker, now)
