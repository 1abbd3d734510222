"""One server with more and more models: what it costs to ask it, and what it holds."""

from __future__ import annotations

import http.client
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from echo import say
from models import write_echo
from processes import BenchmarkError, cpu_seconds, memory_mb, percentile, tree
from served import FLAMBEAU, call, serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from served import Served

FIRST = "echo"
BODY = b'{"instances": [1, 2, 3]}'
TYPE = {"Content-Type": "application/json"}
LEAST_FREE_MB = 3000.0
"""Memory that is left to the machine: a crowd that would need more is not measured."""


@dataclass
class Crowded:
    """Milliseconds of each call and of a registration as p50 and p99; shares of CPU in percent."""

    models: int
    calls: dict[str, tuple[float, float]] = field(default_factory=dict)
    registration: tuple[float, float] = (0.0, 0.0)
    status_seconds: float = 0.0
    frontend_mb: float = 0.0
    worker_mb: float = 0.0
    all_mb: float = 0.0
    frontend_idle: float = 0.0
    workers_idle: float = 0.0
    stopped: str = ""


def measure_crowd(folder: Path, counts: list[int], workers: int, *, quick: bool) -> list[Crowded]:
    """Measure with each number of models in turn; every model has ``workers`` of them.

    The first model has a worker in any case, for predictions. Each change is written down in a
    snapshot.
    """
    (folder / "store").mkdir(parents=True)
    write_echo(folder / "store")
    rows: list[Crowded] = []
    present = 1
    kept = {"snapshots": "true", "snapshot_dir": folder / "snapshots"}
    with serving(folder, {FIRST: "echo"}, **kept) as served:
        # The template imports what workers share as soon as the first one is ready.
        time.sleep(0.0 if quick else 8.0)
        for count in counts:
            row = Crowded(count)
            took = []
            while present < count:
                took.append(_register(served, f"model-{present}", workers))
                present += 1
            row.registration = _ends(took)
            _measure(row, served, quick=quick)
            rows.append(row)
            say(f"  {count} models with {workers} workers: measured")
            if _free_mb() < LEAST_FREE_MB:
                row.stopped = f"less than {LEAST_FREE_MB:.0f} MB of memory are left"
                break
    return rows


def _register(served: Served, name: str, workers: int) -> float:
    """Register a model, wait for its worker, if any, and ask it once; milliseconds without that."""
    query = urlencode({"url": "echo", "model_name": name, "initial_workers": workers})
    began = time.perf_counter()
    call("POST", f"{served.management}/models?{query}&synchronous=true")
    took = (time.perf_counter() - began) * 1000
    if workers:  # so that there is something to count about it
        call("POST", f"{served.inference}/predictions/{name}", BODY, TYPE["Content-Type"])
    return took


def _measure(row: Crowded, served: Served, *, quick: bool) -> None:
    few, many = (3, 10) if quick else (20, 300)
    row.frontend_idle, row.workers_idle = _idle(served, 0.5 if quick else 6.0)
    listing = f"/models?limit={row.models}"
    for name, count, base, method, path in (
        ("describe", many, served.management, "GET", f"/models/{FIRST}"),
        ("list", many, served.management, "GET", listing),
        ("scrape", few, served.metrics, "GET", "/metrics"),
        ("ping", many, served.inference, "GET", "/ping"),
        ("predict", 4 * many, served.inference, "POST", f"/predictions/{FIRST}"),
    ):
        row.calls[name] = _ends(_ask(base, method, path, count))
    began = time.perf_counter()
    command = [FLAMBEAU, "status", "--run-dir", served.run_dir]
    subprocess.run([*map(str, command)], check=True, capture_output=True, timeout=120)
    row.status_seconds = time.perf_counter() - began
    sizes = {pid: memory_mb(pid)[1] for pid in tree(served.pid)}
    row.frontend_mb = sizes[served.pid]
    row.worker_mb = memory_mb(served.worker(FIRST))[1]
    row.all_mb = sum(sizes.values())


def _ask(base: str, method: str, path: str, count: int) -> list[float]:
    """Milliseconds of so many calls on one connection, after a few that do not count."""
    place = urlsplit(base)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    body = BODY if method == "POST" else None
    took = []
    for number in range(-2, count):
        began = time.perf_counter()
        connection.request(method, path, body, TYPE if body else {})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise BenchmarkError(f"{path} was answered {answer.status}: {content[:200]!r}")
        if number >= 0:
            took.append((time.perf_counter() - began) * 1000)
    connection.close()
    return took


def _idle(served: Served, seconds: float) -> tuple[float, float]:
    """Percent of a core that the frontend, and all others, use while nobody asks."""
    time.sleep(min(1.0, seconds))
    workers = [pid for pid in tree(served.pid) if pid != served.pid]
    measured: list[Callable[[], float]] = [
        lambda: cpu_seconds([served.pid]),
        lambda: cpu_seconds(workers),
    ]
    before = [each() for each in measured]
    time.sleep(seconds)
    frontend, others = (
        (each() - was) / seconds * 100 for each, was in zip(measured, before, strict=True)
    )
    return frontend, others


def _ends(took: list[float]) -> tuple[float, float]:
    ordered = sorted(took)
    return percentile(ordered, 0.5), percentile(ordered, 0.99)


def _free_mb() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return kilobytes["MemAvailable"] * 1024 / 1e6
