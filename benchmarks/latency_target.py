"""What ``latencyTarget`` does for adaptive batching, in simulation: no server, no clock.

    python benchmarks/latency_target.py [--requests N] [--seed N] [--only TEXT] [--changed POINTS]

Prints, for targets of 2, 5 and 20 times what one request takes by itself, the part of all requests
that is answered within the target, and the mean latency in ms: with a batch size of 64, with one of
8, and with 64 and the target. ``--changed`` leaves out what the target changes by less than that.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from simulation import KEY, WARM_UP, Policy, Simulation, Workload
from workloads import SERVICES, closed_loop, poisson

from flambeau import FlambeauError
from flambeau.frontend.latency_target import LARGEST_BATCH

LARGEST = LARGEST_BATCH
QUEUE = 100
MULTIPLES = (2, 5, 20)
KINDS: list[tuple[str, float]] = [
    *(("open", load) for load in (0.1, 0.3, 0.6, 0.8, 0.95, 1.2, 2.0)),
    *(("bursts", load) for load in (0.1, 0.3, 0.6)),
    *(("clients", count) for count in (4, 16, 64, 128)),
    ("thinking", 64),
]


class Refusing(Simulation):
    """A simulation whose queue is bounded: whoever is refused was never answered."""

    def __init__(self, workload: Workload, size: int, target: float) -> None:
        super().__init__(workload, Policy(size, adaptive=True))
        version = self.fleet.versions[KEY]
        version.adopt(replace(version.spec, queue_size=QUEUE, latency_target=target))

    def _comes(self, now: float, client: int | None = None) -> None:
        try:
            super()._comes(now, client)
        except FlambeauError:
            self._answered.append((-inf, now))
            if client is not None:
                self._thinks_then_asks(client, now)

    def latencies(self) -> list[float]:
        """Seconds of each that counts."""
        self.run()
        return [end - start for start, end in self._answered[int(len(self._answered) * WARM_UP) :]]


def workload(kind: str, amount: float, service: str, count: int, seed: int) -> Workload:
    """``amount``: the part of the capacity that a worker has with full batches, or of clients."""
    seconds = SERVICES[service][0]
    draw = random.Random(f"{kind} {amount} {service} {seed}")
    rate = amount * LARGEST / seconds(LARGEST)
    match kind:
        case "open":
            name, times = f"Poisson {amount:g}", list(poisson(rate, count, draw))
        case "bursts":
            starts = poisson(rate / 40, count // 40 + 1, draw)
            times = sorted(start + draw.random() * 0.002 for start in starts for _ in range(40))
            name, times = f"bursts of 40, {amount:g}", times[:count]
        case _:
            return closed_loop(int(amount), 0.05 * (kind == "thinking"), service, count, seed)
    return Workload(f"{name}, {service}", seconds, [0.0] * count, times=times)


@dataclass(frozen=True)
class Row:
    """A workload and a target: the part that is answered in time, and the mean in ms."""

    name: str
    multiple: int
    cells: list[tuple[float, float]]
    """With a batch size of 64, of 8, and of 64 with the target."""

    @property
    def gain(self) -> float:
        """What the target changes, in points of a hundred."""
        return (self.cells[-1][0] - self.cells[0][0]) * 100

    def __str__(self) -> str:
        cells = [f"{within:.1%}, {mean:.1f}" for within, mean in self.cells]
        return f"| {self.name} | {self.multiple} | {' | '.join(cells)} |"


def rows(asked: tuple[str, float, str], count: int, seed: int) -> list[Row]:
    """Those of one workload, for each of the targets."""
    kind, amount, service = asked
    served = workload(kind, amount, service, count, seed)
    alone = served.seconds(1)
    plain = [latencies(served, size) for size in (LARGEST, 8)]
    found = []
    for multiple in MULTIPLES:
        made = [*plain, latencies(served, LARGEST, multiple * alone)]
        found.append(Row(served.name, multiple, [_cell(each, multiple * alone) for each in made]))
    return found


def latencies(served: Workload, size: int, target: float = 0.0) -> list[float]:
    """Seconds of each request that counts; inf of one that was refused."""
    return Refusing(served, size, target).latencies()


def _cell(latencies: list[float], target: float) -> tuple[float, float]:
    answered = [each for each in latencies if each < inf]
    within = sum(each <= target for each in answered) / len(latencies)
    return within, sum(answered) / max(1, len(answered)) * 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4000, help="per workload")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="services whose name has this in it")
    parser.add_argument("--changed", type=float, default=0.0, help="points of a hundred")
    asked = parser.parse_args()
    services = [name for name in ("linear", "steep", "constant") if asked.only in name]
    todo = [(*kind, service) for service in services for kind in KINDS]
    print("| workload | target / alone | batch size 64 | 8 | 64, target |")
    print("| --- | ---: | ---: | ---: | ---: |")
    gains = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(partial(rows, count=asked.requests, seed=asked.seed), todo):
            gains += [row.gain for row in found]
            shown = [str(row) for row in found if abs(row.gain) >= asked.changed]
            print("".join(f"{row}\n" for row in shown), end="", flush=True)
    more, fewer = sum(gain >= 5 for gain in gains), sum(gain <= -5 for gain in gains)
    print(
        f"\nOf {len(gains)} rows {more} gain 5 points or more, and {fewer} lose as much; the "
        f"greatest loss is {max(0.0, -min(gains)):.1f} points."
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
