"""What the recent past of a model version says about its next requests and batches. Pure.

Time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

NOW = float("-inf")
"""A time that has always passed."""

PATIENCE = 16
"""Usual gaps of silence after which nobody else is expected. A gap is seldom so long by chance: the
last of a crowd is let down, and waits for a whole batch, less than once in a hundred times."""
WORTH = 0.5
"""The part of a batch's overhead up to which idling for others may cost."""
MEMORY = 16
"""About how many of the last gaps and batches count."""
PACE_MEMORY = 32
"""The same for the pace at which requests are answered, which varies more."""
SILENCE = 4
"""Usual batches of silence that count of a longer one: the pace is that of busy times."""
EXPLAINED = 0.5
"""The part of the variance of the batches' times that their sizes must explain to be believed."""
AMPLE = 2
"""Times the least size at which a batch pays for its overhead on average. It suits the p99."""


@dataclass(slots=True)
class Arrivals:
    """What the recent past says about the next request, and what a batch costs.

    Clients mostly answer an answer with their next request, so the number of requests in the house
    (waiting or running) just before a batch is answered tells how many clients there are: ``crowd``
    follows it. As long as fewer are in the house than that, others may be on their way; once all
    are there, nobody else is expected and waiting is in vain. When it was, they have left.

    Whether they come soon is seen whenever the question arises, whatever was done then: ``gap`` is
    the usual time until the next arrival, where longer than a batch takes counts as that. Clients
    that ask again at once make it short. Where requests come by themselves it is long, and then
    who waits for more makes everybody late: the next batch forms while this one is at work.

    What a fuller batch saves is the ``overhead``, the part of a batch's time that does not grow
    with its size. It is told from how ``service``, the time that a batch takes, goes with the size:
    the line through both, with older batches counting ever less. Gathering a worker's share of the
    crowd takes it about a gap for each: that must cost less than a part of the overhead. And a
    wait costs each of the n waiting requests itself, so more than ``service / n`` never pays.

    With one client the crowd is one: nothing waits, whatever the batch size.

    The same line says how many a batch had better have at most. A batch of ``m`` that leaves the
    others behind is done ``slope`` earlier for each of them, and those behind are later by an
    overhead, as is whoever comes until the queue is empty again. With ``load``, the part of the
    time that work without overheads takes, that pays from ``overhead / slope`` times ``(1 + load) /
    (1 - load)`` requests on; of several workers one becomes free sooner, and fewer are enough. Not
    so few that too little is answered: from ``load / (1 - load)`` times that ratio the workers keep
    up.
    """

    crowd: float = 0.0
    gap: float | None = None
    service: float | None = None
    _size: float = 0.0
    _variance: float = 0.0
    _covariance: float = 0.0
    _spread: float = 0.0
    _interval: float = 0.0
    _together: float = 0.0
    _answered_at: float = NOW
    _asked: float | None = None
    _stirred: float = NOW

    @property
    def knows_sizes(self) -> bool:
        """Batches of different sizes have been answered."""
        return self._variance > 0.0

    @property
    def slope(self) -> float:
        """Seconds that a request more makes a batch longer; 0 until sizes have differed."""
        if self._variance <= 0.0 or self._covariance <= 0.0:
            return 0.0
        return self._covariance / self._variance

    @property
    def overhead(self) -> float:
        """Seconds that a batch takes whatever its size; all, until sizes have differed."""
        return max(0.0, (self.service or 0.0) - self.slope * self._size)

    def arrived(self, now: float) -> None:
        """A request came."""
        if self._asked is not None and self.service is not None:
            gap = min(now - self._asked, self.service)
            self.gap = gap if self.gap is None else self.gap + (gap - self.gap) / MEMORY
        self._asked = None
        self._stirred = now

    def answered(self, now: float, seconds: float, crowd: int, size: int) -> None:
        """A batch of ``size`` took ``seconds``; ``crowd``, its own included, were in the house."""
        interval, self._answered_at = now - self._answered_at, now
        self._stirred = now
        if crowd >= self.crowd:
            self.crowd = float(crowd)
        else:
            self.crowd -= (self.crowd - crowd) / 4
        if self.service is None:
            self.service, self._size = seconds, float(size)
            return
        # Both begin at 0 and grow alike, so what one is by the other is right from the start.
        self._interval += (min(interval, SILENCE * self.service) - self._interval) / PACE_MEMORY
        self._together += (size - self._together) / PACE_MEMORY
        larger, longer = size - self._size, seconds - self.service
        self._size += larger / MEMORY
        self.service += longer / MEMORY
        if abs(larger) > 0.01:
            # Otherwise the sizes are always the same, and what others taught is not to fade.
            kept = 1 - 1 / MEMORY
            self._variance = kept * (self._variance + larger * larger / MEMORY)
            self._covariance = kept * (self._covariance + larger * longer / MEMORY)
            self._spread = kept * (self._spread + longer * longer / MEMORY)

    def share(self, waiting: int, running: int, workers: int) -> int:
        """How many of those in the house, or expected there, each worker gets."""
        return ceil(max(waiting + running, round(self.crowd)) / workers)

    def worthwhile(self, most: int, workers: int) -> int:
        """How many of ``most`` that could be had a batch should have."""
        variance, covariance = self._variance, self._covariance
        if covariance <= 0.0 or covariance * covariance < EXPLAINED * variance * self._spread:
            return most
        slope = covariance / variance
        load = self._together * slope
        time = self._interval * workers
        if load >= time:
            return most
        load /= time
        pays = max((1 + load) / workers, load) / (1 - load)
        return min(most, max(1, ceil(AMPLE * pays * self.overhead / slope)))

    def enough_to_keep_up(self, workers: int) -> float:
        """Requests of a batch from which on the workers keep up with what comes; inf: never."""
        slope = self.slope
        load, time = self._together * slope, self._interval * workers
        if load >= time:
            return inf
        return ceil(AMPLE * self.overhead / slope * load / (time - load)) if slope else 1

    def hold_until(self, now: float, waiting: int, running: int, workers: int) -> float:
        """The time up to which ``waiting`` requests had better wait for another."""
        expected = round(self.crowd)
        if waiting + running >= expected:
            return NOW
        share = ceil(expected / workers) if workers > 1 else expected
        if waiting >= share:
            return NOW
        if self._asked is None:
            self._asked = now
        if self.gap is None or self.service is None or self.gap * share > WORTH * self.overhead:
            return NOW
        until = self._stirred + min(PATIENCE * self.gap, self.service / waiting)
        if until <= now:
            self.crowd = float(waiting + running)
        return until
