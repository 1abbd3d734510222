"""What the pure core asks of the shell, and when it wants to be woken."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..worker.messages import Answer, Message
    from .autoscaler import ScalingEvent
    from .exits import Exit
    from .jobs import Job
    from .lifecycle import VersionKey
    from .version_spec import VersionSpec


@dataclass(slots=True)
class Send:
    """Send ``message`` to a worker."""

    identity: str
    message: Message


@dataclass(slots=True)
class Resolve:
    """``job.outcome`` is there: wake whoever waits for it."""

    job: Job


@dataclass(slots=True)
class Stream:
    """Give the client of ``job`` a piece of its answer; the rest follows."""

    job: Job
    piece: Answer


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker process under this identity."""

    identity: str
    spec: VersionSpec
    device: int | None


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker's process: ask (SIGTERM), or with ``force`` do not."""

    identity: str
    force: bool


@dataclass(frozen=True, slots=True)
class Report:
    """A worker is gone; ``exit`` says why. For log and metrics."""

    key: VersionKey
    exit: Exit


@dataclass(frozen=True, slots=True)
class Notify:
    """A version or one of its workers changed: whoever waits for that should look again."""

    key: VersionKey


@dataclass(frozen=True, slots=True)
class Scaled:
    """A version has, or would have, another number of workers; ``event`` says why. For the log and
    metrics.
    """

    key: VersionKey
    event: ScalingEvent


@dataclass(frozen=True, slots=True)
class Warn:
    """Something that whoever runs the server should know of a worker. For the log."""

    identity: str
    message: str


Command = Scaled | Send | Resolve | Stream | Spawn | Kill | Report | Notify | Warn


Alarm = Callable[[float], None]


class Agenda:
    """The commands that wait to be carried out, and the alarms that wait for their time.

    An alarm cannot be cancelled: it looks for itself whether it still matters.
    """

    def __init__(self) -> None:
        self._commands: list[Command] = []
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._ids = itertools.count()

    @property
    def next_alarm(self) -> float | None:
        """When ``ring`` wants to be called next."""
        return self._alarms[0][0] if self._alarms else None

    def alarm(self, at: float, alarm: Alarm) -> None:
        """Call ``alarm`` with the time when ``ring`` is called at or after ``at``."""
        heapq.heappush(self._alarms, (at, next(self._ids), alarm))

    def ring(self, now: float) -> None:
        """Run every alarm whose time has come."""
        while self._alarms and self._alarms[0][0] <= now:
            heapq.heappop(self._alarms)[2](now)

    def command(self, command: Command) -> None:
        self._commands.append(command)

    def flush(self) -> list[Command]:
        """The commands since the last flush, in order."""
        commands, self._commands = self._commands, []
        return commands
