"""What follows on a worker's end: another one in its place, or its version is given up. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .commands import Report
from .crew import Crew
from .exits import Exit, ExitReason
from .lifecycle import VersionState

if TYPE_CHECKING:
    from .roster import Departure, Slot
    from .versions import Version

BACK_OFF_CAP = 30.0
"""Longest pause before a restart, in seconds."""
AT_WORK_CAP = 1.0
"""Longest pause after a worker that died at work: an input did that, and others wait."""
BOOT_ATTEMPTS = 3
"""Failed starts in a row after which a version without a ready worker is given up."""
CRASH_LOOP = 5
"""Deaths of each worker, without an answer between them, after which requests are refused."""


def restart_pause(slot: Slot, jitter: float) -> float:
    """Seconds until the next start: at once after the first crash, then doubling, capped."""
    failures = max(slot.crashes, slot.boot_failures)
    if failures <= 1 and not slot.boot_failures:
        return 0.0
    cap = AT_WORK_CAP if slot.died_at_work else BACK_OFF_CAP
    return min(cap, 0.25 * 2.0 ** min(failures, 16)) * jitter


def crash_rounds(version: Version) -> int:
    """How often each worker of a version has died in its series of crashes."""
    return version.crashes // max(1, len(version.active_slots))


def crash_loop_pause(version: Version, jitter: float) -> float:
    """Seconds for which requests are refused: doubled with each round, capped."""
    return min(BACK_OFF_CAP, 2.0 ** min(crash_rounds(version) - CRASH_LOOP, 16)) * jitter


class Restarts(Crew):
    """The steps that the end of a worker's process sets off."""

    def _departed(self, departure: Departure, facts: Exit, now: float) -> None:
        """The process has ended: complete the record, then refill the slot or give up."""
        slot, version = departure.slot, departure.slot.version
        record = departure.exit.completed(facts, was_forced=departure.was_forced)
        version.exits[record.reason.value] += 1
        if slot.last_exit is departure.exit:
            slot.last_exit = record
        if version.last_exit is departure.exit:
            version.last_exit = record
        if version.boot_failure is departure.exit:
            version.boot_failure = record
        self._agenda.command(Report(version.key, record))
        self._finish_drain(version, now)
        if slot.retiring:
            if slot.heir is not None:
                slot.heir.last_exit = record
            self._remove_slot(slot)
            self._finish_drain(version, now)
        elif slot.standby:
            self._remove_slot(slot)
            self._heir_is_lost(slot, record, now)
        elif not any(heir.predecessor is slot for heir in version.heirs):
            self._refill(slot, now)
        self._renew_next(version, now)
        self._refresh(version)

    def _refill(self, slot: Slot, now: float) -> None:
        """Start a worker in the place of the last one, or give the version up."""
        version = slot.version
        if version.state is VersionState.FAILED:
            return
        if slot.boot_failures >= BOOT_ATTEMPTS and not version.ready_workers and slot.last_exit:
            self._give_up(version, slot.last_exit, now)
        elif crash_rounds(version) >= CRASH_LOOP and not version.ready_workers and slot.last_exit:
            self._pause(version, slot.last_exit, now)
        else:
            self._restart_later(slot, now)

    def _give_up(
        self, version: Version, why: Exit, now: float, retry_at: float | None = None
    ) -> None:
        """No worker of the version can serve: FAILED, for good or until ``retry_at``."""
        version.failure = why
        version.retry_at = retry_at
        if version.state is VersionState.DRAINING:
            self._dispatcher.refuse_waiting(version, now)
            self._finish_drain(version, now)
            return
        version.move(VersionState.FAILED)
        self._dispatcher.refuse_waiting(version, now)
        for heir in version.heirs:
            # Those of a roll go on: what they bring may be the remedy.
            if heir.predecessor is not None:
                self._retire(heir, now)
        for slot in version.active_slots:
            slot.restart_at = None
            if slot.worker is not None:
                message = "Stopped because the version was given up."
                exit = Exit(slot.worker.identity, ExitReason.STOPPED, message, now)
                self._lose(slot.worker, exit, now, force=False)

    def _pause(self, version: Version, why: Exit, now: float) -> None:
        """Workers die as soon as they work: refuse requests for a while rather than queue them."""
        retry_at = now + crash_loop_pause(version, self._jitter())
        self._give_up(version, why, now, retry_at)
        self._agenda.alarm(retry_at, lambda at: self._end_pause(version, at))

    def _end_pause(self, version: Version, now: float) -> None:
        is_over = version.retry_at is not None and version.retry_at <= now
        if is_over and version.state is VersionState.FAILED:
            self._try_again(version, now)
            self._refresh(version)

    @staticmethod
    def _revive(version: Version) -> None:
        """Have a version that was given up no longer be that."""
        if version.state is VersionState.FAILED:
            version.move(VersionState.LOADING)
            version.failure = None
            version.retry_at = None

    def _try_again(self, version: Version, now: float) -> None:
        self._revive(version)
        leaving = {id(departure.slot) for departure in self._departures.values()}
        for slot in version.active_slots:
            slot.boot_failures = slot.crashes = 0
            slot.failing_since = None
            if slot.worker is None and id(slot) not in leaving:
                self._spawn(slot, now)

    def _restart_later(self, slot: Slot, now: float) -> None:
        slot.restarts += 1
        pause = restart_pause(slot, self._jitter())
        if pause <= 0:
            self._spawn(slot, now)
            return
        slot.restart_at = now + pause
        self._agenda.alarm(slot.restart_at, lambda at: self._restart(slot, at))

    def _restart(self, slot: Slot, now: float) -> None:
        if slot.restart_at is not None and slot.restart_at <= now:
            self._spawn(slot, now)

    def _heir_is_lost(self, heir: Slot, exit: Exit, now: float) -> None:
        raise NotImplementedError

    def _renew_next(self, version: Version, now: float) -> None:
        raise NotImplementedError
