"""What the fleet does when workers boot, answer, die, hang, are scaled and drained."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet_driver import KEY, Driver

from flambeau.frontend.crew import STOP_TIMEOUT
from flambeau.frontend.errors import (
    DrainingError,
    ModelFailedError,
    NoWorkerError,
    QueueFullError,
)
from flambeau.frontend.exits import ExitReason
from flambeau.frontend.jobs import JobState
from flambeau.frontend.lifecycle import VersionState
from flambeau.frontend.restarts import BACK_OFF_CAP
from flambeau.worker.messages import Answer, Result


@pytest.fixture
def one() -> Driver:
    """A version with batch size 8 and one ready worker."""
    driver = Driver(batch_size=8, max_batch_delay=0.0, response_timeout=10.0)
    driver.scale(1)
    driver.boot_all()
    return driver


def only_worker(driver: Driver) -> str:
    (identity,) = driver.fleet.workers
    return identity


def test_a_version_is_ready_once_its_workers_are():
    driver = Driver()
    assert driver.version.state is VersionState.READY
    driver.scale(2)
    assert driver.version.state is VersionState.LOADING
    first, second = sorted(driver.processes)
    driver.hello(first)
    driver.loaded(first)
    assert driver.version.state is VersionState.READY
    assert not driver.version.is_settled
    driver.hello(second)
    driver.loaded(second)
    assert driver.version.is_settled


def test_a_request_without_workers_is_refused_at_once():
    with pytest.raises(NoWorkerError):
        Driver().offer()


def test_a_request_waits_for_a_worker_that_is_loading():
    driver = Driver()
    driver.scale(1)
    job = driver.offer()
    driver.boot_all()
    driver.answer(only_worker(driver))
    assert job.state is JobState.DONE


def test_a_full_queue_refuses_at_once(one: Driver):
    one.version.queue.capacity = 2
    for _ in range(3):
        one.offer()
    with pytest.raises(QueueFullError):
        one.offer()


def test_requests_gather_behind_a_busy_worker_and_leave_as_one_batch(one: Driver):
    jobs = [one.offer() for _ in range(9)]
    worker = only_worker(one)
    assert [len(work.requests) for work in one.work[worker]] == [1]
    one.answer(worker)
    assert [len(work.requests) for work in one.work[worker]] == [8]
    one.answer(worker)
    assert {job.state for job in jobs} == {JobState.DONE}


def test_a_crash_in_a_batch_of_eight_costs_nobody_an_answer(one: Driver):
    one.offer()
    batch = [one.offer() for _ in range(8)]
    worker = only_worker(one)
    one.answer(worker)
    one.exit(worker, code=-9, reason=ExitReason.SIGNAL)
    one.boot_all()
    while one.busy():
        assert all(len(work.requests) == 1 for work in one.work[one.busy()[0]])
        one.answer(one.busy()[0])
    assert {job.state for job in batch} == {JobState.DONE}
    one.check_invariants()


def test_a_poisonous_input_fails_alone(one: Driver):
    one.offer()
    batch = [one.offer() for _ in range(8)]
    one.answer(only_worker(one))
    poison = batch[3]
    for _ in range(40):
        if not one.busy():
            one.tick(31.0)
            one.boot_all()
            continue
        worker = one.busy()[0]
        if poison in one.work[worker][0].requests:
            one.exit(worker)
        else:
            one.answer(worker)
    assert poison.state is JobState.FAILED
    assert poison.outcome.error.message == "Worker died."
    assert [job.state for job in batch if job is not poison] == [JobState.DONE] * 7


def test_without_retries_a_lost_batch_fails_as_a_whole():
    driver = Driver(batch_size=8, max_batch_delay=0.0, lost_retries=0)
    driver.scale(1)
    driver.boot_all()
    jobs = [driver.offer()]
    driver.exit(only_worker(driver))
    assert [job.outcome.status for job in jobs] == [500]


def test_a_hung_worker_is_killed_and_its_lone_request_answered_at_the_deadline(one: Driver):
    job = one.offer()
    worker = only_worker(one)
    one.tick(9.9)
    assert not one.killed
    one.tick(0.2)
    assert one.killed == [(worker, True)]
    error = job.outcome.error
    assert (error.status, error.clock) == (504, "response")
    assert error.message == ("Worker died. The handler took longer than 10 s (responseTimeout).")
    one.exit(worker, code=-9)
    report = one.reports[-1]
    assert report.reason is ExitReason.RESPONSE_TIMEOUT
    assert report.code == -9
    assert report.tail == ("last words",)
    assert one.processes


def test_companions_of_a_hung_request_are_tried_again(one: Driver):
    one.offer()
    jobs = [one.offer(), one.offer()]
    worker = only_worker(one)
    one.answer(worker)
    one.tick(11.0)
    one.exit(worker, code=-9)
    one.boot_all()
    while one.busy():
        one.answer(one.busy()[0])
    assert {job.state for job in jobs} == {JobState.DONE}


def test_a_busy_worker_keeps_one_alarm_however_many_batches_it_serves(one: Driver):
    worker = only_worker(one)
    before = len(one.fleet._agenda._alarms)
    for _ in range(500):
        one.offer()
        one.answer(worker)
    assert len(one.fleet._agenda._alarms) - before <= 1


def test_a_result_that_nobody_waits_for_is_dropped_and_counted(one: Driver):
    one.run(one.fleet.result(only_worker(one), Result(999, 0.0, [Answer()]), one.now))
    one.run(one.fleet.result("m/1.0/9000#77", Result(1, 0.0, [Answer()]), one.now))
    assert one.fleet.late_results == 2


def test_a_wrong_number_of_answers_is_a_violation_and_the_worker_is_replaced(one: Driver):
    one.offer()
    worker = only_worker(one)
    work = one.work.pop(worker)[0]
    one.run(one.fleet.result(worker, Result(work.batch_id, 0.0, []), one.now))
    assert one.killed == [(worker, True)]
    one.exit(worker, code=-9)
    assert one.reports[-1].reason is ExitReason.PROTOCOL_VIOLATION
    one.boot_all()
    assert one.version.is_settled


def test_another_protocol_version_is_refused():
    driver = Driver()
    driver.scale(1)
    (identity,) = driver.processes
    driver.run(driver.fleet.hello(identity, 2, 1, driver.now))
    assert driver.killed == [(identity, True)]


def test_what_cannot_boot_fails_with_its_reason_instead_of_looping():
    driver = Driver()
    driver.scale(1)
    job = driver.offer()
    for _ in range(3):
        (identity,) = driver.processes
        driver.hello(identity)
        driver.load_failed(identity, "ImportError: No module named 'left_pad'")
        driver.exit(identity, code=1)
        driver.tick(60.0)
    assert driver.version.state is VersionState.FAILED
    assert not driver.processes
    assert isinstance(job.outcome.error, ModelFailedError)
    assert "left_pad" in job.outcome.error.message
    with pytest.raises(ModelFailedError, match="left_pad"):
        driver.offer()
    assert driver.version.failure.tail == ("last words",)


def test_a_failed_version_is_tried_again_when_scaled():
    driver = Driver()
    driver.scale(1)
    for _ in range(3):
        driver.exit(next(iter(driver.processes)), code=1)
        driver.tick(60.0)
    assert driver.version.state is VersionState.FAILED
    driver.scale(1)
    driver.boot_all()
    assert driver.version.state is VersionState.READY


def test_scaling_a_failed_version_to_zero_starts_nothing():
    driver = Driver()
    driver.scale(1)
    for _ in range(3):
        driver.exit(next(iter(driver.processes)), code=1)
        driver.tick(60.0)
    driver.run(driver.fleet.scale(KEY, 0, 0, driver.now))
    assert not driver.processes
    assert driver.version.state is VersionState.READY
    with pytest.raises(NoWorkerError):
        driver.offer()


def test_a_loading_worker_has_its_startup_time_and_no_more():
    driver = Driver(startup_timeout=5.0)
    driver.scale(1)
    (identity,) = driver.processes
    driver.hello(identity)
    driver.tick(5.1)
    assert driver.killed == [(identity, True)]
    driver.exit(identity, code=-9)
    assert driver.reports[-1].reason is ExitReason.STARTUP_TIMEOUT


def test_a_failing_worker_beside_a_ready_one_degrades_and_does_not_fail_the_version(one: Driver):
    one.scale(2)
    for _ in range(6):
        (fresh,) = one.processes - {i for i, w in one.fleet.workers.items() if w.is_ready}
        one.exit(fresh, code=1)
        one.tick(BACK_OFF_CAP + 1)
    assert one.version.state is VersionState.DEGRADED
    one.offer()
    one.boot_all()
    assert one.version.state is VersionState.READY


def test_restarts_back_off_and_are_forgotten_after_a_stable_time(one: Driver):
    pauses = []
    for _ in range(9):
        one.offer()
        one.answer(only_worker(one))
        one.exit(only_worker(one))
        slot = next(iter(one.version.slots.values()))
        pauses.append(0.0 if slot.restart_at is None else slot.restart_at - one.now)
        one.tick(BACK_OFF_CAP + 1.0 if pauses[-1] else 0.0)
        one.boot_all()
    assert pauses == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    one.tick(31.0)
    one.exit(only_worker(one))
    assert only_worker(one)


def test_an_identity_is_never_used_twice(one: Driver):
    seen = set()
    for _ in range(5):
        identity = only_worker(one)
        assert identity not in seen
        seen.add(identity)
        one.exit(identity)
        one.tick(31.0)
        one.boot_all()
    one.run(one.fleet.drain(KEY, one.now, one.now))
    one.exit(only_worker(one), code=0)
    one.fleet.add(one.spec)
    one.scale(1)
    assert not seen & set(one.fleet.workers)


def test_an_abandoned_waiting_request_never_reaches_a_worker(one: Driver):
    one.offer()
    job = one.offer()
    one.run(one.fleet.abandoned(KEY, job, one.now))
    one.run(one.fleet.abandoned(KEY, job, one.now))
    one.answer(only_worker(one))
    assert job.state is JobState.CANCELLED
    assert not one.busy()
    one.check_invariants()


def test_an_abandoned_running_request_is_forgotten(one: Driver):
    job = one.offer()
    one.run(one.fleet.abandoned(KEY, job, one.now))
    one.answer(only_worker(one))
    assert job.state is JobState.CANCELLED
    assert not one.resolved
    one.check_invariants()


def test_a_request_that_outlives_its_clients_patience_is_answered_504():
    driver = Driver(client_timeout=2.0)
    driver.scale(1)
    driver.boot_all()
    running, waiting = driver.offer(), driver.offer()
    driver.tick(2.0)
    assert [job.outcome.status for job in (running, waiting)] == [504, 504]
    driver.answer(only_worker(driver))
    assert not driver.busy()
    driver.check_invariants()


def test_scaling_down_lets_the_newest_finish_first(one: Driver):

    one.scale(2)
    one.boot_all()
    one.offer()
    one.offer()
    newest = max(one.fleet.workers)
    one.scale(1)
    assert not one.stopping
    one.answer(newest)
    assert one.stopping == [newest]
    one.exit(newest, code=0)
    assert one.reports[-1].reason is ExitReason.STOPPED
    assert len(one.version.slots) == 1
    one.answer(only_worker(one))
    assert {job.state for job in one.offered} == {JobState.DONE}


def test_scaling_to_zero_answers_who_waits(one: Driver):
    one.offer()
    waiting = one.offer()
    one.run(one.fleet.scale(KEY, 0, 0, one.now))
    assert isinstance(waiting.outcome.error, NoWorkerError)
    one.answer(only_worker(one))
    assert one.offered[0].state is JobState.DONE


def test_a_stop_that_is_ignored_becomes_sigterm_and_then_sigkill(one: Driver):
    worker = only_worker(one)
    one.run(one.fleet.scale(KEY, 0, 0, one.now))
    one.tick(STOP_TIMEOUT + 0.1)
    one.tick(STOP_TIMEOUT + 0.1)
    assert one.killed == [(worker, False), (worker, True)]


def test_draining_serves_who_waits_and_refuses_who_comes(one: Driver):
    jobs = [one.offer() for _ in range(3)]
    one.run(one.fleet.drain(KEY, one.now + 30, one.now))
    with pytest.raises(DrainingError):
        one.offer()
    worker = only_worker(one)
    one.answer(worker)
    one.answer(worker)
    assert {job.state for job in jobs} == {JobState.DONE}
    assert one.stopping == [worker]
    one.exit(worker, code=0)
    assert one.fleet.is_empty


def test_draining_ends_at_its_deadline_with_an_answer_for_everybody(one: Driver):
    running, waiting = one.offer(), one.offer()
    one.run(one.fleet.drain(KEY, one.now + 5, one.now))
    one.tick(5.1)
    assert [job.outcome.status for job in (running, waiting)] == [504, 503]
    assert running.outcome.error.clock == "drain"
    assert waiting.outcome.error.reason == "draining"
    worker = one.killed[0][0]
    one.exit(worker, code=-15)
    assert one.fleet.is_empty


def test_draining_survives_a_crash(one: Driver):
    one.offer()
    one.run(one.fleet.drain(KEY, one.now + 60, one.now))
    one.exit(only_worker(one))
    one.boot_all()
    one.answer(only_worker(one))
    one.exit(only_worker(one), code=0)
    assert one.offered[0].state is JobState.DONE
    assert one.fleet.is_empty


def test_ping_stays_healthy_for_the_retry_window_and_no_longer():
    driver = Driver(max_retry_timeout=300.0)
    driver.scale(1)
    driver.exit(next(iter(driver.processes)), code=1)
    assert driver.version.is_healthy(driver.now + 299)
    assert not driver.version.is_healthy(driver.now + 301)


def test_a_fast_worker_gets_its_next_full_batch_while_it_works(one: Driver):
    one.handler_seconds = 0.001
    worker = only_worker(one)
    one.fleet.workers[worker].credits = 8
    one.offer()
    for _ in range(20):
        one.offer()
    one.answer(worker)
    assert [len(work.requests) for work in one.work[worker]] == [8, 8]
    assert len(one.version.queue) == 4


def test_a_slow_worker_gets_nothing_ahead(one: Driver):
    one.handler_seconds = 0.2
    worker = only_worker(one)
    one.fleet.workers[worker].credits = 8
    for _ in range(21):
        one.offer()
    one.answer(worker)
    assert [len(work.requests) for work in one.work[worker]] == [8]


def test_a_batch_that_was_not_begun_is_no_suspect_when_its_worker_dies():
    driver = Driver(batch_size=1, max_batch_delay=0.0)
    driver.handler_seconds = 0.0001
    driver.scale(1)
    driver.boot_all(credits=8)
    worker = only_worker(driver)
    driver.offer()
    driver.answer(worker)
    begun, *others = [driver.offer() for _ in range(5)]
    assert len(driver.work[worker]) == 5
    driver.exit(worker)
    assert begun.losses == 1
    assert [job.losses for job in others] == [0, 0, 0, 0]
    driver.boot_all(credits=8)
    while driver.busy():
        driver.answer(driver.busy()[0])
    assert {job.state for job in driver.offered} == {JobState.DONE}
    driver.check_invariants()


def test_a_worker_that_fails_for_days_is_still_restarted(one: Driver):
    slot = next(iter(one.version.slots.values()))
    slot.crashes = 5000
    one.exit(only_worker(one))
    assert slot.restart_at is not None
    one.tick(BACK_OFF_CAP + 1)
    assert only_worker(one)


def test_answered_requests_are_not_kept_until_their_clients_patience_ends():
    driver = Driver(client_timeout=60.0)
    driver.scale(1)
    driver.boot_all()
    worker = only_worker(driver)
    for _ in range(500):
        driver.offer()
        driver.answer(worker)
    assert driver.version.deadlines.unanswered <= 1
    assert len(driver.fleet._agenda._alarms) < 10
    late = driver.offer()
    driver.tick(60.0)
    assert late.outcome.status == 504


def test_a_drain_ends_when_the_last_request_runs_out_of_time():
    driver = Driver(client_timeout=2.0)
    driver.scale(1)
    waiting = driver.offer()
    driver.run(driver.fleet.drain(KEY, driver.now + 120, driver.now))
    driver.tick(2.1)
    assert waiting.outcome.status == 504
    for identity in list(driver.processes):
        driver.exit(identity, code=-15)
    assert driver.fleet.is_empty


def test_a_second_drain_may_shorten_the_first(one: Driver):
    running = one.offer()
    one.run(one.fleet.drain(KEY, one.now + 120, one.now))
    one.run(one.fleet.drain(KEY, one.now + 5, one.now))
    one.tick(5.1)
    assert running.outcome.status == 504


def test_a_request_that_could_not_be_delivered_is_not_lost_with_its_worker():
    driver = Driver(batch_size=1, max_batch_delay=0.0, lost_retries=0)
    driver.scale(1)
    driver.boot_all()
    worker = only_worker(driver)
    job = driver.offer()
    message = driver.work[worker].pop()
    driver.run(driver.fleet.undelivered(worker, message, driver.now))
    assert (job.state, job.losses) == (JobState.QUEUED, 0)
    driver.exit(worker, code=-9, reason=ExitReason.SIGNAL)
    assert driver.reports[-1].reason is ExitReason.SIGNAL
    driver.boot_all()
    driver.answer(only_worker(driver))
    assert job.state is JobState.DONE


def test_a_worker_that_hung_up_and_lives_on_is_killed(one: Driver):
    worker = only_worker(one)
    one.offer()
    one.run(one.fleet.undelivered(worker, one.work[worker].pop(), one.now))
    one.tick(1.1)
    assert one.killed == [(worker, True)]


def test_a_batch_that_waited_at_its_worker_has_its_own_response_time():
    driver = Driver(batch_size=1, max_batch_delay=0.0, response_timeout=2.0)
    driver.handler_seconds = 0.0001
    driver.scale(1)
    driver.boot_all(credits=8)
    worker = only_worker(driver)
    driver.offer()
    driver.answer(worker)
    driver.offer()
    driver.offer()
    driver.tick(1.9)
    driver.answer(worker)
    driver.tick(0.2)
    assert not driver.killed
    driver.tick(1.9)
    assert driver.killed == [(worker, True)]


def test_scaling_down_keeps_the_worker_that_serves(one: Driver):
    serving = only_worker(one)
    first = next(iter(one.version.slots.values()))
    one.scale(2)
    one.exit(serving)
    one.boot_all()
    broken = max(one.fleet.workers, key=lambda i: one.fleet.workers[i].slot is first)
    one.exit(broken, code=1)
    assert first.worker is None
    one.scale(1)
    assert [slot.worker.is_ready for slot in one.version.active_slots] == [True]


def test_a_process_with_a_name_beyond_ascii_gets_a_short_identity():
    driver = Driver()
    driver.fleet.add(replace(driver.spec, key=("m", "\U0001f600" * 100)))
    driver.run(driver.fleet.scale(("m", "\U0001f600" * 100), 1, 1, driver.now))
    assert all(len(identity.encode()) < 200 for identity in driver.fleet.workers)


def test_an_answer_that_died_with_the_next_input_is_given_on_the_second_try():
    """The worker's last answer may be lost with it; the input after it is the culprit."""
    driver = Driver(batch_size=1, max_batch_delay=0.0)
    driver.handler_seconds = 0.0001
    driver.scale(1)
    driver.boot_all(credits=8)
    driver.offer()
    driver.answer(only_worker(driver))
    innocent, poison = driver.offer(), driver.offer()
    assert len(driver.work[only_worker(driver)]) == 2
    for _ in range(6):
        driver.exit(only_worker(driver)) if driver.fleet.workers else driver.tick(31.0)
        driver.boot_all(credits=8)
        if driver.busy() and innocent in driver.work[driver.busy()[0]][0].requests:
            assert len(driver.work[driver.busy()[0]]) == 1, "a suspect travels alone"
            driver.answer(driver.busy()[0])
    assert innocent.state is JobState.DONE
    assert poison.state is JobState.FAILED


def test_nothing_is_sent_ahead_when_lost_requests_are_not_retried():
    driver = Driver(batch_size=1, max_batch_delay=0.0, lost_retries=0)
    driver.handler_seconds = 0.0001
    driver.scale(1)
    driver.boot_all(credits=8)
    driver.offer()
    driver.answer(only_worker(driver))
    driver.offer()
    driver.offer()
    assert len(driver.work[only_worker(driver)]) == 1


def test_a_few_inputs_that_kill_workers_do_not_keep_the_model_down(one: Driver):
    slot = next(iter(one.version.slots.values()))
    for _ in range(8):
        for _ in range(2):
            one.offer()
            one.exit(only_worker(one))
            pause = 0.0 if slot.restart_at is None else slot.restart_at - one.now
            assert pause <= 1.0
            one.tick(pause)
            one.boot_all()
            while one.busy():
                one.exit(one.busy()[0])
                one.tick(1.1)
                one.boot_all()
        one.offer()
        one.answer(only_worker(one))


def test_a_model_that_answers_nothing_refuses_at_once_and_is_tried_again(one: Driver):
    """A queue would be no answer: nobody in it is served before its client has gone."""
    pauses = []
    for _ in range(12):
        one.boot_all()
        queued = [one.offer(), one.offer()]
        one.exit(only_worker(one))
        if one.version.state is VersionState.FAILED:
            assert all(job.is_settled for job in queued)
            with pytest.raises(ModelFailedError, match="in a row without an answer") as refusal:
                one.offer()
            pauses.append(one.version.retry_at - one.now)
            assert refusal.value.retry_after == pauses[-1]
        one.tick(31.0 if pauses else 1.1)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert one.version.state is VersionState.LOADING
    one.boot_all()
    one.offer()
    one.answer(only_worker(one))
    one.exit(only_worker(one))
    assert one.version.crashes == 1
    assert one.version.state is VersionState.DEGRADED
    one.check_invariants()


def test_a_model_that_dies_while_it_is_idle_refuses_too(one: Driver):
    for _ in range(5):
        one.boot_all()
        one.tick(2.0)
        one.exit(only_worker(one), code=-9, reason=ExitReason.SIGNAL)
        one.tick(0.0 if one.version.retry_at else 31.0)
    with pytest.raises(ModelFailedError):
        one.offer()
    one.scale(1)
    assert (one.version.retry_at, one.version.crashes) == (None, 0)
    one.boot_all()
    assert one.version.state is VersionState.READY


@pytest.mark.parametrize("how", ["roll", "replace"])
def test_a_mended_model_is_not_held_to_what_it_died_of_before(one: Driver, how):
    for _ in range(5):
        one.boot_all()
        one.tick(2.0)
        one.exit(only_worker(one))
        one.tick(0.0 if one.version.retry_at else 31.0)
    assert one.version.state is VersionState.FAILED
    if how == "roll":
        one.roll(model_dir="mended")
    else:
        one.run(one.fleet.replace(KEY, one.now))
    one.boot_all()
    one.let_go()
    assert (one.version.state, one.version.retry_at) == (VersionState.READY, None)
    one.exit(only_worker(one))
    assert one.version.state is VersionState.DEGRADED


def test_workers_that_die_all_at_once_are_no_loop(one: Driver):
    one.scale(8)
    one.boot_all()
    for identity in sorted(one.fleet.workers):
        one.exit(identity, code=-9, reason=ExitReason.SIGNAL)
    one.boot_all()
    assert len(one.version.ready_workers) == 8


def test_one_of_two_workers_in_a_loop_does_not_stop_the_other(one: Driver):
    one.scale(2)
    one.boot_all()
    well, ill = sorted(one.fleet.workers)
    for _ in range(9):
        one.exit(ill)
        one.tick(31.0)
        one.boot_all()
        (ill,) = set(one.fleet.workers) - {well}
    job = one.offer()
    one.answer(one.busy()[0])
    assert job.state is JobState.DONE


def test_replaced_workers_finish_what_they_have_and_the_new_ones_take_the_rest(one: Driver):
    old = only_worker(one)
    begun = one.offer()
    one.run(one.fleet.replace(KEY, one.now))
    waiting = one.offer()
    one.boot_all()
    (new,) = set(one.fleet.workers) - {old}
    assert [len(work.requests) for work in one.work[new]] == [1]
    one.answer(old)
    assert one.stopping == [old]
    one.exit(old, 0)
    one.answer(new)
    assert all(job.state is JobState.DONE for job in (begun, waiting))
    assert set(one.fleet.workers) == {new}
    one.check_invariants()


def test_a_version_that_was_given_up_gets_workers_when_its_files_change():
    driver = Driver()
    driver.scale(1)
    for _ in range(3):
        driver.tick(31.0)
        identity = only_worker(driver)
        driver.hello(identity)
        driver.load_failed(identity)
        driver.exit(identity)
    assert driver.version.state is VersionState.FAILED
    driver.run(driver.fleet.replace(KEY, driver.now))
    assert driver.version.state is VersionState.LOADING
    driver.boot_all()
    assert driver.version.state is VersionState.READY
    driver.offer()
    driver.check_invariants()
