"""Answers in pieces, as the pure core sees them."""

from __future__ import annotations

from fleet_driver import KEY, Driver

from flambeau.frontend.exits import ExitReason
from flambeau.frontend.jobs import JobState
from flambeau.worker.messages import Answer, Chunk


def started(**spec) -> Driver:
    driver = Driver(**spec)
    driver.scale(1)
    driver.boot_all()
    return driver


def say(driver: Driver, index: int = 0, body: bytes = b"x", batch: int | None = None) -> None:
    (worker,) = driver.fleet.workers
    number = driver.work[worker][0].batch_id if batch is None else batch
    driver.run(driver.fleet.chunk(worker, Chunk(number, index, Answer(body=body)), driver.now))


def test_pieces_reach_the_request_that_they_are_for():
    driver = started(batch_size=2, max_batch_delay=0.05)
    first, second = driver.offer(), driver.offer()
    say(driver, 1)
    say(driver, 0)
    say(driver, 1)
    assert driver.streamed == [second, first, second]
    assert not driver.resolved
    driver.answer(driver.busy()[0])
    assert driver.resolved == [first, second]


def test_the_time_for_an_answer_is_the_time_between_pieces():
    driver = started(response_timeout=2.0)
    job = driver.offer()
    for _ in range(5):
        driver.tick(1.5)
        say(driver)
    assert not driver.killed
    driver.tick(2.1)
    assert driver.killed
    assert (job.outcome.status, job.outcome.error.clock) == (504, "response")


def test_a_request_that_has_begun_to_be_answered_is_never_tried_again():
    driver = started(batch_size=2, max_batch_delay=0.05, lost_retries=1)
    begun, companion = driver.offer(), driver.offer()
    say(driver, 0)
    (worker,) = driver.fleet.workers
    driver.exit(worker, -9, ExitReason.SIGNAL)
    assert begun.state is JobState.FAILED
    assert companion.state is JobState.QUEUED
    driver.check_invariants()


def test_a_piece_for_a_client_that_left_goes_nowhere():
    driver = started()
    job = driver.offer()
    driver.run(driver.fleet.abandoned(KEY, job, driver.now))
    say(driver)
    assert not driver.streamed
    driver.answer(driver.busy()[0])
    assert job.state is JobState.CANCELLED


def test_a_piece_of_an_unknown_batch_is_dropped():
    driver = started()
    driver.offer()
    say(driver, batch=999)
    assert not driver.streamed
    assert not driver.killed


def test_a_piece_for_a_request_that_is_not_there_breaks_the_protocol():
    driver = started()
    driver.offer()
    say(driver, index=1)
    assert driver.killed
