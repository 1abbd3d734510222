"""Handlers with ``async def``: their event loop, and how a coroutine is run to its end.

asyncio is imported when it is needed: most workers have no use for it.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Callable, Generator

_loop: asyncio.AbstractEventLoop | None = None


def event_loop() -> asyncio.AbstractEventLoop:
    """The worker's one event loop, which ``asyncio.get_event_loop`` finds before it runs, too."""
    global _loop
    import asyncio

    if _loop is None or _loop.is_closed():
        _loop = asyncio.new_event_loop()
    # A handler may have called asyncio.run, which leaves the thread without a loop.
    asyncio.set_event_loop(_loop)
    return _loop


def is_async(function: object) -> bool:
    """Calling ``function`` gives a coroutine."""
    call = getattr(function, "__call__", None)  # noqa: B004 - what an object's class defines
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def finished(value: Any) -> Any:
    """``value``, or what it comes to once it has been awaited."""

    async def awaited() -> Any:
        return await value

    return event_loop().run_until_complete(awaited()) if inspect.isawaitable(value) else value


def one_by_one(entry_point: Callable[..., Any]) -> Callable[..., Any]:
    """An async entry point as an ordinary one, which returns when it is done."""
    return lambda data, context: finished(entry_point(data, context))


def pieces_of(source: AsyncGenerator[Any, Any]) -> Generator[Any, None, None]:
    """What an async generator yields, where nothing else runs meanwhile."""
    try:
        while True:
            try:
                yield finished(anext(source))
            except StopAsyncIteration:
                return
    finally:
        finished(source.aclose())
