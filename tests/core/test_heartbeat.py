"""Idle workers that do not answer: shown, spared, ended; and who is not to be suspected."""

from __future__ import annotations

import pytest
from fleet_driver import KEY, Driver

from flambeau.frontend.exits import ExitReason
from flambeau.frontend.heartbeat import HANG_AFTER
from flambeau.frontend.jobs import JobState
from flambeau.frontend.lifecycle import VersionState, WorkerState


@pytest.fixture
def one() -> Driver:
    """A version with one ready worker, which answers no Ping unless it is told to."""
    driver = Driver(response_timeout=100.0)
    driver.answers_pings = False
    driver.scale(1)
    driver.boot_all()
    return driver


def worker(driver: Driver):
    (only,) = driver.fleet.workers.values()
    return only


def beats(driver: Driver, count: int, *, answered: bool = False) -> None:
    for _ in range(count):
        driver.tick(1.0)
        if answered:
            driver.answer_pings()
        driver.check_invariants()


def test_a_worker_that_answers_is_asked_once_a_second_and_left_alone(one: Driver):
    beats(one, 30, answered=True)
    assert one.pinged == [worker(one).identity] * 30
    assert worker(one).state is WorkerState.READY


def test_one_that_does_not_answer_for_two_seconds_is_not_ready_and_gets_nothing(one: Driver):
    beats(one, 2)
    assert worker(one).state is WorkerState.READY
    beats(one, 1)
    assert worker(one).state is WorkerState.UNRESPONSIVE
    assert one.version.state is VersionState.DEGRADED
    assert not one.version.ready_workers
    job = one.offer()
    assert not one.busy()
    assert len(one.pinged) == 1, "a question that is not answered is not put again"
    assert "does not answer" in one.warnings[-1]
    one.answer_pings()
    assert worker(one).state is WorkerState.BUSY
    assert one.version.state is VersionState.READY
    one.answer(worker(one).identity)
    assert job.state is JobState.DONE
    beats(one, 5, answered=True)
    assert worker(one).state is WorkerState.READY


def test_one_that_never_answers_is_ended_and_replaced(one: Driver):
    silent = worker(one).identity
    beats(one, 2 + HANG_AFTER)
    assert not one.killed
    beats(one, 1)
    assert one.killed == [(silent, True)]
    one.exit(silent, -9, ExitReason.SIGNAL)
    assert one.reports[-1].reason is ExitReason.HANG
    assert one.reports[-1].message == "Idle, it did not answer for 12 s."
    assert one.reports[-1].signal == "SIGKILL"
    assert worker(one).identity != silent
    one.check_invariants()


def test_one_that_works_is_not_asked_however_long_it_takes(one: Driver):
    one.offer()
    beats(one, 60)
    assert worker(one).state is WorkerState.BUSY
    assert not one.pinged


def test_work_that_came_after_an_unanswered_question_is_governed_by_its_own_time(one: Driver):
    beats(one, 1)
    one.offer()
    beats(one, 60)
    assert worker(one).state is WorkerState.BUSY
    one.answer_pings()
    one.answer(worker(one).identity)
    beats(one, 1, answered=True)
    assert worker(one).state is WorkerState.READY


def test_while_the_frontend_was_away_nobody_could_answer(one: Driver):
    beats(one, 2)
    one.tick(3600.0)
    assert worker(one).state is WorkerState.READY
    one.answer_pings()
    beats(one, 3, answered=True)
    assert worker(one).state is WorkerState.READY
    beats(one, 3)
    one.tick(3600.0)
    assert worker(one).state is WorkerState.UNRESPONSIVE, "an hour away is not an hour of silence"
    assert not one.killed


def test_workers_that_load_or_know_no_ping_are_not_asked():
    driver = Driver()
    driver.answers_pings = False
    driver.scale(2)
    first, second = sorted(driver.processes)
    driver.run(driver.fleet.hello(first, 1, 4242, driver.now, minor=2))
    driver.loaded(first)
    driver.hello(second)
    beats(driver, 10)
    assert not driver.pinged
    driver.loaded(second)
    beats(driver, 1)
    assert driver.pinged == [second]


def test_one_that_is_not_wanted_any_more_is_asked_to_stop(one: Driver):
    silent = worker(one).identity
    beats(one, 3)
    one.scale(0)
    assert one.stopping == [silent]
    one.tick(11.0)
    assert one.killed == [(silent, False)]
    one.tick(11.0)
    assert one.killed[-1] == (silent, True)
    one.exit(silent, -9, ExitReason.SIGNAL)
    assert one.reports[-1].reason is ExitReason.STOPPED


def test_without_ready_workers_nobody_rings(one: Driver):
    one.run(one.fleet.drain(KEY, one.now, one.now))
    one.exit(worker(one).identity, 0)
    for _ in range(70):
        one.tick(1.0)
    assert one.fleet.next_alarm is None


def test_a_successor_that_does_not_answer_does_not_take_over_until_it_does():
    driver = Driver(response_timeout=100.0)
    driver.answers_pings = False
    driver.scale(2)
    driver.boot_all()
    old = set(driver.processes)
    driver.roll(model_dir="new")
    first, second = sorted(driver.processes - old)
    driver.hello(first)
    driver.loaded(first)
    for _ in range(3):
        driver.tick(1.0)
    for identity in old:
        driver.run(driver.fleet.pong(identity, driver.now))
    assert driver.fleet.workers[first].state is WorkerState.UNRESPONSIVE
    driver.hello(second)
    driver.loaded(second)
    assert driver.version.roll is not None
    driver.run(driver.fleet.pong(first, driver.now))
    assert driver.version.roll is None
    assert {each.identity for each in driver.version.ready_workers} == {first, second}
    driver.check_invariants()
