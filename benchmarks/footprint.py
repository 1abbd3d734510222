"""What the server costs before anybody asks it: memory, the time of a start, CPU while idle."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from echo import say
from models import package_digits
from processes import BenchmarkError, cpu_seconds, memory_mb, tree
from served import call, serving

if TYPE_CHECKING:
    from pathlib import Path

    from models import Digits
    from served import Served

_REST = 1.0
"""Seconds after a start before idling counts."""


@dataclass
class FootprintResult:
    """``rss_mb``, ``pss_mb``: the frontend after the load; ``idle``: the share of one core."""

    rss_mb: float = 0.0
    pss_mb: float = 0.0
    start_seconds: list[float] = field(default_factory=list)
    first_answer_seconds: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)


def measure_memory(result: FootprintResult, served: Served) -> None:
    """The frontend as the load has left it."""
    result.rss_mb, result.pss_mb = memory_mb(served.pid)
    say(f"  frontend after the load: {result.rss_mb:.1f} MB resident")


def measure_starts(result: FootprintResult, folder: Path, starts: int, idle_seconds: float) -> None:
    """Start a server with the digits model again and again; the last one is watched idling."""
    digits = package_digits(folder)
    for number in range(1, starts + 1):
        began = time.perf_counter()
        with serving(folder, {"digits": digits.archive}) as served:
            _check_answer(served, digits)
            result.start_seconds.append(served.start_seconds)
            result.first_answer_seconds.append(time.perf_counter() - began)
            say(f"  start {number}/{starts}: ready after {served.start_seconds:.2f} s")
            if number == starts:
                result.idle.append(_idle(served, idle_seconds))


def _check_answer(served: Served, digits: Digits) -> None:
    target = served.target("digits", digits.image, "image/png")
    scores = json.loads(call("POST", target.url, digits.image.read_bytes(), "image/png"))
    if max(scores, key=scores.__getitem__) != digits.shows:
        raise BenchmarkError(f"the digits model takes a {digits.shows} for {scores}.")


def _idle(served: Served, seconds: float) -> float:
    time.sleep(_REST)
    pids = tree(served.pid)
    before, started = cpu_seconds(pids), time.perf_counter()
    time.sleep(seconds)
    share = (cpu_seconds(pids) - before) / (time.perf_counter() - started)
    say(f"  idle: {share:.2%} of a core, {len(pids)} processes")
    return share
