"""All servers at once for a workload: windows of one after the other, while the others idle.

What is compared is measured within seconds, so a machine that changes its speed for minutes changes
it for all.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from echo import say
from processes import BenchmarkError, OtherWork

from peers.commands import SERVERS
from peers.results import OWN
from peers.servers import serving
from peers.windows import LOOP_AT, Turn, ask, long_enough, offer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from load import Load

    from peers.results import Results
    from peers.servers import Running
    from peers.windows import Plan
    from peers.workloads import Workload

_LONGEST_WORK = 20.0
_LOOK_EVERY = 0.25
_IDLE = 0.2
"""The part of a core up to which a server is idle: some of them are never quite."""
_STARTS = 2
"""So often a server may fail to start, with a workload."""


class Together:
    """The servers of one workload, all running, and the figures that they give."""

    def __init__(self, results: Results, workload: str, load: Load, plan: Plan) -> None:
        self._results = results
        self._workload = workload
        self._load = load
        self._plan = plan
        self._running: dict[str, Running] = {}

    def start(self, stack: ExitStack, server: str, workload: Workload, folder: Path) -> None:
        """Start a server that ends with ``stack``; one that does not start is named, and left."""
        for attempt in range(1, _STARTS + 1):
            home = folder / f"{server}-{self._workload}-{attempt}"
            try:
                running = stack.enter_context(serving(server, workload, self._plan.blocks, home))
            except BenchmarkError as exc:
                self._turn(server, 0).fail(str(exc))
                continue
            self._running[server] = running
            return

    def warm_up(self) -> None:
        """Load that does not count."""
        for server, running in self._running.items():
            seconds = max(self._plan.warm_up, SERVERS[server].warm_up)
            ask(self._turn(server, 0), running, self._load, 8, seconds, is_kept=False)
            _wait_until_idle(running)

    def round(self, number: int) -> None:
        """At each number of connections one server after the other, in an order that shifts."""
        other = OtherWork()
        rates: dict[str, list[float]] = {server: [] for server in self._running}
        for step, connections in enumerate(self._plan.connections):
            for server in self._shifted(number - 1 + step):
                rates[server].append(self._window(server, number, connections, rates[server]))
            shown = ", ".join(f"{server} {made[-1]:,.0f}" for server, made in rates.items() if made)
            say(f"    {connections} connections, requests/s: {shown}")
        if self._plan.open_loop:
            for server in self._shifted(number - 1):
                capacity = max(rates[server], default=0.0)
                offer(self._turn(server, number), self._running[server], capacity, self._plan)
                _wait_until_idle(self._running[server])
        self._turn(OWN, number).add("other work", other.cores())

    def _window(self, server: str, number: int, connections: int, rates: list[float]) -> float:
        turn, running = self._turn(server, number), self._running[server]
        loop = self._plan.loop if (server, connections) == (OWN, LOOP_AT) else None
        before = loop() if loop is not None else 0.0
        seconds = long_enough(self._plan.seconds, connections, rates)
        others = [each for name, each in self._running.items() if name != server]
        idle, began = sum(each.cpu() for each in others), time.perf_counter()
        rate = ask(turn, running, self._load, connections, seconds)
        took = time.perf_counter() - began
        turn.add("others", (sum(each.cpu() for each in others) - idle) / took, str(connections))
        if loop is not None:
            turn.add("loop", (before + loop()) / 2, str(connections))
        _wait_until_idle(running)
        return rate

    def _shifted(self, by: int) -> Iterable[str]:
        """Those that still run, each time from another one on."""
        for server in [name for name, each in self._running.items() if each.has_ended()]:
            self._turn(server, 0).fail("it has ended, and is not asked any more")
            del self._running[server]
        names = list(self._running)
        first = by % max(1, len(names))
        return names[first:] + names[:first]

    def _turn(self, server: str, number: int) -> Turn:
        results = self._results
        return Turn(server, self._workload, number, results.samples, results.problems)


def _wait_until_idle(running: Running) -> None:
    """Some work on requests whose clients have left, at the cost of whoever is asked next."""
    deadline = time.monotonic() + _LONGEST_WORK
    used = running.cpu()
    while time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY)
        before, used = used, running.cpu()
        if used - before < _IDLE * _LOOK_EVERY:
            return


def measure_together(
    results: Results, workload: Workload, servers: list[str], load: Load, plan: Plan, folder: Path
) -> None:
    """All rounds of a workload, with those of ``servers`` that start."""
    with ExitStack() as stack:
        together = Together(results, workload.name, load, plan)
        for server in servers:
            together.start(stack, server, workload, folder)
        together.warm_up()
        for number in range(1, plan.rounds + 1):
            say(f"  {workload.name}, round {number} of {plan.rounds}")
            together.round(number)
