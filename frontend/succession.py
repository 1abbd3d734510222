"""New workers ready before the old ones leave: one in the place of another, or all at once. Pure.

A worker that has served its time is *renewed*: a successor is started beside it and takes its place
when it is ready; the old one finishes what it has and leaves. A version is *rolled* to another
specification: successors for all of its workers are started, wait until all of them are ready, and
take over in one step. If one cannot be started, nothing has happened: the old workers never knew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ConflictError, DrainingError
from .exits import Exit, ExitReason
from .lifecycle import VersionState
from .restarts import Restarts
from .versions import Roll

if TYPE_CHECKING:
    from .lifecycle import VersionKey
    from .roster import Slot, Worker
    from .version_spec import VersionSpec
    from .versions import Version

RENEWAL_PAUSE = 5.0
"""Seconds after a successor that could not be started, or that was no better; doubled each time."""
RENEWAL_PAUSE_CAP = 300.0
"""The longest of those pauses."""
YOUNG = 60.0
"""Seconds within which a worker that is above its memory limit again is no better than the last."""


class Succession(Restarts):
    """The steps by which workers follow on others."""

    def _took_place(self, worker: Worker, now: float) -> None:
        """A worker begins to serve: from now on its requests and its years are counted."""
        super()._took_place(worker, now)
        spec = worker.slot.spec
        # Workers that were started together do not all leave together.
        spread = (1.0 + self._jitter()) / 2
        if spec.max_requests:
            worker.quota = max(1, round(spec.max_requests * spread))
        if spec.max_age:
            why = f"It has served for {spec.max_age:g} s (maxWorkerAge)."
            self._agenda.alarm(
                now + spec.max_age * spread, lambda at: self._retired(worker, why, at)
            )

    def _served_enough(self, worker: Worker, now: float) -> None:
        why = f"It has served {worker.served} requests (maxRequestsPerWorker)."
        self._retired(worker, why, now)

    def _uses_too_much(self, worker: Worker, now: float) -> None:
        used, limit = worker.memory >> 20, worker.slot.spec.max_memory >> 20
        age = now - (worker.ready_at or now)
        why = f"It uses {used} MB, more than the {limit} of maxWorkerMemory."
        if age < YOUNG and worker.farewell is None:
            self._postpone(worker.slot.version, now)
            why += f" That after {age:.0f} s: raise the limit, or mend what grows so fast."
        self._retired(worker, why, now)

    def _retired(self, worker: Worker, why: str, now: float) -> None:
        """The worker is to be renewed, now or as soon as it is its turn."""
        if worker.is_loaded and not worker.slot.retiring and worker.farewell is None:
            worker.farewell = why
            if now - (worker.ready_at or now) >= YOUNG:
                worker.slot.version.renewal_failures = 0
            self._renew_next(worker.slot.version, now)

    def _renew_next(self, version: Version, now: float) -> None:
        """Start a successor for the next worker that has earned it: one at a time."""
        if version.state is VersionState.DRAINING or version.roll is not None:
            return
        if now < version.renewal_after or any(
            slot.standby or slot.retiring for slot in version.slots.values()
        ):
            return
        for worker in version.ready_workers:
            if worker.farewell is not None:
                heir = self._add_slot(version, now, standby=True)
                heir.predecessor = worker.slot
                return

    def _heir_is_ready(self, heir: Slot, now: float) -> None:
        """A successor has loaded its model."""
        version = heir.version
        if version.roll is None:
            self._take_over(heir, now)
        elif all(slot.worker is not None and slot.worker.is_ready for slot in version.heirs):
            self._switch(version, version.roll, now)

    def _take_over(self, heir: Slot, now: float) -> None:
        version, old = heir.version, heir.predecessor
        if heir.worker is None or old is None:
            return
        queue, leaving = version.sequences, old.worker
        if queue is not None and leaving is not None and queue.bound(leaving.identity):
            # What it remembers of them would be gone: the successor waits until they have ended.
            self._agenda.alarm(now + 1.0, lambda at: self._look_again(heir, at))
            return
        heir.standby = False
        heir.predecessor = None
        heir.restarts, heir.last_exit = old.restarts, old.last_exit
        old.heir = heir
        self._took_place(heir.worker, now)
        self._retire(old, now)

    def _look_again(self, heir: Slot, now: float) -> None:
        if heir.standby and heir.worker is not None and heir.worker.is_ready:
            self._take_over(heir, now)
            self._refresh(heir.version)
            self._dispatcher.dispatch(heir.version, now)

    def _heir_is_lost(self, heir: Slot, exit: Exit, now: float) -> None:
        """A successor could not be started, or ended before its time."""
        version, old = heir.version, heir.predecessor
        heir.predecessor = None
        if version.roll is not None:
            self._fail_roll(version, exit, now)
        elif old is not None:
            self._postpone(version, now)
            self._refill_lonely(old, now)

    def _refill_lonely(self, slot: Slot, now: float) -> None:
        """Start a worker in a slot whose own has ended while a successor was on its way."""
        if not (slot.worker or slot.restart_at or slot.retiring or self._is_leaving(slot)):
            self._refill(slot, now)

    def _postpone(self, version: Version, now: float) -> None:
        pause = min(RENEWAL_PAUSE_CAP, RENEWAL_PAUSE * 2.0**version.renewal_failures)
        version.renewal_failures = min(version.renewal_failures + 1, 16)
        version.renewal_after = now + pause
        self._agenda.alarm(now + pause, lambda at: self._renew_next(version, at))

    def _start_roll(self, version: Version, spec: VersionSpec, now: float) -> None:
        if version.state is VersionState.DRAINING:
            raise DrainingError(f'Model "{spec.key[0]}" is being unregistered.')
        if version.roll is not None:
            raise ConflictError(
                f'Model "{spec.key[0]}" version {spec.key[1]} is being replaced already. Wait for '
                "the end of that."
            )
        if version.sequences is not None or spec.sequences is not None:
            raise ConflictError(
                f'Model "{spec.key[0]}" keeps sequences, which would end. Give the archive another '
                "modelVersion, make that the default, and unregister the old one."
            )
        self._end_succession(version, now)
        version.roll_failure = None
        version.roll = Roll(spec)
        for _ in version.active_slots:
            self._add_slot(version, now, spec, standby=True)
        if not version.heirs:
            self._switch(version, version.roll, now)

    def proven(self, key: VersionKey) -> None:
        """A version was tried with its predecessor's requests: its workers to come need not be."""
        version = self.versions[key]
        version.spec = version.spec.proven()
        for slot in version.slots.values():
            slot.spec = version.spec

    def _switch(self, version: Version, roll: Roll, now: float) -> None:
        """All successors are ready: from now on they are the version."""
        old, heirs = version.active_slots, version.heirs
        version.roll = None
        version.adopt(roll.spec.proven())
        # What the old ones died of need not trouble the new ones.
        version.crashes = 0
        self._revive(version)
        for heir in heirs:
            heir.standby = False
            heir.spec = version.spec
            if heir.worker is not None:
                self._took_place(heir.worker, now)
        for slot in old:
            if slot.worker is not None:
                slot.worker.farewell = "Replaced by a worker of the new archive or settings."
            self._retire(slot, now)
        self._reconcile(version, now)

    def _fail_roll(self, version: Version, why: Exit, now: float) -> None:
        """The version stays what it was."""
        version.roll, version.roll_failure = None, why
        for heir in version.heirs:
            self._retire(heir, now)

    def _end_succession(self, version: Version, now: float) -> None:
        """Successors are not wanted any more."""
        if version.roll is not None:
            identity = "/".join(version.key)
            why = Exit(identity, ExitReason.STOPPED, "Interrupted by another change.", now)
            self._fail_roll(version, why, now)
        for heir in version.heirs:
            old, heir.predecessor = heir.predecessor, None
            self._retire(heir, now)
            if old is not None:
                self._refill_lonely(old, now)

    def _start_drain(self, version: Version, now: float) -> None:
        if version.state is not VersionState.DRAINING:
            self._end_succession(version, now)
        super()._start_drain(version, now)
