"""What a request costs when the model costs nothing, beside a bare HTTP server and a bare wire."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from load import Target
from processes import BenchmarkError, companion
from served import call
from wire import Wire, WireWindow, wire

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from load import Load, Window
    from served import Served

CONNECTIONS = (1, 8, 32)
TORCHSERVE_CONNECTIONS = (1, 32)
JSON = "application/json"
SETTLE = 0.2
"""Seconds between windows: what the last one left behind is finished then."""


@dataclass
class EchoResult:
    """The windows of all rounds, in order. ``torchserve`` is empty if it was not measured."""

    flambeau: dict[int, list[Window]] = field(default_factory=dict)
    constant: dict[int, list[Window]] = field(default_factory=dict)
    torchserve: dict[int, list[Window]] = field(default_factory=dict)
    wire: list[WireWindow] = field(default_factory=list)


@dataclass(frozen=True)
class Servers:
    """Whom the load goes to in turn. ``pids``: flambeau's processes, whose CPU time is read."""

    flambeau: Target
    constant: Target
    torchserve: Target | None
    pids: Mapping[str, int]


def measure_echo(
    served: Served,
    document: Path,
    folder: Path,
    load: Load,
    rounds: int,
    seconds: float,
    torchserve: Target | None = None,
) -> EchoResult:
    """In each round, at each number of connections, one server after the other.

    ``torchserve`` is TorchServe's echo model, warm, if it is to be measured as well.
    """
    result = EchoResult()
    pids = {"frontend": served.pid, "worker": served.worker("echo")}
    with companion("constant_server.py") as constant, wire(folder) as between:
        port = constant.hear(30)["port"]
        servers = Servers(
            served.target("echo", document, JSON),
            Target(f"http://127.0.0.1:{port}/", document, JSON),
            torchserve,
            pids,
        )
        _warm_up(load, servers, between)
        for number in range(1, rounds + 1):
            say(f"  echo, round {number} of {rounds}")
            for connections in CONNECTIONS:
                _measure_in_turn(result, servers, load, connections, seconds)
            result.wire.append(between.ping(seconds / 2))
    return result


def _measure_in_turn(
    result: EchoResult, servers: Servers, load: Load, connections: int, seconds: float
) -> None:
    turns = [
        ("flambeau", result.flambeau, servers.flambeau, servers.pids),
        ("bare aiohttp", result.constant, servers.constant, None),
    ]
    if servers.torchserve is not None and connections in TORCHSERVE_CONNECTIONS:
        turns.insert(1, ("TorchServe", result.torchserve, servers.torchserve, None))
    shown = []
    for name, windows, target, pids in turns:
        window = load.window(target, connections, seconds, pids)
        windows.setdefault(connections, []).append(window)
        shown.append(f"{name} {window.rate:,.0f} requests/s (p50 {window.p50_ms:.2f} ms)")
        time.sleep(SETTLE)
    say(f"    {connections} connections: {', '.join(shown)}")


def check_echo(target: Target) -> None:
    """The answer is what was sent."""
    body = target.body.read_bytes()
    answer = json.loads(call("POST", target.url, body, JSON))
    if answer != json.loads(body):
        raise BenchmarkError(f"{target.url} does not echo: {answer}")


def _warm_up(load: Load, servers: Servers, between: Wire) -> None:
    """Also checks the answers' content."""
    check_echo(servers.flambeau)
    call("POST", servers.constant.url, servers.constant.body.read_bytes(), JSON)
    for each in (servers.flambeau, servers.constant):
        load.window(each, max(CONNECTIONS), 0.5)
    between.ping(0.1)


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)
