"""How workers come and go, and versions with them: the steps that Fleet's events set off. Pure."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from ..worker.messages import Stop
from .commands import Agenda, Kill, Notify, Send, Spawn
from .dispatcher import Dispatcher
from .exits import SPOILT, TIMED_OUT, Exit, ExitReason
from .lifecycle import VersionState, WorkerState
from .memory_limits import limit_batches
from .roster import Departure, Slot, Worker
from .samples import for_worker
from .turn_taking import TurnTaking

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..worker.messages import Load
    from .lifecycle import VersionKey
    from .version_spec import VersionSpec
    from .versions import Version

CONNECT_TIMEOUT = 60.0
"""Seconds from the start of a process to its Hello: an interpreter and a few imports."""
STOP_TIMEOUT = 10.0
"""Seconds from Stop to SIGTERM, and from SIGTERM to SIGKILL."""

UNREACHABLE_GRACE = 1.0
"""Seconds that a worker which hung up has to end by itself and so tell why."""
FIRST_SLOT = 9000
"""Slots are numbered as TorchServe numbers its workers."""


class Crew:
    """The workers of all versions, from Spawn until they are out of the fleet.

    ``assign`` picks the device of a new slot, ``jitter`` a factor around 1 for restart pauses, and
    ``load_message`` makes what a worker is told to load. ``room_for`` says how many of so many more
    workers of so many bytes each there is memory for, and what lacks for the others.
    ``gpu_batches`` may be in work at once on
    one GPU, and ``cpu_batches`` on the CPU; 0: no bound.
    """

    def __init__(
        self,
        assign: Callable[[VersionSpec], int | None],
        jitter: Callable[[], float],
        load_message: Callable[[VersionSpec, int | None], Load],
        first_slot: int = FIRST_SLOT,
        room_for: Callable[[VersionSpec, int, int], tuple[int, str]] = lambda _, __, more: (
            more,
            "",
        ),
        gpu_batches: int = 0,
        cpu_batches: int = 0,
    ) -> None:
        self.versions: dict[VersionKey, Version] = {}
        self.workers: dict[str, Worker] = {}
        self.late_results = 0
        self._departures: dict[str, Departure] = {}
        self._draining: dict[VersionKey, Version] = {}
        self._assign = assign
        self._jitter = jitter
        self._load_message = load_message
        self._room_for = room_for
        self._slot_numbers = itertools.count(first_slot)
        self._free_numbers: list[int] = []
        self._incarnations = itertools.count(1)
        self._agenda = Agenda()
        if gpu_batches or cpu_batches:
            self._dispatcher: Dispatcher = TurnTaking(
                self._agenda, self._watch, gpu_batches, cpu_batches
            )
        else:
            self._dispatcher = Dispatcher(self._agenda, self._watch)

    def _start_drain(self, version: Version, now: float) -> None:
        if version.state is not VersionState.DRAINING:
            version.move(VersionState.DRAINING)
            self._draining[version.key] = version
            self._agenda.command(Notify(version.key))

    def _cut_drain(self, version: Version, now: float, *, force: bool = False) -> None:
        """The time for draining is over: whoever is not served yet is answered 503."""
        if version.state is not VersionState.DRAINING:
            return
        self._retire_all(version, now)
        for slot in list(version.slots.values()):
            if slot.worker is not None and (force or slot.worker.in_flight):
                message = "Stopped because draining took too long."
                exit = Exit(
                    slot.worker.identity, ExitReason.STOPPED, message, now, status=TIMED_OUT
                )
                self._lose(slot.worker, exit, now, force=force)
        self._dispatcher.refuse_waiting(version, now)
        self._agenda.command(Notify(version.key))
        self._finish_drain(version, now)

    def _finish_drain(self, version: Version, now: float) -> None:
        """Once nothing waits and nothing runs, let the workers go; then forget the version."""
        if version.state is not VersionState.DRAINING or len(version.queue) or version.running:
            return
        self._retire_all(version, now)
        if not version.slots:
            version.move(VersionState.REMOVED)
            del self.versions[version.key]
            del self._draining[version.key]
        self._agenda.command(Notify(version.key))

    def _add_slot(
        self,
        version: Version,
        now: float,
        spec: VersionSpec | None = None,
        *,
        standby: bool = False,
    ) -> Slot:
        spec = spec or version.spec
        # Successors get the numbers of those who have left: metrics are labelled with them.
        number = self._free_numbers.pop() if standby and self._free_numbers else None
        slot = Slot(
            version, number or next(self._slot_numbers), self._assign(spec), spec, standby=standby
        )
        version.slots[slot.number] = slot
        self._spawn(slot, now)
        return slot

    def _remove_slot(self, slot: Slot) -> None:
        if slot.version.slots.pop(slot.number, None) is not None:
            self._free_numbers.append(slot.number)

    def _reconcile(self, version: Version, now: float) -> None:
        """As many workers as are wanted; those that do not serve leave first, then the newest."""
        active = version.active_slots
        for _ in range(version.least_workers - len(active)):
            self._add_slot(version, now)
        active.sort(key=lambda slot: slot.worker is None or not slot.worker.is_ready)
        for slot in active[max(version.max_workers, version.least_workers) :][::-1]:
            self._retire(slot, now)

    def _is_leaving(self, slot: Slot) -> bool:
        """The process of the slot's last worker has yet to end."""
        return any(departure.slot is slot for departure in self._departures.values())

    def _retire_all(self, version: Version, now: float) -> None:
        for slot in [*version.active_slots, *version.heirs]:
            self._retire(slot, now)

    def _retire(self, slot: Slot, now: float) -> None:
        """The slot is not wanted any more: its worker finishes what it has and leaves."""
        slot.retiring = True
        slot.restart_at = None
        for heir in slot.version.heirs:
            if heir.predecessor is slot:
                self._retire(heir, now)
        worker = slot.worker
        if worker is None:
            if not self._is_leaving(slot):
                self._remove_slot(slot)
        elif worker.is_loaded:
            self._remove_from_free(worker)
            self._dispatcher.forsake(slot.version, worker.identity, now)
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

    def _let_end(self, worker: Worker, exit: Exit, now: float) -> None:
        """Give the worker up whose process ends by itself, and end it if it does not."""
        self._take_off(worker, exit, now)
        self._agenda.alarm(now + UNREACHABLE_GRACE, lambda _: self._force(exit.identity))

    def _leaves_spoilt(self, worker: Worker, now: float) -> None:
        """The worker has given its last answer: what has been sent after it goes to another."""
        if worker.concurrency == 1:
            for batch in reversed(worker.in_flight.values()):
                self._dispatcher.take_back(worker, batch)
            worker.in_flight = {}
        slot, exit = worker.slot, Exit(worker.identity, ExitReason.CUDA_ERROR, SPOILT, now)
        self._let_end(worker, exit, now)
        # An input did it, as if the worker had died of that.
        slot.died_at_work = True
        self._finish_drain(slot.version, now)

    def _force(self, identity: str) -> None:
        if identity in self._departures:
            departure = self._departures[identity]
            self._departures[identity] = replace(departure, was_forced=True)
            self._agenda.command(Kill(identity, True))

    def _take_off(self, worker: Worker, exit: Exit, now: float) -> None:
        """The one way out of the fleet: GONE, its batches settled, its slot told why."""
        slot, version = worker.slot, worker.slot.version
        was_ready, was_stable = worker.ready_at is not None, worker.is_stable(now)
        exit = worker.end(exit, now)
        worker.move(WorkerState.GONE)
        del self.workers[worker.identity]
        self._remove_from_free(worker)
        slot.worker = None
        slot.last_exit = exit
        self._departures[worker.identity] = Departure(slot, exit)
        if not exit.was_wanted:
            version.last_exit = exit
        if not exit.was_wanted and not slot.retiring:
            slot.failing_since = now if slot.failing_since is None else slot.failing_since
            slot.crashes = 1 if was_stable else slot.crashes + 1
            slot.died_at_work = bool(worker.in_flight)
            if was_ready and not slot.standby:
                version.crashes = 1 if worker.served or was_stable else version.crashes + 1
            elif not was_ready:
                slot.boot_failures += 1
                if not slot.standby:
                    version.boot_failure = exit
        if worker.safe_batch:
            limit_batches(version)
        batches, worker.in_flight = list(worker.in_flight.values()), {}
        self._dispatcher.lose(version, batches, worker.concurrency, exit, now)
        if not version.has_active_slot:
            self._dispatcher.refuse_waiting(version, now)
        self._refresh(version)
        self._dispatcher.dispatch(version, now)

    def _took_place(self, worker: Worker, now: float) -> None:
        """A worker whose model is loaded begins to serve."""
        slot, version = worker.slot, worker.slot.version
        slot.boot_failures = 0
        slot.failing_since = None
        version.boot_failure = None
        version.schemas = worker.schemas
        version.free.append(worker)

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
        self._agenda.command(Spawn(worker.identity, slot.spec, slot.device))

    def _command_load(self, worker: Worker) -> None:
        slot = worker.slot
        message = self._load_message(slot.spec, slot.device)
        recorder = slot.version.recorder
        recorded = () if recorder is None else recorder.samples
        if slot.spec.warm_up or slot.spec.trials or recorded:
            is_new = slot.standby and slot.version.roll is not None
            samples = for_worker((*slot.spec.warm_up, *slot.spec.trials), strict=True)
            message = replace(
                message, warm_up=samples + ([] if is_new else for_worker(recorded, strict=False))
            )
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
        late = [batch for batch in worker.begun if batch.deadline <= now]
        if late and worker.concurrency > 1 and not any(batch.given_up for batch in late):
            for batch in late:
                self._dispatcher.give_up(worker, batch, now)
            self._finish_drain(worker.slot.version, now)
            self._watch(worker)
            return
        exit = worker.overdue_exit(now)
        self._lose(worker, exit, now, force=exit.reason is not ExitReason.STOPPED)
