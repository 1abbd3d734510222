"""A histogram of durations: any number of them in bounded memory, each kept to within 0.4 %."""

from __future__ import annotations

from math import ceil, frexp, ldexp
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARTS = 128
"""Buckets for each doubling: one is 1/128 of its lower end wide, so its middle is within 0.4 %."""
_LEAST, _MOST = -29, 17
"""Exponents: from 2 ns to 18 hours; what is beyond counts as the nearest bucket."""
_LAST = (_MOST - _LEAST + 1) * _PARTS - 1


class Histogram:
    """Counts of durations in seconds; least, most and sum are exact."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.least = 0.0
        self.most = 0.0
        self._counts = [0] * (_LAST + 1)

    def add(self, seconds: float) -> None:
        """Count one; a negative one (a clock was set) as 0."""
        if seconds < 0:
            seconds = 0.0
        mantissa, exponent = frexp(seconds)
        index = (exponent - _LEAST) * _PARTS + int((mantissa - 0.5) * (2 * _PARTS))
        self._counts[0 if index < 0 or not seconds else min(index, _LAST)] += 1
        if seconds > self.most:
            self.most = seconds
        if seconds < self.least or not self.count:
            self.least = seconds
        self.count += 1
        self.total += seconds

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """The least duration that ``share`` of all do not exceed; 0 where there are none."""
        rank = max(1, ceil(share * self.count))
        if rank >= self.count:
            return self.most
        seen = 0
        for low, high, count in self.buckets():
            seen += count
            if seen >= rank:
                return min(max((low + high) / 2, self.least), self.most)
        return self.most

    def buckets(self) -> Iterator[tuple[float, float, int]]:
        """Lower end, upper end and count of each bucket that is not empty, in order."""
        for index, count in enumerate(self._counts):
            if count:
                exponent, part = divmod(index, _PARTS)
                low = ldexp(0.5 + part / (2 * _PARTS), exponent + _LEAST)
                yield low, low + ldexp(1 / (2 * _PARTS), exponent + _LEAST), count

    def merged(self, other: Histogram) -> Histogram:
        """Both as one."""
        both = Histogram()
        both.count, both.total = self.count + other.count, self.total + other.total
        both.most = max(self.most, other.most)
        both.least = min(each.least for each in (self, other) if each.count or not both.count)
        both._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]
        return both
