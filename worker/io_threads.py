"""How libzmq's own threads are scheduled, on either end of the wire."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def batching() -> Iterator[None]:
    """Threads that are started inside run as batch work, where the system allows that.

    Make a context's first socket inside: that starts libzmq's threads. They only carry bytes
    between a queue and a socket. As interactive threads they would push the Python thread aside for
    every single message; as batch threads they wait their turn and carry several at once.
    """
    is_changed = _change("SCHED_OTHER", "SCHED_BATCH")
    try:
        yield
    finally:
        if is_changed:
            _change("SCHED_BATCH", "SCHED_OTHER")


def _change(before: str, after: str) -> bool:
    """Have this thread, and those that it starts, scheduled in another way."""
    try:
        if os.sched_getscheduler(0) != getattr(os, before):
            return False
        os.sched_setscheduler(0, getattr(os, after), os.sched_param(0))
    except (AttributeError, OSError):
        return False
    return True
