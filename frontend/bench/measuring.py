"""One run of a load, from its first connection to its tally."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import resource
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from .connection import Dialer
from .loops import ClosedLoop, OpenLoop
from .report import progress
from .schedule import arrivals

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from .loops import Loop
    from .requests import Requests
    from .tally import Tally

_Tally = TypeVar("_Tally", bound="Tally")
_LOOK = 0.1
"""Seconds between two looks at what has had its time."""


@dataclass(frozen=True)
class Plan:
    """How much load, and for how long. ``rate`` None: a closed loop."""

    connections: int
    rate: float | None = None
    is_constant: bool = False
    seed: int | None = None
    duration: float | None = None
    count: int | None = None
    warm_up: float = 0.0
    timeout: float = 30.0
    goes_on: bool = False
    """Also where nothing is ever answered."""

    def words(self) -> str:
        """For the report."""
        if self.rate is None:
            return f"{self.connections} connections"
        return f"{self.rate:g} requests/s, {'evenly' if self.is_constant else 'Poisson'}"


def measure(
    plan: Plan,
    requests: Requests,
    context: ssl.SSLContext | None,
    make_tally: Callable[[float, float], _Tally],
    say: Callable[[str], None],
) -> _Tally:
    """Make the load and wait for its answers, or for Ctrl-C; raises BenchError.

    ``make_tally`` gets the first and the last time that counts, ``say`` a line about each second.
    """
    _allow_connections(plan.connections)
    loop = _new_event_loop()
    gc.freeze()
    try:
        return loop.run_until_complete(_measure(plan, requests, context, make_tally, say))
    finally:
        gc.unfreeze()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _measure(
    plan: Plan,
    requests: Requests,
    context: ssl.SSLContext | None,
    make_tally: Callable[[float, float], _Tally],
    say: Callable[[str], None],
) -> _Tally:
    dialer = Dialer(requests.target.base, context, requests.method != "HEAD")
    await dialer.find()
    first = time.monotonic() + plan.warm_up
    last = math.inf if plan.duration is None else first + plan.duration
    tally = make_tally(first, last)
    load = _loop(plan, requests, dialer, tally)
    with _interruptible(load.stop):
        try:
            load.start()
            await _watch(load, tally, say)
        finally:
            tally.close(time.monotonic())
            await load.close()
    return tally


def _loop(plan: Plan, requests: Requests, dialer: Dialer, tally: Tally) -> Loop:
    def make(kind: Callable[..., Loop], *shape: object) -> Loop:
        return kind(
            plan.connections,
            *shape,
            dialer,
            requests.in_turn(),
            tally,
            count=plan.count,
            timeout=plan.timeout,
            keeps_alive=requests.keeps_alive,
            goes_on=plan.goes_on,
        )

    if plan.rate is None:
        return make(ClosedLoop)
    chance = None if plan.is_constant else random.Random(plan.seed)  # noqa: S311 - no secret
    return make(OpenLoop, arrivals(plan.rate, chance))


async def _watch(load: Loop, tally: Tally, say: Callable[[str], None]) -> None:
    said, good = time.monotonic(), tally.good
    while not load.over.done():
        await asyncio.wait([load.over], timeout=_LOOK)
        now = time.monotonic()
        load.expire(now)
        load.look(now)
        if now - said >= 1 and now < tally.last:
            say(progress(tally, good, now, max(said, tally.first)))
            said, good = now, tally.good
    load.over.result()


@contextmanager
def _interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C ends the load in order, the second as usual."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        stop()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _allow_connections(count: int) -> None:
    """Shells allow a process fewer descriptors than it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 64
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
