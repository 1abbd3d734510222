"""The heart: versions, their workers and (through Dispatcher) their requests, as one state machine.

An event is a method call with the time as an argument; it changes the state and returns the
commands that the shell (``engine``) has to carry out. Nothing here knows a socket, a process, a
task or a clock, and nothing else changes a job, a worker, a slot or a version.

Two things always hold: every job gets exactly one outcome, and the jobs in flight of a version are
those of its workers' batches.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from ..worker.protocol import PROTOCOL_VERSION, Load, LoadFailed, Result, Stop, Work
from .commands import Agenda, Command, Kill, Notify, Report, Send, Spawn
from .dispatcher import Dispatcher
from .errors import NoWorkerError
from .lifecycle import VersionKey, VersionState, WorkerState
from .roster import (
    BOOT_ATTEMPTS,
    Departure,
    Exit,
    ExitReason,
    Slot,
    Version,
    VersionSpec,
    Worker,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..worker.protocol import Message
    from .jobs import Job

CONNECT_TIMEOUT = 60.0
"""Seconds from the start of a process to its Hello: an interpreter and a few imports."""
STOP_TIMEOUT = 10.0
"""Seconds from Stop to SIGTERM, and from SIGTERM to SIGKILL."""

UNREACHABLE_GRACE = 1.0
"""Seconds that a worker which hung up has to end by itself and so tell why."""
FIRST_SLOT = 9000
"""Slots are numbered as TorchServe numbers its workers."""


class Fleet:
    """All versions and their workers.

    ``assign`` picks the device of a new slot, ``jitter`` a factor around 1 for restart pauses, and
    ``load_message`` makes what a worker is told to load.
    """

    def __init__(
        self,
        assign: Callable[[VersionSpec], int | None],
        jitter: Callable[[], float],
        load_message: Callable[[VersionSpec, int | None], Load],
    ) -> None:
        self.versions: dict[VersionKey, Version] = {}
        self.workers: dict[str, Worker] = {}
        self.late_results = 0
        self._departures: dict[str, Departure] = {}
        self._draining: dict[VersionKey, Version] = {}
        self._assign = assign
        self._jitter = jitter
        self._load_message = load_message
        self._slot_numbers = itertools.count(FIRST_SLOT)
        self._incarnations = itertools.count(1)
        self._agenda = Agenda()
        self._dispatcher = Dispatcher(self._agenda, self._watch)

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
        self._dispatcher.offer(version, job, now)
        return self._agenda.flush()

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
        version = worker.slot.version
        if worker.slot.retiring:
            self._stop_if_idle(worker, now)
        else:
            if not worker.in_flight:
                version.free.append(worker)
            self._dispatcher.dispatch(version, now)
        self._finish_drain(version, now)
        return self._agenda.flush()

    def hello(self, identity: str, major: int, pid: int, now: float) -> list[Command]:
        """A process reported for work."""
        worker = self.workers.get(identity)
        if worker is None:
            return []
        if major != PROTOCOL_VERSION[0]:
            return self.violated(identity, f"speaks version {major} of the protocol", now)
        if worker.state is not WorkerState.SPAWNED:
            return self.violated(identity, "said hello twice", now)
        version = worker.slot.version
        worker.move(WorkerState.CONNECTED)
        worker.pid = pid
        worker.patience = now + version.spec.startup_timeout
        self._command_load(worker)
        self._watch(worker)
        return self._agenda.flush()

    def loaded(self, identity: str, credits: int, now: float) -> list[Command]:
        """A worker loaded its model and holds up to ``credits`` batches, one of them in work."""
        worker = self.workers.get(identity)
        if worker is None:
            return []
        if worker.state is not WorkerState.LOADING or credits < 1:
            return self.violated(identity, "reported a model that it was not loading", now)
        worker.move(WorkerState.READY)
        worker.ready_at = now
        slot, version = worker.slot, worker.slot.version
        slot.boot_failures = 0
        slot.failing_since = None
        version.boot_failure = None
        worker.credits = credits
        version.free.append(worker)
        self._refresh(version)
        self._dispatcher.dispatch(version, now)
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
        """A worker hung up before it got ``message``: its process ends, and its exit says why."""
        worker = self.workers.get(identity)
        if worker is None or worker.state is WorkerState.STOPPING:
            return []
        if isinstance(message, Work) and message.batch_id in worker.in_flight:
            self._dispatcher.take_back(worker, worker.in_flight.pop(message.batch_id))
        exit = Exit(identity, ExitReason.UNREACHABLE, "The worker cannot be reached.", now)
        self._take_off(worker, exit, now)
        self._agenda.alarm(now + UNREACHABLE_GRACE, lambda _: self._force(identity))
        return self._agenda.flush()

    def exited(self, exit: Exit, now: float) -> list[Command]:
        """A worker's process ended, whoever ended it."""
        worker = self.workers.get(exit.identity)
        if worker is not None:
            if worker.state is WorkerState.STOPPING:
                exit = replace(exit, reason=ExitReason.STOPPED, message="Stopped as asked.")
            self._take_off(worker, exit, now)
        departure = self._departures.pop(exit.identity, None)
        if departure is not None:
            self._departed(departure, exit, now)
        return self._agenda.flush()

    def add(self, spec: VersionSpec) -> None:
        """Make a version known, without workers. The key must be free."""
        self.versions[spec.key] = Version(spec)
        self._refresh(self.versions[spec.key])

    def scale(
        self, key: VersionKey, min_workers: int, max_workers: int, now: float
    ) -> list[Command]:
        """Want at least ``min_workers`` and at most ``max_workers``.

        When there are too many, those that do not serve leave first, then the newest.

        A version that was given up is tried again.
        """
        version = self.versions[key]
        version.min_workers, version.max_workers = min_workers, max_workers
        version.boot_failure = None
        if version.state is VersionState.FAILED:
            self._try_again(version, now)
        active = version.active_slots
        for _ in range(min_workers - len(active)):
            slot = Slot(version, next(self._slot_numbers), self._assign(version.spec))
            version.slots[slot.number] = slot
            self._spawn(slot, now)
        active.sort(key=lambda slot: slot.worker is None or not slot.worker.is_ready)
        for slot in active[max_workers:][::-1]:
            self._retire(slot, now)
        if not version.has_active_slot:
            self._dispatcher.refuse_waiting(version, now)
        self._refresh(version)
        return self._agenda.flush()

    def drain(self, key: VersionKey, deadline: float, now: float) -> list[Command]:
        """Take no new requests, serve those that wait, then stop the workers, forget the version.

        What is not served at ``deadline`` is answered 503.
        """
        version = self.versions.get(key)
        if version is None:
            return []
        self._start_drain(version)
        self._agenda.alarm(deadline, lambda at: self._cut_drain(version, at))
        self._finish_drain(version, now)
        return self._agenda.flush()

    def abort(self, now: float) -> list[Command]:
        """Do not wait for anybody: answer every request 503 and kill every worker."""
        for version in list(self.versions.values()):
            self._start_drain(version)
            self._cut_drain(version, now, force=True)
        for identity in self._departures:
            self._agenda.command(Kill(identity, True))
        return self._agenda.flush()

    def _start_drain(self, version: Version) -> None:
        if version.state is not VersionState.DRAINING:
            version.move(VersionState.DRAINING)
            self._draining[version.key] = version
            self._agenda.command(Notify(version.key))

    def _cut_drain(self, version: Version, now: float, *, force: bool = False) -> None:
        """The time for draining is over: whoever is not served yet is answered 503."""
        if version.state is not VersionState.DRAINING:
            return
        for slot in version.active_slots:
            self._retire(slot, now)
        for slot in list(version.slots.values()):
            if slot.worker is not None and (force or slot.worker.in_flight):
                message = "Stopped because draining took too long."
                exit = Exit(slot.worker.identity, ExitReason.STOPPED, message, now, status=503)
                self._lose(slot.worker, exit, now, force=force)
        self._dispatcher.refuse_waiting(version, now)
        self._finish_drain(version, now)

    def _finish_drain(self, version: Version, now: float) -> None:
        """Once nothing waits and nothing runs, let the workers go; then forget the version."""
        if version.state is not VersionState.DRAINING or len(version.queue) or version.running:
            return
        for slot in version.active_slots:
            self._retire(slot, now)
        if not version.slots:
            version.move(VersionState.REMOVED)
            del self.versions[version.key]
            del self._draining[version.key]
            self._agenda.command(Notify(version.key))

    def _retire(self, slot: Slot, now: float) -> None:
        """The slot is not wanted any more: its worker finishes what it has and leaves."""
        slot.retiring = True
        slot.restart_at = None
        worker = slot.worker
        if worker is None:
            if not any(departure.slot is slot for departure in self._departures.values()):
                slot.version.slots.pop(slot.number, None)
        elif worker.is_ready:
            self._remove_from_free(worker)
            self._stop_if_idle(worker, now)
        elif worker.state is not WorkerState.STOPPING:
            message = "Stopped while it was starting."
            exit = Exit(worker.identity, ExitReason.STOPPED, message, now)
            self._lose(worker, exit, now, force=False)

    def _stop_if_idle(self, worker: Worker, now: float) -> None:
        if not worker.in_flight:
            worker.move(WorkerState.STOPPING)
            worker.patience = now + STOP_TIMEOUT
            self._agenda.command(Send(worker.identity, Stop()))
            self._watch(worker)

    def _lose(self, worker: Worker, exit: Exit, now: float, *, force: bool) -> None:
        """Give the worker up while its process may still run, and end that."""
        self._take_off(worker, exit, now)
        self._agenda.command(Kill(exit.identity, force))
        if not force:
            self._agenda.alarm(now + STOP_TIMEOUT, lambda _: self._force(exit.identity))

    def _force(self, identity: str) -> None:
        if identity in self._departures:
            self._agenda.command(Kill(identity, True))

    def _take_off(self, worker: Worker, exit: Exit, now: float) -> None:
        """The one way out of the fleet: GONE, its batches settled, its slot told why."""
        slot, version = worker.slot, worker.slot.version
        was_ready, was_stable = worker.ready_at is not None, worker.is_stable(now)
        worker.move(WorkerState.GONE)
        del self.workers[worker.identity]
        self._remove_from_free(worker)
        slot.worker = None
        slot.last_exit = exit
        self._departures[worker.identity] = Departure(slot, exit)
        if exit.reason is not ExitReason.STOPPED and not slot.retiring:
            slot.failing_since = now if slot.failing_since is None else slot.failing_since
            slot.crashes = 1 if was_stable else slot.crashes + 1
            slot.died_at_work = bool(worker.in_flight)
            if not was_ready:
                slot.boot_failures += 1
                version.boot_failure = exit
        batches, worker.in_flight = list(worker.in_flight.values()), {}
        self._dispatcher.lose(version, batches, exit, now)
        if not version.has_active_slot:
            self._dispatcher.refuse_waiting(version, now)
        self._refresh(version)
        self._dispatcher.dispatch(version, now)

    def _departed(self, departure: Departure, facts: Exit, now: float) -> None:
        """The process has ended: complete the record, then refill the slot or give up."""
        slot, version = departure.slot, departure.slot.version
        record = replace(departure.exit, code=facts.code, tail=facts.tail)
        if departure.exit.reason is ExitReason.UNREACHABLE:
            record = facts
        if slot.last_exit is departure.exit:
            slot.last_exit = record
        if version.boot_failure is departure.exit:
            version.boot_failure = record
        self._agenda.command(Report(version.key, record))
        self._finish_drain(version, now)
        if slot.retiring:
            version.slots.pop(slot.number, None)
            self._finish_drain(version, now)
        elif version.state is not VersionState.FAILED:
            if slot.boot_failures >= BOOT_ATTEMPTS and not version.ready_workers:
                self._give_up(version, record, now)
            else:
                self._restart_later(slot, now)
        self._refresh(version)

    def _give_up(self, version: Version, why: Exit, now: float) -> None:
        """No worker of the version can be started: FAILED rather than a loop."""
        version.failure = why
        if version.state is VersionState.DRAINING:
            self._dispatcher.refuse_waiting(version, now)
            self._finish_drain(version, now)
            return
        version.move(VersionState.FAILED)
        self._dispatcher.refuse_waiting(version, now)
        for slot in version.active_slots:
            slot.restart_at = None
            if slot.worker is not None:
                message = "Stopped because the version was given up."
                exit = Exit(slot.worker.identity, ExitReason.STOPPED, message, now)
                self._lose(slot.worker, exit, now, force=False)

    def _try_again(self, version: Version, now: float) -> None:
        version.move(VersionState.LOADING)
        version.failure = None
        leaving = {id(departure.slot) for departure in self._departures.values()}
        for slot in version.active_slots:
            slot.boot_failures = slot.crashes = 0
            slot.failing_since = None
            if id(slot) not in leaving:
                self._spawn(slot, now)

    def _restart_later(self, slot: Slot, now: float) -> None:
        slot.restarts += 1
        pause = slot.back_off(self._jitter())
        if pause <= 0:
            self._spawn(slot, now)
            return
        slot.restart_at = now + pause
        self._agenda.alarm(slot.restart_at, lambda at: self._restart(slot, at))

    def _restart(self, slot: Slot, now: float) -> None:
        if slot.restart_at is not None and slot.restart_at <= now:
            self._spawn(slot, now)

    def _spawn(self, slot: Slot, now: float) -> None:
        slot.restart_at = None
        slot.started_at = now
        # Short and ASCII, to be a routing id; numbered over the whole fleet, never to come back.
        name, version = (text.encode("ascii", "replace").decode() for text in slot.version.key)
        identity = f"{name[:64]}/{version[:64]}/{slot.number}#{next(self._incarnations)}"
        worker = Worker(identity, slot, now + CONNECT_TIMEOUT)
        slot.worker = worker
        self.workers[worker.identity] = worker
        self._watch(worker)
        self._agenda.command(Spawn(worker.identity, slot.version.spec, slot.device))

    def _command_load(self, worker: Worker) -> None:
        message = self._load_message(worker.slot.version.spec, worker.slot.device)
        self._agenda.command(Send(worker.identity, message))
        worker.move(WorkerState.LOADING)
        self._agenda.command(Notify(worker.slot.version.key))

    def _remove_from_free(self, worker: Worker) -> None:
        version = worker.slot.version
        version.free = deque(other for other in version.free if other is not worker)

    def _refresh(self, version: Version) -> None:
        due = version.due_state()
        if due is not version.state:
            version.move(due)
        self._agenda.command(Notify(version.key))

    def _watch(self, worker: Worker) -> None:
        """Have an alarm for when the worker runs out of time; one earlier than that will do."""
        at = worker.overdue_at()
        if at is not None and (worker.alarm_at is None or at < worker.alarm_at):
            worker.alarm_at = at
            self._agenda.alarm(at, lambda now: self._check(worker, at, now))

    def _check(self, worker: Worker, alarm_at: float, now: float) -> None:
        if worker.alarm_at == alarm_at:
            worker.alarm_at = None
        at = worker.overdue_at()
        if worker.state is WorkerState.GONE or at is None:
            return
        if now < at:
            self._watch(worker)
            return
        exit = worker.overdue_exit(now)
        self._lose(worker, exit, now, force=exit.reason is not ExitReason.STOPPED)
