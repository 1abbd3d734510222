"""A worker whose GPU context is unusable answers, says so, and ends: it gets nothing more."""

from __future__ import annotations

from fleet_driver import Driver

from flambeau.frontend.exits import SPOILT, ExitReason
from flambeau.frontend.jobs import JobState


def started(workers: int = 1, credits: int = 1, **spec) -> Driver:
    driver = Driver(**{"batch_size": 1, "max_batch_delay": 0.0, **spec})
    driver.scale(workers)
    driver.boot_all(credits)
    return driver


def end(driver: Driver, identity: str) -> None:
    driver.exit(identity, 86, ExitReason.CUDA_ERROR)


def test_nothing_is_sent_to_a_worker_that_has_said_that_it_leaves() -> None:
    driver = started()
    culprit, other = driver.offer(), driver.offer()
    (worker,) = driver.busy()
    driver.answer(worker, error=True, is_spoilt=True)
    assert (culprit.state, other.state) == (JobState.FAILED, JobState.QUEUED)
    assert driver.busy() == []
    driver.check_invariants()
    end(driver, worker)
    driver.boot_all()
    (successor,) = driver.busy()
    driver.answer(successor)
    assert (other.state, other.losses) == (JobState.DONE, 0)
    (report,) = driver.reports
    assert (report.reason, report.message, report.code) == (ExitReason.CUDA_ERROR, SPOILT, 86)
    driver.check_invariants()


def test_a_request_that_was_in_a_lost_batch_is_not_lost_twice_with_it() -> None:
    driver = started(batch_size=3)
    jobs = [driver.offer() for _ in range(4)]
    first = driver.busy()[0]
    driver.answer(first)
    (worker,) = driver.busy()
    assert len(driver.work[worker][0].requests) == 3
    end(driver, worker)
    driver.boot_all()
    (worker,) = driver.busy()
    driver.answer(worker, error=True, is_spoilt=True)
    end(driver, worker)
    driver.tick(5.0)
    driver.boot_all()
    while busy := driver.busy():
        driver.answer(busy[0])
    assert [job.state for job in jobs].count(JobState.DONE) == 3
    driver.check_invariants()


def test_what_it_was_sent_early_returns_to_the_front() -> None:
    driver = started(credits=8)
    driver.handler_seconds = 0.0001
    driver.offer()
    (worker,) = driver.busy()
    driver.answer(worker)
    jobs = [driver.offer() for _ in range(4)]
    assert len(driver.work[worker]) > 1, "some are there early"
    driver.answer(worker, error=True, is_spoilt=True)
    driver.check_invariants()
    assert {job.losses for job in jobs} == {0}
    assert driver.version.queue.waiting() == jobs[1:]


def test_batches_that_it_had_begun_are_lost_with_it() -> None:
    driver = started(credits=4, concurrency=4, asynchronous=True)
    jobs = [driver.offer() for _ in range(4)]
    (worker,) = driver.busy()
    driver.answer(worker, error=True, is_spoilt=True)
    assert [job.losses for job in jobs] == [0, 1, 1, 1]
    driver.check_invariants()


def test_one_that_does_not_end_is_ended() -> None:
    driver = started()
    driver.offer()
    (worker,) = driver.busy()
    driver.answer(worker, error=True, is_spoilt=True)
    driver.tick(0.5)
    assert driver.killed == []
    driver.tick(0.6)
    assert driver.killed == [(worker, True)]


def test_its_successor_comes_as_soon_as_after_a_death_at_work() -> None:
    driver = started()
    for _ in range(8):
        driver.offer()
        (worker,) = driver.busy()
        driver.answer(worker, error=True, is_spoilt=True)
        end(driver, worker)
        driver.tick(1.0)
        driver.boot_all()
    assert driver.version.ready_workers
