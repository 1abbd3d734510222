"""One server's turn in a round: its start, load over more and more connections, an open loop."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from echo import SETTLE, say
from processes import HERE, BenchmarkError

if TYPE_CHECKING:
    from load import Load

    from peers.servers import Running

FASTEST = 5000.0
"""Requests per second: the open loop's client, in Python, is late itself above that."""
_BESIDES = 60.0


@dataclass(frozen=True)
class Sample:
    """One figure. ``at``: connections, "half" or "twice" the capacity, "" for neither."""

    server: str
    workload: str
    number: int
    what: str
    at: str
    value: float


@dataclass
class Turn:
    """What a server's turn brings. ``problems`` are windows that failed, and why."""

    server: str
    workload: str
    number: int
    samples: list[Sample]
    problems: list[str]

    def add(self, what: str, value: float, at: str = "") -> None:
        sample = Sample(self.server, self.workload, self.number, what, at, value)
        self.samples.append(sample)

    def fail(self, message: str) -> None:
        """Remember it and go on: one server's failure is a result, too."""
        where = f"round {self.number}, {self.server}, {self.workload}"
        problem = f"{where}: {message.splitlines()[0]}"
        self.problems.append(problem)
        say(f"    FAILED {problem}")


def measure(
    turn: Turn,
    running: Running,
    load: Load,
    connections: list[int],
    seconds: float,
    warm_up: float,
    open_loop: bool,
) -> None:
    """All windows of a server that runs."""
    turn.add("start", running.start_seconds)
    turn.add("idle PSS", running.pss_mb())
    turn.add("processes", len(running.pids()))
    _closed(turn, running, load, 8, warm_up, is_kept=False)
    rates = [_closed(turn, running, load, each, seconds) for each in connections]
    turn.add("loaded PSS", running.pss_mb())
    capacity = max(rates, default=0.0)
    if open_loop and capacity:
        for at, share in (("half", 0.5), ("twice", 2.0)):
            _open(turn, running, at, capacity * share, seconds)


def _closed(
    turn: Turn,
    running: Running,
    load: Load,
    connections: int,
    seconds: float,
    is_kept: bool = True,
) -> float:
    """Requests per second; 0 if the window failed."""
    time.sleep(SETTLE)
    before = running.cpu()
    try:
        window = load.window(running.target, connections, seconds)
    except BenchmarkError as exc:
        turn.fail(f"{connections} connections: {exc}")
        return 0.0
    if is_kept:
        at = str(connections)
        turn.add("rate", window.rate, at)
        turn.add("p50", window.p50_ms, at)
        turn.add("p99", window.p99_ms, at)
        turn.add("cpu", (running.cpu() - before) / window.requests * 1000, at)
    return window.rate


def _open(turn: Turn, running: Running, at: str, rate: float, seconds: float) -> None:
    if rate > FASTEST:
        turn.fail(f"open loop at {at} the capacity: our client cannot offer {rate:,.0f}/s")
        return
    target = running.target
    command = [sys.executable, HERE / "open_loop.py", target.url, target.body, target.content_type]
    command += [rate, min(0.5, seconds / 4), seconds, turn.number, "--any-answer"]
    try:
        done = subprocess.run(
            [*map(str, command)],
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds + _BESIDES,
        )
    except (subprocess.SubprocessError, OSError) as exc:
        turn.fail(f"open loop at {at} the capacity: {exc}")
        return
    found = json.loads(done.stdout)
    turn.add("offered", rate, at)
    turn.add("p50", found["accepted"]["p50_ms"], at)
    turn.add("p99", found["accepted"]["p99_ms"], at)
    turn.add("answered", found["good"] / seconds, at)
    turn.add("refused", found["refused"]["count"], at)
    others = sum(found["others"].values()) + found["unanswered"]
    if others:
        turn.fail(f"open loop at {at} the capacity: {others} of {found['sent']} failed")
