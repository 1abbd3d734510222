"""Who works where: versions, their slots, and the worker that fills a slot right now. Pure data.

Only Fleet changes these; everybody else reads them through their predicates.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from .autoscaler import Autoscaler, ScalingEvent
from .batcher import ModelQueue
from .deadlines import Deadlines
from .exits import TIMED_OUT, Exit, ExitReason
from .lifecycle import (
    VERSION_TRANSITIONS,
    WORKER_TRANSITIONS,
    Lifecycle,
    VersionState,
    WorkerState,
)
from .samples import Recorder
from .sequences import SequenceQueue

if TYPE_CHECKING:
    from .jobs import Batch
    from .version_spec import VersionSpec

CRASH_LOOP = 5
"""Deaths of each worker, without an answer between them, after which requests are refused."""
STABLE_AFTER = 30.0
"""Seconds of readiness after which a worker's earlier crashes are forgotten."""
BACK_OFF_CAP = 30.0
"""Longest pause before a restart, in seconds."""
AT_WORK_CAP = 1.0
"""Longest pause after a worker that died at work: an input did that, and others wait."""
SCALINGS = 20
"""Scaling events that are kept of a version."""
BOOT_ATTEMPTS = 3
"""Failed starts in a row after which a version without a ready worker is given up."""


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

    def back_off(self, jitter: float) -> float:
        """Seconds until the next start: at once after the first crash, then doubling, capped."""
        failures = max(self.crashes, self.boot_failures)
        if failures <= 1 and not self.boot_failures:
            return 0.0
        cap = AT_WORK_CAP if self.died_at_work else BACK_OFF_CAP
        return min(cap, 0.25 * 2.0 ** min(failures, 16)) * jitter

    def is_within_retry_window(self, now: float) -> bool:
        """TorchServe's idea of a healthy worker: up, or not down for too long yet."""
        if self.failing_since is None:
            return True
        return now - self.failing_since < self.version.spec.max_retry_timeout


@dataclass(slots=True)
class Roll:
    """All workers of a version are about to be replaced by such that run ``spec``."""

    spec: VersionSpec


class Version(Lifecycle[VersionState]):
    """One version of a model: its queue, its slots and what it is meant to be."""

    __slots__ = (
        "_answered_at",
        "asked_at",
        "boot_failure",
        "crashes",
        "deadlines",
        "exits",
        "failure",
        "free",
        "handler_seconds",
        "is_asleep",
        "is_looked_after",
        "is_preparing",
        "key",
        "last_exit",
        "max_workers",
        "min_workers",
        "queue",
        "recorder",
        "renewal_after",
        "renewal_failures",
        "retry_at",
        "roll",
        "roll_failure",
        "running",
        "scaled",
        "scaler",
        "scalings",
        "schemas",
        "seconds_between",
        "sequences",
        "shortages",
        "slots",
        "spec",
        "wake_at",
    )

    def __init__(self, spec: VersionSpec) -> None:
        super().__init__(f"version {'/'.join(spec.key)}", VERSION_TRANSITIONS, VersionState.LOADING)
        self.spec = spec
        self.key = spec.key
        size, delay, adaptive = spec.rows, spec.max_batch_delay, spec.adaptive_batching
        self.sequences: SequenceQueue | None = None
        """The queue, where requests belong to sequences."""
        self.queue: ModelQueue | SequenceQueue
        if spec.sequences is not None:
            self.queue = self.sequences = SequenceQueue(
                spec.sequences, size, delay, adaptive=adaptive
            )
        else:
            self.queue = ModelQueue(
                spec.queue_size,
                size,
                delay,
                adaptive=adaptive,
                discipline=spec.queue_discipline,
                queue_timeout=spec.queue_timeout,
            )
        self.slots: dict[int, Slot] = {}
        self.free: deque[Worker] = deque()
        """Ready workers with room for a batch: for most models, those without work."""
        self.running = 0
        """Jobs in flight."""
        self.handler_seconds: float | None = None
        """What the handler takes for a batch, lately."""
        self.seconds_between: float | None = None
        """What passes between the answers of two batches, lately, while requests wait."""
        self._answered_at: float | None = None
        """The last such answer, if somebody has waited ever since."""
        self.schemas: Schemas = (None, None)
        """What the handler says of its input and output."""
        self.min_workers = 0
        self.max_workers = 0
        self.is_preparing = False
        """Its packages are being installed; its workers have to wait for them."""
        self.failure: Exit | None = None
        """Why the version was given up."""
        self.boot_failure: Exit | None = None
        """The last failed start since somebody asked for workers."""
        self.crashes = 0
        """Deaths of workers that had loaded the model, without an answered batch between them."""
        self.retry_at: float | None = None
        """When the version, which was given up, is tried again; None: when somebody asks."""
        self.last_exit: Exit | None = None
        """The last end of a worker that nobody wanted; it outlives the worker's slot."""
        self.exits: Counter[str] = Counter()
        """How many processes of workers have ended, by reason."""
        self.shortages = 0
        """Calls of the handler that ran out of memory."""
        self.deadlines = Deadlines()
        self.recorder = Recorder(spec.recorded) if spec.recorded else None
        """Keeps requests for the warm-up of workers to come."""
        self.roll: Roll | None = None
        """What it is about to become."""
        self.roll_failure: Exit | None = None
        """Why the last attempt at that failed."""
        self.renewal_after = -math.inf
        """When the next worker may be renewed, after one whose successor was lost."""
        self.renewal_failures = 0
        self.scaler = Autoscaler(spec.target_delay, spec.scale_down_after)
        self.scalings: deque[ScalingEvent] = deque(maxlen=SCALINGS)
        self.scaled = {"up": 0, "down": 0}
        """How often its number of workers has changed by itself."""
        self.asked_at = 0.0
        """When the last request came, or somebody asked for workers."""
        self.is_asleep = spec.idle_timeout > 0
        """It has no workers until somebody asks for something."""
        self.is_looked_after = False
        """An alarm is set to look at it."""
        self.wake_at: float | None = None

    @property
    def active_slots(self) -> list[Slot]:
        """Those that serve or are to serve: successors on standby do not count."""
        return [slot for slot in self.slots.values() if not (slot.retiring or slot.standby)]

    @property
    def has_active_slot(self) -> bool:
        for slot in self.slots.values():  # noqa: SIM110 - once per request; any() takes thrice as long
            if not (slot.retiring or slot.standby):
                return True
        return False

    @property
    def is_elastic(self) -> bool:
        """Its number of workers may change by itself."""
        return self.min_workers < self.max_workers or self.spec.idle_timeout > 0

    @property
    def least_workers(self) -> int:
        """How many it should have now, at least."""
        if self.spec.idle_timeout:
            return 0 if self.is_asleep else max(1, self.min_workers)
        return self.min_workers

    def is_idle(self, now: float) -> bool:
        """Nobody has asked for so long that the workers may go."""
        timeout = self.spec.idle_timeout
        if not timeout or now - self.asked_at < timeout or self.running or len(self.queue):
            return False
        return self.sequences is None or not self.sequences.open_sequences

    @property
    def heirs(self) -> list[Slot]:
        """Successors on standby."""
        return [slot for slot in self.slots.values() if slot.standby and not slot.retiring]

    def adopt(self, spec: VersionSpec) -> None:
        """Be what ``spec`` says from now on; what waits goes on waiting."""
        self.spec = spec
        self.scaler = Autoscaler(spec.target_delay, spec.scale_down_after)
        if (self.recorder is None) == bool(spec.recorded):
            self.recorder = Recorder(spec.recorded) if spec.recorded else None
        if isinstance(self.queue, ModelQueue):
            self.queue.resize(
                spec.queue_size,
                spec.rows,
                spec.max_batch_delay,
                adaptive=spec.adaptive_batching,
                discipline=spec.queue_discipline,
                queue_timeout=spec.queue_timeout,
            )

    @property
    def ready_workers(self) -> list[Worker]:
        return [
            slot.worker for slot in self.slots.values() if slot.is_ready and slot.worker is not None
        ]

    @property
    def is_settled(self) -> bool:
        """Every slot that should be there is ready and nobody is leaving any more."""
        return not self.is_preparing and all(
            slot.is_ready for slot in self.slots.values() if not slot.standby
        )

    def handled(self, seconds: float) -> None:
        """The handler took ``seconds`` for a batch."""
        if self.handler_seconds is None:
            self.handler_seconds = seconds
        else:
            self.handler_seconds += (seconds - self.handler_seconds) / 8

    def paced(self, now: float) -> None:
        """A batch was answered, and the queue is as it was before that."""
        if self._answered_at is not None:
            gap, usual = now - self._answered_at, self.seconds_between
            if usual is None:
                self.seconds_between = gap
            else:
                # One batch that takes for ever says little of the others.
                self.seconds_between = usual + (min(gap, 4 * usual + 1e-4) - usual) / 8
        self._answered_at = now if len(self.queue) else None

    @property
    def has_ticket(self) -> bool:
        """A worker waits for one request more."""
        room = sum(worker.concurrency - len(worker.in_flight) for worker in self.free)
        return len(self.queue) < room * self.queue.batch_size

    @property
    def crash_rounds(self) -> int:
        """How often each of its workers has died in that series."""
        return self.crashes // max(1, len(self.active_slots))

    def crash_loop_pause(self, jitter: float) -> float:
        """Seconds for which requests are refused: doubled with each round, capped."""
        return min(BACK_OFF_CAP, 2.0 ** min(self.crash_rounds - CRASH_LOOP, 16)) * jitter

    def is_healthy(self, now: float) -> bool:
        """TorchServe's /ping rule: enough workers that are up or may still come up."""
        if self.is_preparing or self.is_asleep:
            return True
        healthy = sum(slot.is_within_retry_window(now) for slot in self.active_slots)
        return healthy >= self.min_workers

    def due_state(self) -> VersionState:
        """The state that the slots' condition calls for; DRAINING and FAILED are decisions."""
        if self.state in (VersionState.DRAINING, VersionState.REMOVED, VersionState.FAILED):
            return self.state
        if self.is_preparing:
            return VersionState.LOADING
        if self.is_asleep:
            return VersionState.IDLE
        active = self.active_slots
        if any(slot.failing_since is not None for slot in active):
            was_ready = self.state in (VersionState.READY, VersionState.DEGRADED)
            return VersionState.DEGRADED if was_ready else VersionState.LOADING
        if not active or self.ready_workers:
            return VersionState.READY
        return VersionState.LOADING


@dataclass(frozen=True, slots=True)
class Departure:
    """A worker that is out of the fleet while its process has yet to end."""

    slot: Slot
    exit: Exit
    was_forced: bool = False
    """It did not end by itself in the time it had."""
