"""Deadlines of requests, and refusals that say why."""

from __future__ import annotations

import pytest
from fleet_driver import KEY, Driver

from flambeau.frontend.errors import NoFreeWorkerError, QueueFullError
from flambeau.frontend.jobs import Job, JobState


def started(**spec) -> Driver:
    driver = Driver(**spec)
    driver.scale(1)
    driver.boot_all()
    return driver


def offer(driver: Driver, time_limit: float | None = None) -> Job:
    job = Job("r", {}, [], driver.now, time_limit=time_limit)
    driver.run(driver.fleet.offered(KEY, job, driver.now))
    return job


def clock(job: Job) -> tuple[int, str | None]:
    assert job.outcome is not None
    return job.outcome.status, job.outcome.error and job.outcome.error.clock


def test_a_request_may_bring_its_own_deadline():
    driver = started()
    patient, hasty = offer(driver), offer(driver, 0.5)
    driver.tick(0.4)
    assert not hasty.is_settled
    driver.tick(0.1)
    assert clock(hasty) == (504, "request")
    assert "0.5 s (X-Request-Timeout-Ms)" in hasty.outcome.error.message
    assert not patient.is_settled


def test_a_later_request_may_run_out_of_time_earlier():
    driver = started()
    jobs = [offer(driver, limit) for limit in (3.0, 1.0, 2.0)]
    for settled in ([False, True, False], [False, True, True], [True, True, True]):
        driver.tick(1.0)
        assert [job.is_settled for job in jobs] == settled


@pytest.mark.parametrize(("own", "named"), [(1.0, "request"), (9.0, "client")])
def test_of_two_deadlines_the_earlier_one_counts(own, named):
    driver = started(client_timeout=2.0)
    offer(driver)
    job = offer(driver, own)
    driver.tick(min(own, 2.0))
    assert clock(job) == (504, named)


def test_an_expired_request_never_reaches_a_worker():
    driver = started()
    first, late = offer(driver), offer(driver, 0.5)
    driver.tick(0.5)
    driver.answer(driver.busy()[0])
    assert first.state is JobState.DONE
    assert not driver.busy()
    assert late.state is JobState.FAILED


def test_the_queues_clock_stops_when_work_begins():
    driver = started(queue_timeout=1.0)
    running, waiting = offer(driver), offer(driver)
    driver.tick(1.0)
    assert not running.is_settled
    assert clock(waiting) == (504, "queue")
    driver.answer(driver.busy()[0])
    assert running.state is JobState.DONE


def test_answered_requests_are_not_kept_until_their_time_is_over():
    driver = started(queue_size=1000)
    worker = next(iter(driver.fleet.workers))
    for _ in range(500):
        offer(driver, 60.0)
        driver.answer(worker)
    assert not driver.version.deadlines.unanswered
    assert len(driver.version.deadlines) < 100


def test_a_full_queue_says_when_there_may_be_room():
    driver = started(queue_size=4)
    driver.handler_seconds = 2.5
    offer(driver)
    driver.answer(driver.busy()[0])
    for _ in range(5):
        offer(driver)
    with pytest.raises(QueueFullError) as refused:
        offer(driver)
    assert (refused.value.reason, refused.value.retry_after) == ("queue_full", 10)


def test_with_tickets_nobody_waits():
    driver = started(job_ticket=True)
    offer(driver)
    with pytest.raises(NoFreeWorkerError, match="has no worker") as refused:
        offer(driver)
    assert refused.value.reason == "no_free_worker"
    driver.answer(driver.busy()[0])
    assert offer(driver).state is JobState.RUNNING


def test_with_tickets_a_batch_may_fill():
    driver = started(job_ticket=True, batch_size=2, max_batch_delay=1.0)
    jobs = [offer(driver), offer(driver)]
    with pytest.raises(NoFreeWorkerError):
        offer(driver)
    assert [job.state for job in jobs] == [JobState.RUNNING] * 2
