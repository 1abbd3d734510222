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
    from pathlib import Path

    from load import Load, Window
    from served import Served

CONNECTIONS = (1, 8, 32)
JSON = "application/json"
SETTLE = 0.2
"""Seconds between windows: what the last one left behind is finished then."""


@dataclass
class EchoResult:
    """The windows of all rounds, in order."""

    flambeau: dict[int, list[Window]] = field(default_factory=lambda: _by_connections())
    constant: dict[int, list[Window]] = field(default_factory=lambda: _by_connections())
    wire: list[WireWindow] = field(default_factory=list)


def _by_connections() -> dict[int, list[Window]]:
    return {connections: [] for connections in CONNECTIONS}


def measure_echo(
    served: Served, document: Path, folder: Path, load: Load, rounds: int, seconds: float
) -> EchoResult:
    """In each round, at each number of connections, flambeau and the bare server in turn."""
    result = EchoResult()
    target = served.target("echo", document, JSON)
    check_echo(target)
    pids = {"frontend": served.pid, "worker": served.worker("echo")}
    with companion("constant_server.py") as constant, wire(folder) as between:
        port = constant.hear(30)["port"]
        bare = Target(f"http://127.0.0.1:{port}/", document, JSON)
        call("POST", bare.url, document.read_bytes(), JSON)
        _warm_up(load, target, bare, between)
        for number in range(1, rounds + 1):
            for connections in CONNECTIONS:
                window = load.window(target, connections, seconds, pids)
                time.sleep(SETTLE)
                ceiling = load.window(bare, connections, seconds)
                time.sleep(SETTLE)
                result.flambeau[connections].append(window)
                result.constant[connections].append(ceiling)
                say(
                    f"  echo {number}/{rounds}, {connections} connections: "
                    f"{window.rate:,.0f} requests/s, p50 {window.p50_ms:.2f} ms "
                    f"(bare aiohttp {ceiling.rate:,.0f}/s)"
                )
            result.wire.append(between.ping(seconds / 2))
    return result


def check_echo(target: Target) -> None:
    """The answer is what was sent."""
    body = target.body.read_bytes()
    answer = json.loads(call("POST", target.url, body, JSON))
    if answer != json.loads(body):
        raise BenchmarkError(f"the echo model does not echo: {answer}")


def _warm_up(load: Load, target: Target, bare: Target, between: Wire) -> None:
    for each in (target, bare):
        load.window(each, max(CONNECTIONS), 0.5)
    between.ping(0.1)


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)
