"""Whose requests a worker's log lines are about: those of the batch that is at work.

A line that is logged meanwhile ends with a mark and the requests' ids; the frontend takes them off
and makes them a field of the line. What a handler prints has no such mark.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .protocol import REQUESTS_MARK

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST = 8
"""Ids that a line carries: a batch may be large."""

_requests: Sequence[str] = ()


def set_requests(ids: Sequence[str]) -> None:
    """From now on lines are about these requests; about none if there are none."""
    global _requests
    _requests = ids


class RequestLines(logging.Formatter):
    """The bare message, each line of it marked."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not _requests:
            return text
        more = len(_requests) - _MOST
        named = [*_requests[:_MOST], *([f"and {more} more"] if more > 0 else [])]
        mark = REQUESTS_MARK + ", ".join(named)
        return text.replace("\n", f"{mark}\n") + mark
