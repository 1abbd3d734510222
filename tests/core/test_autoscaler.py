"""The number of workers follows the load: soon up, slowly down, and never to and fro."""

from __future__ import annotations

import heapq
import random
from collections import deque
from itertools import pairwise

import pytest

from flambeau.frontend.autoscaler import LOOK_EVERY, UP_AFTER, Autoscaler, Observation

STARTS_IN = 3.0
PATIENCE = 20.0
MAXIMUM = 8


class House:
    """A queue and workers: requests arrive ``rate(now)`` times per second, each takes
    ``service()``.
    """

    def __init__(self, rate, service, workers: int = 1, seed: int = 1) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.rate, self.service = rate, service
        self.workers = workers
        self.starting: list[float] = []
        self.queue: deque[float] = deque()
        self.busy: list[float] = []
        self.next_arrival = 0.0
        self.scaler = Autoscaler(0.1, PATIENCE)
        self.changes: list[tuple[float, int]] = []
        self.waits: list[tuple[float, float]] = []

    def run(self, until: float) -> None:
        while self.now < until:
            end = self.now + LOOK_EVERY
            self._serve(end)
            self.now = end
            self.starting, there = (
                [at for at in self.starting if at > end],
                [at for at in self.starting if at <= end],
            )
            self.workers += len(there)
            self._look()

    def _serve(self, end: float) -> None:
        while True:
            ends = self.busy[0] if self.busy else float("inf")
            at = min(self.next_arrival, ends)
            if at > end:
                return
            if ends <= self.next_arrival:
                heapq.heappop(self.busy)
            else:
                self.queue.append(at)
                self.next_arrival = at + self.random.expovariate(max(self.rate(at), 1e-3))
            while self.queue and len(self.busy) < self.workers:
                self.waits.append((at, at - self.queue.popleft()))
                heapq.heappush(self.busy, at + self.service(self.random))

    def _look(self) -> None:
        seen = Observation(
            oldest=self.now - self.queue[0] if self.queue else 0.0,
            ready=self.workers,
            starting=len(self.starting),
            busy=float(len(self.busy)),
            handler_seconds=0.05,
        )
        decision = self.scaler.decide(self.now, seen, 1, MAXIMUM)
        if decision is None:
            return
        assert 1 <= decision.workers <= MAXIMUM
        assert decision.reason
        self.changes.append((self.now, decision.workers))
        if decision.workers > self.workers:
            self.starting += [self.now + STARTS_IN] * (decision.workers - self.workers)
        else:
            self.workers = decision.workers


def steady(random: random.Random) -> float:
    return 0.05


def heavy(random: random.Random) -> float:
    return min(2.0, 0.02 * random.paretovariate(1.6))


@pytest.mark.parametrize("service", [steady, heavy])
@pytest.mark.parametrize("rate", [10, 50, 100])
def test_a_steady_load_gets_a_steady_number(rate, service):
    house = House(lambda at: rate, service)
    house.run(600.0)
    late = [wait for at, wait in house.waits if at > 60.0]
    assert sorted(late)[len(late) // 2] < 0.1
    directions = [b > a for (_, a), (_, b) in pairwise(house.changes)]
    turns = sum(a != b for a, b in pairwise(directions))
    assert turns <= 8, house.changes


def test_a_burst_is_met_within_seconds_and_forgotten_within_the_patience():
    house = House(lambda at: 100 if 20 <= at < 80 else 2, steady)
    house.run(20.0)
    assert not house.changes
    house.run(40.0)
    assert house.workers >= 6
    house.run(80.0)
    calm = [wait for at, wait in house.waits if 60 < at < 80]
    assert max(calm) < 0.5
    house.run(80.0 + PATIENCE + 15.0)
    assert house.workers <= 2


def test_what_is_on_its_way_is_waited_for():
    house = House(lambda at: 1000, steady)
    house.run(UP_AFTER + STARTS_IN)
    assert len(house.changes) == 1


def test_no_more_than_the_maximum_and_no_fewer_than_the_minimum():
    house = House(lambda at: 1000, steady)
    house.run(120.0)
    assert house.workers == MAXIMUM
    idle = House(lambda at: 0.01, steady, workers=8)
    idle.run(300.0)
    assert idle.workers == 1


def test_the_reason_says_what_was_seen():
    scaler = Autoscaler(0.1, 60.0)
    seen = Observation(0.4, ready=2, starting=0, busy=2.0, handler_seconds=0.01)
    decisions = [scaler.decide(at / 2, seen, 1, 3) for at in range(4)]
    (decision,) = filter(None, decisions)
    assert decision.workers == 3
    assert decision.reason == (
        "requests wait 400 ms, more than 100 (targetQueueDelay), for 1.0 s; 2 of 2 workers are busy"
    )


def test_the_reason_names_the_handler_where_it_is_slower_than_the_target():
    scaler = Autoscaler(0.1, 60.0)
    seen = Observation(0.9, ready=1, starting=0, busy=1.0, handler_seconds=0.2)
    decisions = [scaler.decide(at / 2, seen, 1, 3) for at in range(4)]
    (decision,) = filter(None, decisions)
    assert "more than 400 (twice what the handler takes), for" in decision.reason
