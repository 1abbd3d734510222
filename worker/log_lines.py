"""Whose requests a worker's log lines are about: those of the batch that is at work.

Of several at work at once it is the one whose task logs.

A line that is logged meanwhile ends with a mark and the requests' ids; the frontend takes them off
and makes them a field of the line. What a handler prints has no such mark.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING

from .protocol import REQUESTS_MARK

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST = 8
"""Ids that a line carries: a batch may be large."""

_requests: Sequence[str] = ()
_requests_of_task: ContextVar[Sequence[str]] = ContextVar("requests", default=())


def set_requests(ids: Sequence[str]) -> None:
    """From now on lines are about these requests; about none if there are none."""
    global _requests
    _requests = ids


def set_task_requests(ids: Sequence[str]) -> None:
    """The same for the task that runs now, and for what it starts."""
    _requests_of_task.set(ids)


class RequestLines(logging.Formatter):
    """The bare message, each line of it marked."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        requests = _requests_of_task.get() or _requests
        if not requests:
            return text
        more = len(requests) - _MOST
        named = [*requests[:_MOST], *([f"and {more} more"] if more > 0 else [])]
        mark = REQUESTS_MARK + ", ".join(named)
        return text.replace("\n", f"{mark}\n") + mark
