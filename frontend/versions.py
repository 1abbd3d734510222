"""Versions of models: each with its queue, its slots and what it is meant to be. Pure data.

Only Fleet changes these; everybody else reads them through their predicates.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .autoscaler import Autoscaler, ScalingEvent
from .batcher import ModelQueue
from .deadlines import Deadlines
from .lifecycle import VERSION_TRANSITIONS, Lifecycle, VersionState
from .samples import Recorder
from .sequences import SequenceQueue

if TYPE_CHECKING:
    from .exits import Exit
    from .roster import Schemas, Slot, Worker
    from .version_spec import VersionSpec

SCALINGS = 20
"""Scaling events that are kept of a version."""


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
                latency_target=spec.latency_target,
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
                latency_target=spec.latency_target,
            )

    @property
    def ready_workers(self) -> list[Worker]:
        return [
            slot.worker for slot in self.slots.values() if slot.is_ready and slot.worker is not None
        ]

    @property
    def workers_at_hand(self) -> int:
        """How many share what comes, the busy ones included."""
        return sum(slot.is_ready for slot in self.slots.values())

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
