"""Workers that follow on others: nobody waits longer for it, and what fails is not noticed."""

from __future__ import annotations

import pytest
from fleet_driver import KEY, Driver

from flambeau.frontend.errors import ConflictError, DrainingError
from flambeau.frontend.exits import ExitReason
from flambeau.frontend.jobs import JobState
from flambeau.frontend.lifecycle import VersionState
from flambeau.frontend.succession import RENEWAL_PAUSE, YOUNG


def started(workers: int = 1, **spec) -> Driver:
    driver = Driver(queue_size=1000, **spec)
    driver.scale(workers)
    driver.boot_all()
    return driver


def serve(driver: Driver, requests: int) -> None:
    for _ in range(requests):
        driver.offer()
        driver.answer(driver.busy()[0])


def standby(driver: Driver) -> list[str]:
    return [slot.worker.identity for slot in driver.version.heirs if slot.worker is not None]


def test_a_worker_that_has_served_enough_serves_until_its_successor_is_ready():
    driver = started(max_requests=10)
    (old,) = driver.processes
    serve(driver, 10)
    (new,) = standby(driver)
    serve(driver, 3)
    assert old in driver.fleet.workers
    running = driver.offer()
    driver.boot_all()
    assert driver.stopping == [], "it has still to answer"
    driver.answer(old)
    assert running.state is JobState.DONE
    assert driver.stopping == [old]
    driver.let_go()
    (report,) = driver.reports
    assert report.reason is ExitReason.RECYCLED
    assert report.message == "It has served 10 requests (maxRequestsPerWorker)."
    (slot,) = driver.version.slots.values()
    assert slot.worker.identity == new
    assert slot.last_exit == report
    assert slot.restarts == 0


def test_slots_of_successors_reuse_numbers():
    driver = started(max_requests=1)
    for _ in range(20):
        serve(driver, 1)
        driver.boot_all()
        driver.let_go()
    assert len(driver.reports) == 20
    numbers = {report.identity.rpartition("/")[2].partition("#")[0] for report in driver.reports}
    assert numbers == {"9000", "9001"}


def test_one_worker_is_renewed_at_a_time():
    driver = started(3, max_age=100.0)
    driver.tick(100.0)
    assert len(driver.processes) == 4
    for expected in (3, 2, 1):
        old = [w for w in driver.version.ready_workers if w.farewell is not None]
        assert len(old) == expected
        driver.boot_all()
        driver.let_go()
    assert len(driver.processes) == 3
    assert [report.reason for report in driver.reports] == [ExitReason.RECYCLED] * 3


def test_a_successor_that_cannot_be_started_costs_nothing_and_is_tried_again_later():
    driver = started(max_requests=5)
    (old,) = driver.processes
    serve(driver, 5)
    (new,) = standby(driver)
    driver.hello(new)
    driver.load_failed(new)
    driver.exit(new, 1)
    assert driver.version.boot_failure is None
    assert driver.version.state is VersionState.READY
    serve(driver, 3)
    assert driver.processes == {old}
    driver.tick(RENEWAL_PAUSE)
    assert len(driver.processes) == 2
    driver.boot_all()
    driver.let_go()
    assert old not in driver.processes
    assert len(driver.version.ready_workers) == 1


def test_when_the_old_worker_dies_meanwhile_its_successor_takes_its_place():
    driver = started(max_requests=5)
    (old,) = driver.processes
    serve(driver, 5)
    driver.exit(old)
    waiting = driver.offer()
    driver.boot_all()
    driver.answer(driver.busy()[0])
    assert waiting.state is JobState.DONE
    assert len(driver.version.slots) == len(driver.processes) == 1


def test_when_both_die_the_slot_is_filled_again():
    driver = started(max_requests=5)
    (old,) = driver.processes
    serve(driver, 5)
    driver.exit(old)
    driver.exit(standby(driver)[0])
    driver.boot_all()
    serve(driver, 1)
    assert len(driver.version.slots) == len(driver.processes) == 1


def test_a_worker_with_too_much_memory_is_renewed():
    driver = started(max_memory=100 << 20)
    (old,) = driver.processes
    driver.measure(old, 90 << 20)
    assert not standby(driver)
    driver.tick(YOUNG)
    driver.measure(old, 150 << 20)
    driver.boot_all()
    driver.let_go()
    (report,) = driver.reports
    assert report.message == "It uses 150 MB, more than the 100 of maxWorkerMemory."


def test_workers_that_are_too_large_at_once_are_not_renewed_in_a_loop():
    driver = started(max_memory=100 << 20)
    starts = 0
    for _ in range(600):
        driver.tick(1.0)
        for worker in driver.version.ready_workers:
            driver.measure(worker.identity, 150 << 20)
        starts += len(driver.loading) + sum(
            driver.fleet.workers[identity].pid is None for identity in standby(driver)
        )
        driver.boot_all()
        driver.let_go()
    assert 3 <= starts <= 12
    assert "raise the limit" in driver.reports[0].message


def test_a_scale_down_takes_the_successor_with_the_worker():
    driver = started(max_requests=5)
    serve(driver, 5)
    driver.scale(0)
    driver.let_go()
    assert not driver.processes
    assert not driver.version.slots


def test_no_new_worker_serves_before_all_of_them_are_ready():
    driver = started(2, max_batch_delay=0.0)
    old = set(driver.processes)
    driver.roll(model_dir="new", batch_size=4)
    assert driver.version.roll is not None
    assert driver.version.is_settled, "who asks for workers has them"
    first, second = standby(driver)
    driver.hello(first)
    driver.loaded(first)
    jobs = [driver.offer() for _ in range(3)]
    assert set(driver.busy()) <= old
    driver.hello(second)
    driver.loaded(second)
    assert driver.version.roll is None
    assert driver.version.spec.model_dir == "new"
    for _ in range(3):
        for identity in driver.busy():
            driver.answer(identity)
    assert {job.state for job in jobs} == {JobState.DONE}
    driver.let_go()
    assert driver.processes == {first, second}
    assert driver.version.queue.batch_size == 4


def test_what_waits_at_the_switch_is_served_by_the_new_workers():
    driver = started()
    running, waiting = driver.offer(), driver.offer()
    (old,) = driver.busy()
    driver.roll(model_dir="new")
    driver.boot_all()
    (new,) = set(driver.busy()) - {old}
    driver.answer(new)
    driver.answer(old)
    assert running.state is waiting.state is JobState.DONE


def test_a_roll_that_fails_changes_nothing():
    driver = started(2)
    old = set(driver.processes)
    driver.roll(model_dir="new")
    first, second = standby(driver)
    driver.hello(first)
    driver.loaded(first)
    driver.hello(second)
    driver.load_failed(second, "ImportError: no module named x")
    driver.exit(second, 1)
    assert driver.version.roll is None
    assert driver.version.roll_failure is not None
    assert driver.version.roll_failure.reason is ExitReason.IMPORT_ERROR
    assert driver.version.spec.model_dir == "dir"
    driver.let_go()
    assert driver.processes == old
    serve(driver, 4)
    assert driver.version.state is VersionState.READY


def test_a_version_that_was_given_up_is_mended_by_a_roll():
    driver = Driver()
    driver.scale(1)
    for _ in range(3):
        (identity,) = driver.processes
        driver.hello(identity)
        driver.load_failed(identity)
        driver.exit(identity, 1)
        driver.tick(60.0)
    assert driver.version.state is VersionState.FAILED
    driver.roll(model_dir="new")
    driver.boot_all()
    assert driver.version.state is VersionState.READY
    serve(driver, 1)


def test_a_version_without_workers_is_rolled_at_once():
    driver = Driver()
    driver.roll(model_dir="new")
    assert driver.version.spec.model_dir == "new"
    assert driver.version.roll is None


def test_scaling_during_a_roll_counts_after_it():
    driver = started(1)
    driver.roll(model_dir="new")
    driver.scale(3)
    driver.boot_all()
    driver.boot_all()
    driver.let_go()
    assert len(driver.processes) == len(driver.version.ready_workers) == 3
    assert {worker.slot.spec.model_dir for worker in driver.version.ready_workers} == {"new"}


def test_rolls_are_refused_where_they_cannot_be():
    driver = started()
    driver.roll(model_dir="new")
    with pytest.raises(ConflictError, match="being replaced already"):
        driver.roll(model_dir="newer")
    driver.run(driver.fleet.drain(KEY, driver.now + 5.0, driver.now))
    with pytest.raises(DrainingError):
        driver.roll(model_dir="newest")


def test_a_version_that_is_drained_takes_its_successors_with_it():
    driver = started(2, max_requests=5)
    serve(driver, 5)
    driver.run(driver.fleet.drain(KEY, driver.now + 5.0, driver.now))
    driver.let_go()
    assert driver.fleet.is_empty
