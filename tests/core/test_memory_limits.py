"""Batches are formed so that they fit into the memory of the workers that are there."""

from __future__ import annotations

import pytest
from fleet_driver import KEY, Driver

from flambeau.frontend.fleet_metrics import fleet_families
from flambeau.frontend.memory_limits import safe_batch


def started(workers: int = 1, **spec) -> Driver:
    driver = Driver(batch_size=8, max_batch_delay=0.0, **spec)
    driver.scale(workers)
    driver.boot_all()
    return driver


def sizes(driver: Driver) -> list[int]:
    """The batches that are at work."""
    return sorted(len(work.requests) for batches in driver.work.values() for work in batches)


def fill(driver: Driver, count: int = 32) -> None:
    for _ in range(count):
        driver.offer()


def test_a_worker_that_says_what_fits_gets_no_more() -> None:
    driver = started()
    fill(driver)
    (worker,) = driver.busy()
    driver.answer(worker, safe_batch=3)
    assert sizes(driver) == [3]
    assert safe_batch(driver.version) == 3
    driver.answer(worker, safe_batch=5)
    assert sizes(driver) == [5]
    driver.answer(worker)
    assert sizes(driver) == [8]
    assert safe_batch(driver.version) is None
    driver.check_invariants()


def test_the_worker_with_the_least_room_counts_as_long_as_it_is_there() -> None:
    driver = started(workers=2)
    fill(driver, 64)
    one, two = driver.busy()
    driver.answer(one, safe_batch=5)
    driver.answer(two, safe_batch=2)
    assert safe_batch(driver.version) == 2
    driver.exit(two)
    assert safe_batch(driver.version) == 5
    driver.exit(one)
    assert safe_batch(driver.version) is None
    driver.check_invariants()


@pytest.mark.parametrize("nonsense", [-1, 0, 8, 1000])
def test_what_is_no_limit_limits_nothing(nonsense: int) -> None:
    driver = started()
    fill(driver)
    driver.answer(*driver.busy(), safe_batch=nonsense)
    assert sizes(driver) == [8]


def test_shortages_and_limits_are_shown_to_prometheus() -> None:
    driver = started()
    fill(driver)
    (worker,) = driver.busy()
    for safe in (4, 2):
        driver.answer(worker, safe_batch=safe, shortages=3)
    families = list(fleet_families(driver.fleet.versions))
    samples = {
        sample.name: sample
        for family in families
        for sample in family.samples
        if sample.name in ("flambeau_out_of_memory_total", "flambeau_safe_batch_size")
    }
    assert samples["flambeau_out_of_memory_total"].value == 6
    assert samples["flambeau_safe_batch_size"].value == 2
    labels = {"model": KEY[0], "version": KEY[1]}
    assert [sample.labels for sample in samples.values()] == [labels, labels]
