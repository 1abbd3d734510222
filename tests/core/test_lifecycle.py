"""Transitions happen along the tables or not at all."""

from __future__ import annotations

import pytest

from flambeau.frontend.errors import IllegalTransition
from flambeau.frontend.jobs import Job, JobState, Outcome
from flambeau.frontend.lifecycle import (
    SERVER_TRANSITIONS,
    VERSION_TRANSITIONS,
    WORKER_TRANSITIONS,
    Lifecycle,
    WorkerState,
)


@pytest.mark.parametrize("table", [WORKER_TRANSITIONS, VERSION_TRANSITIONS, SERVER_TRANSITIONS])
def test_every_state_has_a_row_and_every_state_but_the_first_can_be_reached(table):
    states = list(type(next(iter(table))))
    assert set(table) == set(states)
    reachable = {target for row in table.values() for target in row}
    assert set(states) - reachable <= {states[0]}


def test_an_unlisted_step_raises_and_tells_the_story():
    worker = Lifecycle("worker m/1/9000#1", WORKER_TRANSITIONS, WorkerState.SPAWNED)
    worker.move(WorkerState.CONNECTED)
    with pytest.raises(IllegalTransition, match=r"spawned -> connected -> busy\?"):
        worker.move(WorkerState.BUSY)
    assert worker.state is WorkerState.CONNECTED
    assert repr(worker) == "<worker m/1/9000#1 connected>"


def test_a_job_is_settled_once():
    job = Job("r", {}, [], 0.0)
    job.move(JobState.RUNNING)
    job.settle(JobState.DONE, Outcome())
    with pytest.raises(IllegalTransition):
        job.settle(JobState.FAILED, Outcome())
    with pytest.raises(IllegalTransition):
        job.move(JobState.QUEUED)
