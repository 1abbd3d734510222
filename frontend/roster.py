"""Who works where: slots, and the worker that fills a slot right now. Pure data.

Only Fleet changes these; everybody else reads them through their predicates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from .exits import TIMED_OUT, Exit, ExitReason
from .lifecycle import WORKER_TRANSITIONS, Lifecycle, WorkerState

if TYPE_CHECKING:
    from .jobs import Batch
    from .version_spec import VersionSpec
    from .versions import Version

STABLE_AFTER = 30.0
"""Seconds of readiness after which a worker's earlier crashes are forgotten."""

Schemas = tuple[str | None, str | None]
"""JSON Schema of a request's JSON and of an answer's, as text, where a handler declares them."""


class Worker(Lifecycle[WorkerState]):
    """One incarnation: a process with an identity that is never used again."""

    __slots__ = (
        "alarm_at",
        "concurrency",
        "credits",
        "farewell",
        "identity",
        "in_flight",
        "memory",
        "minor",
        "patience",
        "pid",
        "quota",
        "ready_at",
        "safe_batch",
        "schemas",
        "served",
        "slot",
        "unanswered",
    )

    def __init__(self, identity: str, slot: Slot, patience: float) -> None:
        super().__init__(f"worker {identity}", WORKER_TRANSITIONS, WorkerState.SPAWNED)
        self.identity = identity
        self.slot = slot
        self.pid: int | None = None
        self.minor = 0
        """The minor version of the protocol that it speaks."""
        self.credits = 1
        """Batches that it holds, begun or not."""
        self.concurrency = 1
        """Batches that it works on at once."""
        self.in_flight: dict[int, Batch] = {}
        """Batches it has, in the order in which it begins them."""
        self.ready_at: float | None = None
        self.schemas: Schemas = (None, None)
        """What its handler says of its input and output."""
        self.safe_batch = 0
        """Requests that fit into its memory at once, where it has learnt that; else 0."""
        self.served = 0
        """Requests that it has answered."""
        self.quota = math.inf
        """Requests after which it is to be renewed."""
        self.memory = 0
        """Bytes that it had in memory when it was last looked at; 0: not yet."""
        self.farewell: str | None = None
        """Why it is to leave, or has left, for another worker."""
        self.unanswered = 0
        """Seconds since it was asked whether it is there, counted from one; 0: it has answered."""
        self.patience = patience
        """When the step that it is on (start, load or stop) has taken too long."""
        self.alarm_at: float | None = None

    @property
    def is_ready(self) -> bool:
        return self.state in (WorkerState.READY, WorkerState.BUSY)

    @property
    def is_loaded(self) -> bool:
        """Its model is there, whether it answers or not, and it is not about to stop."""
        return self.is_ready or self.state is WorkerState.UNRESPONSIVE

    @property
    def has_suspect(self) -> bool:
        """It works on a request that has been in a lost batch; those are sent to idle workers."""
        first = next(iter(self.in_flight.values()), None)
        return first is not None and first.jobs[0].losses > 0

    @property
    def has_room(self) -> bool:
        """It would begin one more batch at once."""
        busy = len(self.in_flight)
        return not busy or (busy < self.concurrency and not self.has_suspect)

    @property
    def begun(self) -> list[Batch]:
        """The batches that it works on: each has its own deadline, and is lost with the worker.

        What it has beyond them was sent early, and waits there.
        """
        return list(islice(self.in_flight.values(), self.concurrency))

    def is_stable(self, now: float) -> bool:
        return self.ready_at is not None and now - self.ready_at >= STABLE_AFTER

    def overdue_at(self) -> float | None:
        """When it has run out of time for what it is doing, if that can happen."""
        if self.in_flight:
            return min(batch.deadline for batch in self.begun)
        return None if self.is_loaded else self.patience

    def end(self, exit: Exit, now: float) -> Exit:
        """``exit`` with what is known of the worker's life."""
        lived, memory = now - self.slot.started_at, self.memory or None
        return replace(exit, memory=memory, lived=lived, served=self.served)

    def overdue_exit(self, now: float) -> Exit:
        """Why it is given up when it has run out of time."""
        spec = self.slot.spec
        if self.state is WorkerState.STOPPING:
            reason, message = ExitReason.STOPPED, "Did not leave when asked."
        elif self.is_ready:
            reason = ExitReason.RESPONSE_TIMEOUT
            message = too_slow(spec)
        elif self.state is WorkerState.SPAWNED:
            reason = ExitReason.STARTUP_TIMEOUT
            message = "The process did not report for work in time."
        else:
            reason = ExitReason.STARTUP_TIMEOUT
            message = f"The model was not loaded in {spec.startup_timeout:g} s (startupTimeout)."
        return Exit(self.identity, reason, message, now, status=TIMED_OUT)


def too_slow(spec: VersionSpec) -> str:
    """What is said of a batch that ran into its deadline."""
    return f"The handler took longer than {spec.response_timeout:g} s (responseTimeout)."


@dataclass(slots=True, eq=False)
class Slot:
    """A worker's place in a version; it outlives the incarnations that fill it.

    A successor is on ``standby``: it loads, or waits, and serves nobody until it takes over.
    """

    version: Version
    number: int
    device: int | None
    spec: VersionSpec
    standby: bool = False
    predecessor: Slot | None = None
    """Whom a successor is to follow."""
    heir: Slot | None = None
    """Who has followed."""
    worker: Worker | None = None
    restarts: int = 0
    crashes: int = 0
    boot_failures: int = 0
    died_at_work: bool = False
    failing_since: float | None = None
    restart_at: float | None = None
    started_at: float = 0.0
    retiring: bool = False
    last_exit: Exit | None = None

    @property
    def is_ready(self) -> bool:
        """A worker is there that takes requests, as far as everybody is told."""
        is_away = self.retiring or self.standby
        return not is_away and self.worker is not None and self.worker.is_ready

    @property
    def shown_state(self) -> str:
        """Of its worker. Only those are shown as ready or busy that take requests."""
        if self.worker is None:
            return "gone"
        if self.standby and self.worker.is_ready:
            return "standby"
        shown = (
            WorkerState.STOPPING if self.retiring and self.worker.is_ready else self.worker.state
        )
        return shown.value

    def is_within_retry_window(self, now: float) -> bool:
        """TorchServe's idea of a healthy worker: up, or not down for too long yet."""
        if self.failing_since is None:
            return True
        return now - self.failing_since < self.version.spec.max_retry_timeout


@dataclass(frozen=True, slots=True)
class Departure:
    """A worker that is out of the fleet while its process has yet to end."""

    slot: Slot
    exit: Exit
    was_forced: bool = False
    """It did not end by itself in the time it had."""
