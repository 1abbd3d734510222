"""What a model says of itself: a call of its handler that asks for a description."""

from __future__ import annotations

import asyncio
import json
from time import monotonic
from typing import TYPE_CHECKING

from .errors import NoDescribeWorkerError, NoWorkerError
from .jobs import Job

if TYPE_CHECKING:
    from .engine import Engine
    from .lifecycle import VersionKey


async def ask_about_itself(
    engine: Engine, key: VersionKey, headers: dict[str, str], request_id: str
) -> dict[str, object] | None:
    """The handler's JSON object, None if it answers nothing.

    It is called by itself, with one empty row and the header ``describe``. As in TorchServe an
    answer that is no JSON object counts as an empty one. Raises NoDescribeWorkerError, and the
    error that the handler answers with.
    """
    job = Job(request_id, {**headers, "describe": "True"}, [], monotonic(), alone=True)
    try:
        answered = engine.predict(key, job)
    except NoWorkerError:
        raise NoDescribeWorkerError(key[0]) from None
    try:
        outcome = await answered
    except asyncio.CancelledError:
        engine.abandon(key, job)
        raise
    if outcome.stream is not None:
        outcome.stream.abandon()
        engine.abandon(key, job)
        return {}
    if outcome.error is not None:
        raise outcome.error
    if not outcome.body:
        return None
    try:
        said = json.loads(bytes(outcome.body))
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
