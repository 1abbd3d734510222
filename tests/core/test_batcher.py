"""When a batch leaves, and who is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fleet_driver import Driver

from flambeau.frontend.arrivals import NOW, Arrivals
from flambeau.frontend.batcher import ModelQueue
from flambeau.frontend.jobs import Job, JobState, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable


def make_job(at: float = 0.0, name: str = "r") -> Job:
    return Job(name, {}, [], at)


def make_queue(size: int = 4, delay: float = 0.1, *, adaptive: bool = True, capacity: int = 100):
    return ModelQueue(capacity, size, delay, adaptive=adaptive)


def fill(queue: ModelQueue, count: int, at: float = 0.0) -> list[Job]:
    jobs = [make_job(at, str(i)) for i in range(count)]
    assert all(queue.offer(job, at) for job in jobs)
    return jobs


def discard(queue: ModelQueue, job: Job) -> None:
    job.settle(JobState.CANCELLED, Outcome())
    queue.discard(job)


def test_a_full_queue_refuses_and_forgets_the_refused():
    queue = make_queue(capacity=2)
    fill(queue, 2)
    assert not queue.offer(make_job(), 0.0)
    assert repr(queue) == "<ModelQueue 2/2>"


def test_a_full_batch_is_due_at_once_under_every_policy():
    for adaptive in (True, False):
        queue = make_queue(4, adaptive=adaptive)
        fill(queue, 4)
        assert queue.due(0.0, 0, 1) == NOW


def test_a_share_is_forgotten_once_one_worker_is_left():
    queue = make_queue(4)
    fill(queue, 2)
    queue.due(0.0, 0, 2)
    queue.due(0.0, 0, 1)
    assert len(queue.take()) == 2


def test_fixed_waits_from_the_moment_at_which_a_worker_could_have_taken_the_first():
    queue = make_queue(adaptive=False, delay=0.1)
    fill(queue, 1, at=1.0)
    assert queue.due(5.0, 0, 1) == pytest.approx(5.1)
    assert queue.due(5.05, 0, 1) == pytest.approx(5.1)
    queue.take()
    fill(queue, 1, at=6.0)
    assert queue.due(6.0, 0, 1) == pytest.approx(6.1)


def test_fixed_starts_a_new_wait_after_everybody_left():
    queue = make_queue(adaptive=False, delay=0.1)
    (job,) = fill(queue, 1)
    assert queue.due(0.0, 0, 1) == pytest.approx(0.1)
    discard(queue, job)
    assert queue.due(0.05, 0, 1) is None
    fill(queue, 1, at=1.0)
    assert queue.due(1.0, 0, 1) == pytest.approx(1.1)


def closed_loop(queue: ModelQueue, clients: int, batches: int, start: float = 0.0):
    """Clients that send again once answered, and one worker that takes 20 ms for a batch.

    Returns the batch sizes, how long the worker sat idle with somebody waiting, and the end.
    """
    service, think = 0.02, 0.0002
    now, sizes, idle = start, [], []
    arrivals = [start + i * think for i in range(clients)]
    while len(sizes) < batches:
        free_since = None
        while True:
            due = queue.due(now, 0, 1)
            if due is not None and free_since is None:
                free_since = now
            if due is not None and due <= now:
                break
            upcoming = min([*arrivals[:1], *([due] if due is not None else [])])
            now = max(now, upcoming)
            if arrivals and arrivals[0] <= now:
                queue.offer(make_job(now), arrivals.pop(0))
        idle.append(now - free_since)
        batch = queue.take()
        sizes.append(len(batch))
        done = now + service
        while arrivals and arrivals[0] < done:
            queue.offer(make_job(arrivals[0]), arrivals.pop(0))
        for job in batch:
            job.move(JobState.RUNNING)
        now = done
        queue.answered(now, service, len(batch), len(batch))
        arrivals += [done + (i + 1) * think for i in range(len(batch))]
        arrivals.sort()
    for job in queue.waiting():
        discard(queue, job)
    return sizes, idle, now


def test_adaptive_never_delays_a_single_client_whatever_the_batch_size():
    sizes, idle, _ = closed_loop(make_queue(32, 0.1), clients=1, batches=50)
    assert set(sizes) == {1}
    assert max(idle) == 0.0


def test_adaptive_learns_to_gather_all_clients_of_a_closed_loop():
    sizes, idle, _ = closed_loop(make_queue(8, 0.1), clients=8, batches=50)
    assert sizes[-10:] == [8] * 10
    assert max(idle[-10:]) < 0.002


def test_adaptive_does_not_wait_for_more_clients_than_there_are():
    sizes, idle, _ = closed_loop(make_queue(8, 0.1), clients=5, batches=50)
    assert sizes[-10:] == [5] * 10
    assert max(idle[-10:]) < 0.0012


def test_adaptive_always_fills_batches_when_there_are_more_clients_than_places():
    sizes, idle, _ = closed_loop(make_queue(8, 0.1), clients=32, batches=50)
    assert sizes[-40:] == [8] * 40
    assert max(idle[-40:]) == 0.0


def test_adaptive_forgets_a_crowd_that_has_left():
    queue = make_queue(8, 0.1)
    _, _, end = closed_loop(queue, clients=8, batches=20)
    sizes, idle, _ = closed_loop(queue, clients=1, batches=30, start=end + 1.0)
    assert set(sizes) == {1}
    assert idle[-10:] == [0.0] * 10
    assert max(idle) < 0.005


def test_adaptive_never_waits_longer_than_the_delay_from_arrival():
    queue = make_queue(8, 0.01)
    queue.arrivals.crowd, queue.arrivals.gap, queue.arrivals.service = 8.0, 3.0, 50.0
    fill(queue, 1, at=1.0)
    assert queue.due(1.0, 0, 1) == pytest.approx(1.01)


def test_adaptive_leaves_a_share_to_each_worker():
    queue = make_queue(8, 1.0)
    queue.arrivals.crowd, queue.arrivals.gap, queue.arrivals.service = 8.0, 0.01, 1.0
    fill(queue, 3, at=0.0)
    assert queue.due(0.0, 0, 2) > 0.0
    fill(queue, 1, at=0.0)
    assert queue.due(0.0, 0, 2) == NOW
    fill(queue, 3, at=0.0)
    assert queue.due(0.0, 0, 2) == NOW
    assert len(queue.take()) == 4


def learnt(sizes: list[int], seconds: Callable[[int], float]) -> Arrivals:
    arrivals = Arrivals()
    for size in sizes:
        arrivals.answered(0.0, seconds(size), size, size)
    return arrivals


def test_overhead_is_what_a_batch_takes_whatever_its_size():
    sizes = [1, 8, 3, 5, 8, 2, 8] * 5
    assert learnt(sizes, lambda n: 0.004 + 0.001 * n).overhead == pytest.approx(0.004)
    assert learnt(sizes, lambda n: 0.01).overhead == pytest.approx(0.01)
    assert learnt(sizes, lambda n: 0.003 * n).overhead == pytest.approx(0.0)
    # What was learnt of it is not forgotten while all batches are full.
    assert learnt([*sizes, *[8] * 50_000], lambda n: 0.004 + 0.001 * n).overhead == pytest.approx(
        0.004
    )


def test_overhead_is_all_until_sizes_have_differed():
    assert Arrivals().overhead == 0.0
    assert learnt([4] * 20, lambda n: 0.004 + 0.001 * n).overhead == pytest.approx(0.008)


def steep(size: int) -> float:
    return 0.0005 + 0.003 * size


def answer(arrivals: Arrivals, sizes: list[int], seconds: Callable[[int], float], every: float):
    """Batches are answered, each ``every`` seconds after the one before."""
    now = arrivals._answered_at if arrivals.service is not None else 0.0
    for size in sizes:
        now += every
        arrivals.answered(now, seconds(size), size, size)


def limit_at(load: float, seconds: Callable[[int], float] = steep, workers: int = 1) -> int:
    """What a batch may have where work without overheads takes ``load`` of the time."""
    arrivals = Arrivals()
    slope = seconds(2) - seconds(1)
    answer(arrivals, [1, 3, 2, 3, 1] * 40, seconds, 2 * slope / load / workers)
    return arrivals.worthwhile(64, workers)


def test_a_batch_that_costs_hardly_less_than_its_requests_is_cut() -> None:
    # overhead / slope is a sixth: twice that, times (1 + load) / (1 - load), rounded up.
    assert [limit_at(load) for load in (0.1, 0.4, 0.6, 0.8, 0.9)] == [1, 1, 2, 3, 7]


def test_a_batch_is_not_cut_where_that_saves_much_or_there_is_no_time() -> None:
    assert limit_at(0.5, lambda n: 0.01 + 0.0001 * n) == 64
    assert limit_at(0.5, lambda n: 0.01) == 64
    assert limit_at(1.1) == 64
    assert limit_at(0.3, lambda n: 0.004 + 0.001 * n) > 8


def test_fewer_are_enough_where_another_worker_is_free_soon_but_all_must_keep_up() -> None:
    def linear(size: int) -> float:
        return 0.004 + 0.001 * size

    assert limit_at(0.3, linear, workers=4) < limit_at(0.3, linear) / 3
    for workers in (1, 2, 8, 64):
        for load in (0.2, 0.5, 0.8):
            size = limit_at(load, linear, workers)
            # load is the rate times 1 ms for each worker
            assert size == 64 or load / 0.001 * linear(size) / size < 0.95


def test_times_that_sizes_do_not_explain_cut_nothing() -> None:
    arrivals = Arrivals()
    for turn in range(200):
        size = 1 + turn % 3
        noise = 0.005 * (turn * 7 % 11)
        arrivals.answered(turn * 0.1, steep(size) + noise, size, size)
    assert arrivals.worthwhile(64, 1) == 64
    assert learnt([4] * 50, steep).worthwhile(64, 1) == 64


def test_what_cutting_hides_is_found_out_when_it_matters() -> None:
    arrivals = Arrivals()
    answer(arrivals, [1, 2, 3] * 20 + [1] * 500, steep, 0.02)
    assert arrivals.worthwhile(64, 1) == 1
    # The model changes, and a batch of whatever size takes 10 ms.
    for _ in range(300):
        answer(arrivals, [min(8, arrivals.worthwhile(64, 1))], lambda n: 0.01, 0.02)
    assert arrivals.worthwhile(8, 1) == 8
    # What takes as long alone, and hardly longer together, is seen once there is more to do.
    arrivals = Arrivals()
    answer(arrivals, [1, 2, 3] * 20 + [1] * 500, steep, 0.02)
    for _ in range(300):
        size = arrivals.worthwhile(8, 1)
        answer(arrivals, [size], lambda n: 0.003 + 0.0005 * n, 0.0035)
    assert arrivals.worthwhile(8, 1) == 8


def test_silence_does_not_count_as_a_slow_pace() -> None:
    arrivals = Arrivals()
    answer(arrivals, [1, 2, 3] * 50, steep, 0.008)
    usual = arrivals.worthwhile(64, 1)
    answer(arrivals, [2], steep, 86400.0)
    assert usual - 1 <= arrivals.worthwhile(64, 1) <= usual


def test_only_adaptive_cuts() -> None:
    for adaptive in (True, False):
        queue = make_queue(8, adaptive=adaptive)
        answer(queue.arrivals, [1, 2, 3] * 20, steep, 0.02)
        fill(queue, 8)
        assert queue.due(2.0, 0, 1) == NOW
        assert len(queue.take()) == (1 if adaptive else 8)


def test_adaptive_does_not_wait_for_what_comes_by_itself():
    queue = make_queue(8, 0.1)
    now = 0.0
    for _ in range(50):
        fill(queue, 1, at=now)
        assert queue.due(now, 0, 1) == NOW
        queue.take()
        fill(queue, 1, at=now + 0.004)
        queue.answered(now + 0.005, 0.005, 1, 1)
        # The crowd was two, so somebody might follow; but lately nobody has so soon.
        assert queue.due(now + 0.005, 0, 1) == NOW
        queue.take()
        queue.answered(now + 0.01, 0.005, 1, 1)
        now += 0.02


def test_a_retried_job_travels_alone_and_at_once():
    queue = make_queue(4)
    young = fill(queue, 3)
    lost = [make_job(name="a"), make_job(name="b")]
    for job in lost:
        job.losses = 1
    queue.put_back(lost)
    assert queue.due(0.0, 0, 1) == NOW
    assert [queue.take(), queue.take(), queue.take()] == [[lost[0]], [lost[1]], young]


def test_a_batch_ends_before_a_retried_job():
    queue = make_queue(4)
    first = fill(queue, 1)
    retried = make_job()
    retried.losses = 1
    queue.offer(retried, 0.0)
    assert queue.take() == first


def test_jobs_whose_client_left_are_skipped_and_do_not_pile_up():
    queue = make_queue(4, capacity=1000)
    jobs = fill(queue, 500)
    for job in jobs[:-1]:
        discard(queue, job)
    assert len(queue) == 1
    assert len(queue._jobs) < 200
    assert queue.take() == [jobs[-1]]
    assert queue.head() is None
    assert len(queue) == 0


def test_a_queue_shorter_than_a_batch_is_full_enough():
    queue = make_queue(8, adaptive=False, capacity=3)
    fill(queue, 3)
    assert queue.due(0.0, 0, 1) == NOW


def test_fixed_starts_anew_after_the_only_one_left_unseen():
    queue = make_queue(adaptive=False, delay=1.0)
    (job,) = fill(queue, 1)
    assert queue.due(0.0, 0, 1) == 1.0
    discard(queue, job)
    fill(queue, 1, at=60.0)
    assert queue.due(60.0, 0, 1) == 61.0


def test_a_batch_that_was_sent_ahead_does_not_seem_to_take_longer():
    driver = Driver(batch_size=2, adaptive_batching=True)
    driver.handler_seconds = 0.01
    driver.scale(1)
    driver.boot_all(credits=2)

    def answer() -> None:
        driver.now += 0.01
        driver.answer(driver.busy()[0])

    driver.offer()
    answer()
    for _ in range(5):
        driver.offer()
    assert [len(work) for work in driver.work.values()] == [2]
    for _ in range(3):
        answer()
    assert driver.version.queue.arrivals.service == pytest.approx(0.01)


def test_workers_that_are_not_there_have_no_share():
    driver = Driver(batch_size=4, adaptive_batching=True)
    driver.scale(4)
    first = min(driver.processes)
    driver.hello(first)
    driver.loaded(first)
    for _ in range(5):
        driver.offer()
    driver.answer(first)
    assert [len(work.requests) for work in driver.work[first]] == [4]
