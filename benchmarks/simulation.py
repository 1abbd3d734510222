"""One model version under simulated load: the real fleet and its batcher, no sockets, no clock.

Nothing is drawn while a policy is at work, so every policy meets the same requests: the n-th comes
at the same time (in a closed loop: its client takes as long to think) and takes as long.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flambeau.frontend.arrivals import NOW
from flambeau.frontend.batcher import ModelQueue
from flambeau.frontend.commands import Command, Resolve, Send
from flambeau.frontend.fleet import Fleet
from flambeau.frontend.jobs import Job
from flambeau.frontend.version_spec import VersionSpec
from flambeau.worker.messages import Answer, Load, Ping, Result, Work

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = ("m", "1.0")
CREDITS = 2
"""Batches that a worker holds, as worker/main.py says."""
WARM_UP = 0.1
"""The part of the requests that does not count: whoever learns has learnt by then."""


@dataclass(frozen=True)
class Policy:
    """When a batch leaves. With ``enough`` it does as soon as so many wait, though more would fit:
    no such setting exists, it is what an oracle may do.
    """

    batch_size: int
    delay: float = 0.1
    adaptive: bool = False
    enough: int | None = None


@dataclass(frozen=True)
class Workload:
    """Requests to come: at ``times``, or those of clients that think before they ask again.

    ``thinks`` has one list for each client. A batch takes
    ``seconds`` by its size, and the longest of its requests' ``extras``.
    """

    name: str
    seconds: Callable[[int], float]
    extras: list[float]
    times: list[float] = field(default_factory=list)
    thinks: list[list[float]] = field(default_factory=list)
    workers: int = 1
    largest: int = 8

    @property
    def count(self) -> int:
        return len(self.extras)


@dataclass(frozen=True)
class Outcome:
    """What a policy made of a workload: latencies in seconds, and how much it answered."""

    mean: float
    p50: float
    p99: float
    per_second: float
    mean_batch: float


class EnoughQueue(ModelQueue):
    """A queue that does not wait for more than ``enough``."""

    enough = 1

    def due(self, now: float, running: int, workers: int) -> float | None:
        if self.head() is not None and len(self) >= self.enough:
            return NOW
        return super().due(now, running, workers)


class Simulation:
    """A fleet with one version; time is that of the next event."""

    def __init__(self, workload: Workload, policy: Policy) -> None:
        self._workload = workload
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()
        self._at_work: dict[str, deque[Work]] = {}
        self._clients: dict[Job, int] = {}
        self._thinks = [iter(thinks) for thinks in workload.thinks]
        self._asked = 0
        self._answered: list[tuple[float, float]] = []
        self._batches = 0
        self.fleet = Fleet(lambda spec: None, lambda: 1.0, _load)
        self.fleet.add(
            VersionSpec(
                KEY,
                "dir",
                "h.py",
                batch_size=policy.batch_size,
                max_batch_delay=policy.delay,
                adaptive_batching=policy.adaptive,
                queue_size=workload.count,
                response_timeout=1e6,
            )
        )
        if policy.enough is not None:
            queue = EnoughQueue(workload.count, policy.batch_size, policy.delay, adaptive=False)
            queue.enough = policy.enough
            self.fleet.versions[KEY].queue = queue

    def _at(self, when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), what))

    def run(self) -> Outcome:
        """Serve the whole workload."""
        self._boot()
        for time in self._workload.times:
            self._at(time, self._comes)
        for client in range(len(self._thinks)):
            self._thinks_then_asks(client, 0.0)
        while len(self._answered) < self._workload.count:
            when = self._events[0][0] if self._events else math.inf
            alarm = self.fleet.next_alarm
            if alarm is not None and alarm <= when:
                self._carry_out(self.fleet.tick(alarm), alarm)
            else:
                heapq.heappop(self._events)[2](when)
        return self._outcome()

    def _boot(self) -> None:
        workers = self._workload.workers
        self._carry_out(self.fleet.scale(KEY, workers, workers, 0.0), 0.0)
        for identity in list(self.fleet.workers):
            self._at_work[identity] = deque()
            self._carry_out(self.fleet.hello(identity, 1, 4242, 0.0), 0.0)
            self._carry_out(self.fleet.loaded(identity, CREDITS, 0.0), 0.0)

    def _comes(self, now: float, client: int | None = None) -> None:
        if self._asked == self._workload.count:
            return
        job = Job(str(self._asked), {}, [], now)
        self._asked += 1
        if client is not None:
            self._clients[job] = client
        self._carry_out(self.fleet.offered(KEY, job, now), now)

    def _thinks_then_asks(self, client: int, now: float) -> None:
        pause = next(self._thinks[client], None)
        if pause is not None:
            self._at(now + pause, lambda at: self._comes(at, client))

    def _carry_out(self, commands: list[Command], now: float) -> None:
        for command in commands:
            match command:
                case Send(identity=identity, message=Work() as work):
                    at_work = self._at_work[identity]
                    at_work.append(work)
                    if len(at_work) == 1:
                        self._begin(identity, now)
                case Send(identity=identity, message=Ping()):
                    self._carry_out(self.fleet.pong(identity, now), now)
                case Resolve(job=job):
                    # One that had to leave the queue is never answered.
                    is_refused = job.outcome is not None and job.outcome.error is not None
                    self._answered.append((-math.inf if is_refused else job.offered_at, now))
                    if job in self._clients:
                        self._thinks_then_asks(self._clients.pop(job), now)
                case _:
                    pass

    def _begin(self, identity: str, now: float) -> None:
        """A worker takes up the first of its batches."""
        jobs = self._at_work[identity][0].requests
        slowest = max(self._workload.extras[int(job.id)] for job in jobs)
        seconds = self._workload.seconds(len(jobs)) + slowest
        self._batches += 1
        self._at(now + seconds, lambda at: self._is_done(identity, seconds, at))

    def _is_done(self, identity: str, seconds: float, now: float) -> None:
        work = self._at_work[identity].popleft()
        if self._at_work[identity]:
            self._begin(identity, now)
        answers = [Answer(200) for _ in work.requests]
        self._carry_out(
            self.fleet.result(identity, Result(work.batch_id, seconds, answers), now), now
        )

    def _outcome(self) -> Outcome:
        assert len(self._answered) == self._workload.count, "somebody was forgotten"
        first = int(len(self._answered) * WARM_UP)
        counted = self._answered[first:]
        took = sorted(end - start for start, end in counted)
        span = counted[-1][1] - self._answered[first - 1][1]
        return Outcome(
            sum(took) / len(took),
            took[len(took) // 2],
            took[int(len(took) * 0.99)],
            len(counted) / span,
            len(self._answered) / self._batches,
        )


def _load(spec: VersionSpec, device: str | None) -> Load:
    return Load(*spec.key, spec.model_dir, spec.handler, spec.batch_size)


def simulate(workload: Workload, policy: Policy) -> Outcome:
    """What ``policy`` makes of ``workload``."""
    return Simulation(workload, policy).run()
