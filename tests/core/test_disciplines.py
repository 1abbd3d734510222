"""Who goes next: the order of each discipline, and that none loses or doubles anybody."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flambeau.frontend.batcher import ModelQueue
from flambeau.frontend.disciplines import (
    AGEING,
    DEADLINE,
    DISCIPLINES,
    FIFO,
    LIFO_ON_OVERLOAD,
    NOMINAL_PATIENCE,
    PRIORITY,
    STANDING_BATCHES,
    STANDING_INTERVAL,
    STANDING_SERVICES,
    STANDING_WAIT,
    priority_of,
)
from flambeau.frontend.errors import BadRequestError
from flambeau.frontend.jobs import Job, JobState, Outcome

CAPACITY = 6


def make_queue(discipline: str, *, size: int = 1, capacity: int = 100, queue_timeout: float = 0.0):
    return ModelQueue(
        capacity,
        size,
        0.0,
        adaptive=True,
        discipline=discipline,
        queue_timeout=queue_timeout,
    )


def put(queue: ModelQueue, name: str, at: float = 0.0, **fields) -> Job:
    job = Job(name, {}, [], at, **fields)
    assert queue.offer(job, at)
    return job


def take_all(queue: ModelQueue) -> str:
    return "".join(job.id for _ in range(len(queue)) for job in queue.take())


def test_the_first_that_came_goes_first():
    queue = make_queue(FIFO)
    for name in "abc":
        put(queue, name, priority=9 - ord(name) % 3, deadline=-ord(name))
    assert take_all(queue) == "abc"


def test_the_most_urgent_goes_first_and_of_equals_the_first_that_came():
    queue = make_queue(PRIORITY)
    for name, priority in [("a", 5), ("b", 9), ("c", 0), ("d", 5), ("e", 0)]:
        put(queue, name, priority=priority)
    assert take_all(queue) == "ceadb"


def test_waiting_makes_urgent():
    queue = make_queue(PRIORITY)
    put(queue, "old", 0.0, priority=9)
    put(queue, "young", 9 * AGEING - 0.1, priority=0)
    assert queue.head().id == "young"
    put(queue, "younger", 9 * AGEING + 0.1, priority=0)
    queue.take()
    assert queue.head().id == "old"


def test_the_earliest_deadline_goes_first_and_nobody_waits_for_ever_without_one():
    queue = make_queue(DEADLINE)
    put(queue, "p", 0.0)
    put(queue, "a", 1.0, deadline=9.0)
    put(queue, "b", 2.0, deadline=5.0)
    put(queue, "c", 3.0, deadline=NOMINAL_PATIENCE + 1.0)
    assert take_all(queue) == "bapc"
    queue = make_queue(DEADLINE, queue_timeout=2.0)
    put(queue, "p", 0.0)
    put(queue, "a", 1.0, deadline=2.5)
    assert take_all(queue) == "pa"


def overload(queue: ModelQueue) -> float:
    """Arrivals for as long as it takes to see that the queue stands; the time of the last."""
    put(queue, "0", 0.0)
    put(queue, "1", STANDING_WAIT)
    at = STANDING_WAIT + STANDING_INTERVAL
    put(queue, "2", at)
    return at


def test_a_burst_is_served_in_order():
    queue = make_queue(LIFO_ON_OVERLOAD)
    for name in "abcdef":
        put(queue, name, 0.0)
    assert take_all(queue) == "abcdef"


def test_in_a_standing_queue_the_newest_goes_first_and_the_others_when_there_is_room():
    queue = make_queue(LIFO_ON_OVERLOAD)
    overload(queue)
    assert take_all(queue) == "210"


def test_the_overload_is_over_when_nobody_waits_long_any_more():
    queue = make_queue(LIFO_ON_OVERLOAD)
    at = overload(queue)
    assert take_all(queue) == "210"
    put(queue, "a", at + 1.0)
    put(queue, "b", at + 1.0)
    assert take_all(queue) == "ab"


def test_a_wait_of_a_few_batches_is_no_overload():
    queue = make_queue(LIFO_ON_OVERLOAD)
    queue.answered(0.0, 1.0, 1, 1)
    overload(queue)
    assert queue.head().id == "0"
    put(queue, "3", STANDING_SERVICES)
    put(queue, "4", STANDING_SERVICES + STANDING_BATCHES - 0.1)
    assert queue.head().id == "0"
    put(queue, "5", STANDING_SERVICES + STANDING_BATCHES)
    assert queue.head().id == "5"


@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_jobs_of_a_lost_batch_go_first_and_alone(discipline):
    queue = make_queue(discipline, size=4)
    put(queue, "a", priority=0, deadline=0.0)
    put(queue, "b", priority=0, deadline=0.0)
    lost = [Job(name, {}, [], 0.0, priority=9, losses=1) for name in "xy"]
    queue.put_back(lost)
    assert [[job.id for job in queue.take()] for _ in range(3)] == [["x"], ["y"], ["a", "b"]]


@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_those_behind_the_suspects_may_go_before_them(discipline):
    queue = make_queue(discipline, size=4)
    put(queue, "a")
    queue.put_back([Job("x", {}, [], 0.0, losses=1)])
    assert [job.id for job in queue.take(past_suspects=True)] == ["a"]
    assert [job.id for job in queue.take()] == ["x"]


def test_another_discipline_takes_over_who_waits():
    queue = make_queue(FIFO)
    for name, priority in [("a", 9), ("b", 5), ("c", 1)]:
        put(queue, name, priority=priority)
    queue.put_back([Job("x", {}, [], 0.0, losses=1), Job("y", {}, [], 0.0, losses=1)])
    gone = put(queue, "gone")
    gone.settle(JobState.CANCELLED, Outcome())
    queue.discard(gone)
    queue.resize(100, 1, 0.0, adaptive=True, discipline=PRIORITY)
    assert len(queue) == 5
    assert take_all(queue) == "xycba"


@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_the_oldest_wait_is_told_whoever_is_next(discipline):
    queue = make_queue(discipline)
    assert queue.oldest_wait(5.0) == 0.0
    put(queue, "old", 1.0, priority=9)
    put(queue, "young", 2.0, priority=0, deadline=3.0)
    assert queue.oldest_wait(5.0) == 4.0


@pytest.mark.parametrize(
    ("discipline", "ahead"), [(FIFO, 3), (LIFO_ON_OVERLOAD, 3), (PRIORITY, 2), (DEADLINE, 1)]
)
def test_who_would_be_ahead_of_a_newcomer(discipline, ahead):
    queue = make_queue(discipline)
    put(queue, "a", 0.0, priority=5, deadline=2.0)
    put(queue, "b", 0.0, priority=9, deadline=8.0)
    put(queue, "c", 0.0, priority=0, deadline=9.0)
    assert queue.ahead_of(Job("n", {}, [], 0.0, priority=6, deadline=4.0)) == ahead


def test_nobody_is_ahead_of_the_newest_in_a_standing_queue():
    queue = make_queue(LIFO_ON_OVERLOAD)
    at = overload(queue)
    assert queue.ahead_of(Job("n", {}, [], at)) == 0


def test_the_last_of_the_least_urgent_gives_way_to_who_is_more_urgent():
    queue = make_queue(PRIORITY)
    for name, priority in [("a", 7), ("b", 7), ("c", 3)]:
        put(queue, name, priority=priority)
    assert queue.yields_to(Job("n", {}, [], 0.0, priority=7)) is None
    assert queue.yields_to(Job("n", {}, [], 0.0, priority=6)).id == "b"


def test_a_priority_is_a_digit():
    assert priority_of({"X-Request-Priority": "0"}, 5) == 0
    assert priority_of({"x-request-priority": "9"}, 5) == 9
    assert priority_of({"other": "1"}, 5) == 5
    for text in ("", "10", "-1", "high", "\u0663"):
        with pytest.raises(BadRequestError, match="X-Request-Priority"):
            priority_of({"X-Request-Priority": text}, 5)


class QueueMachine(RuleBasedStateMachine):
    """A queue beside a list of those that ought to be in it."""

    discipline = FIFO

    def __init__(self) -> None:
        super().__init__()
        self.queue = make_queue(self.discipline, size=2, capacity=CAPACITY)
        self.now = 0.0
        self.number = 0
        self.there: list[Job] = []
        self.back: list[Job] = []
        self.running: list[Job] = []

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.06, 1.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        priority=st.integers(0, 9), patience=st.none() | st.floats(0.1, 40.0), alone=st.booleans()
    )
    def offer(self, priority: int, patience: float | None, alone: bool) -> None:
        self.number += 1
        job = Job(f"{self.number}", {}, [], self.now, priority=priority, alone=alone)
        job.deadline = None if patience is None else self.now + patience
        accepted = self.queue.offer(job, self.now)
        assert accepted == (len(self.back) + len(self.there) < CAPACITY)
        if not accepted:
            other = self.queue.yields_to(job)
            if self.discipline != PRIORITY or all(each.priority <= priority for each in self.there):
                assert other is None
                return
            least = max(each.priority for each in self.there)
            assert other is [each for each in self.there if each.priority == least][-1]
            self.settle(other)
            assert self.queue.offer(job, self.now) == (len(self.back) + len(self.there) < CAPACITY)
            if len(self.back) + len(self.there) >= CAPACITY:
                return
        self.there.append(job)

    @rule(priority=st.integers(0, 9), patience=st.none() | st.floats(0.1, 40.0))
    def ask_who_is_ahead(self, priority: int, patience: float | None) -> None:
        job = Job("newcomer", {}, [], self.now, priority=priority)
        job.deadline = None if patience is None else self.now + patience
        ahead = self.queue.ahead_of(job)
        if self.discipline == PRIORITY:
            ranks = [each.offered_at + AGEING * each.priority for each in self.there]
            own = self.now + AGEING * priority
            assert ahead == len(self.back) + sum(rank <= own for rank in ranks)
        elif self.discipline == DEADLINE:
            own = self.now + NOMINAL_PATIENCE if patience is None else job.deadline
            dues = [
                each.offered_at + NOMINAL_PATIENCE if each.deadline is None else each.deadline
                for each in self.there
            ]
            assert ahead == len(self.back) + sum(due <= own for due in dues)
        else:
            assert ahead in (0, len(self.back) + len(self.there))

    def settle(self, job: Job) -> None:
        job.settle(JobState.FAILED, Outcome())
        self.queue.discard(job)
        (self.back if job in self.back else self.there).remove(job)

    @precondition(lambda self: self.there or self.back)
    @rule(data=st.data())
    def leave(self, data) -> None:
        self.settle(data.draw(st.sampled_from(self.back + self.there)))

    @precondition(lambda self: self.there or self.back)
    @rule()
    def take(self) -> None:
        batch = self.queue.take()
        assert 1 <= len(batch) <= 2
        assert len(batch) == 1 or not any(job.must_travel_alone for job in batch)
        for job in batch:
            self.check_turn(job)
            (self.back if job in self.back else self.there).remove(job)
            job.move(JobState.RUNNING)
        self.running.append(batch)

    def check_turn(self, job: Job) -> None:
        """``job`` is whose turn it is, of those that are there."""
        if self.back:
            assert job is self.back[0]
        elif self.discipline == FIFO:
            assert job is self.there[0]
        elif self.discipline == LIFO_ON_OVERLOAD:
            assert job in (self.there[0], self.there[-1])
        elif self.discipline == PRIORITY:
            assert job is min(
                self.there, key=lambda j: (j.offered_at + AGEING * j.priority, j.priority)
            )
        else:
            assert job is min(
                self.there,
                key=lambda j: j.offered_at + NOMINAL_PATIENCE if j.deadline is None else j.deadline,
            )

    @precondition(lambda self: self.running)
    @rule(lost=st.booleans())
    def end(self, lost: bool) -> None:
        batch = self.running.pop()
        for job in batch:
            if lost:
                job.losses = 1
                job.move(JobState.QUEUED)
            else:
                job.settle(JobState.DONE, Outcome())
        if lost:
            self.queue.put_back(batch)
            self.back[:0] = batch

    @invariant()
    def nobody_is_lost_or_doubled(self) -> None:
        waiting = self.queue.waiting()
        assert len(self.queue) == len(waiting)
        assert sorted(job.id for job in waiting) == sorted(j.id for j in self.back + self.there)
        assert (self.queue.head() is None) == (not waiting)
        oldest = min((job.offered_at for job in waiting), default=self.now)
        if self.discipline != FIFO or not self.back:
            assert self.queue.oldest_wait(self.now) == self.now - oldest


# One class for each, since hypothesis runs classes.
for _discipline in DISCIPLINES:
    _machine = type(f"Queue_{_discipline}", (QueueMachine,), {"discipline": _discipline})
    _machine.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
    globals()[f"TestQueue_{_discipline}"] = _machine.TestCase
