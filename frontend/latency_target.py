"""``latencyTarget``: batches that let requests be answered in time, as far as that goes. Pure.

The model's owner says what is quick enough, and leaves the size of batches and the wait for them to
what is learnt (``Arrivals``): a batch of n takes ``overhead + slope * n``. Nobody is refused for a
target; but in a full queue somebody is, and that had better be one who is late already.
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .arrivals import Arrivals
    from .jobs import Job

WORTHY = 4
"""Overheads that the requests of a batch must be worth, so that it loses a fifth of the time."""
LARGEST_BATCH = 64
"""The batch size of a model that has a target and says nothing of the size."""


def largest_in_time(arrivals: Arrivals, target: float, left: float, workers: int) -> float:
    """How many a batch may have, so that who has ``left`` of ``target`` seconds is in time.

    Where that is hopeless, so that whoever comes right after it left is. But never so few that the
    workers would not keep up, as then nobody is in time; and any number where no size would do.
    """
    overhead, slope = arrivals.overhead, arrivals.slope
    size = (left - overhead) / slope if slope else inf
    if size < 1:
        size = largest_by_half(arrivals, target)
    return max(int(size), arrivals.enough_to_keep_up(workers)) if 1 <= size < inf else inf


def largest_by_half(arrivals: Arrivals, target: float) -> float:
    """How many a batch may have, so that who comes right after it left is in time as well."""
    return (target / 2 - arrivals.overhead) / arrivals.slope if arrivals.slope else inf


def largest_when_full(arrivals: Arrivals, target: float, batch_size: int) -> float:
    """The same for a full queue, whose workers do not keep up anyway.

    Some are refused, so the others may just as well be in time: unless that cost more than a fifth
    of the requests that are answered. Where only full batches have been seen, a smaller one tells
    what it costs.
    """
    if not arrivals.knows_sizes:
        return max(1, batch_size // 2)
    size = largest_by_half(arrivals, target)
    return size if size >= max(1, WORTHY * arrivals.overhead / (arrivals.slope or inf)) else inf


class InTime:
    """First in, first out, of those that can be answered in time.

    Who cannot any more, as ``set_aside`` says, has the room that those leave in their batches, and
    gives way to a newcomer in a full queue. Jobs that were put back go before all others.
    """

    def __init__(self) -> None:
        self._back: deque[Job] = deque()
        self._jobs: deque[Job] = deque()
        self._late: deque[Job] = deque()

    @property
    def displaces(self) -> bool:
        return bool(self._late)

    def set_aside(self, before: float) -> None:
        """Who was offered before that is late."""
        while self._jobs and self._jobs[0].offered_at < before:
            self._late.append(self._jobs.popleft())

    def _first(self) -> deque[Job]:
        return self._back or self._jobs or self._late

    def append(self, job: Job, /) -> None:
        self._jobs.append(job)

    def popleft(self) -> Job:
        return self._first().popleft()

    def extendleft(self, jobs: Iterable[Job], /) -> None:
        self._back.extendleft(jobs)

    def __getitem__(self, index: int, /) -> Job:
        return self._first()[0]

    def __len__(self) -> int:
        return len(self._back) + len(self._jobs) + len(self._late)

    def __iter__(self) -> Iterator[Job]:
        return chain(self._back, self._jobs, self._late)

    def oldest_at(self) -> float:
        lines = (self._back, self._jobs, self._late)
        return min(
            next((job.offered_at for job in jobs if not job.is_settled), inf) for jobs in lines
        )

    def ahead_of(self, job: Job) -> int | None:
        return len(self._back) + len(self._jobs) if self._late else None

    def yields_to(self, job: Job) -> Job | None:
        return next((each for each in self._late if not each.is_settled), None)

    def settled(self, job: Job) -> None:
        """Nothing is known of each."""

    def sweep(self) -> int:
        swept = 0
        while self._late and self._late[0].is_settled:
            self._late.popleft()
            swept += 1
        return swept

    def purge(self) -> None:
        self._back, self._jobs, self._late = (
            deque(job for job in jobs if not job.is_settled)
            for jobs in (self._back, self._jobs, self._late)
        )
