"""Several batches in work at one worker, and requests that nobody waits for any more."""

from __future__ import annotations

import pytest
from fleet_driver import KEY, Driver

from flambeau.frontend.dispatcher import CANCEL_GRACE
from flambeau.frontend.errors import NoFreeWorkerError
from flambeau.frontend.exits import ExitReason
from flambeau.frontend.jobs import JobState
from flambeau.worker.messages import Answer, Cancel, Chunk


def started(workers: int = 1, **spec) -> Driver:
    defaults = {"concurrency": 3, "response_timeout": 10.0, "max_batch_delay": 0.0}
    driver = Driver(**{**defaults, **spec})
    driver.scale(workers)
    driver.boot_all(credits=8)
    return driver


def batches(driver: Driver) -> list[int]:
    """How many batches each worker has, in the order of their slots."""
    workers = sorted(driver.fleet.workers)
    return [len(driver.work.get(identity, [])) for identity in workers]


def test_a_worker_gets_batches_at_once_up_to_its_limit():
    driver = started()
    jobs = [driver.offer() for _ in range(5)]
    assert batches(driver) == [3]
    assert len(driver.version.queue) == 2
    driver.answer(driver.busy()[0], batch=1)
    assert jobs[1].state is JobState.DONE
    assert [work.requests[0].id for work in driver.work[driver.busy()[0]]] == ["r0", "r2", "r3"]
    driver.check_invariants()


def test_requests_go_to_the_worker_with_the_least_to_do():
    driver = started(2)
    for _ in range(4):
        driver.offer()
    assert batches(driver) == [2, 2]
    first = driver.busy()[0]
    driver.answer(first)
    driver.answer(first)
    driver.offer()
    driver.offer()
    assert batches(driver) == [2, 2]


def test_a_worker_that_takes_one_at_a_time_gets_one():
    """A handler that cannot run several at once grants one place only."""
    driver = Driver(concurrency=3, max_batch_delay=0.0)
    driver.scale(1)
    driver.boot_all(credits=1)
    driver.offer()
    driver.offer()
    assert batches(driver) == [1]


def test_a_continuous_model_gets_each_request_by_itself():
    driver = started(batch_size=3, continuous=True)
    driver.offer()
    driver.offer()
    assert [len(work.requests) for work in driver.work[driver.busy()[0]]] == [1, 1]


def test_each_batch_has_a_deadline_of_its_own_and_a_piece_renews_it():
    driver = started()
    worker = next(iter(driver.fleet.workers))
    early = driver.offer()
    driver.tick(6.0)
    talking = driver.offer()
    driver.tick(3.0)
    chunk = Chunk(driver.work[worker][1].batch_id, 0, Answer(body=b"x"))
    driver.run(driver.fleet.chunk(worker, chunk, driver.now))
    driver.tick(1.1)
    assert (early.outcome.status, early.outcome.error.clock) == (504, "response")
    assert driver.cancelled == [Cancel(driver.work[worker][0].batch_id)]
    driver.answer(worker)
    driver.tick(8.0)
    assert not talking.is_settled
    assert not driver.killed
    driver.tick(1.0)
    assert talking.outcome.status == 504


def test_a_worker_that_does_not_let_go_of_a_batch_is_killed():
    driver = started()
    (worker,) = driver.fleet.workers
    hung = driver.offer()
    driver.tick(8.0)
    companion = driver.offer()
    driver.tick(2.0)
    assert hung.state is JobState.FAILED
    driver.tick(CANCEL_GRACE)
    assert driver.killed == [(worker, True)]
    assert companion.state is JobState.QUEUED
    driver.exit(worker, -9, ExitReason.SIGNAL)
    assert driver.reports[-1].reason is ExitReason.RESPONSE_TIMEOUT
    driver.boot_all(credits=8)
    driver.answer(driver.busy()[0])
    assert companion.state is JobState.DONE
    driver.check_invariants()


def test_pieces_of_a_batch_that_was_given_up_do_not_keep_its_worker_alive():
    driver = started()
    (worker,) = driver.fleet.workers
    driver.offer()
    driver.tick(10.0)
    driver.tick(4.0)
    chunk = Chunk(driver.work[worker][0].batch_id, 0, Answer(body=b"x"))
    driver.run(driver.fleet.chunk(worker, chunk, driver.now))
    driver.tick(1.1)
    assert driver.killed


def test_a_lost_worker_loses_all_its_batches_and_each_is_tried_again_by_itself():
    driver = started()
    jobs = [driver.offer() for _ in range(3)]
    streamed, *others = jobs
    (worker,) = driver.fleet.workers
    chunk = Chunk(driver.work[worker][0].batch_id, 0, Answer(body=b"x"))
    driver.run(driver.fleet.chunk(worker, chunk, driver.now))
    driver.exit(worker, -9, ExitReason.SIGNAL)
    assert streamed.state is JobState.FAILED
    assert [job.losses for job in others] == [1, 1]
    late = driver.offer()
    driver.boot_all(credits=8)
    assert batches(driver) == [1]
    driver.answer(driver.busy()[0])
    assert batches(driver) == [1]
    driver.answer(driver.busy()[0])
    assert {job.state for job in others} == {JobState.DONE}
    assert late.state is JobState.RUNNING
    driver.check_invariants()


def test_a_poisonous_input_among_many_fails_alone():
    driver = started()
    jobs = [driver.offer() for _ in range(3)]
    poison = jobs[1]
    for _ in range(20):
        if not driver.busy():
            driver.tick(31.0)
            driver.boot_all(credits=8)
            continue
        worker = driver.busy()[0]
        if any(poison in work.requests for work in driver.work[worker]):
            driver.exit(worker)
        else:
            driver.answer(worker)
    assert [job.state for job in jobs] == [JobState.DONE, JobState.FAILED, JobState.DONE]


def test_others_go_on_while_a_lost_request_waits_for_an_idle_worker():
    driver = started(2)
    lost, _, staying = [driver.offer() for _ in range(3)]
    workers = sorted(driver.fleet.workers)
    first = next(w for w in workers if lost in driver.work[w][0].requests)
    (other,) = set(workers) - {first}
    driver.exit(first)
    assert lost.state is JobState.QUEUED
    assert len(driver.work[other]) == 1
    late = driver.offer()
    assert late.state is JobState.RUNNING, "a new worker is about to come"
    driver.boot_all(credits=8)
    (new,) = set(driver.fleet.workers) - {other}
    assert lost in driver.work[new][0].requests
    assert staying.losses == 1
    driver.offer()
    assert len(driver.work[new]) == 1
    driver.check_invariants()


def test_a_worker_becomes_idle_for_a_lost_request_when_no_other_comes():
    driver = started(3)
    jobs = [driver.offer() for _ in range(4)]
    lost = next(w for w in driver.busy() if len(driver.work[w]) == 2)
    driver.exit(lost)
    waiting = [job for job in jobs if job.state is JobState.QUEUED]
    driver.scale(2)
    busy = driver.busy()
    assert batches(driver) == [1, 1]
    for _ in range(4):
        driver.offer()
    assert sorted(batches(driver)) == [1, 3]
    kept = min(busy, key=lambda worker: len(driver.work[worker]))
    driver.answer(kept)
    assert driver.work[kept][0].requests == [waiting[0]]
    driver.check_invariants()


def test_a_worker_is_stopped_once_its_last_batch_is_answered():
    driver = started(2)
    for _ in range(4):
        driver.offer()
    driver.scale(1)
    (leaving,) = [slot.worker.identity for slot in driver.version.slots.values() if slot.retiring]
    driver.answer(leaving)
    assert not driver.stopping
    driver.answer(leaving)
    assert driver.stopping == [leaving]
    driver.tick(11.0)
    assert (leaving, False) in driver.killed
    driver.check_invariants()


def test_with_tickets_a_place_is_a_ticket():
    driver = started(job_ticket=True, concurrency=2)
    driver.offer()
    driver.offer()
    with pytest.raises(NoFreeWorkerError):
        driver.offer()


def leave(driver: Driver, job) -> None:
    driver.run(driver.fleet.abandoned(KEY, job, driver.now))


def test_the_worker_is_told_whose_client_left():
    driver = started(batch_size=2, concurrency=1, max_batch_delay=0.05)
    jobs = [driver.offer() for _ in range(2)]
    (work,) = driver.work[driver.busy()[0]]
    leave(driver, jobs[1])
    leave(driver, jobs[1])
    assert driver.cancelled == [Cancel(work.batch_id, 1)]
    driver.answer(driver.busy()[0])
    leave(driver, jobs[0])
    assert len(driver.cancelled) == 1
    driver.check_invariants()


def test_a_request_that_waits_is_nobodys_to_cancel():
    driver = started(concurrency=1)
    driver.offer()
    leave(driver, driver.offer())
    assert not driver.cancelled


def test_a_request_whose_client_gave_it_no_more_time_is_cancelled():
    driver = started()
    driver.offer(time_limit=0.5)
    driver.tick(0.6)
    assert [cancel.index for cancel in driver.cancelled] == [0]


def test_a_cancel_that_does_not_arrive_costs_nobody_a_worker():
    driver = started()
    (worker,) = driver.fleet.workers
    leave(driver, driver.offer())
    driver.run(driver.fleet.undelivered(worker, driver.cancelled[0], driver.now))
    assert worker in driver.fleet.workers
    driver.answer(worker)
    driver.check_invariants()


def test_an_older_worker_is_not_told_what_it_does_not_understand():
    driver = Driver(max_batch_delay=0.0)
    driver.scale(1)
    (worker,) = driver.processes
    driver.run(driver.fleet.hello(worker, 1, 42, driver.now, minor=1))
    driver.loaded(worker)
    leave(driver, driver.offer())
    assert not driver.cancelled
