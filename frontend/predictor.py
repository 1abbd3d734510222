"""One inference call, whatever protocol it came by: version, job, outcome, metrics."""

from __future__ import annotations

import asyncio
import uuid
from time import monotonic
from typing import TYPE_CHECKING

from .. import FlambeauError
from .disciplines import PRIORITY, priority_of
from .errors import DrainingError, NoWorkerError
from .input_check import LARGE_BODY, checked_body, refuse_misfit
from .jobs import Job, Outcome
from .sequences import name_sequence
from .server_timing import timing_of
from .streams import refuse_longer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .engine import Engine
    from .jobs import Part
    from .lifecycle import VersionKey
    from .metrics import Metrics
    from .registry import Registry


class Predictor:
    """Answers inference calls from the engine; used by every protocol.

    ``is_refusing`` tells whether the server takes no new requests any more. With ``timing`` errors
    say where the time of a request went that was queued.
    """

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        metrics: Metrics,
        is_refusing: Callable[[], bool],
        longest_answer: int,
        *,
        timing: bool = True,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._metrics = metrics
        self._is_refusing = is_refusing
        self.timing = timing
        self.longest_answer = longest_answer
        """Bytes that an answer, or a piece of one, may have."""

    def refuse_if_draining(self) -> None:
        """Raise DrainingError when the server takes no new requests."""
        if self._is_refusing():
            raise DrainingError("The server is shutting down and takes no new requests.")

    async def predict(
        self,
        request_id: str,
        model: str,
        version: str | None,
        read_input: Callable[[], Awaitable[tuple[dict[str, str], list[Part]]]],
        check: Callable[[Outcome], None],
        time_limit: float | None = None,
    ) -> Outcome:
        """The outcome of one call on ``version`` of ``model``, on the default one for None.

        ``read_input`` gives headers and parts; it runs once it is known who will be asked.
        ``check`` raises InferenceError for an answer that the protocol cannot carry. ``time_limit``
        is in how many seconds the client wants its answer. A call that is cancelled takes its job
        back; who does not read a stream to its end calls ``abandon`` on it. Raises the
        FlambeauError that the client should see.
        """
        self.refuse_if_draining()
        return await self.ask(request_id, model, version, read_input, check, time_limit)

    async def ask(
        self,
        request_id: str,
        model: str,
        version: str | None,
        read_input: Callable[[], Awaitable[tuple[dict[str, str], list[Part]]]],
        check: Callable[[Outcome], None],
        time_limit: float | None,
    ) -> Outcome:
        """As ``predict``, for a part of a request that was accepted before the server drains."""
        key = self._registry.resolve(model, version)
        started = monotonic()
        job = Job(request_id, {}, [], started, requested_version=version, time_limit=time_limit)
        try:
            current = self._engine.version(key)
            if current is not None and not current.free:
                # Nobody need send a body, and nobody read it, for a request that is refused.
                self._engine.admit(key, job)
            headers, parts = job.headers, job.parts = await read_input()
            if current is not None:
                if current.schemas[0] is not None:
                    await _refuse_misfit(current.schemas[0], parts)
                if current.spec.sequences is not None:
                    job.sequence = name_sequence(headers, current.spec.sequences, _new_id)
                if current.spec.queue_discipline == PRIORITY:
                    job.priority = priority_of(headers, job.priority)
            # A handler looks at the first row for whether to explain the batch.
            job.alone = headers.get("explain") == "True"
            job.offered_at = monotonic()
            key, answered = self._offer(key, job, model)
            outcome = await self._outcome(key, job, answered)
            refuse_longer(len(outcome.body), self.longest_answer)
            check(outcome)
        except FlambeauError as error:
            outcome = Outcome(status=error.status, error=error)
        outcome.total = monotonic() - started
        if outcome.stream is None:
            self._observe(key, version, outcome, outcome.total, request_id)
        else:
            outcome.stream.longest_piece = self.longest_answer
            outcome.stream.on_end = lambda end: self._observe(
                key, version, end, monotonic() - started, request_id
            )
            outcome.stream.abandon = lambda: self._engine.abandon(key, job)
        if outcome.error is not None:
            if self.timing and outcome.queued:
                outcome.error.timing = timing_of(outcome)
            raise outcome.error

        return outcome

    def _observe(
        self,
        key: VersionKey,
        version: str | None,
        outcome: Outcome,
        seconds: float,
        request_id: str,
    ) -> None:
        # A version that is gone meanwhile must not leave series behind for ever.
        if self._engine.version(key) is not None:
            self._metrics.observe(key, version, outcome, seconds, request_id)

    def _offer(
        self, key: VersionKey, job: Job, model: str
    ) -> tuple[VersionKey, asyncio.Future[Outcome]]:
        """Queue the job; at the default version's successor if that is on its way out by now."""
        try:
            return key, self._engine.predict(key, job)
        except (DrainingError, NoWorkerError):
            if job.requested_version is not None:
                raise
            current = self._registry.resolve(model, None)
            if current == key:
                raise
            return current, self._engine.predict(current, job)

    async def _outcome(
        self, key: VersionKey, job: Job, answered: asyncio.Future[Outcome]
    ) -> Outcome:
        try:
            return await answered
        except asyncio.CancelledError:
            self._engine.abandon(key, job)
            raise


def _new_id() -> str:
    return str(uuid.uuid4())


async def _refuse_misfit(schema: str, parts: Sequence[Part]) -> None:
    body = checked_body(parts)
    if body is None:
        return
    if len(body.body) > LARGE_BODY:
        await asyncio.to_thread(refuse_misfit, schema, body)
    else:
        refuse_misfit(schema, body)
