"""Workers that have loaded their model and do not answer: set aside, taken back, ended. Pure."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from .commands import Warn
from .elastic import Elastic
from .heartbeat import Heartbeat
from .lifecycle import WorkerState

if TYPE_CHECKING:
    from .exits import Exit
    from .roster import Worker


class Vigil(Elastic):
    """The steps that an idle worker's silence sets off."""

    @cached_property
    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(self._agenda, self.workers, self._silent, self._hung)

    def _silent(self, worker: Worker, now: float) -> None:
        """It gets nothing until it answers."""
        slot = worker.slot
        self._remove_from_free(worker)
        worker.move(WorkerState.UNRESPONSIVE)
        slot.failing_since = now if slot.failing_since is None else slot.failing_since
        message = "does not answer: it gets no requests until it does"
        self._agenda.command(Warn(worker.identity, message))
        self._refresh(slot.version)

    def _hung(self, worker: Worker, exit: Exit, now: float) -> None:
        self._lose(worker, exit, now, force=True)

    def _is_there(self, worker: Worker, now: float) -> None:
        """It has answered."""
        worker.unanswered = 0
        if worker.state is not WorkerState.UNRESPONSIVE:
            return
        slot, version = worker.slot, worker.slot.version
        worker.move(WorkerState.READY)
        slot.failing_since = None
        self._agenda.command(Warn(worker.identity, "answers again"))
        if slot.standby:
            self._heir_is_ready(slot, now)
        else:
            version.free.append(worker)
            self._renew_next(version, now)
        self._refresh(version)
        self._dispatcher.dispatch(version, now)
