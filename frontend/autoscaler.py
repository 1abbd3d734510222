"""How many workers a version should have, between its minimum and maximum. Pure.

More, soon, when requests wait longer than they should although all workers work; fewer, slowly,
when the work would fit fewer workers with room to spare. The two are far enough apart that a steady
load leads to a steady number, and a version that had to take a reduction back waits twice as long
before the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

LOOK_EVERY = 0.5
"""Seconds between two looks at a version."""
UP_AFTER = 1.0
"""Seconds for which requests have to wait too long before there are more workers."""
FULL = 0.7
"""The share of their time that the workers which remain may be busy after a reduction."""
AVERAGE_OVER = 5.0
"""Seconds over which it is averaged how many workers are busy."""
PATIENCE_CAP = 600.0
"""Seconds of little work before a reduction, at most."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A version at one moment.

    ``oldest``: seconds that the first request in the queue has waited. ``starting``: workers that
    are not ready. ``busy``: workers that work, as a number with a fraction where one works on
    several batches. ``handler_seconds``: what the handler takes for a batch.
    """

    oldest: float
    ready: int
    starting: int
    busy: float
    handler_seconds: float


@dataclass(frozen=True, slots=True)
class Decision:
    """So many workers from now on, and why."""

    workers: int
    reason: str


@dataclass(frozen=True, slots=True)
class ScalingEvent:
    """A change of a version's number of workers by itself; none where there was no room for it."""

    at: float
    before: int
    after: int
    reason: str


class Autoscaler:
    """The decisions for one version. ``target``: seconds that requests may wait in the queue;
    ``patience``: seconds of little work before there are fewer workers.
    """

    def __init__(self, target: float, patience: float) -> None:
        self._target = target
        self._shortest_patience = patience
        self._patience = patience
        self._busy = 0.0
        self._looked_at: float | None = None
        self._late_since: float | None = None
        self._quiet_since: float | None = None
        self._peak = 0.0
        self._reduced_at: float | None = None

    def decide(self, now: float, seen: Observation, minimum: int, maximum: int) -> Decision | None:
        """What should be changed now, None for nothing. To be asked again and again."""
        self._average(now, seen.busy)
        active = seen.ready + seen.starting
        # A request that arrives while the handler works waits for that at least.
        target = max(self._target, 2 * seen.handler_seconds)
        if seen.oldest <= target:
            self._late_since = None
        elif self._late_since is None:
            self._late_since = now
        if not active or seen.starting:
            # What is on its way will show what it is good for; what fails would fail again.
            self._quiet_since = None
            return None
        if self._late_since is not None:
            self._quiet_since = None
            return self._more(now, seen, target, maximum)
        return self._fewer(now, seen, target, max(1, minimum))

    def _average(self, now: float, busy: float) -> None:
        since = LOOK_EVERY if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        self._busy += (busy - self._busy) * min(1.0, since / AVERAGE_OVER)

    def _more(self, now: float, seen: Observation, target: float, maximum: int) -> Decision | None:
        late = 0.0 if self._late_since is None else now - self._late_since
        if late < UP_AFTER or seen.ready >= maximum:
            return None
        self._late_since = now
        if self._reduced_at is not None and now - self._reduced_at < 2 * self._patience:
            self._patience = min(PATIENCE_CAP, 2 * self._patience)
        self._reduced_at = None
        share = ceil(seen.ready * seen.oldest / target)
        workers = min(maximum, max(seen.ready + 1, min(2 * seen.ready, share)))
        what = "targetQueueDelay" if target == self._target else "twice what the handler takes"
        return Decision(
            workers,
            f"requests wait {1000 * seen.oldest:.0f} ms, more than {1000 * target:.0f} "
            f"({what}), for {late:.1f} s; {seen.busy:g} of {seen.ready} workers are busy",
        )

    def _fewer(self, now: float, seen: Observation, target: float, minimum: int) -> Decision | None:
        is_quiet = self._busy <= FULL * (seen.ready - 1) and seen.oldest <= target / 2
        if not is_quiet or seen.ready <= minimum:
            self._quiet_since = None
            return None
        if self._quiet_since is None:
            self._quiet_since = now
        quiet = now - self._quiet_since
        # What was busy before is still in the average for a while.
        self._peak = max(self._peak, self._busy) if quiet > self._patience / 2 else self._busy
        workers = max(minimum, ceil(self._peak / FULL))
        if quiet < self._patience or workers >= seen.ready:
            return None
        self._quiet_since = None
        if self._reduced_at is not None:
            # The last reduction stood the test.
            self._patience = max(self._shortest_patience, self._patience / 2)
        self._reduced_at = now
        return Decision(
            workers,
            f"of {seen.ready} workers no more than {self._peak:.1f} were busy on average for "
            f"{quiet:.0f} s (scaleDownAfter)",
        )
