"""The heart: versions, their workers and (through Dispatcher) their requests, as one state machine.

An event is a method call with the time as an argument; it changes the state and returns the
commands that the shell (``engine``) has to carry out. Nothing here knows a socket, a process, a
task or a clock, and nothing else changes a job, a worker, a slot or a version.

Two things always hold: every job gets exactly one outcome, and the jobs in flight of a version are
those of its workers' batches.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..worker.messages import Cancel, Chunk, LoadFailed, Result, Work
from ..worker.protocol import PROTOCOL_VERSION
from .commands import Command, Kill, Notify
from .errors import NoWorkerError
from .exits import Exit, ExitReason
from .lifecycle import VersionKey, VersionState, WorkerState
from .versions import Version
from .vigil import Vigil

if TYPE_CHECKING:
    from ..worker.messages import Message
    from .jobs import Job
    from .roster import Schemas
    from .version_spec import VersionSpec


class Fleet(Vigil):
    """All versions, their workers and their requests: one method for each event."""

    @property
    def next_alarm(self) -> float | None:
        """When ``tick`` wants to be called next."""
        return self._agenda.next_alarm

    @property
    def is_empty(self) -> bool:
        """No version is left and every process has ended."""
        return not self.versions and not self._departures

    def tick(self, now: float) -> list[Command]:
        """Time has come for at least one alarm."""
        self._agenda.ring(now)
        # A request that ran out of time may have been the last that a drain waited for.
        for version in list(self._draining.values()):
            self._finish_drain(version, now)
        return self._agenda.flush()

    def offered(self, key: VersionKey, job: Job, now: float) -> list[Command]:
        """A request came. Raises ServiceUnavailableError when it cannot even be queued."""
        version = self.versions.get(key)
        if version is None:
            raise NoWorkerError(key[0], job.requested_version)
        version.asked_at = now
        if version.state is VersionState.IDLE:
            self._wake(version, now)
            self._dispatcher.offer(version, job, now)
            if not version.spec.cold_start:
                self._dispatcher.send_away(version, job, now)
        else:
            self._dispatcher.offer(version, job, now)
        return self._agenda.flush()

    def flush(self) -> list[Command]:
        """What an event has set off that raised an error: a refused request may wake a version."""
        return self._agenda.flush()

    def admit(self, key: VersionKey, job: Job, now: float) -> None:
        """Raise what ``offered`` would raise for want of room, before the request is read."""
        version = self.versions.get(key)
        if version is not None:
            self._dispatcher.admit(version, job, now)

    def abandoned(self, key: VersionKey, job: Job, now: float) -> list[Command]:
        """The client left; it gets no answer. Idempotent."""
        version = self.versions.get(key)
        if version is not None:
            self._dispatcher.abandon(version, job)
            self._finish_drain(version, now)
        return self._agenda.flush()

    def result(self, identity: str, result: Result, now: float) -> list[Command]:
        """A worker answered a batch. One that nobody waits for any more is counted and dropped."""
        worker = self.workers.get(identity)
        batch = worker.in_flight.get(result.batch_id) if worker else None
        if worker is None or batch is None:
            self.late_results += 1
            return []
        if len(result.answers) != len(batch.jobs):
            return self.violated(identity, "answered another number of requests than asked", now)
        self._dispatcher.complete(worker, batch, result, now)
        if result.is_spoilt:
            self._leaves_spoilt(worker, now)
            return self._agenda.flush()
        version = worker.slot.version
        if worker.served >= worker.quota:
            self._served_enough(worker, now)
        if worker.slot.retiring:
            self._stop_if_idle(worker, now)
        self._dispatcher.dispatch(version, now)
        self._finish_drain(version, now)
        return self._agenda.flush()

    def chunk(self, identity: str, chunk: Chunk, now: float) -> list[Command]:
        """A worker has a piece of one answer of a batch that it works on."""
        worker = self.workers.get(identity)
        batch = worker.in_flight.get(chunk.batch_id) if worker else None
        if worker is None or batch is None:
            return []
        if not 0 <= chunk.index < len(batch.jobs):
            return self.violated(identity, "answered a request that its batch does not have", now)
        self._dispatcher.pass_on(worker, batch, chunk.index, chunk.piece, now)
        return self._agenda.flush()

    def hello(
        self, identity: str, major: int, pid: int, now: float, minor: int = PROTOCOL_VERSION[1]
    ) -> list[Command]:
        """A process reported for work."""
        worker = self.workers.get(identity)
        if worker is None:
            return []
        if major != PROTOCOL_VERSION[0]:
            return self.violated(identity, f"speaks version {major} of the protocol", now)
        if worker.state is not WorkerState.SPAWNED:
            return self.violated(identity, "said hello twice", now)
        worker.move(WorkerState.CONNECTED)
        worker.pid, worker.minor = pid, minor
        worker.patience = now + worker.slot.spec.startup_timeout
        self._command_load(worker)
        self._watch(worker)
        return self._agenda.flush()

    def loaded(
        self, identity: str, credits: int, now: float, schemas: Schemas = (None, None)
    ) -> list[Command]:
        """A worker loaded its model and holds up to ``credits`` batches.

        It works on as many of them at once as it is meant to, the others wait there.
        """
        worker = self.workers.get(identity)
        if worker is None:
            return []
        if worker.state is not WorkerState.LOADING or credits < 1:
            return self.violated(identity, "reported a model that it was not loading", now)
        worker.move(WorkerState.READY)
        worker.ready_at = now
        slot, version = worker.slot, worker.slot.version
        worker.schemas = schemas
        worker.credits = credits
        worker.concurrency = min(credits, slot.spec.concurrency)
        if slot.standby:
            self._heir_is_ready(slot, now)
        else:
            self._took_place(worker, now)
        self._heartbeat.start(now)
        self._refresh(version)
        self._dispatcher.dispatch(version, now)
        return self._agenda.flush()

    def pong(self, identity: str, now: float) -> list[Command]:
        """A worker has answered that it is there."""
        worker = self.workers.get(identity)
        if worker is not None:
            self._is_there(worker, now)
        return self._agenda.flush()

    def load_failed(self, identity: str, failure: LoadFailed, now: float) -> list[Command]:
        """A worker could not load its model and is about to end."""
        worker = self.workers.get(identity)
        if worker is None:
            return []
        try:
            reason = ExitReason(failure.kind)
        except ValueError:
            reason = ExitReason.BOOT_FAILURE
        exit = Exit(identity, reason, failure.message, now, status=failure.status)
        self._lose(worker, exit, now, force=False)
        return self._agenda.flush()

    def violated(self, identity: str, what: str, now: float) -> list[Command]:
        """A worker broke the protocol: it is replaced."""
        worker = self.workers.get(identity)
        if worker is not None:
            message = f"The worker broke the protocol: it {what}."
            exit = Exit(identity, ExitReason.PROTOCOL_VIOLATION, message, now)
            self._lose(worker, exit, now, force=True)
        return self._agenda.flush()

    def undelivered(self, identity: str, message: Message, now: float) -> list[Command]:
        """A worker hung up before it got ``message``: its process ends, and its exit says why.

        A Cancel may be lost: it saves work, and a worker that is busy may have no room for more.
        """
        worker = self.workers.get(identity)
        if worker is None or worker.state is WorkerState.STOPPING or isinstance(message, Cancel):
            return []
        is_lost = worker.slot.version.sequences is not None
        if isinstance(message, Work) and message.batch_id in worker.in_flight and not is_lost:
            # Not so for sequences: what the worker remembered of them is gone.
            self._dispatcher.take_back(worker, worker.in_flight.pop(message.batch_id))
        exit = Exit(identity, ExitReason.UNREACHABLE, "The worker cannot be reached.", now)
        self._let_end(worker, exit, now)
        return self._agenda.flush()

    def exited(self, exit: Exit, now: float) -> list[Command]:
        """A worker's process ended, whoever ended it."""
        worker = self.workers.get(exit.identity)
        if worker is not None:
            if worker.state is WorkerState.STOPPING:
                reason, message = ExitReason.STOPPED, "Stopped as asked."
                if worker.farewell is not None:
                    reason, message = ExitReason.RECYCLED, worker.farewell
                exit = replace(exit, reason=reason, message=message)
            self._take_off(worker, exit, now)
        departure = self._departures.pop(exit.identity, None)
        if departure is not None:
            self._departed(departure, exit, now)
        return self._agenda.flush()

    def add(self, spec: VersionSpec) -> None:
        """Make a version known, without workers. The key must be free."""
        self.versions[spec.key] = Version(spec)
        self._refresh(self.versions[spec.key])

    def preparing(self, key: VersionKey) -> list[Command]:
        """What the version's workers need is being made: they are started when it is there.

        A version that was given up is tried again thereby.
        """
        version = self.versions[key]
        version.is_preparing = True
        self._revive(version)
        self._refresh(version)
        return self._agenda.flush()

    def prepared(self, key: VersionKey, failure: Exit | None, now: float) -> list[Command]:
        """It is there, or ``failure`` says why it is not to be had, and the version is given up."""
        version = self.versions.get(key)
        if version is None:
            return []
        version.is_preparing = False
        if failure is None:
            return self.scale(key, version.min_workers, version.max_workers, now)
        self._give_up(version, failure, now)
        self._refresh(version)
        return self._agenda.flush()

    def scale(
        self, key: VersionKey, min_workers: int, max_workers: int, now: float
    ) -> list[Command]:
        """Want at least ``min_workers`` and at most ``max_workers``.

        When there are too many, those that do not serve leave first, then the newest. A version
        that was given up is tried again.
        """
        version = self.versions[key]
        version.min_workers, version.max_workers = min_workers, max_workers
        version.boot_failure = None
        version.asked_at = now
        version.is_asleep = version.spec.idle_timeout > 0 and max_workers == 0
        self._look_after(version, now)
        version.crashes = 0
        if version.is_preparing:
            self._agenda.command(Notify(key))
            return self._agenda.flush()
        was_given_up = version.state is VersionState.FAILED
        self._reconcile(version, now)
        if was_given_up:
            self._try_again(version, now)
        if not version.has_active_slot:
            self._dispatcher.refuse_waiting(version, now)
        self._refresh(version)
        return self._agenda.flush()

    def measured(self, identity: str, memory: int, now: float) -> list[Command]:
        """A worker has ``memory`` bytes in memory."""
        worker = self.workers.get(identity)
        if worker is None:
            return []
        worker.memory = memory
        if 0 < worker.slot.spec.max_memory < memory:
            self._uses_too_much(worker, now)
        return self._agenda.flush()

    def roll(self, key: VersionKey, spec: VersionSpec, now: float) -> list[Command]:
        """Have workers that run ``spec`` in the place of all, under the same key.

        The old ones serve until as many new ones are ready; if one cannot be started, all stays as
        it was and ``version.roll_failure`` says why. Raises ConflictError where that is impossible.
        """
        version = self.versions[key]
        self._start_roll(version, spec, now)
        self._refresh(version)
        self._dispatcher.dispatch(version, now)
        return self._agenda.flush()

    def replace(self, key: VersionKey, now: float) -> list[Command]:
        """Have new workers in the place of all: what waits is for them, what is begun is finished.

        A version that was given up is tried again, unless it lacks its packages.
        """
        version = self.versions.get(key)
        if version is None or version.state is VersionState.DRAINING:
            return []
        if version.failure is not None and version.failure.reason is ExitReason.DEPENDENCIES:
            return []
        self._end_succession(version, now)
        old = version.active_slots
        version.boot_failure = None
        version.crashes = 0
        self._revive(version)
        for _ in old:
            self._add_slot(version, now)
        for slot in old:
            self._retire(slot, now)
        self._refresh(version)
        return self._agenda.flush()

    def drain(self, key: VersionKey, deadline: float, now: float) -> list[Command]:
        """Take no new requests, serve those that wait, then stop the workers, forget the version.

        What is not served at ``deadline`` is answered 503.
        """
        version = self.versions.get(key)
        if version is None:
            return []
        self._start_drain(version, now)
        self._agenda.alarm(deadline, lambda at: self._cut_drain(version, at))
        self._finish_drain(version, now)
        return self._agenda.flush()

    def abort(self, now: float) -> list[Command]:
        """Do not wait for anybody: answer every request 503 and kill every worker."""
        for version in list(self.versions.values()):
            self._start_drain(version, now)
            self._cut_drain(version, now, force=True)
        for identity in self._departures:
            self._agenda.command(Kill(identity, True))
        return self._agenda.flush()
