"""Calls that change the server: once begun they are finished, even if their client leaves."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from .. import FlambeauError

_Result = TypeVar("_Result")

logger = logging.getLogger(__name__)


class ShieldedCalls:
    """Runs calls to their end; ``close`` waits for those whose clients have left.

    While ``refusal`` is set none may begin: it is what their clients are told.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self.refusal: FlambeauError | None = None

    @property
    def are_running(self) -> bool:
        """Some have begun and not ended."""
        return bool(self._running)

    def admit(self) -> None:
        """Raise ``refusal`` if a call may not begin now."""
        if self.refusal is not None:
            raise self.refusal

    async def finish(self, call: Coroutine[Any, Any, _Result]) -> _Result:
        """The result of ``call``, which runs to its end even if this is cancelled.

        Raises what ``admit`` raises.
        """
        try:
            self.admit()
        except BaseException:
            call.close()
            raise
        task = asyncio.ensure_future(call)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_unseen)
            raise

    async def close(self, timeout: float) -> None:
        """Give calls whose clients left ``timeout`` seconds to end, then cancel them."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def _log_unseen(task: asyncio.Task[Any]) -> None:
    """Nobody is there any more to be told that a call failed."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("a management call whose client had left failed: %s", error)
