"""How large a version's batches are, as far as its workers have learnt what fits into memory. Pure.

Each worker learns for itself (``worker/safe_batch.py``), and keeps to it whatever it is sent. That
batches are formed accordingly leaves the rest of a large one to other workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..worker.messages import Result
    from .roster import Worker
    from .versions import Version


def learn(worker: Worker, result: Result) -> None:
    """Take note of what a worker says of its memory."""
    version = worker.slot.version
    version.shortages += result.shortages
    if worker.safe_batch != result.safe_batch:
        worker.safe_batch = result.safe_batch
        limit_batches(version)


def limit_batches(version: Version) -> None:
    """Form batches that fit into the memory of each worker that is there now."""
    learnt = [worker.safe_batch for worker in version.ready_workers if worker.safe_batch > 0]
    version.queue.batch_size = min([version.spec.rows, *learnt])


def safe_batch(version: Version) -> int | None:
    """The size of batches where memory limits it; None where it does not."""
    size = version.queue.batch_size
    return size if size < version.spec.rows else None
