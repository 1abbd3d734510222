"""The states of workers, versions and the server, and every step that they may take.

Each table lists all steps; one that is not listed is a bug and raises IllegalTransition with the
last steps of that object in its message.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Generic, TypeVar

from .errors import IllegalTransition

VersionKey = tuple[str, str]
"""(model name, version)."""


class WorkerState(enum.Enum):
    """One incarnation of a worker: a process, from its start to its end."""

    __hash__ = object.__hash__  # Enum's own is a Python function; steps are looked up per batch

    SPAWNED = "spawned"
    CONNECTED = "connected"
    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"
    UNRESPONSIVE = "unresponsive"
    STOPPING = "stopping"
    GONE = "gone"


class VersionState(enum.Enum):
    """One version of one model."""

    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    IDLE = "idle"
    FAILED = "failed"
    DRAINING = "draining"
    REMOVED = "removed"


class ServerState(enum.Enum):
    """The server as a whole."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPED = "stopped"


State = TypeVar("State", bound=enum.Enum)
Table = dict[State, frozenset[State]]

WORKER_TRANSITIONS: Table[WorkerState] = {
    WorkerState.SPAWNED: frozenset({WorkerState.CONNECTED, WorkerState.GONE}),
    WorkerState.CONNECTED: frozenset({WorkerState.LOADING, WorkerState.GONE}),
    WorkerState.LOADING: frozenset({WorkerState.READY, WorkerState.GONE}),
    WorkerState.READY: frozenset(
        {
            WorkerState.BUSY,
            WorkerState.UNRESPONSIVE,
            WorkerState.STOPPING,
            WorkerState.GONE,
        }
    ),
    WorkerState.UNRESPONSIVE: frozenset(
        {WorkerState.READY, WorkerState.STOPPING, WorkerState.GONE}
    ),
    WorkerState.BUSY: frozenset({WorkerState.READY, WorkerState.GONE}),
    WorkerState.STOPPING: frozenset({WorkerState.GONE}),
    WorkerState.GONE: frozenset(),
}

VERSION_TRANSITIONS: Table[VersionState] = {
    VersionState.LOADING: frozenset(
        {VersionState.READY, VersionState.IDLE, VersionState.FAILED, VersionState.DRAINING}
    ),
    VersionState.READY: frozenset(
        {VersionState.LOADING, VersionState.DEGRADED, VersionState.IDLE, VersionState.DRAINING}
    ),
    VersionState.IDLE: frozenset({VersionState.LOADING, VersionState.READY, VersionState.DRAINING}),
    VersionState.DEGRADED: frozenset(
        {
            VersionState.READY,
            VersionState.LOADING,
            VersionState.IDLE,
            VersionState.FAILED,
            VersionState.DRAINING,
        }
    ),
    VersionState.FAILED: frozenset(
        {VersionState.LOADING, VersionState.IDLE, VersionState.DRAINING}
    ),
    VersionState.DRAINING: frozenset({VersionState.REMOVED}),
    VersionState.REMOVED: frozenset(),
}

SERVER_TRANSITIONS: Table[ServerState] = {
    ServerState.STARTING: frozenset({ServerState.SERVING, ServerState.DRAINING}),
    ServerState.SERVING: frozenset({ServerState.DRAINING}),
    ServerState.DRAINING: frozenset({ServerState.STOPPED}),
    ServerState.STOPPED: frozenset(),
}


class Lifecycle(Generic[State]):
    """A state that moves only along its table and remembers its last steps."""

    __slots__ = ("_history", "_name", "_table", "state")

    def __init__(self, name: str, table: Table[State], start: State) -> None:
        self._name = name
        self._table = table
        self._history: deque[str] = deque([start.value], maxlen=12)
        self.state = start

    def move(self, to: State) -> None:
        """Take the step to ``to``; raises IllegalTransition if the table does not list it."""
        if to not in self._table[self.state]:
            story = " -> ".join(self._history)
            raise IllegalTransition(f"{self._name}: {story} -> {to.value}?")
        self.state = to
        self._history.append(to.value)

    def __repr__(self) -> str:
        return f"<{self._name} {self.state.value}>"


def torchserve_name(key: VersionKey, slot: int | str) -> str:
    """What TorchServe calls the worker in a slot of a version."""
    return f"W-{slot}-{key[0]}_{key[1]}"
