"""One call of a workflow: the calls of its nodes, each an ordinary one of the predictor."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic
from typing import TYPE_CHECKING

from .. import FlambeauError
from .errors import DeadlineExceededError, InferenceError
from .jobs import Outcome
from .streams import refuse_longer
from .workflow_run import WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..model_store.workflow_spec import Node
    from .jobs import Body, Part
    from .predictor import Predictor
    from .workflows import Workflow, Workflows

NEVER = float("inf")

_AT_ONCE = 1 << 18
"""Bytes of answers from which on they are put together in a thread."""


class WorkflowPredictor:
    """Answers calls of workflows."""

    def __init__(self, workflows: Workflows, predictor: Predictor) -> None:
        self._workflows = workflows
        self._predictor = predictor

    async def predict(
        self,
        request_id: str,
        name: str,
        read_input: Callable[[], Awaitable[tuple[dict[str, str], list[Part]]]],
        time_limit: float | None = None,
    ) -> Outcome:
        """The outcome of one call; never a stream.

        ``time_limit`` is in how many seconds the client wants its answer. The first node that fails
        is what the client is told, the others are abandoned; so they are when this is cancelled.
        Raises UnknownWorkflowError, and the FlambeauError of the failed node with its name.
        """
        self._predictor.refuse_if_draining()
        self._workflows.resolve(name)
        headers, parts = await read_input()
        # Only now, or a client that sends no more of its body would hold up the end of the workflow
        # and of the server.
        self._predictor.refuse_if_draining()
        workflow = self._workflows.resolve(name)
        with workflow.in_use():
            call = _Call(self._predictor, workflow, request_id, headers, time_limit)
            run = WorkflowRun(workflow.spec)
            await _walk(run, run.begin(parts), call.ask)
            outcome = await _result(run)
            refuse_longer(len(outcome.body), self._predictor.longest_answer)
            return outcome


async def _walk(
    run: WorkflowRun,
    ready: dict[str, list[Part]],
    ask: Callable[[str, list[Part]], Awaitable[Outcome]],
) -> None:
    """Ask every node that is ready, until there is none or one fails."""
    tasks: dict[asyncio.Future[Outcome], str] = {}
    try:
        while ready or tasks:
            for name, parts in ready.items():
                tasks[asyncio.ensure_future(ask(name, parts))] = name
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            ready = {}
            for task in [each for each in tasks if each in done]:
                outcome = task.result()
                ready.update(run.answered(tasks.pop(task), outcome))
                if run.has_failed:
                    return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _result(run: WorkflowRun) -> Outcome:
    if not run.has_failed and sum(len(body) for body in run.leaves.values()) >= _AT_ONCE:
        return await asyncio.to_thread(run.result)
    return run.result()


class _Call:
    """What the calls of all nodes have in common. ``time_limit`` is the client's, in seconds."""

    def __init__(
        self,
        predictor: Predictor,
        workflow: Workflow,
        request_id: str,
        headers: dict[str, str],
        time_limit: float | None,
    ) -> None:
        self._predictor = predictor
        self._workflow = workflow
        self._request_id = request_id
        self._headers = headers
        self._time_limit = time_limit
        self._deadline = monotonic() + (time_limit or NEVER)

    async def ask(self, name: str, parts: list[Part]) -> Outcome:
        """The whole answer of a node, after as many attempts as it may have."""
        node = self._workflow.spec.nodes[name]
        attempts = node.settings.retry_attempts + 1
        while True:
            attempts -= 1
            try:
                return await self._attempt(node, parts)
            except FlambeauError as error:
                if attempts and _is_worth_another_try(error):
                    continue
                error.message = f"Error executing {name}: {error.message}"
                raise

    async def _attempt(self, node: Node, parts: list[Part]) -> Outcome:
        async def read_input() -> tuple[dict[str, str], list[Part]]:
            return self._headers, parts

        seconds = node.settings.timeout_ms / 1000
        left = self._deadline - monotonic()
        if left <= 0:
            raise self._too_late()
        model = self._workflow.model_of(node.name)
        try:
            outcome = await self._predictor.ask(
                self._request_id, model, None, read_input, _accept, min(left, seconds)
            )
            return await _whole(outcome, self._predictor.longest_answer)
        except DeadlineExceededError as error:
            if error.clock != "request":
                raise
            if left < seconds:
                raise self._too_late() from None
            text = f"It did not answer within {seconds:g} s (timeout-ms)."
            raise DeadlineExceededError(text, "node") from None

    def _too_late(self) -> DeadlineExceededError:
        text = f"The request was not answered within {self._time_limit:g} s (X-Request-Timeout-Ms)."
        return DeadlineExceededError(text, "request")


def _is_worth_another_try(error: FlambeauError) -> bool:
    """The node, or its worker, failed by itself: not for what it was asked, nor for lack of time
    or of workers.
    """
    if isinstance(error, DeadlineExceededError):
        return error.clock == "node"
    return isinstance(error, InferenceError) and error.status >= 500


async def _whole(outcome: Outcome, limit: int) -> Outcome:
    """An answer that comes in pieces, put together: the next node takes it as one."""
    stream = outcome.stream
    if stream is None:
        return outcome
    pieces: list[Body] = []
    size = 0
    with contextlib.ExitStack() as unless_it_ends:
        unless_it_ends.callback(stream.abandon)
        async for piece in stream:
            size += len(piece)
            refuse_longer(size, limit)
            pieces.append(piece)
        unless_it_ends.pop_all()
    return Outcome(outcome.status, outcome.reason, outcome.headers, b"".join(pieces))


def _accept(_: Outcome) -> None:
    """What HTTP can carry is asked of the whole answer only."""
