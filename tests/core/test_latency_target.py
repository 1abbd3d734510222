"""``latencyTarget``: batches that let requests be answered in time."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path

import pytest
from fleet_driver import Driver
from hypothesis import given
from hypothesis import strategies as st

from flambeau.frontend.batcher import ModelQueue
from flambeau.frontend.errors import QueueFullError
from flambeau.frontend.jobs import Job, JobState, Outcome

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
latency_target = importlib.import_module("latency_target")

TARGET = 0.1


def linear(size: int) -> float:
    return 0.004 + 0.001 * size


def make_queue(
    target: float = TARGET, size: int = 64, capacity: int = 100, discipline: str = "fifo"
) -> ModelQueue:
    """A queue that knows how long batches take, of a model with a load of 0.8."""
    queue = ModelQueue(
        capacity, size, 0.1, adaptive=True, discipline=discipline, latency_target=target
    )
    for turn, each in enumerate([10, 30, 20, 30, 10] * 20):
        queue.answered(turn * 0.025 - 100, linear(each), each, each)
    return queue


def offer(queue: ModelQueue, *times: float) -> list[Job]:
    jobs = [Job(f"{at:g}", {}, [], at) for at in times]
    assert all(queue.offer(job, job.offered_at) for job in jobs)
    return jobs


def settle(job: Job) -> None:
    job.settle(JobState.CANCELLED, Outcome())


def test_a_batch_has_as_many_as_let_the_first_be_answered_in_time() -> None:
    queue = make_queue()
    offer(queue, *[0.0] * 64)
    # 50 ms are left, of which a batch of 46 takes all.
    assert len(queue.take(0.05)) in (45, 46)


def test_without_a_target_it_takes_all() -> None:
    queue = make_queue(target=0.0)
    offer(queue, *[0.0] * 64)
    assert len(queue.take(0.05)) == 64


def test_who_is_late_has_the_room_that_others_leave() -> None:
    queue = make_queue()
    late, others = offer(queue, *[0.0] * 50), offer(queue, *[0.13] * 20)
    batch = queue.take(0.15)
    assert batch[:20] == others
    assert batch[20:] == late[: len(batch) - 20]
    assert len(batch) > 20, "70 ms are left for the others"
    assert queue.waiting() == late[len(batch) - 20 :]


def test_who_is_late_is_put_aside_without_batches_too() -> None:
    queue = ModelQueue(100, 1, 0.1, adaptive=True, latency_target=TARGET)
    queue.answered(0.0, 0.01, 1, 1)
    late, other = offer(queue, 0.0, 0.5)
    assert queue.take(0.55) == [other]
    assert queue.take(0.55) == [late]


def test_where_all_are_late_they_go_in_their_order() -> None:
    queue = make_queue()
    jobs = offer(queue, *[0.0] * 50)
    batch = queue.take(1.0)
    # Who comes now waits for half of the target, and then has the other half.
    assert len(batch) in (45, 46)
    assert batch == jobs[: len(batch)]


def test_in_a_full_queue_who_is_late_gives_way() -> None:
    driver = Driver(batch_size=2, queue_size=3, adaptive_batching=True, latency_target=0.5)
    driver.handler_seconds = 0.1
    driver.scale(1)
    driver.boot_all()
    driver.offer()
    (identity,) = driver.busy()
    early = [driver.offer() for _ in range(3)]
    with pytest.raises(QueueFullError):
        driver.offer()
    driver.tick(1.0)
    driver.answer(identity)
    # Two of them went, late as they were; then two others took their places.
    others = [driver.offer() for _ in range(2)]
    assert not early[2].is_settled
    newcomer = driver.offer()
    assert early[2].outcome is not None
    assert isinstance(early[2].outcome.error, QueueFullError)
    assert not any(job.is_settled for job in (*others, newcomer))


def test_line_lets_go_of_those_whose_clients_left() -> None:
    queue = make_queue(size=2, capacity=6)
    late = offer(queue, *[1.0] * 6)[2:]
    queue.take(2.0)
    assert queue.displaces
    settle(late[0])
    queue.discard(late[0])
    (newcomer,) = offer(queue, 2.0)
    another = Job("another", {}, [], 2.0)
    assert queue.yields_to(another) is late[1]
    assert queue.ahead_of(another) == 1
    assert queue.oldest_wait(3.0) == 2.0
    assert queue.take(2.0) == [newcomer, late[1]]


def test_other_disciplines_keep_their_order() -> None:
    queue = make_queue(discipline="priority")
    jobs = [Job(str(number), {}, [], 0.0, priority=9 - number % 10) for number in range(64)]
    assert all(queue.offer(job, 0.0) for job in jobs)
    batch = queue.take(0.05)
    assert len(batch) in (45, 46)
    assert batch == sorted(batch, key=lambda job: job.priority)


def test_a_target_that_comes_later_keeps_who_waits() -> None:
    queue = make_queue(target=0.0)
    jobs = offer(queue, *[0.0] * 10)
    queue.resize(100, 64, 0.1, adaptive=True, latency_target=TARGET)
    assert queue.waiting() == jobs
    queue.resize(100, 64, 0.1, adaptive=True)
    assert queue.waiting() == jobs


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(1, 9)),
        st.tuples(st.just("take"), st.integers(0, 0)),
        st.tuples(st.just("leave"), st.integers(0, 99)),
        st.tuples(st.just("return"), st.integers(1, 3)),
        st.tuples(st.just("wait"), st.sampled_from([1, 30, 80, 300])),
    ),
    max_size=60,
)


@given(OPERATIONS, st.sampled_from([0.005, 0.05, 0.1, 0.4]))
def test_nobody_is_lost_or_answered_twice(steps: list[tuple[str, int]], target: float) -> None:
    queue, now, taken = make_queue(target, capacity=20), 0.0, Counter[Job]()
    known: list[Job] = []
    gone: set[Job] = set()
    for what, amount in steps:
        match what:
            case "offer":
                for _ in range(amount):
                    job = Job(str(len(known)), {}, [], now)
                    other = None if queue.offer(job, now) else queue.yields_to(job)
                    if other is not None:
                        settle(other)
                        queue.discard(other)
                        gone.add(other)
                        assert queue.offer(job, now)
                    if job in queue.waiting():
                        known.append(job)
            case "take":
                batch = queue.take(now)
                assert len(batch) <= queue.batch_size
                taken.update(batch)
            case "leave" if waiting := queue.waiting():
                settle(left := waiting[amount % len(waiting)])
                queue.discard(left)
                gone.add(left)
            case "return":
                back = [job for job in list(taken) if not job.is_settled][:amount]
                queue.put_back(back)
                taken.subtract(back)
                taken += Counter()
            case "wait":
                now += amount / 1000
        queue.due(now, 0, 1)
        assert len(queue) == len(queue.waiting())
    assert max(taken.values(), default=0) <= 1
    assert set(known) == {*taken, *queue.waiting(), *gone}


@pytest.mark.parametrize(
    ("kind", "amount", "service", "multiple", "least"),
    [
        ("open", 2.0, "linear", 20, 0.4),
        ("open", 0.6, "steep", 2, 0.15),
        ("bursts", 0.3, "linear", 5, 0.2),
        ("open", 0.8, "constant", 2, -0.01),
        ("clients", 4, "linear", 2, -0.01),
        ("clients", 16, "constant", 2, -0.01),
    ],
)
def test_more_are_answered_in_time(
    kind: str, amount: float, service: str, multiple: int, least: float
) -> None:
    served = latency_target.workload(kind, amount, service, 1500, 1)
    target = multiple * served.seconds(1)
    without, with_target = (
        sum(each <= target for each in latencies) / len(latencies)
        for latencies in (
            latency_target.latencies(served, 64),
            latency_target.latencies(served, 64, target),
        )
    )
    assert with_target - without >= least
