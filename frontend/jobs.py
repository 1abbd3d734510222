"""One request on its way: ``Job``, the ``Batch`` it travels in, its ``Outcome``.

A job gets exactly one outcome, ever: ``Job.settle`` is the only way to give it one, and the second
call raises.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..worker.messages import Body, Part
from .errors import IllegalTransition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .. import FlambeauError

__all__ = ["JOB_TRANSITIONS", "Batch", "Body", "Job", "JobState", "Outcome", "Part"]


class JobState(enum.Enum):
    """Where a job is. QUEUED and RUNNING alternate only when a lost batch is retried."""

    __hash__ = object.__hash__  # Enum's own is a Python function; steps are looked up per request

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


JOB_TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {JobState.QUEUED, JobState.DONE, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.DONE: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


class Stream(Protocol):
    """An answer in pieces: iterate over it once, or ``abandon`` it."""

    on_end: Callable[[Outcome], None] | None
    abandon: Callable[[], None]
    longest_piece: int

    def __aiter__(self) -> AsyncIterator[Body]: ...


@dataclass(slots=True)
class Outcome:
    """What the client gets: an answer of the worker, or ``error``.

    ``reason`` is the status line's phrase, ``None`` for the standard one. ``queued``, ``batched``
    and ``handled`` are seconds: in the queue, from batch formation to the worker's answer, and
    inside the handler. ``total`` are the seconds from the request's headers on; the predictor fills
    them in. ``batch_size`` is 0 for all but one job of a batch, so that who adds them up counts
    each batch once. With a ``stream`` the body comes from that, piece by piece; it raises
    InferenceError when it cannot go on.
    """

    status: int = 200
    reason: str | None = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: Body = b""
    error: FlambeauError | None = None
    queued: float = 0.0
    batched: float = 0.0
    handled: float = 0.0
    total: float = 0.0
    batch_size: int = 0
    stream: Stream | None = None


@dataclass(slots=True, eq=False)
class Job:
    """A request for one model version.

    ``id`` is the request id shown to client, handler and log; it need not be unique.
    ``deadline`` is the clock reading after which no answer is wanted any more.
    ``sequence`` is what it belongs to, where the model keeps sequences apart.
    ``requested_version`` is what the client named: ``None`` when it took the default. ``alone``
    keeps it out of batches with others. ``priority`` is from 0, the most urgent, to 9, where the
    model's queue looks at it. ``time_limit`` is in how many seconds the client wants its
    answer, whatever the model grants. ``streams`` tells that a part of the answer has been given
    away, and ``ticket`` is the job's number among those that somebody watches the clock for.
    """

    id: str
    headers: dict[str, str]
    parts: list[Part]
    offered_at: float
    deadline: float | None = None
    requested_version: str | None = None
    alone: bool = False
    time_limit: float | None = None
    priority: int = 5
    streams: bool = False
    ticket: int = 0
    state: JobState = JobState.QUEUED
    taken_at: float = 0.0
    losses: int = 0
    sequence: str | None = None
    outcome: Outcome | None = None

    @property
    def must_travel_alone(self) -> bool:
        """A call for a description or an explanation shares no batch; nor does a job of a lost
        one, so that a poisonous input fails by itself.
        """
        return self.alone or self.losses > 0

    @property
    def is_settled(self) -> bool:
        return self.outcome is not None

    def move(self, to: JobState) -> None:
        """Take the step to ``to``; raises IllegalTransition if the table does not list it."""
        if to not in JOB_TRANSITIONS[self.state]:
            raise IllegalTransition(f"job {self.id}: {self.state.value} -> {to.value}")
        self.state = to

    def settle(self, to: JobState, outcome: Outcome) -> None:
        """Give the job its one outcome."""
        self.move(to)
        self.outcome = outcome


@dataclass(slots=True, eq=False)
class Batch:
    """Jobs that travel together. ``id`` is unique within the server's life.

    ``begun_at`` is when its worker could begin it, and ``sent_at`` when it was sent. ``given_up``:
    it ran into its deadline and is answered; its worker was told to let go of it.
    """

    id: int
    jobs: list[Job]
    sent_at: float
    begun_at: float
    deadline: float
    given_up: bool = False
