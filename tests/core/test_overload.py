"""Who is refused when there is more to do than can be done, and what it is told."""

from __future__ import annotations

import pytest
from fleet_driver import KEY, Driver

from flambeau.frontend.errors import (
    DeadlineUnreachableError,
    DrainingError,
    NoFreeWorkerError,
    NoWorkerError,
    QueueFullError,
    ServiceUnavailableError,
)
from flambeau.frontend.jobs import Job, JobState


def busy(waiting: int = 0, seconds: float = 1.0, workers: int = 1, **spec) -> Driver:
    """A fleet whose workers are all busy, and whose batches are known to take so long."""
    driver = Driver(**spec)
    driver.handler_seconds = seconds
    driver.scale(workers)
    driver.boot_all()
    offer(driver)
    driver.answer(driver.busy()[0])
    driver.version.seconds_between = seconds / workers
    for _ in range(workers + waiting):
        offer(driver)
    return driver


def offer(driver: Driver, time_limit: float | None = None, priority: int = 5) -> Job:
    job = Job("r", {}, [], driver.now, time_limit=time_limit, priority=priority)
    driver.run(driver.fleet.offered(KEY, job, driver.now))
    return job


def admit(driver: Driver, time_limit: float | None = None) -> None:
    driver.fleet.admit(KEY, Job("r", {}, [], driver.now, time_limit=time_limit), driver.now)


def test_a_request_that_would_be_answered_too_late_is_refused_at_once():
    driver = busy(waiting=4)
    with pytest.raises(DeadlineUnreachableError) as refused:
        offer(driver, 3.0)
    assert (refused.value.status, refused.value.reason) == (503, "deadline_unreachable")
    assert (refused.value.retry_after, refused.value.pending) == (4, 4)
    with pytest.raises(DeadlineUnreachableError):
        admit(driver, 3.0)
    assert len(driver.version.queue) == 4


def test_one_that_may_still_be_answered_in_time_is_queued():
    driver = busy(waiting=4)
    assert offer(driver, 6.7).state is JobState.QUEUED


def test_workers_and_batches_serve_side_by_side():
    driver = busy(waiting=0, workers=2, batch_size=2, max_batch_delay=0.0)
    for _ in range(8):
        offer(driver)
    with pytest.raises(DeadlineUnreachableError):
        offer(driver, 2.0)
    assert offer(driver, 4.0).state is JobState.QUEUED


def test_so_is_one_that_would_wait_longer_than_the_model_lets_it():
    driver = busy(waiting=2, queue_timeout=2.0)
    with pytest.raises(DeadlineUnreachableError):
        offer(driver)
    driver = busy(waiting=1, queue_timeout=2.0)
    assert offer(driver).state is JobState.QUEUED


def test_a_worker_with_room_takes_whatever_comes():
    driver = Driver()
    driver.handler_seconds = 100.0
    driver.scale(1)
    driver.boot_all()
    for _ in range(2):
        assert offer(driver, 0.1).state is JobState.RUNNING
        driver.answer(driver.busy()[0])


def test_what_is_not_known_is_not_held_against_anybody():
    driver = Driver()
    driver.scale(1)
    driver.boot_all()
    for _ in range(50):
        offer(driver, 0.01)
    assert len(driver.version.queue) == 49


def test_what_passes_between_two_batches_is_measured_while_somebody_waits():
    driver = Driver()
    driver.scale(2)
    driver.boot_all()
    for _ in range(4):
        offer(driver)
    version = driver.version
    for _ in range(4):
        driver.tick(0.5)
        driver.answer(driver.busy()[0])
    assert version.seconds_between == 0.5
    offer(driver)
    driver.tick(30.0)
    driver.answer(driver.busy()[0])
    assert version.seconds_between == 0.5, "nobody waited"


def test_one_slow_batch_does_not_turn_everybody_away():
    driver = busy(waiting=2, seconds=0.1)
    driver.answer(driver.busy()[0])
    driver.tick(60.0)
    driver.answer(driver.busy()[0])
    assert driver.version.seconds_between < 0.15


def test_with_earliest_deadline_first_only_earlier_ones_are_in_the_way():
    driver = busy(waiting=9, queue_discipline="deadline")
    assert offer(driver, 1.9).state is JobState.QUEUED
    with pytest.raises(DeadlineUnreachableError):
        offer(driver, 2.0)


def test_a_full_queue_refuses_before_the_request_is_read():
    driver = busy(waiting=4, queue_size=4)
    for refuse in (admit, offer):
        with pytest.raises(QueueFullError) as refused:
            refuse(driver)
        assert (refused.value.retry_after, refused.value.pending) == (4, 4)


def test_its_status_may_be_429():
    driver = busy(waiting=4, queue_size=4, overload_status=429)
    with pytest.raises(QueueFullError) as refused:
        offer(driver)
    assert refused.value.status == 429


def test_without_room_a_more_urgent_request_takes_the_place_of_the_last_less_urgent_one():
    driver = busy(queue_size=3, queue_discipline="priority", overload_status=429)
    urgent, first, last = (offer(driver, priority=priority) for priority in (1, 6, 6))
    admit(driver)
    with pytest.raises(QueueFullError):
        offer(driver, priority=6)
    newcomer = offer(driver, priority=5)
    assert newcomer.state is first.state is urgent.state is JobState.QUEUED
    assert isinstance(last.outcome.error, QueueFullError)
    assert (last.outcome.status, last.outcome.error.pending) == (429, 3)
    assert last in driver.resolved
    order = []
    for _ in range(4):
        (identity,) = driver.busy()
        order.append(driver.work[identity][0].requests[0])
        driver.answer(identity)
    assert order[1:] == [urgent, newcomer, first]


def test_every_refusal_says_when_to_come_again_and_why():
    drained = busy()
    drained.run(drained.fleet.drain(KEY, drained.now + 60.0, drained.now))
    refusals = [
        (Driver(), NoWorkerError, "no_workers"),
        (drained, DrainingError, "draining"),
        (busy(job_ticket=True), NoFreeWorkerError, "no_free_worker"),
    ]
    for driver, kind, reason in refusals:
        with pytest.raises(kind) as refused:
            offer(driver)
        assert isinstance(refused.value, ServiceUnavailableError)
        assert refused.value.retry_after >= 1
        assert refused.value.reason == reason


def test_before_a_request_is_read_only_a_lack_of_room_counts():
    admit(Driver())
    with pytest.raises(NoFreeWorkerError):
        admit(busy(job_ticket=True))
