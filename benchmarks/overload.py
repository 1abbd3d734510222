"""Measures what becomes of requests when more come than can be answered.

    python benchmarks/overload.py [--seconds 60] [--milliseconds 15]

One worker whose batches of one take so many milliseconds, asleep, and the usual queue of 100. Its
capacity is measured with 32 clients that wait for each answer, and how long an answer takes when
just nobody is refused, with 101. Then requests come by themselves, as a Poisson process from a
client process of its own: at 0.9 of the capacity, at the capacity, and at twice the capacity, each
for a while that does not count and then for so many seconds. Once as the server is by default, once
with `lifo_on_overload`, and once with clients that give their requests a second. The report is
Markdown on standard output.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from echo import say
from load import Load
from models import write_sleep
from processes import HERE, BenchmarkError, OtherWork
from served import serving

LOADS = (0.9, 1.0, 2.0)
TEXT = "text/plain"
FULL = 101
"""Clients that fill the queue and its worker, with none too many."""
CLIENTS = 32
"""So many that the worker always has the next request."""


@dataclass
class Kind:
    """A model and how it is asked; ``runs`` by load."""

    name: str
    model: str
    headers: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    runs: dict[float, dict[str, Any]] = field(default_factory=dict)


def kinds() -> list[Kind]:
    newest_first = {"queueDiscipline": "lifo_on_overload", "queueTimeout": 1}
    return [
        Kind("default", "fifo"),
        Kind("lifo_on_overload, queueTimeout 1", "lifo", config=newest_first),
        Kind("X-Request-Timeout-Ms: 1000", "fifo", ["X-Request-Timeout-Ms: 1000"]),
    ]


@dataclass(frozen=True)
class Capacity:
    """Requests per second, and the p99 when everybody waits who may."""

    rate: float
    full_p99_ms: float


def measure(folder: Path, milliseconds: float, seconds: float) -> tuple[Capacity, list[Kind]]:
    """The capacity, and the kinds with their runs."""
    made = kinds()
    for kind in made:
        if not (folder / "store" / kind.model).exists():
            write_sleep(folder / "store", kind.model, milliseconds, kind.config)
    body = folder / "body"
    body.write_text("as it was sent")
    models = {kind.model: kind.model for kind in made}
    with serving(folder, models) as served:
        targets = {name: served.target(name, body, TEXT) for name in models}
        closed = Load("asyncio")
        closed.window(targets["fifo"], CLIENTS, 1.0)
        rate = closed.window(targets["fifo"], CLIENTS, max(1.0, seconds / 4)).rate
        full = closed.window(targets["fifo"], FULL, max(1.0, seconds / 4)).p99_ms
        say(f"  capacity: {rate:.1f} requests/s; p99 with {FULL} clients: {full:.0f} ms")
        for kind in made:
            for number, load in enumerate(LOADS):
                command = [sys.executable, HERE / "open_loop.py", targets[kind.model].url, body]
                command += [TEXT, load * rate, seconds / 2, seconds, number + 1]
                command += kind.headers
                done = subprocess.run(
                    [*map(str, command)],
                    capture_output=True,
                    text=True,
                    timeout=2 * seconds + 60,
                    check=False,
                )
                if done.returncode != 0:
                    raise BenchmarkError(f"the client failed: {done.stderr.strip()}")
                kind.runs[load] = json.loads(done.stdout)
                say(f"  {kind.name}, {load:g} x: {_line(kind.runs[load])}")
    return Capacity(rate, full), made


def _line(run: dict[str, Any]) -> str:
    accepted, refused = run["accepted"], run["refused"]
    others = ", ".join(f"{count} {what}" for what, count in run["others"].items())
    if run["unanswered"]:
        others += f" {run['unanswered']} unanswered"
    cells = [
        f"{run['sent'] / run['seconds']:.1f}",
        f"{run['good'] / run['seconds']:.1f}",
        f"{accepted['p50_ms']:.0f}",
        f"{accepted['p99_ms']:.0f}",
        f"{refused['count'] / run['sent']:.1%}",
        f"{refused['p50_ms']:.2f}",
        f"{refused['p99_ms']:.2f}",
        others or "none",
    ]
    return " | ".join(cells)


def report(capacity: Capacity, made: list[Kind], other_work: float) -> str:
    """The table of all runs and that of the goals."""
    lines = [
        f"Capacity: {capacity.rate:.1f} requests/s; p99 with {FULL} clients, of which none is "
        f"refused: {capacity.full_p99_ms:.0f} ms. Cores busy with other work: {other_work:.2f}.",
        "",
        "| | load | came/s | answered/s | p50 ms | p99 ms | refused | p50 ms | p99 ms | others |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for kind in made:
        for load, run in kind.runs.items():
            lines.append(f"| {kind.name} | {load:g} | {_line(run)} |")
    lines += ["", "| goal | measured | |", "|---|---:|---|"]
    for kind in made:
        for goal, measured, is_met in goals(capacity, kind):
            verdict = "met" if is_met else "**not met**"
            lines.append(f"| {kind.name}: {goal} | {measured} | {verdict} |")
    return "\n".join(lines)


def goals(capacity: Capacity, kind: Kind) -> list[tuple[str, str, bool]]:
    """What is wanted of a run at twice the capacity, what it was, and whether that is enough."""
    at, twice = kind.runs[1.0], kind.runs[2.0]
    slower = twice["accepted"]["p99_ms"] / max(at["accepted"]["p99_ms"], 1e-9)
    full = twice["accepted"]["p99_ms"] / max(capacity.full_p99_ms, 1e-9)
    refusal = twice["refused"]["p99_ms"]
    goodput = twice["good"] / twice["seconds"] / capacity.rate
    lost = (
        twice["without_retry_after"] + twice["unanswered"] + twice["others"].get("wrong answers", 0)
    )
    return [
        (f"p99 at 2 under twice that with {FULL} clients", f"{full:.2f}", full < 2),
        ("p99 at 2 under twice that at 1", f"{slower:.2f}", slower < 2),
        ("p99 of refusals under 10 ms", f"{refusal:.2f} ms", refusal < 10),
        ("answered at least 0.9 of the capacity", f"{goodput:.3f}", goodput >= 0.9),
        ("refusals without Retry-After, wrong or missing answers", f"{lost}", lost == 0),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure overload.")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run")
    parser.add_argument("--milliseconds", type=float, default=15.0, help="that a batch takes")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="fl-", ignore_cleanup_errors=True) as folder:
            other_work = OtherWork()
            measured = measure(Path(folder), arguments.milliseconds, arguments.seconds)
            print(report(*measured, other_work.cores()))
    except (BenchmarkError, OSError) as exc:
        print(f"The benchmark failed: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
