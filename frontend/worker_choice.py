"""Which worker gets the next batch of a version. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .roster import Worker
    from .versions import Version

PREFETCH_BELOW = 0.05
"""Handler time, in seconds, up to which a lone worker is sent a batch while it works on another."""
PREFETCH_BESIDE_OTHERS_BELOW = 0.005
"""The same where there are several: what waits at one of them cannot go to another that is free."""
PREFETCH_OF_TARGET = 0.1
"""The same as a part of the latency target: what waits at a worker is late by what it works on."""
PREFETCHED_WORK = 0.001
"""Seconds of work that may wait at a worker with a very fast handler."""


def worker_with_room(version: Version) -> Worker | None:
    """The worker that begins the next batch if that leaves now: the one with the least to do.

    A request that has been in a lost batch goes to an idle worker, which takes no other beside
    it; so a poisonous input fails by itself. ``worker_beside_suspects`` may take the others.
    """
    if version.spec.concurrency == 1 or not version.free:
        return version.free[0] if version.free else None
    worker = min(version.free, key=lambda worker: len(worker.in_flight))
    head = version.queue.head()
    return None if worker.in_flight and head is not None and head.losses else worker


def worker_beside_suspects(version: Version) -> Worker | None:
    """Who takes requests that are behind one which waits for an idle worker.

    The one with the least to do gets nothing new, so that it becomes idle, unless a worker is
    about to come that is idle anyway.
    """
    if version.spec.concurrency == 1:
        return None
    others = sorted(version.free, key=lambda worker: len(worker.in_flight))
    starting = (slot.worker for slot in version.active_slots)
    if not any(worker is not None and not worker.is_ready for worker in starting):
        del others[:1]
    return others[0] if others else None


def worker_to_prefetch(version: Version) -> Worker | None:
    """A busy worker that had better have its next batch already when it is done with this one.

    That hides the way to the worker and back, which a fast handler would spend idle. It is
    done with full batches only: a smaller one might still grow while it waits here. A request
    that has been in a lost batch shares its worker with no other batch: when a worker dies, an
    answer that it had just given may die with it, and that must not count against the same
    request twice.
    """
    seconds, spec, slots = version.handler_seconds, version.spec, version.slots
    limit = PREFETCH_BELOW if len(slots) == 1 else PREFETCH_BESIDE_OTHERS_BELOW
    if spec.latency_target:
        limit = min(limit, spec.latency_target * PREFETCH_OF_TARGET)
    if seconds is None or seconds > limit or spec.concurrency > 1 or not spec.lost_retries:
        return None
    if len(version.queue) < version.queue.batch_size:
        return None
    depth = max(2, int(PREFETCHED_WORK / max(seconds, 1e-6)))
    best: Worker | None = None
    for slot in slots.values():
        worker = slot.worker
        if worker is None or len(worker.in_flight) >= min(depth, worker.credits):
            continue
        if slot.retiring or slot.standby or not worker.is_ready or worker.has_suspect:
            continue
        if best is None or len(worker.in_flight) < len(best.in_flight):
            best = worker
    head = version.queue.head() if best is not None else None
    return None if head is None or head.must_travel_alone else best
