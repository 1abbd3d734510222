"""The value of ``Server-Timing`` (W3C): where the time of a prediction went, in milliseconds.

``queue``: from the moment at which the request was queued to that at which its batch left.
``batch``: from there to the worker's answer, or to the first piece of one that comes in pieces.
``handler``: what the handler took for the batch; that is a part of ``batch``.
``total``: from the request's headers to its answer, or to the first piece; what remains of it
beside queue and batch went into reading the request.

A request that no worker has answered has no ``batch`` and no ``handler``, and one that was never
queued has ``total`` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .jobs import Outcome


def timing_of(outcome: Outcome) -> str:
    """The value for an outcome, whose ``total`` is set."""
    if outcome.handled:
        return "queue;dur=%.3f, batch;dur=%.3f, handler;dur=%.3f, total;dur=%.3f" % (  # noqa: UP031
            outcome.queued * 1e3,
            outcome.batched * 1e3,
            outcome.handled * 1e3,
            outcome.total * 1e3,
        )
    parts = []
    if outcome.queued or outcome.batched:
        parts.append(f"queue;dur={outcome.queued * 1e3:.3f}")
    if outcome.batched:
        parts.append(f"batch;dur={outcome.batched * 1e3:.3f}")
    return ", ".join([*parts, total_only(outcome.total)])


def total_only(seconds: float) -> str:
    """The value for a request that was answered after ``seconds`` without being queued."""
    return f"total;dur={seconds * 1e3:.3f}"
