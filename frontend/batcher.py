"""The queue of one model version, and when its next batch leaves. Pure: time is an argument.

A batch is formed only when a worker can take it. ``fixed`` waits as TorchServe does: up to
``max_batch_delay`` from the moment at which a worker could have taken the first request.
``adaptive`` waits only while another request is expected before the wait costs more than it saves;
``Arrivals`` explains how it knows.
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


@dataclass(slots=True)
class Arrivals:
    """What the recent past says about the next request.

    Clients mostly answer an answer with their next request, so the number of requests in the house
    (waiting or running) just before a batch is answered tells how many clients there are: ``crowd``
    follows it. As long as fewer are in the house than that, the others are on their way; once all
    are there, nobody else is expected and waiting is in vain. How long to hold out for the next
    one, after the last arrival or the last answers, is read from ``gap``, the usual time between
    arrivals that meet a waiting request, and from ``service``, the time that a batch takes: waiting
    costs each of the n waiting requests the wait and saves the newcomer about one service time, so
    more than ``service / n`` never pays.

    With one client the crowd is one: nothing waits, whatever the batch size.
    """

    crowd: float = 0.0
    gap: float | None = None
    service: float | None = None
    _arrival: float = NOW
    _stirred: float = NOW

    def arrived(self, now: float, waiting: int) -> None:
        """A request came and met ``waiting`` others in the queue."""
        if waiting and self._arrival != NOW:
            gap = now - self._arrival
            self.gap = gap if self.gap is None else self.gap + (gap - self.gap) / 8
        self._arrival = self._stirred = now

    def answered(self, now: float, seconds: float, crowd: int) -> None:
        """A batch took ``seconds``; ``crowd`` requests, its own included, were in the house."""
        self._stirred = now
        if crowd >= self.crowd:
            self.crowd = float(crowd)
        else:
            self.crowd -= (self.crowd - crowd) / 4
        self.service = (
            seconds if self.service is None else self.service + (seconds - self.service) / 8
        )

    def hold_until(self, waiting: int, running: int, workers: int) -> float:
        """The time up to which ``waiting`` requests had better wait for another."""
        expected = round(self.crowd)
        share = ceil(expected / max(workers, 1))
        if waiting + running >= expected or waiting >= share:
            return NOW
        if self.gap is None or self.service is None:
            return NOW
        return self._stirred + min(4 * self.gap, self.service / waiting)


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
        return self._jobs.yields_to(job)

    def offer(self, job: Job, now: float) -> bool:
        """Queue ``job``; False when the queue is full."""
        if len(self._jobs) - self._discarded >= self.capacity:
            return False
        if self.batch_size > 1:
            self.arrivals.arrived(now, len(self))
        self._jobs.append(job)
        return True

    def put_back(self, jobs: list[Job]) -> None:
        """Jobs of a lost batch return to the front, in their order, whatever the capacity."""
        self._jobs.extendleft(reversed(jobs))

    def discard(self) -> None:
        """One queued job was settled from outside; it will be skipped."""
        self._discarded += 1
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
        if (
            waiting >= min(self.batch_size, self.capacity)
            or self.max_batch_delay <= 0
            or head.must_travel_alone
        ):
            return NOW
        if self._adaptive:
            hold = self.arrivals.hold_until(waiting, running, workers)
            return min(hold, self._jobs.oldest_at() + self.max_batch_delay)
        if self._aggregating_since is None:
            self._aggregating_since = now
        return self._aggregating_since + self.max_batch_delay

    def answered(self, now: float, seconds: float, running: int) -> None:
        """A batch was answered ``seconds`` after it left; ``running`` still counts its jobs."""
        if self._learns:
            self.arrivals.answered(now, seconds, len(self) + running)

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
        while len(batch) < self.batch_size:
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
