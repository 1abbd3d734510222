"""Why a worker is gone, as far as it is known. Pure data."""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass, replace

from ..worker.protocol import EXIT_CUDA_ERROR


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
    HANG = "hang"
    RESPONSE_TIMEOUT = "response_timeout"
    STARTUP_TIMEOUT = "startup_timeout"
    PROTOCOL_VIOLATION = "protocol_violation"
    UNREACHABLE = "unreachable"
    DEPENDENCIES = "dependencies"
    RECYCLED = "recycled"
    UNKNOWN = "unknown"


class Oom(enum.Enum):
    """What the kernel's OOM kills have to do with the end of a process."""

    NO = enum.auto()
    KILLED = enum.auto()
    NEARBY = enum.auto()
    """Another process of its control group was killed so, or it was this one."""


UNKNOWN_CODE = 256
"""In place of an exit code that nobody was told; real ones are smaller."""
SPOILT = "A CUDA error made the worker's GPU context unusable."
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
    ``memory`` is what it had in bytes when that was last measured, ``lived`` how many seconds it
    was there, ``served`` how many requests it had answered.
    """

    identity: str
    reason: ExitReason
    message: str
    at: float
    code: int | None = None
    status: int = 500
    tail: tuple[str, ...] = ()
    memory: int | None = None
    lived: float | None = None
    served: int | None = None

    @property
    def was_wanted(self) -> bool:
        """Somebody asked for it: nothing is wrong."""
        return self.reason in (ExitReason.STOPPED, ExitReason.RECYCLED)

    @property
    def signal(self) -> str | None:
        """The name of the signal that ended the process, whoever sent it."""
        return None if self.code is None or self.code >= 0 else _signal_name(-self.code)

    def completed(self, facts: Exit, *, was_forced: bool) -> Exit:
        """This, known before the process had ended, with what its end told.

        A worker that could not be reached tells by its end what it had; not when that was forced.
        """
        if self.reason is ExitReason.UNREACHABLE and not was_forced:
            return replace(facts, memory=self.memory, lived=self.lived, served=self.served)
        return replace(self, code=facts.code, tail=facts.tail)

    @property
    def clock(self) -> str | None:
        """The name of the time that ran out, if it was that."""
        return _CLOCKS.get(self.reason) if self.status == TIMED_OUT else None

    @property
    def explanation(self) -> str:
        """The message; where that has little to tell, the process's last words too."""
        words = [line.strip() for line in self.tail if line.strip()]
        if self.reason not in _WORDLESS or not words or words[-1] in self.message:
            return self.message
        return f"{self.message} Its last words: {words[-1]}"


def classify(
    identity: str, code: int, at: float, tail: tuple[str, ...] = (), oom: Oom = Oom.NO
) -> Exit:
    """Why a process ended, as far as its exit code and the kernel tell.

    TorchServe answers the requests of a worker that was killed with SIGKILL 507, since it mostly
    is the kernel that does it, for want of memory; other deaths are 500.
    """
    reason, status = ExitReason.EXIT_CODE, 500
    message = f"The process ended by itself with exit code {code}."
    if code == EXIT_CUDA_ERROR:
        reason = ExitReason.CUDA_ERROR
        message = SPOILT
    elif code == UNKNOWN_CODE:
        reason = ExitReason.UNKNOWN
        message = "The process ended, and nobody saw how: its template had ended before it."
    elif code < 0:
        reason, message = ExitReason.SIGNAL, f"The process was ended by {_signal_name(-code)}."
        status = 507 if -code == signal.SIGKILL else 500
    if oom is Oom.KILLED:
        reason = ExitReason.OOM_KILL
        message = (
            "The kernel killed the process because memory ran out: its control group counts an "
            "OOM kill."
        )
    elif oom is Oom.NEARBY:
        message += (
            " Shortly before, the kernel had killed a process of its control group because memory "
            "ran out."
        )
    known = None if code == UNKNOWN_CODE else code
    return Exit(identity, reason, message, at, known, status, tail)


_WORDLESS = frozenset(
    {
        ExitReason.EXIT_CODE,
        ExitReason.SIGNAL,
        ExitReason.OOM_KILL,
        ExitReason.CUDA_ERROR,
        ExitReason.UNREACHABLE,
        ExitReason.UNKNOWN,
    }
)
"""Reasons whose message says how a process ended, and not what it was about."""


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
