"""Versions that have as many workers as they need: none at all while nobody asks."""

from __future__ import annotations

import pytest
from fleet_driver import KEY, Driver

from flambeau.frontend.elastic import REST
from flambeau.frontend.jobs import JobState
from flambeau.frontend.lifecycle import VersionState


def asleep(**spec) -> Driver:
    driver = Driver(idle_timeout=10.0, **spec)
    driver.scale(1)
    driver.boot_all()
    for _ in range(22):
        driver.tick(0.5)
    driver.let_go()
    assert driver.version.state is VersionState.IDLE
    return driver


def reasons(driver: Driver) -> list[tuple[int, int, str]]:
    return [(event.before, event.after, event.reason) for event in driver.version.scalings]


def test_a_version_that_nobody_asks_for_has_no_workers_and_is_healthy():
    driver = asleep()
    assert not driver.processes
    assert not driver.version.slots
    assert driver.version.is_healthy(driver.now)
    assert reasons(driver) == [(1, 0, "nobody has asked for 10 s (idleTimeout)")]


def test_requests_keep_it_awake():
    driver = Driver(idle_timeout=10.0)
    driver.scale(1)
    driver.boot_all()
    for _ in range(100):
        driver.offer()
        driver.answer(driver.busy()[0])
        driver.tick(5.0)
    assert driver.version.state is VersionState.READY


def test_one_that_works_for_long_stays_awake():
    driver = Driver(idle_timeout=10.0, response_timeout=1000.0)
    driver.scale(1)
    driver.boot_all()
    driver.offer()
    for _ in range(100):
        driver.tick(1.0)
    assert driver.version.state is VersionState.READY


def test_a_request_wakes_it_and_waits():
    driver = asleep()
    jobs = [driver.offer() for _ in range(5)]
    assert driver.version.state is VersionState.LOADING
    assert len(driver.processes) == 1
    driver.boot_all()
    for _ in jobs:
        driver.answer(driver.busy()[0])
    assert {job.state for job in jobs} == {JobState.DONE}
    assert reasons(driver)[-1] == (0, 1, "a request has come")


def test_where_nobody_is_to_wait_the_first_is_sent_away_and_the_model_loaded():
    driver = asleep(cold_start=False)
    first = driver.offer()
    assert (first.outcome.status, first.outcome.error.reason) == (503, "loading")
    assert first.outcome.error.retry_after == 1
    driver.boot_all()
    second = driver.offer()
    driver.answer(driver.busy()[0])
    assert second.state is JobState.DONE


def test_a_request_while_the_workers_leave_has_new_ones_started():
    driver = Driver(idle_timeout=10.0)
    driver.scale(2)
    driver.boot_all()
    while driver.version.state is not VersionState.IDLE:
        driver.tick(0.5)
    job = driver.offer()
    driver.let_go()
    driver.boot_all()
    driver.answer(driver.busy()[0])
    assert job.state is JobState.DONE
    assert len(driver.processes) == 2


def test_if_it_cannot_be_loaded_all_who_wait_are_told_and_who_comes_later_has_another_try():
    driver = asleep()
    jobs = [driver.offer() for _ in range(3)]
    for _ in range(3):
        (identity,) = driver.processes
        driver.hello(identity)
        driver.load_failed(identity)
        driver.exit(identity, 1)
        driver.tick(1.1)
    assert driver.version.state is VersionState.FAILED
    assert {job.outcome.error.reason for job in jobs} == {"model_failed"}
    driver.tick(REST)
    assert driver.version.state is VersionState.IDLE
    job = driver.offer()
    driver.boot_all()
    driver.answer(driver.busy()[0])
    assert job.state is JobState.DONE


def test_a_version_without_workers_is_loaded_when_somebody_asks():
    driver = Driver(idle_timeout=10.0)
    assert driver.version.state is VersionState.IDLE
    job = driver.offer()
    driver.boot_all()
    driver.answer(driver.busy()[0])
    assert job.state is JobState.DONE
    assert len(driver.processes) == 1


def test_asking_for_workers_wakes_it():
    driver = asleep()
    driver.scale(2)
    driver.boot_all()
    assert driver.version.state is VersionState.READY
    assert len(driver.version.ready_workers) == 2


@pytest.mark.parametrize("when", ["asleep", "waking"])
def test_it_can_be_unregistered(when):
    driver = asleep()
    if when == "waking":
        driver.offer()
    driver.run(driver.fleet.drain(KEY, driver.now, driver.now))
    driver.tick()
    driver.let_go()
    for identity in list(driver.processes):
        driver.exit(identity, 0)
    assert driver.fleet.is_empty
    assert all(job.is_settled for job in driver.offered)


def loaded(driver: Driver, seconds: float) -> None:
    """Half a second at a time: who can answers one batch, and the queue never runs dry."""
    for _ in range(int(seconds * 2)):
        while len(driver.version.queue) < 10:
            driver.offer()
        for identity in driver.busy():
            driver.answer(identity)
        driver.tick(0.5)


def test_under_load_there_are_more_workers_up_to_the_maximum():
    driver = Driver(queue_size=1000)
    driver.scale(1, 3)
    driver.boot_all()
    loaded(driver, 3.0)
    assert len(driver.processes) == 2
    driver.boot_all()
    loaded(driver, 3.0)
    driver.boot_all()
    loaded(driver, 10.0)
    assert len(driver.processes) == 3
    assert "twice what the handler takes" in reasons(driver)[0][2]


def test_without_room_there_are_not_and_the_version_says_so_once_a_minute():
    driver = Driver(queue_size=1000)
    driver.fleet._room_for = lambda spec, largest, more: (0, "100 MB are needed, 50 are free")
    driver.scale(1, 3)
    driver.boot_all()
    loaded(driver, 30.0)
    assert len(driver.processes) == 1
    assert reasons(driver) == [(1, 1, "2 were wanted: 100 MB are needed, 50 are free")]


def test_when_the_load_is_gone_the_workers_go():
    driver = Driver(queue_size=1000, scale_down_after=10.0)
    driver.scale(1, 3)
    driver.boot_all()
    for _ in range(2):
        loaded(driver, 4.0)
        driver.boot_all()
    while driver.busy():
        for identity in driver.busy():
            driver.answer(identity)
    for _ in range(60):
        driver.tick(0.5)
    driver.let_go()
    assert len(driver.processes) == 1
    assert reasons(driver)[-1][1] == 1
