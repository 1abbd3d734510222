"""What one more request costs does not depend on how many wait: calls are counted, not seconds."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from flambeau.frontend.batcher import ModelQueue
from flambeau.frontend.config import load_config
from flambeau.frontend.disciplines import DISCIPLINES, PRIORITY
from flambeau.frontend.engine import Engine
from flambeau.frontend.fleet import Fleet
from flambeau.frontend.jobs import Job, JobState, Outcome
from flambeau.frontend.metrics import Metrics
from flambeau.frontend.snapshots import Snapshots, render
from flambeau.frontend.version_spec import VersionSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FEW, MANY = 200, 6400


def calls_of(steps: Iterable[Callable[[], object]]) -> float:
    """Calls, those of built-in functions and of generators included, that a step makes."""
    steps = list(steps)
    calls = 0

    def count(frame, event, argument) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        for step in steps:
            step()
    finally:
        sys.setprofile(None)
    return calls / len(steps)


class Crowd:
    """A full queue of so many, one of whom comes each millisecond."""

    def __init__(self, count: int, discipline: str) -> None:
        self.queue = ModelQueue(count, 1, 0.0, adaptive=True, discipline=discipline)
        self.now = 0.0
        self.jobs = [self.come() for _ in range(count)]

    def come(self, priority: int | None = None) -> Job:
        self.now += 0.001
        urgency = len(self.queue) % 9 + 1 if priority is None else priority
        job = Job("job", {}, [], self.now, deadline=self.now + 60.0, priority=urgency)
        self.queue.ahead_of(job)
        if not self.queue.offer(job, self.now):
            other = self.queue.yields_to(job)
            if other is not None:
                self.leave(other)
                assert self.queue.offer(job, self.now)
        return job

    def leave(self, job: Job) -> None:
        job.settle(JobState.CANCELLED, Outcome())
        self.queue.discard(job)

    def be_replaced(self, job: Job) -> None:
        self.leave(job)
        self.come()


def assert_no_growth(cost: Callable[[int], float]) -> None:
    few, many = cost(FEW), cost(MANY)
    assert many < 1.5 * few + 10


@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_to_come_costs_the_same_however_many_wait(discipline: str) -> None:
    def cost(count: int) -> float:
        crowd = Crowd(count, discipline)
        crowd.queue.capacity += 100
        return calls_of([crowd.come] * 100)

    assert_no_growth(cost)


@pytest.mark.parametrize("discipline", DISCIPLINES)
@pytest.mark.parametrize("newest_first", [False, True])
def test_to_take_the_place_of_who_left_costs_the_same(discipline: str, newest_first: bool) -> None:
    def cost(count: int) -> float:
        crowd = Crowd(count, discipline)
        order = crowd.jobs[:: -1 if newest_first else 1]
        return calls_of(lambda job=job: crowd.be_replaced(job) for job in order[: count // 2])

    assert_no_growth(cost)


def test_to_displace_who_is_less_urgent_costs_the_same() -> None:
    def cost(count: int) -> float:
        crowd = Crowd(count, PRIORITY)
        return calls_of([lambda: crowd.come(0)] * (count // 2))

    assert_no_growth(cost)


def test_a_scrape_is_cheap_for_each_model() -> None:
    def scrape(models: int) -> float:
        metrics = Metrics()
        for number in range(models):
            answered = Outcome(queued=0.25, batched=0.5, handled=0.5, batch_size=4)
            metrics.observe((f"model-{number}", "1.0"), None, answered, 1.0)
        return calls_of([metrics.exposition])

    # It is 76 lines for each; the Prometheus library makes 20 calls for a line.
    assert (scrape(120) - scrape(20)) / 100 < 4 * 76


def test_a_snapshot_is_cheap_for_each_model() -> None:
    config = load_config({}, {}, Path.cwd())

    def calls(models: int) -> float:
        version = {"defaultVersion": True, "marName": "m.mar", "minWorkers": 2, "batchSize": 4}
        registered = {f"model-{number}": {"1.0": version} for number in range(models)}
        return calls_of([lambda: render(config, registered, "now-snapshot.cfg", 0.0)])

    # Each has some 150 characters: several calls for each of those would be far more.
    assert (calls(120) - calls(20)) / 100 < 250


class SlowFolder:
    """Takes snapshots; the first one is not written before ``go`` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.written: list[str] = []

    def write(self, folder: Path, name: str, text: str) -> None:
        assert self.go.wait(10)
        self.written.append(text)


def test_changes_that_come_while_a_snapshot_is_written_make_one_more(monkeypatch) -> None:
    folder = SlowFolder()
    monkeypatch.setattr("flambeau.frontend.snapshots.snapshot.write", folder.write)
    registry = SimpleNamespace(models=0)
    registry.snapshot = lambda: {str(number): {"1.0": {}} for number in range(registry.models)}
    snapshots = Snapshots(load_config({}, {}, Path.cwd()), registry)
    for registry.models in range(1, 101):
        snapshots.take("snapshot")
    snapshots.take("shutdown")
    folder.go.set()
    snapshots.close()
    assert len(folder.written) <= 3
    assert all('"modelCount"\\: 100' in text for text in folder.written[-2:])


class Waiting:
    """So many versions without workers, and somebody who waits for each of them."""

    def __init__(self, count: int, socket_path: Path) -> None:
        self.fleet = Fleet(lambda spec: None, lambda: 1.0, lambda spec, device: None)
        nobody = lambda *told: None  # noqa: E731
        launcher = SimpleNamespace(close=nobody)
        self.engine = Engine(self.fleet, launcher, socket_path, 1, nobody, nobody, nobody, nobody)
        self.keys = [(f"model-{number}", "1.0") for number in range(count)]
        for key in self.keys:
            self.engine.add(VersionSpec(key, "dir", "h.py"))
        self.wanted: set[tuple[str, str]] = set()
        self.looks = dict.fromkeys(self.keys, 0)
        self.looked = asyncio.Event()
        self.tasks = [asyncio.ensure_future(self.wait(key)) for key in self.keys]

    async def wait(self, key: tuple[str, str]) -> bool:
        def look() -> bool:
            self.looks[key] += 1
            self.looked.set()
            return key in self.wanted

        return await self.engine.wait_until(key, look, 60.0)

    async def have_looked(self, times: int, keys: Iterable[tuple[str, str]]) -> None:
        """Wait until each of these has; the test's own timeout is the deadline."""
        for key in keys:
            while self.looks[key] < times:
                self.looked.clear()
                await self.looked.wait()

    async def change(self, index: int) -> None:
        """A version changes, and who waits for it is woken and looks."""
        key = self.keys[index]
        looks = self.looks[key]
        self.engine.scale(key, 0, 0)
        await self.have_looked(looks + 1, [key])

    async def close(self) -> None:
        self.wanted.update(self.keys)
        await self.engine.close(0.0)
        assert all(await asyncio.gather(*self.tasks))


def cost_of_a_change(count: int, socket_path: Path) -> float:
    async def wait() -> Waiting:
        made = Waiting(count, socket_path)
        await made.have_looked(1, made.keys)
        await made.change(0)  # which tells of all that were added, too
        await made.have_looked(2, made.keys)
        return made

    loop = asyncio.new_event_loop()
    made = loop.run_until_complete(wait())
    try:
        return calls_of(
            lambda each=each: loop.run_until_complete(made.change(each)) for each in range(20)
        )
    finally:
        loop.run_until_complete(made.close())
        loop.close()


def test_a_change_costs_the_same_however_many_wait_for_other_versions(tmp_path: Path) -> None:
    assert_no_growth(lambda count: cost_of_a_change(count, tmp_path / f"{count}.sock"))
