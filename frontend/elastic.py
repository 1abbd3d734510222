"""Versions that grow, shrink, fall asleep and wake up by themselves. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .autoscaler import LOOK_EVERY, Observation, ScalingEvent
from .commands import Scaled
from .lifecycle import VersionState
from .succession import Succession

if TYPE_CHECKING:
    from .exits import Exit
    from .versions import Version

REST = 30.0
"""Seconds after which a version that was to be loaded on demand and could not be is tried again."""
REPEAT = 60.0
"""Seconds after which the same refusal is told once more."""


class Elastic(Succession):
    """The steps by which a version's number of workers follows its load."""

    def _look_after(self, version: Version, now: float) -> None:
        """Look at the version again and again, if its workers may become more or fewer."""
        if version.is_elastic and not version.is_looked_after:
            version.is_looked_after = True
            self._agenda.alarm(now + LOOK_EVERY, lambda at: self._look(version, at))

    def _look(self, version: Version, now: float) -> None:
        version.is_looked_after = False
        if self.versions.get(version.key) is not version or version.state is VersionState.DRAINING:
            return
        self._look_after(version, now)
        if version.is_asleep or version.roll is not None or version.state is VersionState.FAILED:
            return
        if version.is_idle(now):
            self._sleep(version, now)
            return
        if version.min_workers < version.max_workers:
            self._scale_by_load(version, now)

    def _scale_by_load(self, version: Version, now: float) -> None:
        active, ready = version.active_slots, version.ready_workers
        seen = Observation(
            oldest=version.queue.oldest_wait(now),
            ready=len(ready),
            starting=len(active) - len(ready),
            busy=sum(len(worker.begun) / worker.concurrency for worker in ready),
            handler_seconds=version.handler_seconds or 0.0,
        )
        decision = version.scaler.decide(now, seen, version.min_workers, version.max_workers)
        if decision is None:
            return
        if decision.workers < len(active):
            self._tell(version, len(active), decision.workers, decision.reason, now)
            for slot in active[decision.workers :][::-1]:
                self._retire(slot, now)
            self._refresh(version)
            return
        self._grow(version, len(active), decision.workers, decision.reason, now)

    def _grow(self, version: Version, have: int, wanted: int, reason: str, now: float) -> None:
        """Start workers as long as there is memory for one more."""
        largest = max((worker.memory for worker in version.ready_workers), default=0)
        room, lack = self._room_for(version.spec, largest, wanted - have)
        if room:
            self._tell(version, have, have + room, reason, now)
            for _ in range(room):
                self._add_slot(version, now)
            self._refresh(version)
        if room < wanted - have:
            self._tell(version, have + room, have + room, f"{wanted} were wanted: {lack}", now)

    def _sleep(self, version: Version, now: float) -> None:
        """Nobody has asked for long: the workers go, and are back when somebody asks."""
        have = len(version.active_slots)
        why = f"nobody has asked for {version.spec.idle_timeout:g} s (idleTimeout)"
        self._tell(version, have, 0, why, now)
        self._end_succession(version, now)
        version.is_asleep = True
        for slot in version.active_slots:
            self._retire(slot, now)
        self._refresh(version)

    def _wake(self, version: Version, now: float) -> None:
        """Somebody asks for a version that has no workers for want of requests."""
        version.is_asleep = False
        self._look_after(version, now)
        self._tell(version, 0, version.least_workers, "a request has come", now)
        self._reconcile(version, now)
        self._refresh(version)

    def _give_up(
        self, version: Version, why: Exit, now: float, retry_at: float | None = None
    ) -> None:
        super()._give_up(version, why, now, retry_at)
        is_for_good = version.state is VersionState.FAILED and retry_at is None
        if version.spec.idle_timeout and is_for_good:
            self._agenda.alarm(now + REST, lambda at: self._rest(version, why, at))

    def _rest(self, version: Version, why: Exit, now: float) -> None:
        """Whoever asks next may have better luck than those before."""
        if version.state is VersionState.FAILED and version.failure is why:
            version.is_asleep = True
            for slot in version.active_slots:
                self._retire(slot, now)
            version.failure = None
            version.move(VersionState.IDLE)
            self._refresh(version)

    def _tell(self, version: Version, before: int, after: int, reason: str, now: float) -> None:
        last = version.scalings[-1] if version.scalings else None
        is_repeated = last is not None and last.before == last.after == before == after
        if is_repeated and last is not None and now - last.at < REPEAT:
            return
        event = ScalingEvent(now, before, after, reason)
        version.scalings.append(event)
        if before != after:
            version.scaled["up" if after > before else "down"] += 1
        self._agenda.command(Scaled(version.key, event))
