"""What requests are answered, and in which words. Pure."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from .errors import DeadlineExceededError, InferenceError, ModelFailedError, sentence
from .jobs import Outcome

if TYPE_CHECKING:
    from ..worker.messages import Answer
    from .exits import Exit
    from .jobs import Job
    from .versions import Version


def death(exit: Exit) -> InferenceError:
    """What a request is told whose worker died. The first words are TorchServe's."""
    message = f"Worker died. {exit.message}" if exit.clock else "Worker died."
    return InferenceError(message, exit.status, exit.clock)


def too_late(version: Version, job: Job, in_queue: bool) -> DeadlineExceededError:
    """What a request is told whose time is over; ``in_queue``: its time to wait."""
    spec = version.spec
    if in_queue:
        text = f"The request waited longer than {spec.queue_timeout:g} s (queueTimeout)."
        return DeadlineExceededError(text, "queue")
    own = job.time_limit
    if own and (not spec.client_timeout or own <= spec.client_timeout):
        text = f"The request was not answered within {own:g} s (X-Request-Timeout-Ms)."
        return DeadlineExceededError(text, "request")
    limit = f"{spec.client_timeout:g} s (clientTimeoutInMills)"
    return DeadlineExceededError(f"The request was not answered within {limit}.", "client")


def failed(version: Version, now: float) -> ModelFailedError:
    """What clients of a version that was given up are told."""
    reason = version.failure.message if version.failure else "unknown reason"
    name = f'Model "{version.key[0]}" version {version.key[1]}'
    if version.retry_at is None:
        return ModelFailedError(
            f"{name} could not be started: {sentence(reason)} "
            "Mend the archive and register it again, or scale it to try once more."
        )
    seconds = max(1, ceil(version.retry_at - now))
    times = f"{version.crashes} times in a row without an answer in between"
    return ModelFailedError(
        f"{name} is out of order: its workers ended {times}. The last: {sentence(reason)} "
        f"It is tried again in {seconds} s.",
        seconds,
    )


def answered(job: Job, answer: Answer, took: float, handled: float, size: int) -> Outcome:
    """What ``job`` gets: a worker's ``answer``, ``took`` seconds after its batch had left."""
    error = None
    if answer.is_error:
        error = InferenceError(bytes(answer.body).decode(errors="replace"), answer.status)
    return Outcome(
        status=answer.status,
        reason=answer.reason,
        headers=answer.headers,
        body=answer.body,
        error=error,
        queued=job.taken_at - job.offered_at,
        batched=took,
        handled=handled,
        batch_size=size,
    )
