"""Very many requests, one after the other, and the memory of frontend and worker along the way."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from echo import say
from load import Load
from models import write_echo, write_inputs
from processes import memory_mb
from served import serving

if TYPE_CHECKING:
    from pathlib import Path

CONNECTIONS = 32


@dataclass(frozen=True)
class Sample:
    """Resident memory after so many requests, in MB."""

    requests: int
    frontend_mb: float
    worker_mb: float


@dataclass
class Soak:
    """The line of memory; the first third of it is warming up."""

    seconds: float = 0.0
    samples: list[Sample] = field(default_factory=list)

    def slopes(self) -> tuple[float, float]:
        """Bytes per 1,000 requests of frontend and worker, by least squares; 0 for one sample."""
        settled = self.samples[len(self.samples) // 3 :]
        thousands = [each.requests / 1000 for each in settled]
        if len(set(thousands)) < 2:
            return 0.0, 0.0
        frontend, worker = (
            statistics.linear_regression(thousands, line).slope * 1e6
            for line in (
                [each.frontend_mb for each in settled],
                [each.worker_mb for each in settled],
            )
        )
        return frontend, worker


def measure_soak(folder: Path, requests: int, longest: float, window: float) -> Soak:
    """Ask until so many requests are answered or ``longest`` seconds are over."""
    (folder / "store").mkdir(parents=True)
    write_echo(folder / "store")
    document, _ = write_inputs(folder)
    soak, load, done = Soak(), Load(), 0
    with serving(folder, {"echo": "echo"}) as served:
        worker = served.worker("echo")
        target = served.target("echo", document, "application/json")
        began = time.perf_counter()
        while done < requests and soak.seconds < longest:
            done += load.window(target, CONNECTIONS, window).requests
            soak.seconds = time.perf_counter() - began
            frontend_mb, worker_mb = memory_mb(served.pid)[0], memory_mb(worker)[0]
            soak.samples.append(Sample(done, frontend_mb, worker_mb))
            say(f"  {done:,} requests: {frontend_mb:.2f} and {worker_mb:.2f} MB")
    return soak
