"""What is measured of a server that runs: load over some connections, an open loop, its memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from echo import SETTLE, say
from processes import HERE, BenchmarkError

from peers.sizes import STREAM

if TYPE_CHECKING:
    from collections.abc import Callable

    from load import Load

    from peers.servers import Running

FASTEST = 5000.0
"""Requests per second: the open loop's client, in Python, is late itself above that."""
LOOP_AT = 32
"""Connections at which serving is compared with a loop."""
_BESIDES = 60.0
_ANSWERS = 3
_LONGEST = 12.0
_CONNECTS = 0.004
"""Seconds that a connection may take to be made, on a slow machine; nothing is answered then."""


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
    """A server's part of a round. ``problems`` are windows that failed, and why."""

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
        when = f"round {self.number}, " if self.number else ""
        problem = f"{when}{self.server}, {self.workload}: {message.splitlines()[0]}"
        self.problems.append(problem)
        say(f"    FAILED {problem}")


@dataclass(frozen=True)
class Plan:
    """What is measured of each server with a workload, in seconds and connections.

    ``loop`` runs the model without a server, and answers how many a second that makes: before and
    after our window of ``LOOP_AT`` connections.
    """

    rounds: int
    connections: list[int]
    seconds: float
    warm_up: float
    blocks: int
    open_loop: bool
    loop: Callable[[], float] | None = None


def look(turn: Turn, running: Running, load: Load, plan: Plan) -> None:
    """What a server that runs alone takes: time to start, memory before and after some load."""
    turn.add("start", running.start_seconds)
    turn.add("idle PSS", running.pss_mb())
    turn.add("processes", len(running.pids()))
    for each in (8, max(plan.connections)):
        ask(turn, running, load, each, plan.warm_up, is_kept=False)
    turn.add("loaded PSS", running.pss_mb())
    try:
        seconds = running.scale_up()
    except BenchmarkError as exc:
        turn.fail(f"from one worker to two: {exc}")
        return
    if seconds is not None:
        turn.add("scale-up", seconds)


def long_enough(seconds: float, connections: int, rates: list[float]) -> float:
    """So long that every connection gets a few answers: the first to be answered are too quick."""
    fastest = max(rates, default=0.0)
    needed = _ANSWERS * connections / fastest if fastest else 0.0
    return max(seconds, min(needed, _LONGEST)) + _CONNECTS * connections


def ask(
    turn: Turn,
    running: Running,
    load: Load,
    connections: int,
    seconds: float,
    is_kept: bool = True,
) -> float:
    """Good answers per second. What fails is counted, and does not hide the rest."""
    time.sleep(SETTLE)
    before = running.cpu()
    try:
        window = load.measure(running.target, connections, seconds)
    except BenchmarkError as exc:
        turn.fail(f"{connections} connections: {exc}")
        return 0.0
    used = running.cpu() - before
    if complaint := window.complaint():
        turn.fail(f"{connections} connections: {complaint}")
    if is_kept:
        at = str(connections)
        turn.add("errors", sum(window.errors.values()), at)
        turn.add("rate", window.rate, at)
        if window.requests:
            turn.add("p50", window.p50_ms, at)
            turn.add("p99", window.p99_ms, at)
            turn.add("cpu", used / window.requests * 1000, at)
        if turn.workload == STREAM and window.first_ms is not None:
            turn.add("first p50", window.first_ms[0], at)
            turn.add("first p99", window.first_ms[1], at)
    return window.rate


def offer(turn: Turn, running: Running, capacity: float, plan: Plan) -> None:
    """An open loop at half and at twice the capacity, as far as its client is quick enough."""
    if not capacity:
        return
    _open(turn, running, "half", min(capacity / 2, FASTEST), plan.seconds)
    if capacity * 2 <= FASTEST:
        _open(turn, running, "twice", capacity * 2, plan.seconds)


def _open(turn: Turn, running: Running, at: str, rate: float, seconds: float) -> None:
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
