"""The queue of one model version, and when its next batch leaves. Pure: time is an argument.

A batch is formed only when a worker can take it. ``fixed`` waits as TorchServe does: up to
``max_batch_delay`` from the moment at which a worker could have taken the first request.
``adaptive`` waits only while another request is expected before the wait costs more than it saves;
``Arrivals`` explains how it knows. Nor does it take all who are there: where a batch costs hardly
less than its requests one by one, it takes only as many as make it worth its overhead. And where
several workers are, it leaves a share to each: who takes all makes everybody wait for its long
batch, while the next worker becomes free at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from .disciplines import FIFO, Fifo, Line, make_line

if TYPE_CHECKING:
    from .jobs import Job

NOW = float("-inf")
"""A due time that has always passed."""


PATIENCE = 16
"""Usual gaps of silence after which nobody else is expected. A gap is seldom so long by chance: the
last of a crowd is let down, and waits for a whole batch, less than once in a hundred times."""
WORTH = 0.5
"""The part of a batch's overhead up to which idling for others may cost."""
MEMORY = 16
"""About how many of the last gaps and batches count."""
PACE_MEMORY = 32
"""The same for the pace at which requests are answered, which varies more."""
SILENCE = 4
"""Usual batches of silence that count of a longer one: the pace is that of busy times."""
EXPLAINED = 0.5
"""The part of the variance of the batches' times that their sizes must explain to be believed."""
AMPLE = 2
"""Times the least size at which a batch pays for its overhead on average. It suits the p99."""


@dataclass(slots=True)
class Arrivals:
    """What the recent past says about the next request, and what a batch costs.

    Clients mostly answer an answer with their next request, so the number of requests in the house
    (waiting or running) just before a batch is answered tells how many clients there are: ``crowd``
    follows it. As long as fewer are in the house than that, others may be on their way; once all
    are there, nobody else is expected and waiting is in vain. When it was, they have left.

    Whether they come soon is seen whenever the question arises, whatever was done then: ``gap`` is
    the usual time until the next arrival, where longer than a batch takes counts as that. Clients
    that ask again at once make it short. Where requests come by themselves it is long, and then
    who waits for more makes everybody late: the next batch forms while this one is at work.

    What a fuller batch saves is the ``overhead``, the part of a batch's time that does not grow
    with its size. It is told from how ``service``, the time that a batch takes, goes with the size:
    the line through both, with older batches counting ever less. Gathering a worker's share of the
    crowd takes it about a gap for each: that must cost less than a part of the overhead. And a
    wait costs each of the n waiting requests itself, so more than ``service / n`` never pays.

    With one client the crowd is one: nothing waits, whatever the batch size.

    The same line says how many a batch had better have at most. A batch of ``m`` that leaves the
    others behind is done ``slope`` earlier for each of them, and those behind are later by an
    overhead, as is whoever comes until the queue is empty again. With ``load``, the part of the
    time that work without overheads takes, that pays from ``overhead / slope`` times ``(1 + load) /
    (1 - load)`` requests on; of several workers one becomes free sooner, and fewer are enough. Not
    so few that too little is answered: from ``load / (1 - load)`` times that ratio the workers keep
    up.
    """

    crowd: float = 0.0
    gap: float | None = None
    service: float | None = None
    _size: float = 0.0
    _variance: float = 0.0
    _covariance: float = 0.0
    _spread: float = 0.0
    _interval: float = 0.0
    _together: float = 0.0
    _answered_at: float = NOW
    _asked: float | None = None
    _stirred: float = NOW

    @property
    def overhead(self) -> float:
        """Seconds that a batch takes whatever its size; all, until sizes have differed."""
        service = self.service or 0.0
        if self._variance <= 0.0 or self._covariance <= 0.0:
            return service
        return max(0.0, service - self._covariance / self._variance * self._size)

    def arrived(self, now: float) -> None:
        """A request came."""
        if self._asked is not None and self.service is not None:
            gap = min(now - self._asked, self.service)
            self.gap = gap if self.gap is None else self.gap + (gap - self.gap) / MEMORY
        self._asked = None
        self._stirred = now

    def answered(self, now: float, seconds: float, crowd: int, size: int) -> None:
        """A batch of ``size`` took ``seconds``; ``crowd``, its own included, were in the house."""
        interval, self._answered_at = now - self._answered_at, now
        self._stirred = now
        if crowd >= self.crowd:
            self.crowd = float(crowd)
        else:
            self.crowd -= (self.crowd - crowd) / 4
        if self.service is None:
            self.service, self._size = seconds, float(size)
            return
        # Both begin at 0 and grow alike, so what one is by the other is right from the start.
        self._interval += (min(interval, SILENCE * self.service) - self._interval) / PACE_MEMORY
        self._together += (size - self._together) / PACE_MEMORY
        larger, longer = size - self._size, seconds - self.service
        self._size += larger / MEMORY
        self.service += longer / MEMORY
        if abs(larger) > 0.01:
            # Otherwise the sizes are always the same, and what others taught is not to fade.
            kept = 1 - 1 / MEMORY
            self._variance = kept * (self._variance + larger * larger / MEMORY)
            self._covariance = kept * (self._covariance + larger * longer / MEMORY)
            self._spread = kept * (self._spread + longer * longer / MEMORY)

    def share(self, waiting: int, running: int, workers: int) -> int:
        """How many of those in the house, or expected there, each worker gets."""
        return ceil(max(waiting + running, round(self.crowd)) / workers)

    def worthwhile(self, most: int, workers: int) -> int:
        """How many of ``most`` that could be had a batch should have."""
        variance, covariance = self._variance, self._covariance
        if covariance <= 0.0 or covariance * covariance < EXPLAINED * variance * self._spread:
            return most
        slope = covariance / variance
        load = self._together * slope
        time = self._interval * workers
        if load >= time:
            return most
        load /= time
        pays = max((1 + load) / workers, load) / (1 - load)
        return min(most, max(1, ceil(AMPLE * pays * self.overhead / slope)))

    def hold_until(self, now: float, waiting: int, running: int, workers: int) -> float:
        """The time up to which ``waiting`` requests had better wait for another."""
        expected = round(self.crowd)
        if waiting + running >= expected:
            return NOW
        share = ceil(expected / workers) if workers > 1 else expected
        if waiting >= share:
            return NOW
        if self._asked is None:
            self._asked = now
        if self.gap is None or self.service is None or self.gap * share > WORTH * self.overhead:
            return NOW
        until = self._stirred + min(PATIENCE * self.gap, self.service / waiting)
        if until <= now:
            self.crowd = float(waiting + running)
        return until


class ModelQueue:
    """A bounded queue with batches cut from the front; ``discipline`` says who is there.

    Jobs that were settled while they waited (the client left) are skipped; they count no more from
    the moment of ``discard``. A job of a lost batch goes back to the front and travels alone.
    """

    def __init__(
        self,
        capacity: int,
        batch_size: int,
        max_batch_delay: float,
        *,
        adaptive: bool,
        discipline: str = FIFO,
        queue_timeout: float = 0.0,
    ) -> None:
        self.arrivals = Arrivals()
        self._most: int | None = None
        """What the next batch may have at most, where others are to have the rest."""
        self._workers = 1
        self._jobs: Line = Fifo()
        self._discipline = FIFO
        self._discarded = 0
        self.resize(
            capacity,
            batch_size,
            max_batch_delay,
            adaptive=adaptive,
            discipline=discipline,
            queue_timeout=queue_timeout,
        )
        self._aggregating_since: float | None = None

    def resize(
        self,
        capacity: int,
        batch_size: int,
        max_batch_delay: float,
        *,
        adaptive: bool,
        discipline: str = FIFO,
        queue_timeout: float = 0.0,
    ) -> None:
        """Other limits from now on; what waits stays, whatever the capacity."""
        self.capacity = capacity
        self.batch_size = batch_size
        self.max_batch_delay = max_batch_delay
        self._adaptive = adaptive
        self._learns = batch_size > 1 or discipline != FIFO
        if discipline != self._discipline:
            waiting = self.waiting()
            self._discipline, self._discarded = discipline, 0
            self._jobs = make_line(discipline, self._service, queue_timeout)
            self._jobs.extendleft(job for job in reversed(waiting) if job.losses)
            for job in sorted(waiting, key=lambda job: job.offered_at):
                if not job.losses:
                    self._jobs.append(job)

    def _service(self) -> float:
        return self.arrivals.service or 0.0

    def __len__(self) -> int:
        return len(self._jobs) - self._discarded

    def __repr__(self) -> str:
        return f"<ModelQueue {len(self)}/{self.capacity}>"

    @property
    def remaining(self) -> int:
        """How many more jobs may wait."""
        return max(0, self.capacity - len(self))

    @property
    def displaces(self) -> bool:
        """One that waits may have to give way to a newcomer."""
        return self._jobs.displaces

    @property
    def refuses_all(self) -> bool:
        """Whoever comes now is refused."""
        return len(self._jobs) - self._discarded >= self.capacity and not self._jobs.displaces

    def oldest_wait(self, now: float) -> float:
        """Seconds for which the one has waited that has waited longest; 0 where nobody does."""
        return 0.0 if self.head() is None else max(0.0, now - self._jobs.oldest_at())

    def ahead_of(self, job: Job) -> int:
        """How many of those that wait would go before ``job`` if it came now."""
        ahead = self._jobs.ahead_of(job)
        return len(self) if ahead is None else ahead

    def yields_to(self, job: Job) -> Job | None:
        """Who had better leave the full queue for ``job``, which is more urgent."""
        self._discarded -= self._jobs.sweep()
        return self._jobs.yields_to(job)

    def offer(self, job: Job, now: float) -> bool:
        """Queue ``job``; False when the queue is full."""
        if len(self._jobs) - self._discarded >= self.capacity:
            return False
        if self.batch_size > 1:
            self.arrivals.arrived(now)
        if self._discarded:
            self._discarded -= self._jobs.sweep()
        self._jobs.append(job)
        return True

    def put_back(self, jobs: list[Job]) -> None:
        """Jobs of a lost batch return to the front, in their order, whatever the capacity."""
        self._jobs.extendleft(reversed(jobs))

    def discard(self, job: Job) -> None:
        """``job``, which waits, was settled from outside; it will be skipped."""
        self._discarded += 1
        self._jobs.settled(job)
        if not len(self):
            self._aggregating_since = None
        # Jobs whose clients gave up must not pile up behind a worker that is stuck.
        if self._discarded > 64 and self._discarded > len(self._jobs) // 2:
            self._jobs.purge()
            self._discarded = 0

    def head(self) -> Job | None:
        """The job that is next."""
        while self._jobs and self._jobs[0].is_settled:
            self._jobs.popleft()
            self._discarded -= 1
        return self._jobs[0] if self._jobs else None

    def due(self, now: float, running: int, workers: int) -> float | None:
        """When the next batch should leave, given that a worker is free; None for an empty queue.

        ``running`` jobs are in the hands of the version's ``workers`` workers.
        """
        head = self.head()
        if head is None:
            self._aggregating_since = None
            return None
        waiting = len(self)
        self._workers = workers
        divides = self._adaptive and workers > 1
        self._most = self.arrivals.share(waiting, running, workers) if divides else None
        if (
            waiting >= min(self.batch_size, self.capacity)
            or self.max_batch_delay <= 0
            or head.must_travel_alone
        ):
            return NOW
        if self._adaptive:
            hold = self.arrivals.hold_until(now, waiting, running, workers)
            return min(hold, self._jobs.oldest_at() + self.max_batch_delay)
        if self._aggregating_since is None:
            self._aggregating_since = now
        return self._aggregating_since + self.max_batch_delay

    def answered(self, now: float, seconds: float, running: int, size: int) -> None:
        """A batch of ``size`` took ``seconds``; ``running`` still counts its jobs."""
        if self._learns:
            self.arrivals.answered(now, seconds, len(self) + running, size)

    def take(self, *, past_suspects: bool = False) -> list[Job]:
        """Cut the next batch from the front: at most ``batch_size`` jobs, a retried one alone.

        ``past_suspects``: jobs of lost batches at the front stay there; the batch may be empty.
        """
        self._aggregating_since = None
        held: list[Job] = []
        while past_suspects and (job := self.head()) is not None and job.losses:
            held.append(self._jobs.popleft())
        batch = self._cut()
        self._jobs.extendleft(reversed(held))
        return batch

    def _cut(self) -> list[Job]:
        batch: list[Job] = []
        most, self._most = min(self._most or self.batch_size, self.batch_size), None
        if most > 1 and self._adaptive:
            most = self.arrivals.worthwhile(most, self._workers)
        while len(batch) < most:
            job = self.head()
            if job is None or (batch and job.must_travel_alone):
                break
            batch.append(self._jobs.popleft())
            if job.must_travel_alone:
                break
        return batch

    def waiting(self) -> list[Job]:
        """The jobs that wait."""
        return [job for job in self._jobs if not job.is_settled]
