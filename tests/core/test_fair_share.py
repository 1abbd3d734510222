"""Models that share a device: what each of them gets of its time."""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau.frontend.arrivals import NOW
from flambeau.frontend.commands import Send, Spawn
from flambeau.frontend.errors import QueueFullError
from flambeau.frontend.exits import Exit, ExitReason
from flambeau.frontend.fair_share import FairShare
from flambeau.frontend.fleet import Fleet
from flambeau.frontend.jobs import Job
from flambeau.frontend.version_spec import VersionSpec
from flambeau.worker.messages import Answer, Load, Ping, Result, Stop, Work

START, PING = -1, -2
"""What stands for a batch in the events that are none."""


def test_who_has_had_the_least_goes_next():
    share = FairShare(1)
    assert share.next_of("ab") == "a"
    share.begin("w", "a", 1.0, 0.0, 0.0)
    assert not share.has_place
    share.end("w", 5.0, 5.0)
    assert share.has_place
    assert share.next_of("ab") == "b"
    share.begin("w", "b", 1.0, 0.0, 5.0)
    share.end("w", 2.0, 7.0)
    assert share.next_of("ab") == "b"


def test_a_pause_saves_nothing_up():
    share = FairShare(1)
    for number in range(100):
        share.begin("w", "a", 1.0, 1.0, number)
        share.end("w", 1.0, number)
    turns = []
    for number in range(100, 110):
        turns.append(share.next_of("ab"))
        share.begin("w", turns[-1], 1.0, 1.0, number)
        share.end("w", 1.0, number)
    assert turns.count("b") in (5, 6)


def test_sharers_that_are_gone_are_forgotten():
    share = FairShare(1)
    for number in range(2000):
        share.begin("w", number // 2, 1.0, 1.0, 0.0)
        share.end("w", 1.0, 0.0)
    assert len(share._tags) < 100


class Sim:
    """Models on devices: their batches take the time that they take, and workers may die."""

    def __init__(self, *, gpu_batches: int = 0, cpu_batches: int = 0, seed: int = 1) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.seconds: dict[str, float] = {}
        self.used: dict[str, float] = {}
        self.devices: dict[str, int | None] = {}
        self.events: list[tuple[float, int, str, int]] = []
        self.at_once = self.most_at_once = 0
        self._count = 0
        self.fleet = Fleet(
            lambda spec: self.devices[spec.key[0]],
            lambda: 1.0,
            lambda spec, device: Load(*spec.key, spec.model_dir, spec.handler, spec.batch_size),
            gpu_batches=gpu_batches,
            cpu_batches=cpu_batches,
        )

    def add(self, name: str, workers: int, seconds: float, device: int | None = None, **spec):
        self.devices[name], self.seconds[name], self.used[name] = device, seconds, 0.0
        key = (name, "1.0")
        self.fleet.add(VersionSpec(key, "dir", "h.py", **{"queue_size": 20, **spec}))
        self.run(self.fleet.scale(key, workers, workers, self.now))

    def run(self, commands) -> None:
        for command in commands:
            match command:
                case Spawn(identity=identity):
                    self.at(0.0, identity, START)
                case Send(identity=identity, message=Ping()):
                    self.at(0.0, identity, PING)
                case Send(identity=identity, message=Work() as work):
                    name = identity.partition("/")[0]
                    self.at_once += 1
                    self.most_at_once = max(self.most_at_once, self.at_once)
                    took = self.seconds[name] * self.random.uniform(0.5, 1.5)
                    self.at(took, identity, work.batch_id)
                case Send(identity=identity, message=Stop()):
                    exit = Exit(identity, ExitReason.EXIT_CODE, "ended", self.now, 0, 500, ())
                    self.run(self.fleet.exited(exit, self.now))

    def at(self, seconds: float, identity: str, batch: int) -> None:
        self._count += 1
        heapq.heappush(self.events, (self.now + seconds, self._count, identity, batch))

    def offer(self, name: str) -> bool:
        job = Job("r", {}, [], self.now)
        try:
            self.run(self.fleet.offered((name, "1.0"), job, self.now))
        except QueueFullError:
            return False
        return True

    def flood(self, *names: str) -> None:
        for name in names:
            while self.offer(name):
                pass

    def step(self) -> None:
        """The next thing happens."""
        at, _, identity, batch = heapq.heappop(self.events)
        took, self.now = at - self.now, at
        worker = self.fleet.workers.get(identity)
        if worker is None:
            return
        if batch == PING:
            self.run(self.fleet.pong(identity, self.now))
        elif batch == START:
            self.run(self.fleet.hello(identity, 1, 1, self.now))
            self.run(self.fleet.loaded(identity, 8, self.now))
        elif batch in worker.in_flight:
            took = self.now - worker.in_flight[batch].sent_at
            self.used[identity.partition("/")[0]] += took
            self.at_once -= 1
            answers = [Answer() for _ in worker.in_flight[batch].jobs]
            self.run(self.fleet.result(identity, Result(batch, took, answers), self.now))
        if self.fleet.next_alarm is not None and self.fleet.next_alarm <= self.now:
            self.run(self.fleet.tick(self.now))

    def kill(self, identity: str) -> None:
        self.at_once -= len(self.fleet.workers[identity].in_flight)
        exit = Exit(identity, ExitReason.EXIT_CODE, "ended", self.now, 3, 500, ())
        self.run(self.fleet.exited(exit, self.now))

    def flooded(self, names: str, seconds: float) -> dict[str, float]:
        """What share of the used time each had while all of them had more than they could do."""
        while self.events and self.events[0][0] <= self.now:
            self.step()
        before, until = dict(self.used), self.now + seconds
        self.flood(*names)
        while self.now < until:
            self.step()
            self.flood(*names)
        had = {name: self.used[name] - before[name] for name in names}
        return {name: each / sum(had.values()) for name, each in had.items()}


@pytest.mark.parametrize("device", [None, 0])
@pytest.mark.parametrize(
    ("weights", "share"), [((1, 1), 0.5), ((3, 1), 0.75), ((1, 4), 0.2)], ids=str
)
def test_a_model_gets_its_share_however_many_workers_the_other_has(device, weights, share):
    sim = Sim(gpu_batches=1, cpu_batches=1)
    sim.add("a", 4, 0.010, device, share_weight=weights[0], batch_size=4)
    sim.add("b", 1, 0.037, device, share_weight=weights[1])
    shares = sim.flooded("ab", 60.0)
    assert shares["a"] == pytest.approx(share, abs=0.03)
    assert sim.most_at_once == 1


def test_without_a_bound_the_one_with_more_workers_has_more():
    sim = Sim()
    sim.add("a", 4, 0.06)
    sim.add("b", 1, 0.06)
    assert sim.flooded("ab", 20.0)["a"] == pytest.approx(0.8, abs=0.03)


def test_with_two_places_each_has_one():
    sim = Sim(gpu_batches=2)
    sim.add("a", 4, 0.01, 0)
    sim.add("b", 1, 0.02, 0)
    shares = sim.flooded("ab", 30.0)
    assert shares["a"] == pytest.approx(0.5, abs=0.03)
    assert sim.most_at_once == 2


def test_what_an_idle_model_leaves_is_for_the_others():
    sim = Sim(gpu_batches=1)
    sim.add("a", 2, 0.01, 0)
    sim.add("b", 2, 0.01, 0)
    sim.flooded("a", 10.0)
    assert sim.used["a"] == pytest.approx(10.0, rel=0.02)
    shares = sim.flooded("ab", 10.0)
    assert shares["a"] == pytest.approx(0.5, abs=0.03)


def test_each_device_is_shared_by_itself():
    sim = Sim(gpu_batches=1)
    for name, device in [("a", 0), ("b", 0), ("c", 1)]:
        sim.add(name, 1, 0.01, device)
    sim.add("d", 1, 0.01, None, lost_retries=0)  # so that nothing is prefetched
    sim.flooded("abcd", 20.0)
    assert sim.used["a"] == pytest.approx(10.0, rel=0.05)
    assert sim.used["c"] == pytest.approx(20.0, rel=0.05)
    assert sim.used["d"] == pytest.approx(20.0, rel=0.05)


def test_many_batches_at_once_keep_no_places():
    sim = Sim(gpu_batches=1)
    sim.add("a", 1, 10.0, 0, concurrency=8, asynchronous=True)
    sim.add("b", 1, 0.01, 0)
    sim.flooded("ab", 5.0)
    assert sim.used["b"] == pytest.approx(5.0, rel=0.05)


def test_a_removed_model_leaves_its_place_to_the_others():
    sim = Sim(gpu_batches=1)
    sim.add("a", 1, 0.01, 0)
    sim.add("b", 1, 0.01, 0)
    sim.flooded("ab", 1.0)
    sim.run(sim.fleet.drain(("a", "1.0"), sim.now + 5.0, sim.now))
    sim.flooded("b", 10.0)
    assert ("a", "1.0") not in sim.fleet.versions
    assert sim.flooded("b", 10.0) == {"b": 1.0}


def idle_for_nothing(sim: Sim) -> str | None:
    """A version that has work that is due and a free worker while its device has a place."""
    fleet = sim.fleet
    for version in fleet.versions.values():
        if version.queue.head() is None or version.queue.due(sim.now, 0, 1) != NOW:
            continue
        for worker in version.free:
            device = worker.slot.device
            others = [each for each in fleet.workers.values() if each.slot.device == device]
            if sum(bool(each.in_flight) for each in others) < 2:
                return f"{version.key} waits for {worker.identity}"
    return None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", "step", "step", "kill"]), max_size=120), st.data())
def test_a_place_is_never_free_while_somebody_could_use_it(events, data):
    sim = Sim(gpu_batches=2, cpu_batches=2)
    sim.add("a", 3, 0.01, 0, max_batch_delay=0.0)
    sim.add("b", 1, 0.02, 0, max_batch_delay=0.0, batch_size=3)
    sim.add("c", 2, 0.02, None, max_batch_delay=0.0)
    for event in events:
        if event == "step":
            if sim.events:
                sim.step()
        elif event == "kill":
            if sim.fleet.workers:
                sim.kill(data.draw(st.sampled_from(sorted(sim.fleet.workers))))
        else:
            sim.offer(event)
        assert idle_for_nothing(sim) is None
        for device in (0, None):
            busy = [
                w for w in sim.fleet.workers.values() if w.in_flight and w.slot.device == device
            ]
            assert len(busy) <= 2
