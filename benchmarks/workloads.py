"""The workloads of the simulation: how requests come, and how long a batch takes.

Loads are parts of the capacity, that is what one worker answers in full batches.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from simulation import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LARGEST = 8
"""The models' batch size."""
TURNAROUND = 0.0002
"""Seconds from an answer to the next request of a client that does not think."""


def constant(size: int) -> float:
    return 0.010


def linear(size: int) -> float:
    return 0.004 + 0.001 * size


def steep(size: int) -> float:
    return 0.0005 + 0.003 * size


SERVICES: dict[str, tuple[Callable[[int], float], float]] = {
    "constant": (constant, 0.0),
    "linear": (linear, 0.0),
    "steep": (steep, 0.0),
    "heavy tail": (linear, 0.003),
}
"""Seconds by batch size, and the mean of what a single request may take longer, lognormal."""
SIGMA = 1.2


def poisson(rate: float, count: int, draw: random.Random) -> Iterator[float]:
    now = 0.0
    for _ in range(count):
        now += draw.expovariate(rate)
        yield now


def gamma(rate: float, count: int, draw: random.Random) -> Iterator[float]:
    """Clumped: gaps have four times the variance of Poisson's."""
    now = 0.0
    for _ in range(count):
        now += draw.gammavariate(0.25, 4.0 / rate)
        yield now


def on_off(rate: float, count: int, draw: random.Random) -> Iterator[float]:
    """Poisson at 2.5 times the rate for about 20 gaps, then a silence that makes up for it."""
    now = 0.0
    left = 0
    for _ in range(count):
        if left == 0:
            now += draw.expovariate(rate / 12)
            left = 1 + int(draw.expovariate(1 / 19.5))
        now += draw.expovariate(2.5 * rate)
        left -= 1
        yield now


ARRIVALS = {"Poisson": poisson, "clumped": gamma, "on/off": on_off}
LOADS = {"Poisson": (0.1, 0.3, 0.6, 0.8, 0.95), "clumped": (0.3, 0.8), "on/off": (0.3, 0.8, 0.95)}
CLIENTS = ((1, 0.0), (4, 0.0), (8, 0.0), (12, 0.0), (32, 0.0), (8, 0.02), (32, 0.05))
"""How many there are in a closed loop, and for how many seconds they think."""


def _extras(service: str, count: int, draw: random.Random) -> list[float]:
    mean = SERVICES[service][1]
    if not mean:
        return [0.0] * count
    middle = math.log(mean) - SIGMA * SIGMA / 2
    return [draw.lognormvariate(middle, SIGMA) for _ in range(count)]


def capacity(service: str) -> float:
    """Requests per second of one worker with full batches."""
    draw = random.Random(0)
    extras = _extras(service, LARGEST * 5000, draw)
    longest = [max(extras[at : at + LARGEST]) for at in range(0, len(extras), LARGEST)]
    return LARGEST / (SERVICES[service][0](LARGEST) + sum(longest) / len(longest))


def open_loop(
    arrivals: str, service: str, load: float, count: int, seed: int, workers: int = 1
) -> Workload:
    """Requests that come whatever became of those before."""
    name = f"{arrivals} {load:g}, {service}" + (f", {workers} workers" if workers > 1 else "")
    draw = random.Random(f"{name} {seed}")
    seconds = SERVICES[service][0]
    rate = load * workers * capacity(service)
    times = list(ARRIVALS[arrivals](rate, count, draw))
    return Workload(name, seconds, _extras(service, count, draw), times=times, workers=workers)


def closed_loop(
    clients: int, think: float, service: str, count: int, seed: int, workers: int = 1
) -> Workload:
    """Clients that ask again ``think`` seconds after their answer, on average."""
    name = f"{clients} clients" + (f" thinking {think * 1000:g} ms" if think else "")
    name += f", {service}" + (f", {workers} workers" if workers > 1 else "")
    draw = random.Random(f"{name} {seed}")
    pause = 1 / (think or TURNAROUND)
    # Each has more than its share: the fast ones must not fall silent at the end.
    each = min(count, 3 * math.ceil(count / clients) + 100)
    thinks = [[draw.expovariate(pause) for _ in range(each)] for _ in range(clients)]
    extras = _extras(service, count, draw)
    return Workload(name, SERVICES[service][0], extras, thinks=thinks, workers=workers)


def workloads(count: int, seed: int = 1) -> list[Workload]:
    """All of them."""
    return [
        *(
            open_loop(arrivals, service, load, count, seed)
            for arrivals, loads in LOADS.items()
            for service in SERVICES
            for load in loads
        ),
        *(
            closed_loop(clients, think, service, count, seed)
            for service in SERVICES
            for clients, think in CLIENTS
        ),
        open_loop("Poisson", "linear", 0.5, count, seed, 4),
        open_loop("Poisson", "linear", 0.9, count, seed, 4),
        closed_loop(16, 0.0, "linear", count, seed, 4),
        closed_loop(32, 0.02, "linear", count, seed, 4),
    ]
