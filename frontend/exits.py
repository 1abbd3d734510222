"""Why a worker is gone, as far as it is known. Pure data."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ExitReason(enum.Enum):
    """Why a worker is gone."""

    STOPPED = "stopped"
    BOOT_FAILURE = "boot_failure"
    IMPORT_ERROR = "import_error"
    OUT_OF_MEMORY = "out_of_memory"
    WARM_UP = "warm_up"
    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    OOM_KILL = "oom_kill"
    CUDA_ERROR = "cuda_error"
    RESPONSE_TIMEOUT = "response_timeout"
    STARTUP_TIMEOUT = "startup_timeout"
    PROTOCOL_VIOLATION = "protocol_violation"
    UNREACHABLE = "unreachable"
    DEPENDENCIES = "dependencies"
    RECYCLED = "recycled"


TIMED_OUT = 504
"""Status of requests whose worker ran out of time."""
_CLOCKS = {
    ExitReason.RESPONSE_TIMEOUT: "response",
    ExitReason.STARTUP_TIMEOUT: "startup",
    ExitReason.STOPPED: "drain",
}


@dataclass(frozen=True, slots=True)
class Exit:
    """How one incarnation of a worker ended.

    ``status`` is what a request that died with it is answered with, ``tail`` the last lines of its
    stderr, ``code`` the exit code (negative: the signal), None when it was not known in time.
    """

    identity: str
    reason: ExitReason
    message: str
    at: float
    code: int | None = None
    status: int = 500
    tail: tuple[str, ...] = ()

    @property
    def clock(self) -> str | None:
        """The name of the time that ran out, if it was that."""
        return _CLOCKS.get(self.reason) if self.status == TIMED_OUT else None

    @property
    def explanation(self) -> str:
        """The message; where that has only the exit code to tell, the process's last words too."""
        words = [line.strip() for line in self.tail if line.strip()]
        if self.reason not in (ExitReason.EXIT_CODE, ExitReason.SIGNAL) or not words:
            return self.message
        return f"{self.message} Its last words: {words[-1]}"
