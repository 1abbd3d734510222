"""Sequences: one worker each, in order, one request in work, and an end."""

from __future__ import annotations

import pytest
from fleet_driver import KEY, Driver
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flambeau.frontend.errors import BadRequestError, QueueFullError, ServiceUnavailableError
from flambeau.frontend.exits import ExitReason
from flambeau.frontend.jobs import JobState
from flambeau.frontend.sequences import SequenceSpec, ended_sequences, name_sequence
from flambeau.worker.messages import Answer, Chunk, Result

SPEC = SequenceSpec(sequences=4, waiting=2, idle=5.0, lifetime=60.0)
END = [("ts_request_sequence_end", "a; b")]


@pytest.fixture
def two() -> Driver:
    """Two ready workers, batches of four, four sequences of which two requests may wait."""
    return driver(2)


def driver(workers: int, spec: SequenceSpec = SPEC, **more) -> Driver:
    made = Driver(batch_size=4, max_batch_delay=0.0, sequences=spec, **more)
    made.scale(workers)
    made.boot_all(credits=8)
    return made


def in_work(driver: Driver) -> dict[str, list[str]]:
    """By worker: the sequences of the requests that it has."""
    return {
        identity: [job.sequence for work in batches for job in work.requests]
        for identity, batches in driver.work.items()
        if batches
    }


def worker_of(driver: Driver, sequence: str) -> str:
    (found,) = [each for each, names in in_work(driver).items() if sequence in names]
    return found


def test_a_sequence_stays_with_its_worker_and_new_ones_go_where_there_are_fewer(two: Driver):
    two.offer(sequence="a")
    first = worker_of(two, "a")
    two.offer(sequence="b")
    assert worker_of(two, "b") != first
    two.answer(first)
    for _ in range(3):
        two.offer(sequence="a")
        assert worker_of(two, "a") == first
        two.answer(first)
    two.check_invariants()


def test_one_request_of_a_sequence_is_in_work_and_the_others_wait_in_order(two: Driver):
    jobs = [two.offer(sequence="a") for _ in range(3)]
    worker = worker_of(two, "a")
    assert [job.state for job in jobs] == [JobState.RUNNING, JobState.QUEUED, JobState.QUEUED]
    two.answer(worker)
    assert [job.state for job in jobs] == [JobState.DONE, JobState.RUNNING, JobState.QUEUED]


def test_a_batch_has_one_request_of_each_sequence():
    one = driver(1)
    one.offer(sequence="a")
    for name in ("b", "b", "c", "a"):
        one.offer(sequence=name)
    (worker,) = one.fleet.workers
    one.answer(worker)
    assert sorted(in_work(one)[worker]) == ["a", "b", "c"]
    one.answer(worker)
    assert in_work(one)[worker] == ["b"]


def test_a_batch_waits_for_others_where_it_is_told_to():
    one = Driver(batch_size=2, max_batch_delay=0.1, sequences=SPEC)
    one.scale(1)
    one.boot_all()
    one.offer(sequence="a")
    assert not in_work(one)
    one.offer(sequence="b")
    (worker,) = in_work(one)
    one.answer(worker)
    one.offer(sequence="a")
    one.tick(0.11)
    assert in_work(one)[worker] == ["a"]


def test_too_many_requests_of_a_sequence_and_too_many_sequences_are_refused(two: Driver):
    for _ in range(3):
        two.offer(sequence="a")
    with pytest.raises(QueueFullError, match="maxSequenceJobQueueSize"):
        two.offer(sequence="a")
    for name in "bcd":
        two.offer(sequence=name)
    with pytest.raises(QueueFullError):
        two.offer(sequence="e")
    two.check_invariants()


def test_an_idle_sequence_makes_room_and_begins_anew(two: Driver):
    for name in "abcd":
        two.offer(sequence=name)
    for identity in list(two.busy()):
        while two.work[identity]:
            two.answer(identity)
    two.tick(4.9)
    with pytest.raises(QueueFullError):
        two.offer(sequence="e")
    two.tick(0.2)
    two.offer(sequence="e")
    assert two.version.sequences.open_sequences == 1


def test_a_sequence_that_is_too_old_is_closed_once_it_is_served(two: Driver):
    two.offer(sequence="a")
    worker = worker_of(two, "a")
    for _ in range(19):
        two.now += 3.0
        two.answer(worker)
        two.offer(sequence="a")
    two.now += 3.0
    with pytest.raises(QueueFullError):
        two.offer(sequence="a")
    two.answer(worker)
    two.offer(sequence="a")


def test_an_answer_may_end_sequences_and_who_waits_in_them_is_told(two: Driver):
    two.offer(sequence="a")
    waiting = two.offer(sequence="a")
    worker = worker_of(two, "a")
    work = two.work[worker].pop()
    result = Result(work.batch_id, 0.1, [Answer(headers=END)])
    two.run(two.fleet.result(worker, result, two.now))
    assert waiting.state is JobState.FAILED
    assert waiting.outcome.error.reason == "sequence_closed"
    assert two.version.sequences.open_sequences == 0
    two.check_invariants()


def test_a_piece_of_an_answer_may_end_a_sequence_too(two: Driver):
    two.offer(sequence="a")
    worker = worker_of(two, "a")
    chunk = Chunk(two.work[worker][0].batch_id, 0, Answer(headers=END))
    two.run(two.fleet.chunk(worker, chunk, two.now))
    assert two.version.sequences.open_sequences == 0
    two.answer(worker)
    two.check_invariants()


def test_what_a_lost_worker_remembered_is_lost_and_nobody_is_answered_without_it(two: Driver):
    jobs = [two.offer(sequence="a") for _ in range(2)]
    other = two.offer(sequence="b")
    worker = worker_of(two, "a")
    two.exit(worker, -9, ExitReason.SIGNAL)
    assert [job.outcome.error.status for job in jobs] == [500, 503]
    assert other.state is JobState.RUNNING
    again = two.offer(sequence="a")
    assert not again.is_settled
    two.check_invariants()


def test_a_worker_that_leaves_closes_its_sequences(two: Driver):
    two.offer(sequence="a")
    leaving = worker_of(two, "a")
    two.offer(sequence="b")
    staying = worker_of(two, "b")
    waiting = [two.offer(sequence=name) for name in "ab"]
    two.scale(1)
    gone, kept = (waiting[0], waiting[1]) if leaving in _retiring(two) else waiting[::-1]
    assert gone.state is JobState.FAILED
    assert kept.state is JobState.QUEUED
    for identity in (leaving, staying):
        two.answer(identity)
    two.check_invariants()


def test_a_successor_takes_over_from_a_worker_that_dies_while_it_still_has_sequences():
    one = driver(1, max_memory=1000)
    for _ in range(61):  # so that it is old enough to be renewed at once
        one.tick(1.0)
    one.offer(sequence="a")
    old = worker_of(one, "a")
    one.measure(old, 2000)
    one.boot_all(credits=8)
    one.exit(old, -9, ExitReason.SIGNAL)
    assert not one.version.is_settled
    one.tick(1.0)
    assert one.version.is_settled, "and whoever waits for that is told"
    one.check_invariants()


def _retiring(driver: Driver) -> list[str]:
    return [each.identity for each in driver.fleet.workers.values() if each.slot.retiring]


def test_with_continuous_batching_a_request_need_not_wait_for_the_one_before():
    spec = SequenceSpec(sequences=4, waiting=2, idle=5.0, overlapping=True)
    one = driver(1, spec, continuous=True, concurrency=4)
    for _ in range(3):
        one.offer(sequence="a")
    (worker,) = one.fleet.workers
    assert in_work(one)[worker] == ["a", "a", "a"]
    assert [len(work.requests) for work in one.work[worker]] == [1, 1, 1]


def test_a_call_for_a_description_belongs_to_no_sequence(two: Driver):
    asked = two.offer()
    (worker,) = in_work(two)
    two.answer(worker)
    assert asked.state is JobState.DONE
    assert two.version.sequences.open_sequences == 0


@pytest.mark.parametrize("name", ["ts_request_sequence_id", "Ts_Request_Sequence_Id"])
def test_a_client_may_spell_the_header_as_it_likes(name: str):
    headers = {name: "7"}
    assert name_sequence(headers, SPEC, str) == "7"
    assert headers["ts_request_sequence_id"] == "7"
    assert "ts_request_sequence_start" not in headers


def test_who_names_no_sequence_begins_one():
    headers: dict[str, str] = {}
    assert name_sequence(headers, SPEC, lambda: "new") == "ts-seq-new"
    assert headers == {
        "ts_request_sequence_start": "true",
        "ts_request_sequence_id": "ts-seq-new",
    }


def test_ids_that_are_over_are_separated_by_semicolons():
    assert ended_sequences([*END, ("x", "c")], "TS_REQUEST_SEQUENCE_END") == ["a", "b"]
    assert ended_sequences([], "ts_request_sequence_end") == []


class SequenceMachine(RuleBasedStateMachine):
    """Random requests, answers, ends, deaths, time and scaling over sequences."""

    @initialize(workers=st.integers(1, 3), overlapping=st.booleans(), size=st.integers(1, 3))
    def start(self, workers, overlapping, size):
        spec = SequenceSpec(3, 2, idle=5.0, lifetime=30.0, overlapping=overlapping)
        self.overlapping = overlapping
        self.driver = Driver(
            batch_size=size,
            sequences=spec,
            max_batch_delay=0.0,
            continuous=overlapping,
            concurrency=2 * size if overlapping else 1,
            response_timeout=20.0,
        )
        self.driver.scale(workers)
        self.driver.boot_all(credits=8)

    @rule(name=st.sampled_from("abcd"))
    def offer(self, name):
        try:
            self.driver.offer(sequence=name)
        except ServiceUnavailableError:
            return

    @rule(index=st.integers(0, 5), end=st.sampled_from(["", "a", "a;b"]))
    def answer(self, index, end):
        busy = sorted(each for each in self.driver.busy() if each in self.driver.processes)
        if busy:
            identity = busy[index % len(busy)]
            work = self.driver.work[identity].pop(0)
            headers = [("ts_request_sequence_end", end)] if end else []
            answers = [Answer(body=b"x", headers=headers) for _ in work.requests]
            result = Result(work.batch_id, 0.1, answers)
            self.driver.run(self.driver.fleet.result(identity, result, self.driver.now))

    @rule(index=st.integers(0, 50))
    def client_leaves(self, index):
        jobs = self.driver.offered
        if jobs:
            job = jobs[index % len(jobs)]
            self.driver.run(self.driver.fleet.abandoned(KEY, job, self.driver.now))

    @rule(index=st.integers(0, 5))
    def process_ends(self, index):
        processes = sorted(self.driver.processes)
        if processes:
            self.driver.exit(processes[index % len(processes)], -9, ExitReason.SIGNAL)

    @rule(workers=st.integers(0, 3))
    def scale(self, workers):
        self.driver.scale(workers)
        for identity in self.driver.stopping:
            if identity in self.driver.processes:
                self.driver.exit(identity, 0)
        self.driver.boot_all(credits=8)

    @rule(seconds=st.sampled_from([0.5, 6.0, 31.0]))
    def time_passes(self, seconds):
        self.driver.tick(seconds)
        self.driver.boot_all(credits=8)

    @invariant()
    def books_are_right(self):
        if not hasattr(self, "driver"):
            return
        self.driver.check_invariants()
        queue = self.driver.version.sequences
        assert queue.open_sequences <= 3
        for sequence in queue._open.values():
            assert sequence.in_flight <= 1 or self.overlapping
            assert sequence.in_flight == list(queue._in_work.values()).count(sequence)
            assert sequence.worker is None or sequence.worker in self.driver.fleet.workers
            order = [job.offered_at for job in sequence.waiting]
            assert order == sorted(order)
        in_work = []
        for worker in self.driver.fleet.workers.values():
            for batch in worker.in_flight.values():
                in_work += batch.jobs
                for job in batch.jobs:
                    sequence = queue._in_work[job]
                    assert sequence.worker == worker.identity
        assert set(queue._in_work) == set(in_work)


SequenceMachine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
TestSequences = SequenceMachine.TestCase


def test_an_id_that_no_answer_could_end_is_refused():
    with pytest.raises(BadRequestError, match="semicolon"):
        name_sequence({"ts_request_sequence_id": "x;victim"}, SPEC, str)
