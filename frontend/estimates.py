"""When a version will have served those that wait, as far as its recent past tells. Pure."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from .batcher import ModelQueue

if TYPE_CHECKING:
    from .jobs import Job
    from .versions import Version

MARGIN = 1.2
"""How much longer than estimated a request must have, to be queued. Under overload everybody who is
let in has hardly more time than needed; without a margin half of them would come too late, and the
work for them be lost."""
LONGEST_PAUSE = 30
"""Seconds after which a client may come again, at most."""


def seconds_to_room(version: Version) -> int:
    """In about how many seconds the queue will have been served, from 1 to 30."""
    batches = ceil(len(version.queue) / version.queue.batch_size)
    seconds = batches * (_seconds_between(version) or 0.0)
    return min(LONGEST_PAUSE, max(1, ceil(seconds)))


def comes_too_late(version: Version, job: Job, now: float) -> bool:
    """``job`` would not be answered by its deadline, nor leave the queue in the time it may wait.

    Never so while a worker has room, nor where nothing is known of how long a batch takes.
    """
    queue, between = version.queue, version.seconds_between
    if version.free or between is None or not isinstance(queue, ModelQueue):
        return False
    # The batches that are in work have half of theirs to go.
    wait = (queue.ahead_of(job) // queue.batch_size + 0.5) * between * MARGIN
    limit = version.spec.queue_timeout
    if limit and wait > limit:
        return True
    own = (version.handler_seconds or 0.0) * MARGIN
    return job.deadline is not None and wait + own > job.deadline - now


def _seconds_between(version: Version) -> float | None:
    """Seconds between two batches: as measured, else by what the handler takes for one."""
    if version.seconds_between is not None or version.handler_seconds is None:
        return version.seconds_between
    return version.handler_seconds / (max(1, len(version.slots)) * version.spec.concurrency)
