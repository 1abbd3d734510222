"""One inference call, whatever protocol it came by: version, job, outcome, metrics."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from .. import FlambeauError
from .disciplines import PRIORITY, priority_of
from .engine import deliver
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


@dataclass(slots=True)
class Call:
    """One request on its way. ``started``: when its headers were there; ``key`` may become that of
    the version's successor.
    """

    key: VersionKey
    job: Job
    started: float


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
        call = Call(key, job, started)
        try:
            current = self._engine.version(key)
            if current is not None and not current.free:
                # Nobody need send a body, and nobody read it, for a request that is refused.
                self._engine.admit(key, job)
            job.headers, job.parts = await read_input()
            if current is not None and current.schemas[0] is not None:
                await _refuse_misfit(current.schemas[0], job.parts)
            answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            self._offer(call, partial(deliver, answered))
            outcome = self._fit(await self._outcome(call, answered), check)
        except FlambeauError as error:
            outcome = Outcome(status=error.status, error=error)
        self._account(call, outcome)
        if outcome.error is not None:
            raise outcome.error

        return outcome

    def finds(self, model: str, version: str | None) -> VersionKey | None:
        """The version that ``submit`` can be given requests for; None where they need ``predict``.

        It says what is wrong, and checks what it may have to check in a thread.
        """
        if self._is_refusing():
            return None
        try:
            key = self._registry.resolve(model, version)
        except FlambeauError:
            return None
        current = self._engine.version(key)
        return None if current is None or current.schemas[0] is not None else key

    def may_send(self, key: VersionKey, time_limit: float | None) -> bool:
        """Whether a client need send the body of a request, as far as that can be said."""
        current = self._engine.version(key)
        if current is None or current.free:
            return True
        try:
            self._engine.admit(key, Job("", {}, [], monotonic(), time_limit=time_limit))
        except FlambeauError:
            return False
        return True

    def submit(
        self, call: Call, check: Callable[[Outcome], None], done: Callable[[Outcome], None]
    ) -> None:
        """As ``predict``, of a request that is there as a whole: ``done`` gets the outcome, which
        may have an error, or a stream. Not after ``abandon``.

        It may be called before this returns, must not raise, and must not call for another request.
        """

        def answered(outcome: Outcome) -> None:
            try:
                outcome = self._fit(outcome, check)
            except FlambeauError as error:
                outcome = Outcome(status=error.status, error=error)
            self._account(call, outcome)
            done(outcome)

        try:
            self._offer(call, answered)
        except FlambeauError as error:
            answered(Outcome(status=error.status, error=error))

    def abandon(self, call: Call) -> None:
        """The client of a call left. Idempotent."""
        self._engine.abandon(call.key, call.job)

    def _fit(self, outcome: Outcome, check: Callable[[Outcome], None]) -> Outcome:
        """``outcome``, if the protocol can carry it; raises InferenceError if not."""
        refuse_longer(len(outcome.body), self.longest_answer)
        check(outcome)
        return outcome

    def _account(self, call: Call, outcome: Outcome) -> None:
        """The outcome of a call is known: count it, now or at the end of its stream."""
        outcome.total = monotonic() - call.started
        if outcome.stream is None:
            self._observe(call, outcome, outcome.total)
        else:
            outcome.stream.longest_piece = self.longest_answer
            outcome.stream.on_end = lambda end: self._observe(call, end, monotonic() - call.started)
            outcome.stream.abandon = lambda: self.abandon(call)
        if outcome.error is not None and self.timing and outcome.queued:
            outcome.error.timing = timing_of(outcome)

    def _observe(self, call: Call, outcome: Outcome, seconds: float) -> None:
        # A version that is gone meanwhile must not leave series behind for ever.
        if self._engine.version(call.key) is not None:
            job = call.job
            self._metrics.observe(call.key, job.requested_version, outcome, seconds, job.id)

    def _offer(self, call: Call, on_outcome: Callable[[Outcome], None]) -> None:
        """Queue the job; at the default version's successor if that is on its way out by now."""
        job, current = call.job, self._engine.version(call.key)
        if current is not None:
            if current.spec.sequences is not None:
                job.sequence = name_sequence(job.headers, current.spec.sequences, _new_id)
            if current.spec.queue_discipline == PRIORITY:
                job.priority = priority_of(job.headers, job.priority)
        # A handler looks at the first row for whether to explain the batch.
        job.alone = job.headers.get("explain") == "True"
        job.offered_at = monotonic()
        try:
            self._engine.submit(call.key, job, on_outcome)
        except (DrainingError, NoWorkerError):
            if job.requested_version is not None:
                raise
            successor = self._registry.resolve(call.key[0], None)
            if successor == call.key:
                raise
            call.key = successor
            self._engine.submit(successor, job, on_outcome)

    async def _outcome(self, call: Call, answered: asyncio.Future[Outcome]) -> Outcome:
        try:
            return await answered
        except asyncio.CancelledError:
            self.abandon(call)
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
