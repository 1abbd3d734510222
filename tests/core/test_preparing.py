"""A version whose packages are being installed: its workers wait, and who asks is told."""

from __future__ import annotations

import pytest
from fleet_driver import KEY, Driver

from flambeau.frontend.errors import InstallingError, ModelFailedError
from flambeau.frontend.exits import Exit, ExitReason
from flambeau.frontend.lifecycle import VersionState

NOT_TO_BE_HAD = Exit("m/1.0", ExitReason.DEPENDENCIES, "no such package", 100.0, status=400)


@pytest.fixture
def preparing() -> Driver:
    driver = Driver()
    driver.run(driver.fleet.preparing(KEY))
    return driver


def test_workers_are_started_once_the_packages_are_there(preparing: Driver):
    preparing.scale(2)
    assert preparing.version.state is VersionState.LOADING
    assert (preparing.processes, preparing.version.is_settled) == (set(), False)
    preparing.run(preparing.fleet.prepared(KEY, None, preparing.now))
    assert len(preparing.processes) == 2
    preparing.boot_all()
    assert preparing.version.is_settled
    preparing.check_invariants()


def test_the_last_word_on_how_many_workers_counts(preparing: Driver):
    preparing.scale(3)
    preparing.scale(1)
    preparing.run(preparing.fleet.prepared(KEY, None, preparing.now))
    assert len(preparing.processes) == 1


def test_a_version_that_wants_no_workers_is_ready_afterwards(preparing: Driver):
    preparing.run(preparing.fleet.prepared(KEY, None, preparing.now))
    assert preparing.version.state is VersionState.READY
    assert not preparing.processes


def test_requests_are_told_to_come_again_and_ping_is_not_alarmed(preparing: Driver):
    preparing.scale(1)
    with pytest.raises(InstallingError) as caught:
        preparing.offer()
    assert (caught.value.status, caught.value.reason) == (503, "installing")
    assert preparing.version.is_healthy(preparing.now)
    assert preparing.version.min_workers
    assert not preparing.version.ready_workers


def test_packages_that_are_not_to_be_had_fail_the_version(preparing: Driver):
    preparing.scale(1)
    preparing.run(preparing.fleet.prepared(KEY, NOT_TO_BE_HAD, preparing.now))
    assert preparing.version.state is VersionState.FAILED
    assert preparing.version.failure == NOT_TO_BE_HAD
    with pytest.raises(ModelFailedError, match="no such package"):
        preparing.offer()
    # New files do not bring the packages.
    preparing.run(preparing.fleet.replace(KEY, preparing.now))
    assert (preparing.version.state, preparing.processes) == (VersionState.FAILED, set())


def test_a_failed_version_may_try_again(preparing: Driver):
    preparing.scale(1)
    preparing.run(preparing.fleet.prepared(KEY, NOT_TO_BE_HAD, preparing.now))
    preparing.run(preparing.fleet.preparing(KEY))
    assert preparing.version.state is VersionState.LOADING
    preparing.scale(1)
    preparing.run(preparing.fleet.prepared(KEY, None, preparing.now))
    preparing.boot_all()
    assert preparing.version.state is VersionState.READY


def test_a_version_that_is_unregistered_meanwhile_is_forgotten(preparing: Driver):
    preparing.scale(1)
    preparing.run(preparing.fleet.drain(KEY, preparing.now, preparing.now))
    assert preparing.fleet.is_empty
    assert preparing.fleet.prepared(KEY, None, preparing.now) == []
    assert not preparing.processes
