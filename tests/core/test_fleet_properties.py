"""Whatever happens, in whatever order, every request gets exactly one outcome."""

from __future__ import annotations

import contextlib

from fleet_driver import KEY, Driver
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from flambeau.frontend.errors import ConflictError, ServiceUnavailableError
from flambeau.frontend.exits import ExitReason
from flambeau.frontend.jobs import JobState
from flambeau.worker.messages import Answer, Chunk


class FleetMachine(RuleBasedStateMachine):
    """Random requests, answers, deaths, time, scaling and draining over one version."""

    @initialize(
        size=st.integers(1, 4),
        delay=st.sampled_from([0.0, 0.05]),
        adaptive=st.booleans(),
        client_timeout=st.sampled_from([0.0, 1.0]),
        queue_timeout=st.sampled_from([0.0, 0.5]),
        retries=st.integers(0, 1),
        workers=st.integers(1, 2),
        fast=st.booleans(),
        at_once=st.sampled_from([1, 1, 3]),
        most_requests=st.sampled_from([0, 0, 3]),
        idle=st.sampled_from([0.0, 0.0, 3.0]),
        waits=st.booleans(),
        in_time=st.sampled_from([0.0, 0.0, 0.03, 1.0]),
    )
    def start(
        self,
        size,
        delay,
        adaptive,
        client_timeout,
        queue_timeout,
        retries,
        workers,
        fast,
        at_once,
        most_requests,
        idle,
        waits,
        in_time,
    ):
        self.driver = Driver(
            batch_size=size,
            max_batch_delay=delay,
            adaptive_batching=adaptive,
            latency_target=in_time,
            client_timeout=client_timeout,
            queue_timeout=queue_timeout,
            lost_retries=retries,
            response_timeout=2.0,
            startup_timeout=3.0,
            queue_size=6,
            concurrency=at_once,
            max_requests=most_requests,
            max_memory=1000,
            idle_timeout=idle,
            cold_start=waits,
            scale_down_after=2.0,
        )
        self.driver.answers_pings = False
        self.driver.handler_seconds = 0.0002 if fast else 0.1
        self.driver.scale(workers)
        self.driver.boot_all(credits=3)

    def pick(self, index, candidates):
        candidates = sorted(candidates)
        return candidates[index % len(candidates)] if candidates else None

    @rule(count=st.integers(1, 5), limit=st.sampled_from([None, 0.05, 3.0]))
    def offer(self, count, limit):
        for _ in range(count):
            try:
                self.driver.offer(limit)
            except ServiceUnavailableError:
                return

    @rule()
    def everybody_boots(self):
        self.driver.boot_all(credits=3)

    @rule(rounds=st.integers(1, 3))
    def everybody_answers(self, rounds):
        for _ in range(rounds):
            for identity in self.driver.busy():
                if identity in self.driver.processes:
                    self.driver.answer(identity)

    @rule(seconds=st.sampled_from([0.01, 0.06]))
    def a_moment_passes(self, seconds):
        self.driver.tick(seconds)

    @rule(count=st.integers(1, 13), answered=st.booleans())
    def seconds_pass(self, count, answered):
        for _ in range(count):
            self.driver.tick(1.0)
            if answered:
                self.driver.answer_pings()
                self.everybody_answers(1)

    @rule()
    def silent_workers_answer(self):
        self.driver.answer_pings()

    @rule(index=st.integers(0, 50))
    def client_leaves(self, index):
        jobs = self.driver.offered
        if jobs:
            job = jobs[index % len(jobs)]
            self.driver.run(self.driver.fleet.abandoned(KEY, job, self.driver.now))

    @rule(index=st.integers(0, 5))
    def say_hello(self, index):
        fleet = self.driver.fleet
        silent = [
            i for i in self.driver.processes if i in fleet.workers and not fleet.workers[i].pid
        ]
        if identity := self.pick(index, silent):
            self.driver.hello(identity)

    @rule(index=st.integers(0, 5), credits=st.integers(1, 3), ok=st.booleans())
    def finish_loading(self, index, credits, ok):
        if identity := self.pick(index, self.driver.loading):
            if ok:
                self.driver.loaded(identity, credits)
            else:
                self.driver.load_failed(identity)

    @rule(
        index=st.integers(0, 5),
        error=st.booleans(),
        batch=st.integers(0, 2),
        safe=st.sampled_from([0, 0, 1, 2]),
        spoilt=st.sampled_from([False, False, True]),
    )
    def answer(self, index, error, batch, safe, spoilt):
        identity = self.pick(index, self.driver.busy())
        if identity is not None and identity in self.driver.processes:
            at_work = min(len(self.driver.work[identity]), self.driver.spec.concurrency)
            says = {"safe_batch": safe, "is_spoilt": spoilt}
            self.driver.answer(identity, error=error, batch=batch % at_work, **says)

    @rule()
    def workers_let_go_of_what_is_cancelled(self):
        cancelled = {cancel.batch_id for cancel in self.driver.cancelled if cancel.index is None}
        for identity in self.driver.busy():
            for work in list(self.driver.work[identity]):
                if work.batch_id in cancelled and identity in self.driver.processes:
                    self.driver.answer(identity, batch=self.driver.work[identity].index(work))

    @rule(index=st.integers(0, 5), row=st.integers(0, 3))
    def answer_in_part(self, index, row):
        busy = [i for i in self.driver.busy() if i in self.driver.processes]
        if identity := self.pick(index, busy):
            work = self.driver.work[identity][0]
            chunk = Chunk(work.batch_id, row % len(work.requests), Answer(body=b"x"))
            self.driver.run(self.driver.fleet.chunk(identity, chunk, self.driver.now))

    @rule(index=st.integers(0, 5), killed=st.booleans())
    def process_ends(self, index, killed):
        if identity := self.pick(index, self.driver.processes):
            reason = ExitReason.SIGNAL if killed else ExitReason.EXIT_CODE
            self.driver.exit(identity, -9 if killed else 3, reason)

    @rule()
    def killed_processes_end(self):
        for identity, _ in self.driver.killed:
            if identity in self.driver.processes:
                self.driver.exit(identity, -9, ExitReason.SIGNAL)
        for identity in self.driver.stopping:
            if identity in self.driver.processes:
                self.driver.exit(identity, 0)

    @rule(index=st.integers(0, 5))
    def worker_talks_nonsense(self, index):
        if identity := self.pick(index, self.driver.processes):
            fleet = self.driver.fleet
            self.driver.run(fleet.violated(identity, "sent nonsense", self.driver.now))

    @rule()
    def files_change(self):
        self.driver.run(self.driver.fleet.replace(KEY, self.driver.now))

    @rule(index=st.integers(0, 5), memory=st.sampled_from([900, 1100]))
    def worker_is_measured(self, index, memory):
        if identity := self.pick(index, self.driver.fleet.workers):
            self.driver.measure(identity, memory)

    @precondition(lambda self: KEY in self.driver.fleet.versions)
    @rule(size=st.integers(1, 4), folder=st.integers(0, 2))
    def roll(self, size, folder):
        with contextlib.suppress(ConflictError, ServiceUnavailableError):
            self.driver.roll(batch_size=size, model_dir=f"dir{folder}")

    @rule(seconds=st.sampled_from([1.1, 2.5, 11.0, 61.0]))
    def time_passes(self, seconds):
        self.driver.tick(seconds)

    @precondition(lambda self: KEY in self.driver.fleet.versions)
    @rule(minimum=st.integers(0, 3), more=st.sampled_from([0, 0, 2]))
    def scale(self, minimum, more):
        version = self.driver.fleet.versions[KEY]
        if version.state.value == "draining":
            return
        fleet = self.driver.fleet
        self.driver.run(fleet.scale(KEY, minimum, minimum + more, self.driver.now))

    @precondition(lambda self: KEY in self.driver.fleet.versions and self.driver.offered)
    @rule(seconds=st.sampled_from([0.0, 5.0]))
    def drain(self, seconds):
        now = self.driver.now
        self.driver.run(self.driver.fleet.drain(KEY, now + seconds, now))

    @precondition(lambda self: KEY not in self.driver.fleet.versions)
    @rule()
    def register_again(self):
        self.driver.fleet.add(self.driver.spec)
        self.driver.scale(1)
        self.driver.boot_all()

    @invariant()
    def the_books_balance(self):
        if hasattr(self, "driver"):
            self.driver.check_invariants()

    def teardown(self):
        """Left alone, with its processes ending, the fleet settles everything and empties."""
        if not hasattr(self, "driver"):
            return
        driver = self.driver
        driver.run(driver.fleet.drain(KEY, driver.now, driver.now))
        for _ in range(8):
            driver.tick(11.0)
            for identity in list(driver.processes):
                driver.exit(identity, -9, ExitReason.SIGNAL)
        assert driver.fleet.is_empty
        assert all(job.is_settled for job in driver.offered)
        settled = {JobState.DONE, JobState.FAILED, JobState.CANCELLED}
        assert {job.state for job in driver.offered} <= settled


FleetMachine.TestCase.settings = settings(
    max_examples=400,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestFleet = FleetMachine.TestCase
