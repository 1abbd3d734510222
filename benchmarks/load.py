"""Load on one URL over a number of connections: wrk where it is installed, else `flambeau bench`.

Both run as a process of their own, keep every connection open, have one request under way on each,
and report the same figures.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from processes import HERE, BenchmarkError, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TOOLS = ("wrk", "asyncio")
_GRACE = 15.0
_BAD = "answers that are not 2xx"


@dataclass(frozen=True)
class Target:
    """What is asked: POST ``body`` with this content type, and with a key if need be.

    It is a file, or a folder whose files take turns.
    """

    url: str
    body: Path
    content_type: str
    key: str | None = None


@dataclass(frozen=True)
class Window:
    """One stretch of load. ``cpu_ms`` is CPU time per request, by process (or s per 1,000).

    ``requests`` have a good answer, ``errors`` says how many have not, by kind. The latencies are
    those of good answers, but wrk counts all. ``first_ms``: p50 and p99 until the first piece of
    the answer came, where the load generator tells.
    """

    connections: int
    seconds: float
    requests: int
    p50_ms: float
    p99_ms: float
    cpu_ms: Mapping[str, float]
    errors: Mapping[str, int] = field(default_factory=dict)
    first_ms: tuple[float, float] | None = None

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    def complaint(self) -> str:
        """What went wrong; empty if nothing did."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.errors.items())
        return kinds or ("" if self.requests else "no answer")


class Load:
    """A load generator; ``tool`` is one of TOOLS, None for the best that is there."""

    def __init__(self, tool: str | None = None) -> None:
        self.tool = tool or ("wrk" if shutil.which("wrk") else "asyncio")
        if self.tool == "wrk" and not shutil.which("wrk"):
            raise BenchmarkError("wrk is not installed (Debian: apt install wrk).")

    def window(
        self,
        target: Target,
        connections: int,
        seconds: float,
        pids: Mapping[str, int] | None = None,
    ) -> Window:
        """Ask for ``seconds``; BenchmarkError if any answer is missing or not 2xx.

        ``pids`` names the processes whose CPU time is of interest.
        """
        window = self.measure(target, connections, seconds, pids)
        if complaint := window.complaint():
            raise BenchmarkError(f"{target.url} at {connections} connections: {complaint}.")
        return window

    def measure(
        self,
        target: Target,
        connections: int,
        seconds: float,
        pids: Mapping[str, int] | None = None,
    ) -> Window:
        """The same whatever was answered; BenchmarkError only if the load generator fails."""
        pids = pids or {}
        before = {name: cpu_seconds([pid]) for name, pid in pids.items()}
        report = self._run(self._command(target, connections, seconds), seconds)
        used = {name: cpu_seconds([pid]) - before[name] for name, pid in pids.items()}
        requests = int(report["requests"]) - report["errors"][_BAD]
        return Window(
            connections,
            report["seconds"],
            requests,
            report["p50_ms"],
            report["p99_ms"],
            {name: value / max(1, requests) * 1000 for name, value in used.items()},
            {kind: count for kind, count in report["errors"].items() if count},
            report.get("first_ms"),
        )

    def _command(self, target: Target, connections: int, seconds: float) -> list[str]:
        if self.tool == "wrk":
            # wrk takes whole seconds only.
            whole = max(1, round(seconds))
            command = ["wrk", "-t1", f"-c{connections}", f"-d{whole}s", "--timeout", "10s"]
            if target.key is not None:
                command += ["-H", f"Authorization: Bearer {target.key}"]
            command += ["-s", str(HERE / "wrk.lua"), target.url]
            is_folder = target.body.is_dir()
            files = sorted(target.body.iterdir()) if is_folder else [target.body]
            return [*command, "--", target.content_type, *map(str, files)]
        command = [sys.executable, "-m", "flambeau.frontend.cli", "bench", target.url]
        command += ["--data", f"@{target.body}", "--content-type", target.content_type]
        command += [f"--connections={connections}", f"--duration={seconds}", "--timeout=10"]
        command += [] if target.key is None else ["--key", target.key]
        return [*command, "--allow-errors", "--json"]

    @staticmethod
    def _run(command: list[str], seconds: float) -> dict[str, Any]:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds + _GRACE, check=False
            )
        except subprocess.TimeoutExpired as exc:
            raise BenchmarkError(f"{command[0]} did not end.") from exc
        if done.returncode != 0:
            raise BenchmarkError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()}")
        if command[0] != "wrk":
            return _translated(json.loads(done.stdout))
        # The report is the last line; wrk prints tables of its own before it.
        report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return report


def _translated(report: dict[str, Any]) -> dict[str, Any]:
    """What flambeau bench says, in wrk.lua's words."""
    errors = {what: kind["count"] for what, kind in report["failures"].items()}
    others = sum(kind["count"] for kind in report["statuses"].values())
    latency = report["latency"] or {"p50": 0.0, "p99": 0.0}
    first = report["firstChunk"]
    return {
        "requests": round(report["requestsPerSecond"] * report["seconds"]) + others,
        "seconds": report["seconds"],
        "p50_ms": latency["p50"],
        "p99_ms": latency["p99"],
        "errors": {**errors, _BAD: others},
        "first_ms": None if first is None else (first["p50"], first["p99"]),
    }
