"""In which order the requests of a model version go: ``queueDiscipline``. Pure.

Each is a line that jobs join at one end and leave at the other; what is ``first`` may change when
somebody joins, and only then. Jobs that were put back (their batch was lost) go before all others,
in every discipline. Settled jobs stay where they are until they are first, or ``sweep`` or
``purge`` lets go of them. No step looks at all that wait, however many they are.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left, bisect_right, insort
from collections import deque
from typing import TYPE_CHECKING, Protocol

from .errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from .jobs import Job

FIFO, LIFO_ON_OVERLOAD, PRIORITY, DEADLINE = "fifo", "lifo_on_overload", "priority", "deadline"
DISCIPLINES = (FIFO, LIFO_ON_OVERLOAD, PRIORITY, DEADLINE)

STANDING_WAIT = 0.1
"""Seconds: a queue whose oldest request has waited longer, all the time, does not just absorb a
burst."""
STANDING_SERVICES = 3.0
"""The same in times that a batch takes, for slow models: the longer of the two counts."""
STANDING_INTERVAL = 1.0
"""Seconds for which that must have been so."""
STANDING_BATCHES = 10.0
"""The same in times that a batch takes; again the longer of the two counts."""
AGEING = 5.0
"""Seconds of waiting that are worth one step of priority."""
NOMINAL_PATIENCE = 30.0
"""In how many seconds a request without a deadline is taken to want its answer."""
PRIORITIES = 10
"""0, the most urgent, to 9."""
PRIORITY_HEADER = "x-request-priority"


class Line(Protocol):
    """Jobs that wait, in the order in which they go. ``line[0]`` is who is next."""

    @property
    def displaces(self) -> bool:
        """Somebody who waits may have to give way to a newcomer."""

    def append(self, job: Job, /) -> None: ...
    def popleft(self) -> Job: ...
    def extendleft(self, jobs: Iterable[Job], /) -> None:
        """Put jobs before all others, one before the other."""

    def __getitem__(self, index: int, /) -> Job: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Job]: ...
    def oldest_at(self) -> float:
        """When the one was offered that has waited longest; there must be one."""

    def ahead_of(self, job: Job) -> int | None:
        """How many of those that wait would go before ``job``; None for all."""

    def yields_to(self, job: Job) -> Job | None:
        """Who gives its place to ``job`` in a full queue, if anybody does."""

    def settled(self, job: Job) -> None:
        """``job``, which waits here, has its outcome."""

    def sweep(self) -> int:
        """Let go of settled jobs at the ends that are looked at; how many they were.

        Without that each look would pass them all again.
        """

    def purge(self) -> None:
        """Let go of the settled jobs."""


class Fifo(deque["Job"]):
    """First in, first out."""

    __slots__ = ()
    displaces = False

    def oldest_at(self) -> float:
        return self[0].offered_at

    def ahead_of(self, job: Job) -> int | None:
        return None

    def yields_to(self, job: Job) -> Job | None:
        return None

    def settled(self, job: Job) -> None:
        """Nothing is known of each."""

    def sweep(self) -> int:
        return 0

    def purge(self) -> None:
        waiting = [job for job in self if not job.is_settled]
        self.clear()
        self.extend(waiting)


class _Ranks:
    """How many of those that wait go before a newcomer, without a look at each of them.

    To keep numbers sorted in one list means to move those behind a newcomer, but that is eight
    bytes for each of them, and nothing of Python's.
    """

    def __init__(self) -> None:
        self._sorted: list[float] = []
        self._of: dict[Job, float] = {}

    def add(self, job: Job, rank: float) -> None:
        insort(self._sorted, rank)
        self._of[job] = rank

    def drop(self, job: Job) -> None:
        """It waits no more; idempotent."""
        rank = self._of.pop(job, None)
        if rank is not None:
            del self._sorted[bisect_left(self._sorted, rank)]

    def up_to(self, rank: float) -> int:
        return bisect_right(self._sorted, rank)


class _Line:
    """What the others have in common: those that were put back, before all others."""

    displaces = False

    def __init__(self) -> None:
        self._back: deque[Job] = deque()

    def extendleft(self, jobs: Iterable[Job], /) -> None:
        self._back.extendleft(jobs)

    def oldest_at(self) -> float:
        return min(job.offered_at for job in self if not job.is_settled)

    def yields_to(self, job: Job) -> Job | None:
        return None

    def settled(self, job: Job) -> None:
        """Nothing is known of each."""

    def sweep(self) -> int:
        return 0

    def _put_back(self) -> int:
        """Those before all others; they are as many as lost batches had."""
        return sum(not job.is_settled for job in self._back)

    def purge(self) -> None:
        self._back = _waiting(self._back)

    def __iter__(self) -> Iterator[Job]:
        raise NotImplementedError


class LifoOnOverload(_Line):
    """First in, first out; the newest first as long as the queue is overloaded.

    That is adaptive LIFO (B. Maurer, "Fail at Scale", ACM Queue 13(8), 2015): who has just come
    gets an answer in time, where otherwise everybody would get one too late. The others time out,
    or are answered when there is room. A queue is overloaded when even the least wait in it has
    been too long for an interval, not when many wait for a moment: so CoDel tells a standing queue
    from a burst (K. Nichols and V. Jacobson, "Controlling Queue Delay", ACM Queue 10(5), 2012;
    RFC 8289). ``service`` says how long a batch takes.
    """

    def __init__(self, service: Callable[[], float]) -> None:
        super().__init__()
        self._service = service
        self._jobs: deque[Job] = deque()
        self._standing_since: float | None = None
        self.is_overloaded = False

    def append(self, job: Job, /) -> None:
        self._look(job.offered_at)
        self._jobs.append(job)

    def _look(self, now: float) -> None:
        oldest = next((job for job in self._jobs if not job.is_settled), None)
        service = self._service()
        limit = max(STANDING_WAIT, STANDING_SERVICES * service)
        if oldest is None or now - oldest.offered_at < limit:
            self._standing_since = None
            self.is_overloaded = False
        elif self._standing_since is None:
            self._standing_since = now
        elif now - self._standing_since >= max(STANDING_INTERVAL, STANDING_BATCHES * service):
            self.is_overloaded = True

    def popleft(self) -> Job:
        if self._back:
            return self._back.popleft()
        return self._jobs.pop() if self.is_overloaded else self._jobs.popleft()

    def __getitem__(self, index: int, /) -> Job:
        if self._back:
            return self._back[0]
        return self._jobs[-1 if self.is_overloaded else 0]

    def __len__(self) -> int:
        return len(self._back) + len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return itertools.chain(self._back, self._jobs)

    def ahead_of(self, job: Job) -> int | None:
        return 0 if self.is_overloaded else None

    def sweep(self) -> int:
        return _sweep(self._jobs, self._jobs.popleft, 0)

    def purge(self) -> None:
        super().purge()
        self._jobs = _waiting(self._jobs)


class Prioritised(_Line):
    """The most urgent first, by ``Job.priority``: 0 before 9, and first come, first served of one.

    Each step of priority is worth ``AGEING`` seconds of waiting, so nobody waits for ever: one of
    priority 9 goes before those of priority 0 that come 45 s later. In a full queue a newcomer
    takes the place of the last one of the least urgent that wait, if these are less urgent than
    itself.
    """

    displaces = True

    def __init__(self) -> None:
        super().__init__()
        self._jobs: list[deque[Job]] = [deque() for _ in range(PRIORITIES)]
        self._ranks = _Ranks()

    def append(self, job: Job, /) -> None:
        self._jobs[job.priority].append(job)
        self._ranks.add(job, _rank(job))

    def _next(self) -> deque[Job]:
        if self._back:
            return self._back
        return min((jobs for jobs in self._jobs if jobs), key=lambda jobs: _rank(jobs[0]))

    def popleft(self) -> Job:
        job = self._next().popleft()
        self._ranks.drop(job)
        return job

    def __getitem__(self, index: int, /) -> Job:
        return self._next()[0]

    def __len__(self) -> int:
        return len(self._back) + sum(map(len, self._jobs))

    def __iter__(self) -> Iterator[Job]:
        return itertools.chain(self._back, *self._jobs)

    def ahead_of(self, job: Job) -> int | None:
        return self._put_back() + self._ranks.up_to(_rank(job))

    def settled(self, job: Job) -> None:
        self._ranks.drop(job)

    def sweep(self) -> int:
        return sum(_sweep(jobs, jobs.pop, -1) for jobs in self._jobs)

    def yields_to(self, job: Job) -> Job | None:
        for jobs in self._jobs[: job.priority : -1]:
            for each in reversed(jobs):
                if not each.is_settled:
                    return each
        return None

    def purge(self) -> None:
        super().purge()
        self._jobs = [_waiting(jobs) for jobs in self._jobs]


def _rank(job: Job) -> float:
    return job.offered_at + AGEING * job.priority


class EarliestDeadline(_Line):
    """The one first whose deadline is the earliest; without one, as though it had ``patience``."""

    def __init__(self, patience: float = NOMINAL_PATIENCE) -> None:
        super().__init__()
        self._patience = patience
        self._numbers = itertools.count()
        self._jobs: list[tuple[float, int, Job]] = []
        self._ranks = _Ranks()

    def _due(self, job: Job) -> float:
        return job.offered_at + self._patience if job.deadline is None else job.deadline

    def append(self, job: Job, /) -> None:
        due = self._due(job)
        heapq.heappush(self._jobs, (due, next(self._numbers), job))
        self._ranks.add(job, due)

    def popleft(self) -> Job:
        if self._back:
            return self._back.popleft()
        job = heapq.heappop(self._jobs)[2]
        self._ranks.drop(job)
        return job

    def __getitem__(self, index: int, /) -> Job:
        return self._back[0] if self._back else self._jobs[0][2]

    def __len__(self) -> int:
        return len(self._back) + len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return itertools.chain(self._back, (job for _, _, job in sorted(self._jobs)))

    def ahead_of(self, job: Job) -> int | None:
        return self._put_back() + self._ranks.up_to(self._due(job))

    def settled(self, job: Job) -> None:
        self._ranks.drop(job)

    def purge(self) -> None:
        super().purge()
        self._jobs = [entry for entry in self._jobs if not entry[2].is_settled]
        heapq.heapify(self._jobs)


def _waiting(jobs: Iterable[Job]) -> deque[Job]:
    return deque(job for job in jobs if not job.is_settled)


def _sweep(jobs: deque[Job], pop: Callable[[], Job], end: int) -> int:
    swept = 0
    while jobs and jobs[end].is_settled:
        pop()
        swept += 1
    return swept


def priority_of(headers: Mapping[str, str], otherwise: int) -> int:
    """What a request's headers say of its priority; raises BadRequestError for nonsense."""
    text = next((text for name, text in headers.items() if name.lower() == PRIORITY_HEADER), None)
    if text is None:
        return otherwise
    if len(text) != 1 or text not in "0123456789":
        raise BadRequestError(
            "X-Request-Priority must be a digit from 0, the most urgent, to 9, the least."
        )
    return int(text)


def make_line(discipline: str, service: Callable[[], float], queue_timeout: float) -> Line:
    """An empty line. ``service`` tells how long a batch takes; ``queue_timeout`` 0 is no limit."""
    match discipline:
        case "lifo_on_overload":
            return LifoOnOverload(service)
        case "priority":
            return Prioritised()
        case "deadline":
            return EarliestDeadline(queue_timeout or NOMINAL_PATIENCE)
        case _:
            return Fifo()
