"""How libzmq's own threads are scheduled, on either end of the wire."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_PREFIX = "ZMQbg/"


def let_them_batch() -> None:
    """Have this process's libzmq threads run as batch work, where the system allows that.

    They only carry bytes between a queue and a socket. As interactive threads they would push the
    Python thread aside for every single message; as batch threads they wait their turn and carry
    several at once. Call it when the first socket is there.
    """
    if not hasattr(os, "sched_setscheduler"):
        return
    with contextlib.suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            if (task / "comm").read_text().startswith(_PREFIX):
                os.sched_setscheduler(int(task.name), os.SCHED_BATCH, os.sched_param(0))
