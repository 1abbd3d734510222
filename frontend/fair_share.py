"""Who gets a device next of those that share it: start-time fair queueing. Pure.

P. Goyal, H. Vin and H. Cheng, "Start-time Fair Queuing" (SIGCOMM 1996); with several in work at
once, as here, it is SFQ(D) of W. Jin, J. Chase and J. Kaur (SIGMETRICS 2004). Each sharer has a
tag: the time that it has had on the device, divided by its weight. Who has the lowest goes next.
One that comes back after a pause starts at the tag of whoever began last: it has saved nothing up,
and owes nothing. So those that want the device all the time get time by their weights, however
long their batches are and however many workers they have, and what one leaves is for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

K = TypeVar("K", bound="Hashable")

_KEPT_TAGS = 64


@dataclass(frozen=True, slots=True)
class _Turn(Generic[K]):
    sharer: K
    weight: float
    expected: float
    began_at: float


class FairShare(Generic[K]):
    """One device with ``places`` for batches that are in work at once."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._tags: dict[K, float] = {}
        """Where the next turn of a sharer starts; one that is not above ``_now`` says nothing."""
        self._now = 0.0
        """The start of the turn that began last."""
        self._turns: dict[str, _Turn[K]] = {}

    @property
    def has_place(self) -> bool:
        """One more batch may begin."""
        return len(self._turns) < self._places

    def next_of(self, sharers: Iterable[K]) -> K:
        """Who of ``sharers`` goes next; of equals the one that is named first."""
        return min(sharers, key=self._start)

    def _start(self, sharer: K) -> float:
        return max(self._now, self._tags.get(sharer, 0.0))

    def begin(self, worker: str, sharer: K, weight: float, expected: float, now: float) -> None:
        """``worker`` begins a batch of ``sharer``, which takes about ``expected`` seconds."""
        start = self._now = self._start(sharer)
        self._tags[sharer] = start + expected / weight
        self._turns[worker] = _Turn(sharer, weight, expected, now)

    def end(self, worker: str, seconds: float | None, now: float) -> None:
        """It is done with it after so many seconds of work, or gone (None)."""
        turn = self._turns.pop(worker, None)
        if turn is None:
            return
        took = now - turn.began_at if seconds is None else seconds
        tag = self._tags.get(turn.sharer, self._now)
        self._tags[turn.sharer] = tag + (took - turn.expected) / turn.weight
        if len(self._tags) > _KEPT_TAGS:
            self._tags = {who: tag for who, tag in self._tags.items() if tag > self._now}
