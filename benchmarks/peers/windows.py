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

from peers.sizes import STREAM

if TYPE_CHECKING:
    from collections.abc import Callable

    from load import Load

    from peers.servers import Running

FASTEST = 5000.0
"""Requests per second: the open loop's client, in Python, is late itself above that."""
_BESIDES = 60.0
_ANSWERS = 4
_LONGEST = 30.0
LOOP_AT = 32
"""Connections at which serving is compared with a loop."""


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


@dataclass(frozen=True)
class Plan:
    """What a turn is made of.

    ``loop`` runs the model without a server, and answers how many a second that makes: before and
    after the window of ``LOOP_AT`` connections.
    """

    connections: list[int]
    seconds: float
    warm_up: float
    open_loop: bool
    loop: Callable[[], float] | None = None


def measure(turn: Turn, running: Running, load: Load, plan: Plan) -> None:
    """All windows of a server that runs."""
    turn.add("start", running.start_seconds)
    turn.add("idle PSS", running.pss_mb())
    turn.add("processes", len(running.pids()))
    _closed(turn, running, load, 8, plan.warm_up, is_kept=False)
    rates: list[float] = []
    for each in plan.connections:
        loop = plan.loop if each == LOOP_AT else None
        before = loop() if loop is not None else 0.0
        seconds = _long_enough(plan.seconds, each, rates)
        rates.append(_closed(turn, running, load, each, seconds))
        if loop is not None:
            turn.add("loop", (before + loop()) / 2, str(each))
    turn.add("loaded PSS", running.pss_mb())
    capacity = max(rates, default=0.0)
    if plan.open_loop and capacity:
        for at, share in (("half", 0.5), ("twice", 2.0)):
            _open(turn, running, at, capacity * share, plan.seconds)
    _scale(turn, running)


def _long_enough(seconds: float, connections: int, rates: list[float]) -> float:
    """So long that every connection gets a few answers: the first to be answered are too quick."""
    fastest = max(rates, default=0.0)
    needed = _ANSWERS * connections / fastest if fastest else 0.0
    return max(seconds, min(needed, _LONGEST))


def _scale(turn: Turn, running: Running) -> None:
    try:
        seconds = running.scale_up()
    except BenchmarkError as exc:
        turn.fail(f"from one worker to two: {exc}")
        return
    if seconds is not None:
        turn.add("scale-up", seconds)


def _closed(
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


def _open(turn: Turn, running: Running, at: str, rate: float, seconds: float) -> None:
    if rate > FASTEST:
        # The page says that there are no such figures.
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
