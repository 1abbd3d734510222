"""Wakes an event loop to a tenth of a millisecond, where its own timers know whole ones."""

from __future__ import annotations

import ctypes
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_NONBLOCKING = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE = 1


class Alarm:
    """Calls ``ring`` at the times it is set to, on the clock of ``time.monotonic``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        # Python has timerfd from 3.13 on, Linux has had it for ever.
        self._libc = ctypes.CDLL(None)
        self._fd = -1
        if hasattr(self._libc, "timerfd_create"):
            self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCKING)
        if self._fd >= 0:
            loop.add_reader(self._fd, self._expired)

    def set(self, at: float) -> None:
        """To this time instead of any other."""
        if self._fd < 0:
            self._timer = self._loop.call_later(at - time.monotonic(), self._ring)
            return
        # All zeros would switch it off.
        seconds, nanoseconds = divmod(max(1, int(at * 1e9)), 1_000_000_000)
        spec = (ctypes.c_long * 4)(0, 0, seconds, nanoseconds)
        self._libc.timerfd_settime(self._fd, _ABSOLUTE, spec, None)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _expired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            # It was set anew after it had gone off.
            return
        self._ring()
