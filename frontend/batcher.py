"""The queue of one model version, and when its next batch leaves. Pure: time is an argument.

A batch is formed only when a worker can take it. ``fixed`` waits as TorchServe does: up to
``max_batch_delay`` from the moment at which a worker could have taken the first request.
``adaptive`` waits only while another request is expected before the wait costs more than it saves;
``Arrivals`` explains how it knows. Nor does it take all who are there: where a batch costs hardly
less than its requests one by one, it takes only as many as make it worth its overhead. And where
several workers are, it leaves a share to each: who takes all makes everybody wait for its long
batch, while the next worker becomes free at once. A ``latency_target`` limits it further.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from .arrivals import NOW, Arrivals
from .disciplines import FIFO, Fifo, Line, make_line
from .latency_target import InTime, largest_in_time, largest_when_full

if TYPE_CHECKING:
    from .jobs import Job


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
        latency_target: float = 0.0,
    ) -> None:
        self.arrivals = Arrivals()
        self._most: int | None = None
        """What the next batch may have at most, where others are to have the rest."""
        self._workers = 1
        self._jobs: Line = Fifo()
        self._in_time: InTime | None = None
        """The line, where it is one that looks after a target."""
        self._discipline = FIFO
        self._discarded = 0
        self.resize(
            capacity,
            batch_size,
            max_batch_delay,
            adaptive=adaptive,
            discipline=discipline,
            queue_timeout=queue_timeout,
            latency_target=latency_target,
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
        latency_target: float = 0.0,
    ) -> None:
        """Other limits from now on; what waits stays, whatever the capacity."""
        self.capacity = capacity
        self.batch_size = batch_size
        self.max_batch_delay = max_batch_delay
        self._adaptive = adaptive
        self._target = latency_target if adaptive else 0.0
        self._learns = batch_size > 1 or discipline != FIFO or self._target > 0.0
        looks_at_time = self._target > 0.0 and discipline == FIFO
        if discipline != self._discipline or looks_at_time != (self._in_time is not None):
            self._in_time = InTime() if looks_at_time else None
            line = make_line(discipline, self._service, queue_timeout)
            self._change_line(line if self._in_time is None else self._in_time)
            self._discipline = discipline

    def _change_line(self, line: Line) -> None:
        waiting = self.waiting()
        self._jobs, self._discarded = line, 0
        line.extendleft(job for job in reversed(waiting) if job.losses)
        for job in sorted(waiting, key=lambda job: job.offered_at):
            if not job.losses:
                line.append(job)

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
        return len(self) if ahead is None else min(ahead, len(self))

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

    def take(self, now: float = NOW, *, past_suspects: bool = False) -> list[Job]:
        """Cut the next batch from the front: at most ``batch_size`` jobs, a retried one alone.

        ``past_suspects``: jobs of lost batches at the front stay there; the batch may be empty.
        """
        self._aggregating_since = None
        held: list[Job] = []
        while past_suspects and (job := self.head()) is not None and job.losses:
            held.append(self._jobs.popleft())
        batch = self._cut(self._largest(now))
        self._jobs.extendleft(reversed(held))
        return batch

    def _largest(self, now: float) -> int:
        """How many the next batch may have."""
        most, self._most = min(self._most or self.batch_size, self.batch_size), None
        if self._target:
            # Who is late is put aside whatever the size.
            most = int(min(most, self._in_target(now)))
        if most == 1 or not self._adaptive:
            return most
        return self.arrivals.worthwhile(most, self._workers)

    def _in_target(self, now: float) -> float:
        """How many may leave now for the sake of the target, whoever is late put aside."""
        learnt, target = self.arrivals, self._target
        is_full = len(self) >= self.capacity
        size = largest_when_full(learnt, target, self.batch_size) if is_full else 1.0
        takes = learnt.overhead + (learnt.slope * size if learnt.slope else 0.0)
        if self._in_time is not None and takes < inf:
            self._in_time.set_aside(now + takes - target)
        head = self.head()
        if is_full or head is None:
            return size
        return largest_in_time(learnt, target, head.offered_at + target - now, self._workers)

    def _cut(self, most: int) -> list[Job]:
        batch: list[Job] = []
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
