"""When the time of a version's requests is over. Pure: time is an argument."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

from .jobs import JobState

if TYPE_CHECKING:
    from .jobs import Job


def set_deadline(job: Job, client_timeout: float) -> None:
    """The earlier one of what the client wants and what the model grants (0: no limit) counts."""
    limits = [limit for limit in (client_timeout, job.time_limit) if limit]
    if limits:
        job.deadline = job.offered_at + min(limits)


class Deadlines:
    """The clocks of unanswered jobs; one alarm serves all of them.

    The heap holds numbers, not jobs: a body is not kept until the time of its request would have
    been over.
    """

    def __init__(self) -> None:
        self._expected: dict[int, Job] = {}
        """Unanswered jobs by ticket."""
        self._heap: list[tuple[float, int, bool]] = []
        """When, whose ticket, and whether it counts only while the job waits."""
        self._tickets = itertools.count(1)
        self._rings_at: float | None = None

    def __len__(self) -> int:
        """How many clocks are kept, those of answered jobs included that are not yet swept out."""
        return len(self._heap)

    @property
    def unanswered(self) -> int:
        """How many jobs are watched."""
        return len(self._expected)

    def expect(self, job: Job, queue_limit: float) -> None:
        """Watch the clocks of ``job``: its deadline, and seconds for its wait; 0: no limit."""
        job.ticket = next(self._tickets)
        self._expected[job.ticket] = job
        if job.deadline is not None:
            heapq.heappush(self._heap, (job.deadline, job.ticket, False))
        if queue_limit:
            heapq.heappush(self._heap, (job.offered_at + queue_limit, job.ticket, True))
        if len(self._heap) > 4 * len(self._expected) + 64:
            self._heap = [entry for entry in self._heap if entry[1] in self._expected]
            heapq.heapify(self._heap)

    def settled(self, job: Job) -> None:
        """``job`` has its outcome."""
        if job.ticket:
            self._expected.pop(job.ticket, None)

    def next_alarm(self) -> float | None:
        """When to call ``expired``; None if an alarm that was asked for before rings in time."""
        at = self._heap[0][0] if self._heap else None
        if at is None or (self._rings_at is not None and at >= self._rings_at):
            return None
        self._rings_at = at
        return at

    def expired(self, rang_at: float, now: float) -> list[tuple[Job, bool]]:
        """The jobs whose time is over, each with whether it was the time to wait.

        ``rang_at`` is what ``next_alarm`` had said.
        """
        if self._rings_at == rang_at:
            self._rings_at = None
        over = []
        while self._heap and self._heap[0][0] <= now:
            _, ticket, in_queue = heapq.heappop(self._heap)
            job = self._expected.get(ticket)
            if job is not None and not (in_queue and job.state is not JobState.QUEUED):
                over.append((job, in_queue))
        return over
