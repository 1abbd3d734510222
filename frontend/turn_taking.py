"""Versions whose workers share devices take turns, by the time that they have had there. Pure.

In place of Dispatcher where the number of batches is bounded that are in work on a device at once
(``gpu_batches``, ``cpu_batches``). Then nothing is sent to a worker ahead of its turn. A version
whose workers have many batches in work (``asyncCommunication``, ``continuousBatching``) takes no
part: its batches are not ended by the device alone, and would keep their places from all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .dispatcher import Dispatcher
from .fair_share import FairShare
from .sequences import SequenceQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..worker.messages import Result
    from .commands import Agenda
    from .exits import Exit
    from .jobs import Batch, Job
    from .lifecycle import VersionKey
    from .roster import Worker
    from .versions import Version


class _Device:
    """A device with its bound, and the versions that may have something for it."""

    def __init__(self, places: int) -> None:
        self.share: FairShare[VersionKey] = FairShare(places)
        self.waiting: dict[VersionKey, Version] = {}


class TurnTaking(Dispatcher):
    """``gpu_batches`` may be in work at once on each GPU, ``cpu_batches`` on the CPU; 0: no bound.

    Whenever a place on a device is free, no version has a batch that is due and a free worker
    there.
    """

    def __init__(
        self,
        agenda: Agenda,
        watch: Callable[[Worker], None],
        gpu_batches: int,
        cpu_batches: int,
    ) -> None:
        super().__init__(agenda, watch)
        self._gpu_batches = gpu_batches
        self._cpu_batches = cpu_batches
        self._devices: dict[int | None, _Device] = {}

    def dispatch(self, version: Version, now: float) -> None:
        """Send batches as long as one is due, a worker can take it and it is the version's turn.

        A place may have become free with that: then others get theirs.
        """
        shared = self._shared_by(version)
        if not shared and version.slots:
            super().dispatch(version, now)
        for device in shared if len(version.queue) else ():
            self._devices[device].waiting[version.key] = version
        for device in list(self._devices):
            self._serve(device, now)

    def _bound(self, device: int | None) -> int:
        return self._cpu_batches if device is None else self._gpu_batches

    def _shared_by(self, version: Version) -> list[int | None]:
        """The bounded devices of the version's workers."""
        if version.spec.concurrency > 1:
            return []
        found = dict.fromkeys(slot.device for slot in version.slots.values())
        shared = [device for device in found if self._bound(device)]
        for device in shared:
            if device not in self._devices:
                self._devices[device] = _Device(self._bound(device))
        return shared

    def _serve(self, number: int | None, now: float) -> None:
        device = self._devices[number]
        while device.waiting and device.share.has_place:
            key = device.share.next_of(device.waiting)
            # Of equals, who has been served goes behind the others.
            version = device.waiting.pop(key)
            if self._send_one(version, number, now):
                device.waiting[key] = version

    def _send_one(self, version: Version, device: int | None, now: float) -> bool:
        """Send one batch to a worker on ``device``; False if none is due, or no worker free."""
        for worker in [each for each in version.free if each.slot.device == device]:
            jobs = self._take_due(version, worker, now)
            if jobs:
                self._send(version, worker, jobs, now)
                version.free.remove(worker)
                return True
        return False

    def _take_due(self, version: Version, worker: Worker, now: float) -> list[Job]:
        queue = version.queue
        if isinstance(queue, SequenceQueue):
            due = queue.due(worker.identity)
        else:
            # Whose turn it is takes all there is: its other workers' turns may be long to come.
            due = queue.due(now, version.running, 1)
        if due is None:
            return []
        if due > now:
            self._wake(version, due)
            return []
        return queue.take(worker.identity) if isinstance(queue, SequenceQueue) else queue.take()

    def _send(self, version: Version, worker: Worker, jobs: list[Job], now: float) -> None:
        super()._send(version, worker, jobs, now)
        device = self._devices.get(worker.slot.device)
        if device is not None and version.spec.concurrency == 1:
            weight, expected = version.spec.share_weight, version.handler_seconds or 0.0
            device.share.begin(worker.identity, version.key, weight, expected, now)

    def complete(self, worker: Worker, batch: Batch, result: Result, now: float) -> None:
        """A worker answered ``batch``, and its place is free."""
        super().complete(worker, batch, result, now)
        self._leave(worker.slot.device, worker.identity, result.handler_seconds, now)

    def lose(
        self, version: Version, batches: list[Batch], begun: int, exit: Exit, now: float
    ) -> None:
        """A worker is gone, and its place is free."""
        super().lose(version, batches, begun, exit, now)
        for device in self._devices:
            self._leave(device, exit.identity, None, now)

    def _leave(self, device: int | None, worker: str, seconds: float | None, now: float) -> None:
        if device in self._devices:
            self._devices[device].share.end(worker, seconds, now)
