"""When the requests of an open loop are due."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random


def arrivals(rate: float, chance: Random | None) -> Iterator[float]:
    """Seconds since the start, ``rate`` to a second, without end.

    A Poisson process with ``chance``; without, all equally far apart.
    """
    if chance is None:
        number = 0
        while True:
            number += 1
            # Multiplied, not added up: a long run must not drift.
            yield number / rate
    due = 0.0
    while True:
        due += chance.expovariate(rate)
        yield due
