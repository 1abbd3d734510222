"""A Fleet with pretend workers: the test says what they do, the driver keeps the books."""

from __future__ import annotations

import itertools
from dataclasses import replace

from flambeau import FlambeauError
from flambeau.frontend.commands import Kill, Notify, Report, Resolve, Send, Spawn, Stream, Warn
from flambeau.frontend.describe import worker_status
from flambeau.frontend.exits import Exit, ExitReason
from flambeau.frontend.fleet import Fleet
from flambeau.frontend.jobs import Job
from flambeau.frontend.lifecycle import VersionState, WorkerState
from flambeau.frontend.version_spec import VersionSpec
from flambeau.worker.messages import Answer, Cancel, Load, LoadFailed, Ping, Result, Stop, Work

KEY = ("m", "1.0")


class Driver:
    """Carries out commands by writing them down; time is ``now``."""

    def __init__(self, **spec) -> None:
        self.now = 100.0
        self.handler_seconds = 0.1
        self.spec = VersionSpec(KEY, "dir", "h.py", **{"adaptive_batching": False, **spec})
        self.fleet = Fleet(
            lambda spec: None,
            lambda: 1.0,
            lambda spec, device: Load(*spec.key, spec.model_dir, spec.handler, spec.batch_size),
        )
        self.processes: set[str] = set()
        self.loading: list[str] = []
        self.loads: list[tuple[str, Load]] = []
        self.work: dict[str, list[Work]] = {}
        self.cancelled: list[Cancel] = []
        self.answers_pings = True
        self.pinged: list[str] = []
        self.unanswered: list[str] = []
        self.warnings: list[str] = []
        self.stopping: list[str] = []
        self.killed: list[tuple[str, bool]] = []
        self.resolved: list[Job] = []
        self.reports: list[Exit] = []
        self.streamed: list[Job] = []
        self.offered: list[Job] = []
        self._ids = itertools.count()
        self._come_true: set[str] = set()
        self.fleet.add(self.spec)

    @property
    def version(self):
        return self.fleet.versions[KEY]

    def run(self, commands) -> None:
        self.check_who_waits_is_told(commands)
        for command in commands:
            match command:
                case Spawn(identity=identity):
                    self.processes.add(identity)
                case Send(identity=identity, message=Load() as load):
                    self.loads.append((identity, load))
                    self.loading.append(identity)
                case Send(identity=identity, message=Work() as work):
                    worker = self.fleet.workers.get(identity)
                    if worker is not None:
                        slot = worker.slot
                        assert not slot.standby, "a successor got work before its time"
                        assert slot.spec == slot.version.spec, "a worker of the past got work"
                    self.work.setdefault(identity, []).append(work)
                case Send(message=Cancel() as cancel):
                    self.cancelled.append(cancel)
                case Send(identity=identity, message=Ping()):
                    self.pinged.append(identity)
                    self.unanswered.append(identity)
                case Warn(message=message):
                    self.warnings.append(message)
                case Send(identity=identity, message=Stop()):
                    self.stopping.append(identity)
                case Kill(identity=identity, force=force):
                    if identity in self.loading:
                        self.loading.remove(identity)
                    self.killed.append((identity, force))
                case Resolve(job=job):
                    assert job not in self.resolved, "a job was answered twice"
                    self.resolved.append(job)
                case Stream(job=job):
                    assert job not in self.resolved, "a piece came after the end"
                    self.streamed.append(job)
                case Report(exit=exit):
                    self.reports.append(exit)

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.run(self.fleet.tick(self.now))
        if self.answers_pings:
            self.answer_pings()

    def scale(self, minimum: int, maximum: int | None = None) -> None:
        self.run(self.fleet.scale(KEY, minimum, maximum or minimum, self.now))

    def hello(self, identity: str) -> None:
        self.run(self.fleet.hello(identity, 1, 4242, self.now))

    def loaded(self, identity: str, credits: int = 1) -> None:
        self.loading.remove(identity)
        self.run(self.fleet.loaded(identity, credits, self.now))

    def load_failed(self, identity: str, message: str = "ImportError: x") -> None:
        self.loading.remove(identity)
        failure = LoadFailed(500, "import_error", message)
        self.run(self.fleet.load_failed(identity, failure, self.now))

    def boot_all(self, credits: int = 1) -> None:
        """Every process that has not said hello yet does, and loads."""
        for identity in sorted(self.processes):
            worker = self.fleet.workers.get(identity)
            if worker is not None and worker.pid is None:
                self.hello(identity)
            if identity in self.loading:
                self.loaded(identity, credits)

    def offer(self, time_limit: float | None = None, sequence: str | None = None) -> Job:
        job = Job(f"r{next(self._ids)}", {}, [], self.now, time_limit=time_limit, sequence=sequence)
        try:
            commands = self.fleet.offered(KEY, job, self.now)
        except FlambeauError:
            self.run(self.fleet.flush())
            raise
        self.run(commands)
        self.offered.append(job)
        return job

    def busy(self) -> list[str]:
        return [identity for identity, batches in self.work.items() if batches]

    def answer(self, identity: str, *, error: bool = False, batch: int = 0, **says) -> None:
        """A worker answers one of its batches, and ``says`` more in its Result."""
        work = self.work[identity].pop(batch)
        answers = [Answer(503 if error else 200, body=b"x", is_error=error) for _ in work.requests]
        result = Result(work.batch_id, self.handler_seconds, answers, **says)
        self.run(self.fleet.result(identity, result, self.now))

    def roll(self, **changes) -> None:
        spec = replace(self.version.spec, **changes)
        self.run(self.fleet.roll(KEY, spec, self.now))

    def measure(self, identity: str, memory: int) -> None:
        self.run(self.fleet.measured(identity, memory, self.now))

    def let_go(self) -> None:
        """Everybody who was told to stop, or was killed, ends."""
        for identity in [*self.stopping, *(identity for identity, _ in self.killed)]:
            if identity in self.processes:
                self.exit(identity, 0 if identity in self.stopping else -15)

    def answer_pings(self) -> None:
        """Whoever was asked whether it is there says so."""
        asked, self.unanswered = self.unanswered, []
        for identity in asked:
            self.run(self.fleet.pong(identity, self.now))

    def exit(self, identity: str, code: int = 3, reason: ExitReason = ExitReason.EXIT_CODE) -> None:
        self.processes.discard(identity)
        self.work.pop(identity, None)
        if identity in self.loading:
            self.loading.remove(identity)
        exit = Exit(identity, reason, "ended", self.now, code, 500, ("last words",))
        self.run(self.fleet.exited(exit, self.now))

    def check_who_waits_is_told(self, commands) -> None:
        """What ``Engine.wait_until`` is asked to wait for never comes true without a Notify."""
        before, self._come_true = self._come_true, self.come_true()
        if self._come_true - before:
            assert Notify(KEY) in commands, self._come_true - before

    def come_true(self) -> set[str]:
        version = self.fleet.versions.get(KEY)
        if version is None:
            return {"it is gone"} | ({"all are gone"} if self.fleet.is_empty else set())
        is_leaving = any(slot.retiring for slot in version.slots.values())
        said = {
            "its workers are there": version.is_settled,
            "it failed": version.failure is not None,
            "a start failed": version.boot_failure is not None,
            "it is not rolled": version.roll is None,
            "nobody leaves": not is_leaving,
        }
        return {what for what, is_true in said.items() if is_true}

    def check_invariants(self) -> None:
        for version in self.fleet.versions.values():
            in_flight = [
                job
                for slot in version.slots.values()
                if slot.worker is not None
                for batch in slot.worker.in_flight.values()
                for job in batch.jobs
            ]
            assert version.running == len(in_flight)
            waiting = version.queue.waiting()
            assert len(version.queue) == len(waiting)
            unsettled = [job for job in self.offered if not job.is_settled]
            held = [job for job in in_flight if not job.is_settled] + waiting
            assert sorted(job.id for job in unsettled) == sorted(job.id for job in held)
            if version.state is VersionState.FAILED or not version.has_active_slot:
                assert not waiting, "requests wait for nobody"
            with_room = [worker for worker in version.ready_workers if worker.has_room]
            assert sorted(w.identity for w in version.free) == sorted(w.identity for w in with_room)
            self.check_what_is_shown(version)
            for worker in version.ready_workers:
                assert len(worker.in_flight) <= worker.credits
                assert (worker.state is WorkerState.BUSY) == bool(worker.in_flight)
                if version.spec.concurrency > 1:
                    assert len(worker.in_flight) <= version.spec.concurrency
                    batches = worker.in_flight.values()
                    suspects = [job for batch in batches for job in batch.jobs if job.losses]
                    assert not suspects or len(worker.in_flight) == 1, "a suspect has company"
        filled = {
            slot.worker.identity: slot.worker
            for version in self.fleet.versions.values()
            for slot in version.slots.values()
            if slot.worker is not None
        }
        assert filled == self.fleet.workers
        assert self.processes == set(filled) | set(self.fleet._departures)
        answered = [
            job for job in self.offered if job.is_settled and job.state.value != "cancelled"
        ]
        assert sorted(j.id for j in answered) == sorted(j.id for j in self.resolved)

    def check_what_is_shown(self, version) -> None:
        """Description, metrics and probes say the same of the workers."""
        ready = version.ready_workers
        slots = version.slots.values()
        assert [worker_status(slot) for slot in slots].count("READY") == len(ready)
        assert sum(slot.shown_state in ("ready", "busy") for slot in slots) == len(ready)
        assert not version.is_settled or len(ready) == len(version.active_slots)
        if version.state is VersionState.FAILED:
            assert not ready
            assert version.failure is not None
        for slot in slots:
            if slot.worker is not None and slot.worker.state is WorkerState.UNRESPONSIVE:
                assert not slot.worker.in_flight
                assert slot.failing_since is not None
