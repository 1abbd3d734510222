"""Would a target for the latency help adaptive batching? In simulation: no server, no clock.

    python benchmarks/latency_target.py [--requests N] [--seed N] [--only TEXT]

The model's batch size is a generous 64. Prints, for targets of 2, 5 and 20 times what one request
takes by itself, the part of all requests that is answered within the target, and the mean latency
in ms. flambeau has no such setting; this is what one could do. ``sizes``: a batch has at most as
many as let its oldest be answered in time, or where that is hopeless, whoever comes right after it
left; but enough to keep up. ``aside``: also, who cannot be answered in time any more has what room
those leave who can.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from math import ceil, floor, inf
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

from simulation import KEY, WARM_UP, Policy, Simulation, Workload
from workloads import SERVICES, closed_loop, poisson

from flambeau import FlambeauError
from flambeau.frontend.batcher import AMPLE, ModelQueue

if TYPE_CHECKING:
    from flambeau.frontend.jobs import Job

LARGEST = 64
QUEUE = 100
MULTIPLES = (2, 5, 20)
KINDS: list[tuple[str, float]] = [
    *(("open", load) for load in (0.1, 0.3, 0.6, 0.8, 0.95, 1.2, 2.0)),
    *(("bursts", load) for load in (0.1, 0.3, 0.6)),
    *(("clients", count) for count in (4, 16, 64, 128)),
    ("thinking", 64),
]


class TargetQueue(ModelQueue):
    """A queue that knows by when its requests had better be answered."""

    target = inf
    aside = False

    def __init__(self) -> None:
        self._late: deque[Job] = deque()
        self._now = 0.0
        super().__init__(QUEUE, LARGEST, 0.1, adaptive=True)

    def __len__(self) -> int:
        return super().__len__() + len(self._late)

    def offer(self, job: Job, now: float) -> bool:
        self._now = now
        return len(self) < self.capacity and super().offer(job, now)

    def due(self, now: float, running: int, workers: int) -> float | None:
        self._now = now
        self._set_aside()
        return super().due(now, running, workers)

    def answered(self, now: float, seconds: float, running: int, size: int) -> None:
        self._now = now
        super().answered(now, seconds, running, size)

    def take(self, *, past_suspects: bool = False) -> list[Job]:
        self._set_aside()
        most = min(self._most or self.batch_size, self.batch_size)
        self._most = most = max(1, min(most, self._fitting()))
        batch = super().take(past_suspects=past_suspects)
        while self._late and len(batch) < most:
            batch.append(self._late.popleft())
        return batch

    def _line(self) -> tuple[float, float]:
        """Overhead and slope of the time that a batch takes."""
        learnt = self.arrivals
        if learnt._variance <= 0.0 or learnt._covariance <= 0.0:
            return learnt.overhead, 0.0
        return learnt.overhead, learnt._covariance / learnt._variance

    def _fitting(self) -> int:
        overhead, slope = self._line()
        if slope <= 0.0 or self.target == inf:
            return self.batch_size
        left = self.target - (self._now - self._jobs.oldest_at())
        size = floor((left - overhead) / slope)
        if size < 1:
            size = floor((self.target / 2 - overhead) / slope)
        load = self.arrivals._together * slope
        time = self.arrivals._interval * self._workers
        if size < 1 or load >= time:
            return self.batch_size
        return max(size, ceil(AMPLE * overhead / slope * load / (time - load)))

    def _set_aside(self) -> None:
        if not self.aside:
            return
        takes = sum(self._line())
        while len(self._jobs) and self._now + takes > self._jobs.oldest_at() + self.target:
            self._late.append(self._jobs.popleft())
        while self._late and not self._jobs:
            for _ in range(min(len(self._late), self.batch_size)):
                self._jobs.append(self._late.popleft())


class Refusing(Simulation):
    """A simulation whose queue is bounded: whoever is refused was never answered."""

    def __init__(self, workload: Workload, queue: ModelQueue) -> None:
        super().__init__(workload, Policy(queue.batch_size, adaptive=True))
        self.fleet.versions[KEY].queue = queue

    def _comes(self, now: float, client: int | None = None) -> None:
        try:
            super()._comes(now, client)
        except FlambeauError:
            self._answered.append((-inf, now))
            if client is not None:
                self._thinks_then_asks(client, now)

    def latencies(self) -> list[float]:
        """Seconds of each that counts."""
        self.run()
        return [end - start for start, end in self._answered[int(len(self._answered) * WARM_UP) :]]


def workload(kind: str, amount: float, service: str, count: int, seed: int) -> Workload:
    """``amount``: the part of the capacity that a worker has with full batches, or of clients."""
    seconds = SERVICES[service][0]
    draw = random.Random(f"{kind} {amount} {service} {seed}")
    rate = amount * LARGEST / seconds(LARGEST)
    match kind:
        case "open":
            name, times = f"Poisson {amount:g}", list(poisson(rate, count, draw))
        case "bursts":
            starts = poisson(rate / 40, count // 40 + 1, draw)
            times = sorted(start + draw.random() * 0.002 for start in starts for _ in range(40))
            name, times = f"bursts of 40, {amount:g}", times[:count]
        case _:
            return closed_loop(int(amount), 0.05 * (kind == "thinking"), service, count, seed)
    return Workload(f"{name}, {service}", seconds, [0.0] * count, times=times)


def rows(asked: tuple[str, float, str], count: int, seed: int) -> list[str]:
    """Lines of the table for one workload: how many are answered in time, and the mean in ms."""
    kind, amount, service = asked
    served = workload(kind, amount, service, count, seed)
    alone = served.seconds(1)
    plain = [
        Refusing(served, ModelQueue(QUEUE, size, 0.1, adaptive=True)).latencies()
        for size in (LARGEST, 8)
    ]
    lines = []
    for multiple in MULTIPLES:
        made = list(plain)
        for aside in (False, True):
            queue = TargetQueue()
            queue.target, queue.aside = multiple * alone, aside
            made.append(Refusing(served, queue).latencies())
        cells = [_cell(latencies, multiple * alone) for latencies in made]
        lines.append(f"| {served.name} | {multiple} | {' | '.join(cells)} |")
    return lines


def _cell(latencies: list[float], target: float) -> str:
    answered = [each for each in latencies if each < inf]
    within = sum(each <= target for each in answered) / len(latencies)
    mean = sum(answered) / max(1, len(answered))
    return f"{within:.1%}, {mean * 1000:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4000, help="per workload")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="services whose name has this in it")
    asked = parser.parse_args()
    services = [name for name in ("linear", "steep", "constant") if asked.only in name]
    todo = [(*kind, service) for service in services for kind in KINDS]
    print("| workload | target / alone | batch size 64 | 8 | 64, sizes | 64, sizes and aside |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for lines in pool.map(partial(rows, count=asked.requests, seed=asked.seed), todo):
            print("\n".join(lines), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
